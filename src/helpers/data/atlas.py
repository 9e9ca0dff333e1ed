"""Atlases that ship with the book: Schaefer-100 and -400, with the group-mean connectome of the HCP.

The numbers come from ``helpers/assets/*.npz``; ``PROVENANCE.md`` beside them says from where, under which
terms, and how.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np

from helpers.data.cohort import Atlas
from helpers.errors import BookError

SIZES = (100, 400)


@cache
def _asset(n_regions: int) -> dict[str, np.ndarray]:
    if n_regions not in SIZES:
        raise BookError(
            f"no Schaefer atlas of {n_regions!r} regions ships with the book: choose one of {SIZES}"
        )
    with (files("helpers") / "assets" / f"schaefer{n_regions}.npz").open("rb") as handle:
        with np.load(handle, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def schaefer(n_regions: int = 100) -> Atlas:
    """Schaefer atlas in Yeo-7 order, left hemisphere first.

    ``coords`` are means of the parcel's vertices on the conte69 mid-surface, in mm, a few millimetres from
    the MNI centroids of the volume atlas. ``labels`` such as ``LH_Vis_1`` are hemisphere, network and running
    number.
    """
    asset = _asset(n_regions)
    return Atlas(
        name=f"Schaefer-{n_regions}",
        labels=asset["labels"].copy(),
        networks=asset["networks"].copy(),
        coords=asset["coords"].copy(),
    )


def group_fc(n_regions: int = 100) -> np.ndarray:
    """Group-mean resting-state FC of the HCP, (R, R) float64, unit diagonal, stored as float16."""
    upper = _asset(n_regions)["fc"].astype(np.float64)
    fc = np.eye(n_regions)
    rows, columns = np.triu_indices(n_regions, k=1)
    fc[rows, columns] = fc[columns, rows] = upper
    return fc
