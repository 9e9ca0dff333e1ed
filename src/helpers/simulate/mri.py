"""MRI contrasts of one anatomy, from tissue maps that ship with nilearn and the MR signal equations.

    tissue_maps()                 fractions (3, X, Y, Z) of CSF, grey and white matter at 1 mm, and the affine
    slice_at(maps, affine, z)     one axial slice (3, H, W), anterior at the top
    signal(sequence, tissue)      what one tissue shows in one sequence
    contrasts(fractions)          the images (M, H, W)

A voxel's signal is the sum over tissues of fraction x signal, so new tissues (oedema, tumour) are more rows
of ``fractions`` and more entries of ``tissues``; a deformation acts on the maps before the signal, a bias
field and noise act on the images after it. Times are milliseconds.

Tissue parameters: BrainWeb at 1.5 T (Kwan, Evans & Pike 1999, IEEE TMI 18:1085, and its parameter table).
Maps: ICBM 152 symmetric non-linear 2009a (Fonov et al. 2011), bundled with nilearn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import nilearn
import numpy as np
from scipy import ndimage

from helpers.errors import BookError


@dataclass(frozen=True)
class Tissue:
    """Relaxation times t1, t2 in ms and proton density pd relative to CSF."""

    t1: float
    t2: float
    pd: float

    def __post_init__(self) -> None:
        if not (self.t1 > 0 and self.t2 > 0 and self.pd >= 0):
            raise BookError(f"Tissue: t1 and t2 must be positive and pd not negative, got {self}.")


@dataclass(frozen=True)
class Sequence:
    """A spin echo (repetition tr, echo te), or with ti an inversion recovery; all in ms."""

    tr: float
    te: float
    ti: float | None = None

    def __post_init__(self) -> None:
        if not (self.tr > 0 and self.te >= 0 and (self.ti is None or 0 < self.ti < self.tr)):
            raise BookError(f"Sequence: need tr > 0, te >= 0 and 0 < ti < tr, got {self}.")


TISSUES: dict[str, Tissue] = {
    "CSF": Tissue(t1=2569.0, t2=329.0, pd=1.00),
    "GM": Tissue(t1=833.0, t2=83.0, pd=0.86),
    "WM": Tissue(t1=500.0, t2=70.0, pd=0.77),
}


def null_time(t1: float, tr: float) -> float:
    """Inversion time (ms) at which a tissue of relaxation time ``t1`` gives no signal."""
    return t1 * (np.log(2.0) - np.log1p(np.exp(-tr / t1)))


SEQUENCES: dict[str, Sequence] = {
    "T1w": Sequence(tr=500.0, te=12.0),
    "T2w": Sequence(tr=4200.0, te=100.0),
    "PD": Sequence(tr=4200.0, te=14.0),
    "FLAIR": Sequence(tr=9000.0, te=110.0, ti=float(null_time(TISSUES["CSF"].t1, 9000.0))),
}


def spin_echo(tissue: Tissue, *, tr: float, te: float) -> float:
    """PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return tissue.pd * (1.0 - np.exp(-tr / tissue.t1)) * np.exp(-te / tissue.t2)


def inversion_recovery(tissue: Tissue, *, tr: float, te: float, ti: float) -> float:
    """PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    recovery = 1.0 - 2.0 * np.exp(-ti / tissue.t1) + np.exp(-tr / tissue.t1)
    return tissue.pd * np.abs(recovery) * np.exp(-te / tissue.t2)


def signal(sequence: Sequence, tissue: Tissue) -> float:
    """Signal of one tissue, relative to fully relaxed CSF at echo time 0."""
    if sequence.ti is None:
        return spin_echo(tissue, tr=sequence.tr, te=sequence.te)
    return inversion_recovery(tissue, tr=sequence.tr, te=sequence.te, ti=sequence.ti)


@lru_cache(maxsize=1)
def tissue_maps() -> tuple[np.ndarray, np.ndarray]:
    """Fractions (3, X, Y, Z) float32 of CSF, GM, WM, summing to at most 1, and the (4, 4) affine; 1 mm.

    The template is an average of 152 heads, so its maps are blurred; they are sharpened to look like one.
    It is skull-stripped: CSF is what is left inside the brain mask, plus a thin rim around it.
    """
    image = _template("gm")
    gm, wm, t1 = (
        np.asarray(_template(kind).dataobj, dtype=np.float32) / 255.0 for kind in ("gm", "wm", "t1")
    )
    outline = ndimage.binary_dilation(t1 > 0, iterations=6)
    inside = ndimage.binary_erosion(ndimage.binary_fill_holes(outline), iterations=4)  # a 2 mm rim
    maps = np.stack([np.clip(inside - gm - wm, 0.0, 1.0), gm, wm]) ** 2
    maps *= ndimage.gaussian_filter(inside.astype(np.float32), 0.7) / np.maximum(maps.sum(axis=0), 1e-6)
    maps = maps.astype(np.float32)
    maps.flags.writeable = False
    return maps, image.affine


def _template(kind: str) -> nibabel.Nifti1Image:
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.exists():
        raise BookError(f"nilearn's bundled template {path.name} is missing; reinstall nilearn.")
    return nibabel.load(path)


def slice_at(
    maps: np.ndarray, affine: np.ndarray, z: float, *, size: tuple[int, int] = (216, 180), pixel: float = 1.0
) -> np.ndarray:
    """Axial slice of (K, X, Y, Z) maps at MNI height ``z`` mm -> (K, H, W), anterior up, left on the left."""
    height, width = size
    across = (np.arange(width) - (width - 1) / 2) * pixel
    along = ((height - 1) / 2 - np.arange(height)) * pixel - 18.0  # the brain's middle lies at y = -18 mm
    y, x = np.meshgrid(along, across, indexing="ij")
    world = np.stack([x, y, np.full_like(x, z), np.ones_like(x)])
    voxel = np.tensordot(np.linalg.inv(affine), world, axes=1)[:3]
    inside = (voxel[2] >= 0) & (voxel[2] <= maps.shape[3] - 1)
    if not inside.all():
        raise BookError(f"slice_at: height z={z:g} mm lies outside the image.")
    return np.stack([ndimage.map_coordinates(m, voxel, order=1, cval=0.0) for m in maps])


def contrasts(
    fractions: np.ndarray,
    *,
    tissues: Mapping[str, Tissue] = TISSUES,
    sequences: Mapping[str, Sequence] = SEQUENCES,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Images (M, ...) float32, one a sequence, of tissue ``fractions`` (K, ...) in the order of ``tissues``.

    noise: standard deviation of the complex noise relative to the brightest tissue of each image; the
    magnitude makes it Rician. Needs ``rng`` unless it is 0.
    """
    if len(fractions) != len(tissues):
        raise BookError(
            f"contrasts: {len(fractions)} tissue maps for {len(tissues)} tissues {', '.join(tissues)}."
        )
    if noise < 0 or (noise > 0 and rng is None):
        raise BookError("contrasts: noise must be >= 0 and, when positive, needs rng=...")
    table = np.array([[signal(s, t) for t in tissues.values()] for s in sequences.values()])  # (M, K)
    images = np.tensordot(table, fractions, axes=1)
    if noise > 0:
        scale = (noise * table.max(axis=1)).reshape(-1, *[1] * (images.ndim - 1))
        real, imaginary = rng.standard_normal((2, *images.shape)) * scale
        images = np.hypot(images + real, imaginary)
    return images.astype(np.float32)
