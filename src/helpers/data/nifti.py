"""NIfTI files of one person, checked, as slices or volumes in the book's orientation.

A case is read in the order right, anterior, superior; its slices have anterior at the top and left on the
left.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from helpers.errors import BookError, MissingData


@dataclass(frozen=True, eq=False)
class Case:
    """One person: ``images`` (M, X, Y, Z) float32, ``labels`` (X, Y, Z), ``affine``, ``spacing`` mm."""

    name: str
    contrasts: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Size of a voxel along each axis in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def read(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """A 3-D image in the order right, anterior, superior, (X, Y, Z) float32, and its affine.

    Errors: :class:`MissingData` without the file; :class:`BookError` when it is cut short, no NIfTI or not
    3-D.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingData(f"no such file: {path}")
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, EOFError, OSError, zlib.error, ValueError) as error:
        what = "is cut short or damaged" if not isinstance(error, ImageFileError) else "is no NIfTI image"
        raise BookError(f"{path} {what} ({type(error).__name__}): copy or download it again") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise BookError(f"{path} has shape {values.shape}: expected one 3-D image")
    return values, image.affine


def resample(values: np.ndarray, affine: np.ndarray, shape: tuple, target: np.ndarray) -> np.ndarray:
    """``values`` on another grid, by trilinear interpolation in scanner coordinates; 0 outside."""
    from scipy import ndimage

    step = np.linalg.inv(affine) @ target
    return ndimage.affine_transform(values, step[:3, :3], step[:3, 3], output_shape=shape, order=1)


def read_case(
    name: str,
    files: Mapping[str, Path],
    labels: Path | None = None,
    *,
    relabel: Mapping[int, int] | None = None,
    align: bool = False,
) -> Case:
    """The contrasts of one person on one grid, that of the first; ``labels`` too, all 0 without a file.

    ``relabel`` renames labels; with ``align`` the other contrasts are resampled to the first one's grid.
    Errors: :class:`BookError` when shapes or affines do not match, or labels are not whole numbers.
    """
    images, grid = [], None
    for contrast, path in [*files.items(), *([("labels", labels)] if labels is not None else [])]:
        values, affine = read(path)
        if grid is None:
            grid = contrast, values.shape, affine
        first, shape, reference = grid
        if align and contrast != "labels" and not _same(values.shape, affine, shape, reference):
            values = resample(values, affine, shape, reference)
        elif values.shape != shape:
            raise BookError(
                f"{name}: {contrast} has shape {values.shape}, {first} {shape}: bring them to one grid"
            )
        elif not _same(values.shape, affine, shape, reference):
            gap = float(np.abs(affine - reference).max())
            raise BookError(
                f"{name}: the affines of {contrast} and {first} differ (by {gap:.3g}): bring them to one grid"
            )
        images.append(values)
    _, shape, reference = grid
    marks = images.pop() if labels is not None else np.zeros(shape, dtype=np.float32)
    if not np.array_equal(marks, np.round(marks)) or marks.min() < 0 or marks.max() > 255:
        raise BookError(f"{name}: labels are not whole numbers from 0 to 255: is {labels} a label image?")
    marks = marks.astype(np.uint8)
    if relabel:
        table = np.arange(256, dtype=np.uint8)
        table[list(relabel)] = list(relabel.values())
        marks = table[marks]
    return Case(name, tuple(files), np.stack(images), marks, reference)


def _same(shape: tuple, affine: np.ndarray, other_shape: tuple, other: np.ndarray) -> bool:
    return shape == other_shape and np.allclose(affine, other, atol=1e-2)


def shrink(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of ``factor`` voxels along the last three axes; an unfilled block is cut off."""
    if factor == 1:
        return values
    *lead, X, Y, Z = values.shape
    x, y, z = (n // factor for n in (X, Y, Z))
    blocks = values[..., : x * factor, : y * factor, : z * factor]
    return blocks.reshape(*lead, x, factor, y, factor, z, factor).mean(axis=(-5, -3, -1))


def shrink_labels(labels: np.ndarray, factor: int) -> np.ndarray:
    """The label that fills most of each block; background only where it fills more than half."""
    if factor == 1:
        return labels
    values = [int(v) for v in np.unique(labels) if v != 0]
    shares = [shrink((labels == v).astype(np.float32), factor) for v in values]
    if not shares:
        return np.zeros(shrink(labels, factor).shape, dtype=np.uint8)
    shares = np.stack(shares)
    winner = np.array(values, dtype=np.uint8)[shares.argmax(axis=0)]
    return np.where(shares.sum(axis=0) >= 0.5, winner, 0).astype(np.uint8)


def upright(values: np.ndarray) -> np.ndarray:
    """(..., X, Y, Z) as (..., Z, Y, X) with anterior in the first row and left in the first column."""
    return np.swapaxes(values, -1, -3)[..., ::-1, :]


def fit(values: np.ndarray, size: tuple[int, ...], fill: float = 0.0) -> np.ndarray:
    """Cut or pad the last axes to ``size``, about their middle."""
    n = len(size)
    out = np.full((*values.shape[:-n], *size), fill, dtype=values.dtype)
    source, target = [...], [...]
    for have, want in zip(values.shape[-n:], size, strict=True):
        take = min(have, want)
        source.append(slice((have - take) // 2, (have - take) // 2 + take))
        target.append(slice((want - take) // 2, (want - take) // 2 + take))
    out[tuple(target)] = values[tuple(source)]
    return out


def spread(candidates: np.ndarray, n: int) -> np.ndarray:
    """``n`` of the sorted candidates, evenly spaced; all of them where there are fewer."""
    if len(candidates) <= n:
        return candidates
    return candidates[np.round(np.linspace(0, len(candidates) - 1, n)).astype(int)]
