"""What every imaging loader returns: slices or volumes in several contrasts, checked at the border.

Axes: ``S`` rows (one slice or one volume each), ``M`` contrasts, then space, (H, W) or (D, H, W). Several
rows may be slices of one participant: split by participant, never by row. A contrast that a participant
lacks is NaN and False in ``available``, so code that forgets to ask fails loudly instead of learning from
zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from helpers.data.cohort import Provenance
from helpers.errors import BookError

BRATS_LABELS = {0: "background", 1: "necrotic or solid core", 2: "oedema", 4: "enhancing"}
BRATS_REGIONS = {"ET": (4,), "TC": (1, 4), "WT": (1, 2, 4)}
COLUMNS = ("participant_id", "slice")
PERCENTILE = 99.8  # unit scaling clips above this percentile of the brain
SCALINGS = ("raw", "zscore", "robust", "unit")
CLIP = 5.0  # robust scaling clips beyond so many deviations


def _few(items: Sequence, n: int = 3) -> str:
    more = f" and {len(items) - n} more" if len(items) > n else ""
    return ", ".join(str(i) for i in items[:n]) + more


@dataclass(frozen=True, eq=False)
class Volumes:
    """Images of many people and what is known about them.

    - ``images`` (S, M, H, W) or (S, M, D, H, W) float32; NaN where a contrast is not available
    - ``labels`` (S, ...) uint8; ``mask`` (S, ...) bool, the brain; ``available`` (S, M) bool
    - ``participants``: one row a row of images: participant_id, slice, ...
    - ``contrasts``: the M names; ``spacing``: mm a pixel along each axis of space
    - ``label_names``: what a label means; ``regions``: name -> labels that belong to it, in order
    - ``scaling``: ``raw``, ``zscore``, ``robust`` or ``unit``, see :meth:`normalise`
    - ``extras``: further arrays (S, ...), carried along by :meth:`select`

    Build one with :meth:`validate`, which checks everything.
    """

    images: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    available: np.ndarray
    participants: pd.DataFrame
    contrasts: tuple[str, ...]
    spacing: tuple[float, ...]
    provenance: Provenance
    label_names: Mapping[int, str] = field(default_factory=lambda: dict(BRATS_LABELS))
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: dict(BRATS_REGIONS))
    scaling: str = "raw"
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    # -- looking ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.images)

    @property
    def space(self) -> tuple[int, ...]:
        """(H, W) or (D, H, W)."""
        return self.images.shape[2:]

    @property
    def ids(self) -> np.ndarray:
        """Participant of each row, (S,) str."""
        return self.participants["participant_id"].to_numpy(str)

    @property
    def people(self) -> list[str]:
        """The participants, in order of appearance."""
        return list(dict.fromkeys(self.ids.tolist()))

    @property
    def n_subjects(self) -> int:
        return len(self.people)

    @property
    def hash(self) -> str:
        """Identity of the data: 12 hex digits of the sha256 over images, labels, mask, ids and contrasts."""
        digest = hashlib.sha256(repr((self.images.shape, self.contrasts, self.scaling)).encode())
        for part in (self.images, self.labels, self.mask, self.available):
            digest.update(np.ascontiguousarray(part).data)
        rows = self.ids.astype(object) + "/" + self.participants["slice"].to_numpy(str).astype(object)
        digest.update("\n".join(rows.tolist()).encode())
        return digest.hexdigest()[:12]

    def number(self, contrast: str) -> int:
        """Position of a contrast on the second axis."""
        if contrast not in self.contrasts:
            raise BookError(f"unknown contrast {contrast!r}: choose from {', '.join(self.contrasts)}")
        return self.contrasts.index(contrast)

    def contrast(self, name: str) -> np.ndarray:
        """Images of one contrast, (S, ...); a view."""
        return self.images[:, self.number(name)]

    def targets(self) -> np.ndarray:
        """The regions as masks that may overlap, (S, K, ...) bool, in the order of ``regions``."""
        out = np.empty((len(self), len(self.regions), *self.space), dtype=bool)
        for k, values in enumerate(self.regions.values()):
            out[:, k] = np.isin(self.labels, values)
        return out

    def summary(self) -> pd.DataFrame:
        """One row a region: rows that have it, and its median size there in cm2 (slices) or cm3 (volumes)."""
        unit = "cm2" if len(self.space) == 2 else "cm3"
        cell = np.prod(self.spacing) / 10.0 ** len(self.space)
        table = {}
        for name, target in zip(self.regions, self.targets().swapaxes(0, 1), strict=True):
            sizes = target.reshape(len(self), -1).sum(axis=1) * cell
            there = sizes[sizes > 0]
            table[name] = {"rows": len(there), f"median {unit}": np.median(there) if len(there) else 0.0}
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("region")

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.space))
        return (
            f"Volumes({self.provenance.name}: {len(self)} images of {self.n_subjects} people,"
            f" {', '.join(self.contrasts)}, {shape}, {self.scaling}, {self.hash})"
        )

    # -- choosing --------------------------------------------------------------------------------------

    def select(self, index) -> Volumes:
        """Some rows only: whole numbers in any order, a boolean mask of length S, or a slice."""
        try:
            index = np.arange(len(self))[index]
        except IndexError as error:
            raise BookError(f"select: {error} ({len(self)} rows)") from error
        if index.ndim != 1 or len(index) == 0:
            raise BookError(f"select: {index.size} of {len(self)} rows: give a list, a mask or a slice")
        if len(np.unique(index)) < len(index):
            raise BookError("select: the index names a row twice; rows must be distinct")
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            mask=self.mask[index],
            available=self.available[index],
            participants=self.participants.iloc[index].reset_index(drop=True),
            extras={name: value[index] for name, value in self.extras.items()},
        )

    def of(self, people: Sequence[str]) -> Volumes:
        """All rows of these participants, in the order they stand in."""
        unknown = sorted(set(people) - set(self.people))
        if unknown:
            raise BookError(f"unknown participant {_few(unknown)}: there are {_few(self.people)}")
        return self.select(np.isin(self.ids, list(people)))

    def split(self, *counts: int, seed: int = 0) -> tuple[Volumes, ...]:
        """Disjoint groups of so many participants each, drawn by ``seed``; nobody is in two of them."""
        if not counts or min(counts) < 1 or sum(counts) > self.n_subjects:
            raise BookError(
                f"split: groups of {', '.join(map(str, counts))} asked of {self.n_subjects} participants"
            )
        order = np.random.default_rng(seed).permutation(self.people)
        ends = np.cumsum(counts)
        return tuple(self.of(order[end - n : end].tolist()) for n, end in zip(counts, ends, strict=True))

    def leave_out(self, *people: str) -> tuple[Volumes, Volumes]:
        """(all others, these participants)."""
        out = self.of(people)
        others = [p for p in self.people if p not in people]
        if not others:
            raise BookError("leave_out: nobody is left to train on")
        return self.of(others), out

    def pick(self, *contrasts: str) -> Volumes:
        """These contrasts only, in this order."""
        index = [self.number(name) for name in contrasts]
        if not index or len(set(index)) < len(index):
            raise BookError(f"pick: name distinct contrasts among {', '.join(self.contrasts)}")
        return replace(
            self,
            images=self.images[:, index],
            available=self.available[:, index],
            contrasts=tuple(contrasts),
        )

    def without(self, missing: np.ndarray) -> Volumes:
        """The same people with some contrasts taken away (NaN). ``missing``: (M,) or (S, M) bool."""
        missing = np.asarray(missing)
        shape = self.available.shape
        if missing.dtype != bool or missing.shape not in (shape, shape[1:]):
            raise BookError(
                f"without: a mask {missing.shape} of {missing.dtype} given; it takes bool of {shape[1:]}"
                f" ({', '.join(self.contrasts)}) or {shape}"
            )
        available = self.available & ~missing
        _someone(available, self.ids)
        images = self.images.copy()
        images[~available] = np.nan
        return replace(self, images=images, available=available)

    # -- scaling ---------------------------------------------------------------------------------------

    def normalise(self, kind: str = "zscore") -> Volumes:
        """Scale the brain of each participant and contrast, over all rows of that participant.

        - ``zscore``: mean 0, standard deviation 1; background 0
        - ``robust``: median 0, interquartile range that of a standard normal, clipped at 5; background 0
        - ``unit``: 0 to the 99.8th percentile becomes -1 to 1, clipped; background -1

        Only a participant's own images are used, so nothing leaks from others.
        """
        if kind not in SCALINGS[1:]:
            raise BookError(f"normalise: {kind!r} is not one of {', '.join(SCALINGS[1:])}")
        if self.scaling != "raw":
            raise BookError(f"normalise: scaled already ({self.scaling}); start from the raw images")
        images = self.images.copy()
        for person in self.people:
            rows = np.flatnonzero(self.ids == person)
            for m, name in enumerate(self.contrasts):
                have = rows[self.available[rows, m]]
                if len(have) == 0:
                    continue
                x, brain = images[have, m], self.mask[have]
                if not np.ptp(x[brain]) > 0:
                    raise BookError(f"{person} {name}: the brain has one value only; leave this contrast out")
                if kind == "zscore":
                    values = x[brain].astype(np.float64)
                    y = np.where(brain, (x - values.mean()) / values.std(), 0.0)
                elif kind == "robust":
                    low, middle, high = np.percentile(x[brain].astype(np.float64), [25, 50, 75])
                    if not high > low:
                        raise BookError(f"{person} {name}: half of the brain is {middle:g}; leave it out")
                    y = np.where(brain, np.clip(1.349 * (x - middle) / (high - low), -CLIP, CLIP), 0.0)
                else:
                    low = min(0.0, float(np.percentile(x[brain], 100 - PERCENTILE)))
                    high = float(np.percentile(x[brain], PERCENTILE))
                    if not high > low:
                        raise BookError(f"{person} {name}: the brain is almost all {low:g}; leave it out")
                    y = np.where(brain, 2 * (np.clip(x, low, high) - low) / (high - low) - 1, -1.0)
                images[have, m] = y
        return replace(self, images=images, scaling=kind)

    def check(
        self, *, divisor: int = 1, low: float | None = None, high: float | None = None, labels: bool = False
    ) -> Volumes:
        """What a network takes for granted: sizes divisible, values in range. Returns the volumes."""
        if odd := [n for n in self.space if n % divisor]:
            raise BookError(
                f"images of {' x '.join(map(str, self.space))}: {odd[0]} is not divisible by {divisor},"
                " which this network needs; crop or pad them"
            )
        for m, name in enumerate(self.contrasts):
            rows = np.flatnonzero(self.available[:, m])
            x = self.images[rows, m]
            out = np.zeros(x.shape, dtype=bool)
            if low is not None:
                out |= x < low - 1e-6
            if high is not None:
                out |= x > high + 1e-6
            wrong = rows[out.reshape(len(rows), -1).any(axis=1)] if len(rows) else rows
            if len(wrong):
                raise BookError(
                    f"{name} of {_few([self._where(s) for s in wrong])} leaves [{low:g}, {high:g}]:"
                    " scale it with normalise('unit')"
                    if low is not None and high is not None
                    else f"{name} of {_few([self._where(s) for s in wrong])} is out of range"
                )
        if labels and not self.targets().any():
            raise BookError(f"no row has any of the regions {', '.join(self.regions)}")
        return self

    def _where(self, s: int) -> str:
        row = self.participants.iloc[s]
        return f"{row['participant_id']} slice {row['slice']}"

    # -- the border ------------------------------------------------------------------------------------

    @classmethod
    def validate(
        cls,
        *,
        images: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray | Sequence[np.ndarray],
        contrasts: Sequence[str],
        participants: pd.DataFrame,
        provenance: Provenance,
        mask: np.ndarray | None = None,
        available: np.ndarray | None = None,
        spacing: Sequence[float] | None = None,
        label_names: Mapping[int, str] = BRATS_LABELS,
        regions: Mapping[str, tuple[int, ...]] = BRATS_REGIONS,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> Volumes:
        """Check everything that later code takes for granted.

        ``mask``: the brain; by default, where any available contrast is not 0. ``available``: by default, a
        contrast is there unless its image is NaN throughout. Errors: :class:`BookError`, naming the first
        few.
        """
        names = tuple(str(c) for c in contrasts)
        if not names or len(set(names)) < len(names):
            raise BookError(f"contrasts are {names}: give distinct names")
        images = _stack(images, "images")
        S, M, *space = images.shape if images.ndim > 1 else (0, 0)
        if images.ndim not in (4, 5) or S == 0:
            raise BookError(f"images have shape {images.shape}: expected (S, M, H, W) or (S, M, D, H, W)")
        if len(names) != M:
            raise BookError(f"{len(names)} contrasts ({', '.join(names)}) for images with {M}")
        space = tuple(space)
        people = _participants(participants, S)
        where = [f"{p} slice {i}" for p, i in zip(people["participant_id"], people["slice"], strict=True)]

        labels = _stack(labels, "labels")
        if labels.shape != (S, *space):
            raise BookError(f"labels have shape {labels.shape}, images {images.shape}: they do not fit")
        found = np.unique(labels).tolist()
        strange = [v for v in found if v not in label_names]
        if strange:
            rows = [where[s] for s in np.flatnonzero(np.isin(labels, strange).reshape(S, -1).any(axis=1))]
            raise BookError(
                f"labels hold {_few(strange)} in {_few(rows)}: allowed are {', '.join(map(str, label_names))}"
            )
        for region, values in regions.items():
            if not set(values) <= set(label_names):
                raise BookError(f"{region} is made of {values}, labels are {_few(list(label_names), 9)}")

        with np.errstate(over="ignore"):  # told below
            images = np.array(images, dtype=np.float32)
        flat = images.reshape(S, M, -1)
        if available is None:
            available = ~np.isnan(flat).all(axis=2)
        available = np.array(available)
        if available.dtype != bool or available.shape != (S, M):
            raise BookError(
                f"available is {available.dtype} {available.shape}: expected bool {(S, M)}, a row a sample"
            )
        _someone(available, people["participant_id"].to_numpy(str))
        bad = np.argwhere(available & ~np.isfinite(flat).all(axis=2))
        if len(bad):
            rows = [f"{names[m]} of {where[s]}" for s, m in bad]
            raise BookError(f"NaN or infinite values in {_few(rows)}: mend them or mark it as not available")
        images[~available] = np.nan

        if mask is None:
            mask = (np.nan_to_num(images) != 0).any(axis=1)
        mask = np.array(mask)
        if mask.dtype != bool or mask.shape != (S, *space):
            raise BookError(f"mask is {mask.dtype} {mask.shape}: expected bool {(S, *space)}")
        empty = [where[s] for s in np.flatnonzero(~mask.reshape(S, -1).any(axis=1))]
        if empty:
            raise BookError(f"no brain in {_few(empty)}: leave these rows out")

        spacing = (1.0,) * len(space) if spacing is None else tuple(float(v) for v in spacing)
        if len(spacing) != len(space) or not all(np.isfinite(v) and v > 0 for v in spacing):
            raise BookError(f"spacing is {spacing}: expected {len(space)} positive numbers, mm a pixel")
        extras = {name: np.asarray(value) for name, value in (extras or {}).items()}
        short = [name for name, value in extras.items() if len(value) != S]
        if short:
            raise BookError(f"extras {_few(short)} do not have {S} rows")
        return cls(
            images=images,
            labels=labels.astype(np.uint8),
            mask=mask,
            available=available,
            participants=people,
            contrasts=names,
            spacing=spacing,
            provenance=provenance,
            label_names=dict(label_names),
            regions={k: tuple(v) for k, v in regions.items()},
            extras=extras,
        )


def _stack(arrays, what: str) -> np.ndarray:
    """An array as it is, or a list of equal shapes as one."""
    if isinstance(arrays, np.ndarray) and arrays.dtype != object:
        stacked = arrays
    else:
        parts = [np.asarray(a) for a in arrays]
        shapes = sorted({p.shape for p in parts})
        if len(shapes) > 1:
            odd = next(i for i, p in enumerate(parts) if p.shape != parts[0].shape)
            raise BookError(
                f"{what} of row {odd} have shape {parts[odd].shape}, those of row 0 {parts[0].shape}:"
                " all rows must have one shape"
            )
        if not parts:
            raise BookError(f"{what} hold no row")
        stacked = np.stack(parts)
    if stacked.dtype.kind not in "fiub":
        raise BookError(f"{what} have dtype {stacked.dtype}: expected numbers")
    return stacked


def _participants(table: pd.DataFrame, n: int) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame):
        raise BookError(f"participants must be a pandas DataFrame, not {type(table).__name__}")
    lacking = [c for c in COLUMNS if c not in table.columns]
    if lacking:
        raise BookError(f"participants lacks the column {_few(lacking)}: needed are {', '.join(COLUMNS)}")
    if len(table) != n:
        raise BookError(f"participants has {len(table)} rows, images {n}")
    table = table.reset_index(drop=True).copy()
    table["participant_id"] = table["participant_id"].astype("str")
    twice = table[table.duplicated(list(COLUMNS))]
    if len(twice):
        row = twice.iloc[0]
        raise BookError(f"{row['participant_id']} slice {row['slice']} appears twice: one row a slice")
    return table


def _someone(available: np.ndarray, ids: np.ndarray) -> None:
    """Every row has at least one contrast."""
    none = ids[~available.any(axis=1)]
    if len(none):
        names = _few(list(dict.fromkeys(none.tolist())))
        raise BookError(f"no contrast is available for {names}: leave it out")
