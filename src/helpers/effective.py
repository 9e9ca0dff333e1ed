r"""Classical effective connectivity: which region drives which, from the series of regions, in numpy.

All people at once: series are (S, R, T), or (R, T); every statistic is (S, R, R) with a zero diagonal. A
score S[i, j] speaks for i -> j. Directed scores are a strength P, the partial correlation, times a direction
statistic R that is positive where i drives j::

    stats = effective.statistics(bold)               # one matrix a person and statistic
    subject = effective.scores(stats)                # {"softpwling": (S, R, R), ...}
    group = effective.scores({k: v.mean(0) for k, v in stats.items()})

The group score is made of the means over people, not the mean of their scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy import linalg, optimize

from helpers import connectivity
from helpers.data.networks import check_series
from helpers.errors import BookError

METHODS = (
    "correlation",
    "partialcorr",
    "patel",
    "pwling",
    "pwling_skew",
    "softpwling",
    "leftright",
    "granger",
)
TINY = 1e-12


def standardise(bold: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 along time, (S, R, T) or (R, T), in float64; BookError for unusable series."""
    if isinstance(bold, (list, tuple)) and len({np.shape(x) for x in bold}) > 1:
        shapes = sorted({np.shape(x) for x in bold})
        raise BookError(f"series: people differ in regions or frames {shapes}: cut them to one shape")
    x = check_series(bold).astype(np.float64)
    sd = x.std(-1, keepdims=True)
    return (x - x.mean(-1, keepdims=True)) / sd


