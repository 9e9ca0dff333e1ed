"""Loaders. Every one returns a :class:`~helpers.data.cohort.Cohort`; none downloads without being asked."""

from __future__ import annotations

from helpers.data.atlas import group_fc, schaefer
from helpers.data.cohort import Atlas, Cohort, Provenance
from helpers.errors import BookError

PROFILES = ("embedded", "public", "full")

__all__ = ["Atlas", "Cohort", "Provenance", "group_fc", "load_cohort", "schaefer"]


def load_cohort(
    profile: str, *, n_subjects: int | None = None, seed: int = 0, cohort: str | None = None, **simulation
) -> Cohort:
    """The cohort of a profile.

    - ``embedded``: simulated, nothing is downloaded; ``seed`` and further arguments go to
      :func:`helpers.simulate.bold.cohort`.
    - ``public``: ABIDE, at most 140 people (:func:`helpers.data.abide.load`); ``seed`` and simulation
      arguments have no meaning.
    - ``full``: the folder ``cohort`` written with :meth:`Cohort.save`; ``n_subjects`` takes the first so
      many.
    """
    if profile == "embedded":
        from helpers.simulate import bold

        return bold.cohort(200 if n_subjects is None else n_subjects, seed=seed, **simulation)
    if profile == "public":
        from helpers.data import abide

        return abide.load(n_subjects)
    if profile == "full":
        if not cohort:
            raise BookError(
                "profile full needs your own data:"
                " give cohort=FOLDER (a chapter: -p cohort_folder=FOLDER), written with Cohort.save(FOLDER)"
            )
        loaded = Cohort.open(cohort)
        if n_subjects is not None and not 0 < n_subjects <= len(loaded):
            raise BookError(f"n_subjects is {n_subjects}, {cohort} holds {len(loaded)}")
        return loaded if n_subjects is None else loaded.select(slice(n_subjects))
    raise BookError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
