"""Functional connectivity (FC) from region time series, in numpy, for one scan or a batch.

Axes: ``R`` regions, ``T`` frames, ``E = R(R-1)/2`` edges; leading axes are a batch. float32 in gives float32
out, float64 gives float64.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from helpers.data.cohort import Cohort
from helpers.errors import BookError


def _standardised(bold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Series with mean 0 and length 1 along time (0 where constant); which regions vary, (..., R) bool."""
    bold = np.asarray(bold)
    if bold.ndim < 2 or bold.dtype.kind not in "fiu":
        raise BookError(
            f"bold has shape {bold.shape} and dtype {bold.dtype}: expected numbers (..., regions, frames)"
        )
    if bold.shape[-1] < 2:
        raise BookError(f"bold has {bold.shape[-1]} frames: a correlation needs two at least")
    if bold.dtype not in (np.float32, np.float64):
        bold = bold.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # told below
        x = bold - bold.mean(axis=-1, keepdims=True)
        norm = np.sqrt(np.einsum("...t,...t->...", x, x))
    if not np.isfinite(norm).all():
        *where, region = np.argwhere(~np.isfinite(norm))[0].tolist()
        scan = f"scan {where[0]} " if where else ""
        raise BookError(
            f"NaN or infinite values in {scan}region {region}:"
            " use Cohort.series(s), which leaves out the padding"
        )
    # The mean of a constant series is rounded: what is left after removing it is noise of this size.
    rounding = 4 * np.finfo(bold.dtype).eps * np.sqrt(bold.shape[-1]) * np.abs(bold[..., 0])
    varies = norm > rounding
    x *= (varies / np.where(varies, norm, 1)).astype(x.dtype)[..., None]
    return x, varies


def _with_unit_diagonal(fc: np.ndarray) -> np.ndarray:
    np.clip(fc, -1, 1, out=fc)
    index = np.arange(fc.shape[-1])
    fc[..., index, index] = 1
    return fc


def pearson(bold: np.ndarray) -> np.ndarray:
    """Pearson correlation of all pairs of regions, (..., R, T) -> (..., R, R).

    A region that does not vary has correlation 0 with every other, and 1 with itself.
    """
    x, _ = _standardised(bold)
    return _with_unit_diagonal(x @ np.swapaxes(x, -1, -2))


def ledoit_wolf(bold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Shrunken correlation, (..., R, T) -> ((..., R, R), (...,) shrinkage).

    Each region is brought to unit variance; the Ledoit-Wolf estimate of the covariance is then
    :math:`(1-\rho)\,\mathrm{Pearson} + \rho\,I` with

    .. math:: \rho = \min\left(1, \frac{\frac{1}{T}\sum_t \lVert z_t\rVert^4 - \lVert C\rVert_F^2}
                                      {T\,\lVert C - \mu I\rVert_F^2}\right), \quad \mu = \mathrm{tr}\,C / R

    (Ledoit and Wolf 2004, as in scikit-learn). This is what
    ``nilearn.connectome.ConnectivityMeasure(kind="correlation")`` returns by default. :math:`\rho` grows as
    the scan gets shorter, so scan length changes the amplitude of FC.
    """
    x, varies = _standardised(bold)
    T, R = x.shape[-1], x.shape[-2]
    raw = x @ np.swapaxes(x, -1, -2)  # covariance of unit-variance series
    mu = varies.sum(axis=-1) / R
    c2 = np.einsum("...ij,...ij->...", raw, raw)
    power = np.einsum("...rt,...rt->...t", x, x)  # |z_t|^2 / T
    spread = T * np.einsum("...t,...t->...", power, power) - c2
    distance = c2 - R * mu**2
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = np.where(distance > 0, np.clip(spread / (T * distance), 0, 1), 1.0)
    rho = np.where(spread <= 0, 0.0, rho).astype(x.dtype)
    kept = (1 - rho) / ((1 - rho) + rho * mu)  # = 1 - rho where every region varies
    return _with_unit_diagonal(kept.astype(x.dtype)[..., None, None] * raw), rho


def fc(cohort: Cohort, kind: str = "pearson") -> np.ndarray:
    """FC of every subject over its own frames, (S, R, R) float32; kind ``pearson`` or ``ledoit_wolf``."""
    estimators = {"pearson": pearson, "ledoit_wolf": lambda x: ledoit_wolf(x)[0]}
    if kind not in estimators:
        raise BookError(f"FC kind is {kind!r}: choose one of {', '.join(estimators)}")
    return np.stack([estimators[kind](cohort.series(s)) for s in range(len(cohort))])


def fisher_z(r: np.ndarray, limit: float = 1 - 1e-6) -> np.ndarray:
    """Fisher's z = atanh(r), with r held within +-limit so that the diagonal stays finite."""
    r = np.asarray(r)
    return np.arctanh(np.clip(r, -limit, limit))


@lru_cache(maxsize=16)
def _pairs(n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n_regions, k=1)


def upper(fc: np.ndarray) -> np.ndarray:
    """Edges above the diagonal, row by row, (..., R, R) -> (..., E)."""
    fc = np.asarray(fc)
    if fc.ndim < 2 or fc.shape[-1] != fc.shape[-2]:
        raise BookError(f"FC has shape {fc.shape}: expected (..., regions, regions)")
    rows, columns = _pairs(fc.shape[-1])
    return fc[..., rows, columns]


def from_upper(edges: np.ndarray, n_regions: int, diagonal: float = 1.0) -> np.ndarray:
    """The symmetric matrix whose edges these are, (..., E) -> (..., R, R); undoes :func:`upper`."""
    edges = np.asarray(edges)
    rows, columns = _pairs(n_regions)
    if edges.ndim < 1 or edges.shape[-1] != len(rows):
        raise BookError(
            f"{edges.shape[-1:]} edges do not make a matrix of {n_regions} regions, which has {len(rows)}"
        )
    matrix = np.empty((*edges.shape[:-1], n_regions, n_regions), dtype=edges.dtype)
    matrix[..., rows, columns] = edges
    matrix[..., columns, rows] = edges
    index = np.arange(n_regions)
    matrix[..., index, index] = diagonal
    return matrix