def _t(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


def _no_diagonal(x: np.ndarray) -> np.ndarray:
    index = np.arange(x.shape[-1])
    x[..., index, index] = 0
    return x


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def correlation(z: np.ndarray) -> np.ndarray:
    """|Pearson correlation| of standardised series."""
    return np.abs(_no_diagonal(z @ _t(z) / z.shape[-1]))


def partial(z: np.ndarray) -> np.ndarray:
    """|Partial correlation| from the Ledoit-Wolf precision of standardised series."""
    precision = np.linalg.inv(connectivity.ledoit_wolf(z)[0])
    precision = (precision + _t(precision)) / 2
    d = np.sqrt(np.einsum("...ii->...i", precision))
    return np.abs(_no_diagonal(precision / (d[..., :, None] * d[..., None, :])))


def patel(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Patel's :math:`\kappa` (association) and :math:`\tau`; :math:`\tau<0` speaks for i -> j (Patel 2006).

    Series are clipped to their 10-90 % range and scaled to [0, 1], read as soft activation.
    """
    lo, hi = np.percentile(z, [10, 90], axis=-1, keepdims=True)
    y = np.clip((z - lo) / np.maximum(hi - lo, TINY), 0, 1)
    T = y.shape[-1]
    t1, t2 = y @ _t(y) / T, y @ _t(1 - y) / T
    t3 = _t(t2)
    a, b = t1 + t2, t1 + t3
    expected, upper, lower = a * b, np.minimum(a, b), np.maximum(0, a + b - 1)
    above = t1 >= expected
    room = np.where(above, upper - expected, expected - lower)
    D = 0.5 + np.abs(t1 - expected) / (2 * room + TINY)
    scale = D * (upper - expected) + (1 - D) * (expected - lower) + TINY
    kappa = np.abs((t1 - expected) / scale)
    tau = np.where(t2 >= t3, 1 - b / (a + TINY), a / (b + TINY) - 1)
    return _no_diagonal(kappa), _no_diagonal(tau)


def pairwise(z: np.ndarray, kind: Literal["tanh", "skew"] = "tanh") -> np.ndarray:
    r"""Pairwise LiNGAM likelihood ratio :math:`R_{ij}`, antisymmetric; positive for i -> j (Hyvarinen 2013).

    tanh: :math:`c_{ij}\langle z_i\tanh z_j-\tanh z_i\,z_j\rangle`; skew: :math:`c_{ij}\langle
    z_i^2z_j-z_iz_j^2\rangle` after making every skewness positive.
    """
    if kind not in ("tanh", "skew"):
        raise BookError(f"pairwise: kind {kind!r} is unknown; choose tanh or skew")
    if kind == "skew":
        z = z * _sign_of_skewness(z)
        half = (z**2) @ _t(z)
    else:
        half = z @ _t(np.tanh(z))
    return _no_diagonal((z @ _t(z)) * (half - _t(half)) / z.shape[-1] ** 2)


def _sign_of_skewness(z: np.ndarray) -> np.ndarray:
    return np.where((z**3).mean(-1, keepdims=True) < 0, -1.0, 1.0)


def left_right(z: np.ndarray) -> np.ndarray:
    r"""The left-right rule of FASK: correlation where i is high minus correlation where j is high.

    After making skewness positive, :math:`D_{ij}=E[z_iz_j|z_i>0]/\sqrt{E[z_i^2|z_i>0]E[z_j^2|z_i>0]}-
    (i\leftrightarrow j)`, times the sign of the correlation (Sanchez-Romero 2019). Antisymmetric.
    """
    z = z * _sign_of_skewness(z)
    high = (z > 0).astype(z.dtype)
    both = (high * z) @ _t(z)
    own, other = (high * z**2).sum(-1)[..., None], high @ _t(z**2)
    E = both / np.sqrt(own * other + TINY)
    return _no_diagonal((E - _t(E)) * np.sign(z @ _t(z)))


def granger(z: np.ndarray) -> np.ndarray:
    r"""Conditional Granger causality at lag 1: :math:`\log` of the ratio of residual variances, >= 0.

    Leaving regressor i out of a least-squares fit adds :math:`b_{ij}^2/(X^\top X)^{-1}_{ii}` to the residual
    sum of squares, so one fit gives all pairs.
    """
    past = z[..., :-1] - z[..., :-1].mean(-1, keepdims=True)
    now = z[..., 1:] - z[..., 1:].mean(-1, keepdims=True)
    G = np.linalg.pinv(past @ _t(past), hermitian=True)
    b = G @ (past @ _t(now))  # (..., i, j)
    rest = ((now - _t(b) @ past) ** 2).sum(-1)
    gain = b**2 / np.einsum("...ii->...i", G)[..., :, None]
    return _no_diagonal(np.log1p(gain / rest[..., None, :]))


def statistics(bold: np.ndarray) -> dict[str, np.ndarray]:
    """Every statistic of every person, (S, R, T) -> name: (S, R, R)."""
    z = standardise(bold)
    kappa, tau = patel(z)
    return dict(
        correlation=correlation(z), partial=partial(z), kappa=kappa, tau=tau, tanh=pairwise(z),
        skew=pairwise(z, "skew"), leftright=left_right(z), granger=granger(z),
    )  # fmt: skip


def soft(strength: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """P sigmoid(R / mean |R|): a direction that is not sure halves the strength instead of erasing it."""
    n = direction.shape[-1]
    scale = np.abs(direction).sum((-1, -2), keepdims=True) / (n * (n - 1))
    return strength * _sigmoid(direction / np.maximum(scale, TINY))


def hard(strength: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """P [R > 0]: keep i -> j or j -> i, never both."""
    return strength * (direction > 0)


def scores(stats: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The directed scores named in ``METHODS``, from the statistics of a person or from their group means."""
    P = stats["partial"]
    return dict(
        correlation=stats["correlation"], partialcorr=P, patel=hard(stats["kappa"], -stats["tau"]),
        pwling=hard(P, stats["tanh"]), pwling_skew=hard(P, stats["skew"]), softpwling=soft(P, stats["tanh"]),
        leftright=soft(P, stats["leftright"]), granger=stats["granger"],
    )  # fmt: skip


def group(bold: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (R, R) of a set of people (S, R, T): statistics averaged over people, then combined."""
    return scores({name: value.mean(0) for name, value in statistics(bold).items()})


def acyclicity(W: np.ndarray) -> float:
    """h(W) = tr exp(W * W) - R: zero for a directed graph without cycles (Zheng 2018)."""
    return float(np.trace(linalg.expm(W * W)) - len(W))


def notears(bold: np.ndarray, *, penalty: float = 0.02, rounds: int = 8, most: int = 300) -> np.ndarray:
    r"""Linear NOTEARS on all people together, |W| (R, R) (Zheng 2018).

    :math:`\min_W\tfrac12\mathrm{tr}[(I-W)^\top C(I-W)]+\lambda\lVert W\rVert_1` with :math:`h(W)=0`, by an
    augmented Lagrangian; C is the mean correlation matrix. On series of equal variance its direction is
    arbitrary: a cautionary tale (Reisach 2021).
    """
    z = standardise(bold)
    C = (z @ _t(z) / z.shape[-1]).reshape(-1, z.shape[-2], z.shape[-2]).mean(0)
    R = len(C)

    def objective(w: np.ndarray, rho: float, alpha: float) -> tuple[float, np.ndarray]:
        W = (w[: R * R] - w[R * R :]).reshape(R, R)
        M, E = np.eye(R) - W, linalg.expm(W * W)
        h = np.trace(E) - R
        loss = 0.5 * np.trace(M.T @ C @ M) + 0.5 * rho * h * h + alpha * h + penalty * w.sum()
        g = (-C @ M + (rho * h + alpha) * E.T * W * 2).ravel()
        return loss, np.concatenate([g + penalty, -g + penalty])

    bounds = [(0, 0) if i == j else (0, None) for _ in range(2) for i in range(R) for j in range(R)]
    w, rho, alpha, h = np.zeros(2 * R * R), 1.0, 0.0, np.inf
    for _ in range(rounds):
        while True:
            found = optimize.minimize(
                objective, w, (rho, alpha), "L-BFGS-B", jac=True, bounds=bounds, options=dict(maxiter=most)
            )
            W = (found.x[: R * R] - found.x[R * R :]).reshape(R, R)
            new = acyclicity(W)
            if new <= 0.25 * h or rho >= 1e16:
                break
            rho *= 10
        w, h = found.x, new
        alpha += rho * h
        if h < 1e-8 or rho >= 1e16:
            break
    return np.abs(W)
