"""How close an image is to the true one, by contrast and by subject: scores, baselines, tests, pictures.

Images are tensors (..., H, W); the leading axes are kept, so a batch of contrasts (B, M, H, W) gives (B, M).
``data_range`` is the distance between the smallest and the largest possible value. ``mask`` (bool, broadcast
over the leading axes) says which pixels count; without it all of them do, background included, which flatters
every score of a brain.

SSIM follows Wang et al. 2004: a Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03. Borders are reflected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy import ndimage, stats
from torch import Tensor

from helpers import plot
from helpers.errors import BookError
from helpers.evaluate import Estimate

SIGMA, RADIUS, K1, K2 = 1.5, 5, 0.01, 0.03


def _weights(a: Tensor, b: Tensor, mask: Tensor | None, data_range: float | None) -> Tensor:
    """The mask as weights that sum to 1 over each image. BookError for what cannot be compared."""
    if a.shape != b.shape or a.ndim < 2:
        raise BookError(f"images of shape {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if data_range is not None and not data_range > 0:
        raise BookError(f"data_range is {data_range!r}: give a positive number, such as 1 for [0, 1]")
    if mask is None:
        mask = torch.ones(a.shape[-2:], dtype=torch.bool, device=a.device)
    if mask.dtype != torch.bool or mask.shape[-2:] != a.shape[-2:]:
        raise BookError(
            f"mask {tuple(mask.shape)} of {mask.dtype}: expected bool, {tuple(a.shape[-2:])} at the end"
        )
    try:
        mask = mask.expand(a.shape)
    except RuntimeError:
        raise BookError(f"mask {tuple(mask.shape)} does not fit images {tuple(a.shape)}") from None
    count = mask.sum((-1, -2), keepdim=True)
    if (count == 0).any():
        raise BookError("the mask of an image is empty: leave that image out")
    return mask / count.to(a.dtype)


def mae(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of each image, in its own units: (..., H, W) -> (...)."""
    weights = _weights(a, b, mask, None)
    return ((a - b).abs() * weights).sum((-1, -2))


def psnr(a: Tensor, b: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """10 log10(range^2 / MSE) in dB, (..., H, W) -> (...); infinite for identical images."""
    weights = _weights(a, b, mask, data_range)
    mse = ((a - b).square() * weights).sum((-1, -2))
    return 10 * torch.log10(data_range**2 / mse)


def _gaussian(n: int, like: Tensor) -> Tensor:
    """The window as a matrix (n, n): row i holds the weights around pixel i, borders reflected."""
    at = torch.arange(-RADIUS, RADIUS + 1)
    weights = torch.exp(-(at.double() ** 2) / (2 * SIGMA**2))
    place = (torch.arange(n)[:, None] + at).abs()
    place = torch.where(place < n, place, 2 * (n - 1) - place)  # (n, 2 RADIUS + 1)
    kernel = torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, place, weights.expand(n, -1))
    return (kernel / weights.sum()).to(like)


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean around each pixel, (..., H, W): two matrix products."""
    return _gaussian(x.shape[-2], x) @ x @ _gaussian(x.shape[-1], x).T


def ssim_map(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """Structural similarity around each pixel, same shape as the images."""
    _weights(a, b, None, data_range)
    if min(a.shape[-2:]) <= RADIUS:
        raise BookError(f"SSIM needs images larger than {RADIUS} pixels, got {tuple(a.shape[-2:])}")
    mx, my, xx, yy, xy = _blur(torch.stack([a, b, a * a, b * b, a * b]))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    bottom = (mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2)
    return top / bottom


def ssim(a: Tensor, b: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """Mean of :func:`ssim_map` over the pixels that count, (..., H, W) -> (...); 1 for identical images."""
    return (ssim_map(a, b, data_range=data_range) * _weights(a, b, mask, data_range)).sum((-1, -2))


def brain_window(mask: Tensor, margin: int = 2) -> Tensor:
    """Weights (N, 1, H, W): 1 well inside the brain ``mask``, falling smoothly to 0 at its outline.

    Pixels nearer to the outline than ``margin`` are cut off before the smoothing, so that the outline, which
    any method knows, is no texture.
    """
    cut = F.max_pool2d((~mask).to(torch.get_default_dtype()), 2 * margin + 1, 1, margin)
    return _blur(1 - cut) * mask


def detail(x: Tensor, window: Tensor) -> Tensor:
    """What a Gaussian blur of 1.5 pixels takes away from an image, inside the window; shape of x."""
    return (x - _blur(x)) * window


def spectrum(x: Tensor, n_bins: int | None = None, *, window: Tensor | None = None) -> Tensor:
    """Power by spatial frequency, (..., H, W) -> (..., n_bins): rings from 0 to the Nyquist frequency.

    A window goes over the image first, Hann's unless one is given, so that its borders do not count as edges.
    Bin i holds the frequencies around (i + 0.5) / (2 n_bins) cycles a pixel.
    """
    H, W = x.shape[-2:]
    n_bins = min(H, W) // 2 if n_bins is None else n_bins
    if not 1 <= n_bins <= min(H, W) // 2:
        raise BookError(f"spectrum: {n_bins} bins of an image {H} x {W}; give 1 to {min(H, W) // 2}")
    if window is None:
        window = torch.hann_window(H, dtype=x.dtype)[:, None] * torch.hann_window(W, dtype=x.dtype)
    window = window.to(x)
    weights = window / window.sum((-1, -2), keepdim=True) if window.ndim > 2 else 1 / (H * W)
    centred = x - (x * weights).sum((-1, -2), keepdim=True)
    power = torch.fft.fft2(centred * window).abs().square()
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None, :])
    ring = (radius * 2 * n_bins).long().to(x.device)  # the Nyquist frequency is 1/2
    inside = F.one_hot(ring.clamp(max=n_bins), n_bins + 1)[..., :n_bins].to(x.dtype)  # corners are left out
    inside = inside / inside.sum((0, 1))
    return torch.einsum("...hw,hwn->...n", power, inside)


# ------------------------------------------------------------------------------- sets with missing contrasts


def check(x: Tensor, missing: Tensor, *, divisor: int = 16) -> None:
    """BookError unless x (B, M, H, W), in [-1, 1] where known, goes with a mask (B, M), True = missing."""
    if x.ndim != 4:
        raise BookError(f"images {tuple(x.shape)}: expected (B, M, H, W)")
    B, M, H, W = x.shape
    if missing.dtype != torch.bool or missing.shape != (B, M):
        raise BookError(f"mask {tuple(missing.shape)} of {missing.dtype}: expected bool ({B}, {M})")
    if missing.all(1).any() or not missing.any(1).all():
        raise BookError("a mask is all zeros or all ones: a contrast must be missing, and one must be there")
    if H % divisor or W % divisor:
        raise BookError(f"images of {H} x {W} pixels: both sides must be divisible by {divisor}")
    if not (x[~missing].abs() <= 1 + 1e-5).all():  # what stands in a missing channel is never looked at
        raise BookError("the available contrasts must lie in [-1, 1]: scale them with normalise('unit')")


def code(missing: Tensor | Sequence[bool]) -> str:
    """A mask (M,) as text: 1 = missing, as in "0100"."""
    return "".join("1" if m else "0" for m in missing)


def score(
    guess: Tensor, truth: Tensor, missing: Tensor, mask: Tensor, ids: Iterable[str], contrasts: Sequence[str]
) -> pd.DataFrame:
    """Scores of the missing contrasts, one row a slice and contrast; images in [-1, 1].

    guess, truth (N, M, H, W); missing (M,) bool, the same for all; mask (N, 1, H, W) bool, the brain. PSNR
    and SSIM are taken on images brought to [0, 1], MAE on 0..255; ``_whole`` includes the background.
    """
    index = missing.nonzero()[:, 0]
    a, b = ((x[:, index].clamp(-1, 1) + 1) / 2 for x in (guess, truth))
    options = {"data_range": 1.0}
    found = {
        "psnr": psnr(a, b, mask=mask, **options),
        "ssim": ssim(a, b, mask=mask, **options),
        "mae": 255 * mae(a, b, mask=mask),
        "psnr_whole": psnr(a, b, **options),
        "ssim_whole": ssim(a, b, **options),
    }
    frame = pd.DataFrame({name: value.flatten().tolist() for name, value in found.items()})
    frame["subject"] = np.repeat(np.asarray(list(ids)), len(index))
    frame["contrast"] = np.tile(np.asarray(contrasts)[index.tolist()], len(a))
    return frame.assign(mask=code(missing), n_missing=len(index))


def mean(values: Any, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Mean of one number a subject with its 95 % bootstrap interval over subjects; NaN is left out."""
    return _bootstrap(values, np.mean, n_boot, seed)


def _bootstrap(values: Any, statistic: Any, n_boot: int, seed: int) -> Estimate:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        raise BookError("no subject has a finite value here")
    draws = np.random.default_rng(seed).integers(0, len(values), (n_boot, len(values)))
    lo, hi = np.quantile(statistic(values[draws], axis=1), [0.025, 0.975])
    return Estimate(float(statistic(values)), float(lo), float(hi))


def compare(table: pd.DataFrame, method: str, *, seed: int = 0) -> pd.DataFrame:
    """``method`` against every other column of ``table``, one row a subject, by Wilcoxon's signed ranks.

    Columns: median difference with its bootstrap interval; the matched-pairs rank correlation, (sum of
    positive ranks - sum of negative ranks) / all ranks, 1 when the method is better for everybody; the
    two-sided p; and p after Holm's correction for the number of rows.
    """
    if method not in table or table.shape[1] < 2:
        raise BookError(f"compare: {method!r} needs a column, and a rival: there are {list(table)}")
    rows = {}
    for rival in table.columns.drop(method):
        d = (table[method] - table[rival]).dropna().to_numpy()
        ranks = stats.rankdata(np.abs(d)) * (d != 0)
        p = float(stats.wilcoxon(d).pvalue) if d.any() else 1.0
        effect = (ranks * np.sign(d)).sum() / max(ranks.sum(), 1e-12)
        rows[rival] = {"median difference": _bootstrap(d, np.median, 2000, seed), "effect": effect, "p": p}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.assign(**{"p (Holm)": holm(frame["p"].to_numpy(float))})


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: the smallest p times n, the next times n - 1, ..., never falling."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(raised, 1.0)
    return out


def interval_scores(
    error: Tensor, sd: Tensor, mask: Tensor, ids: Iterable[str], *, level: float = 1.645
) -> pd.DataFrame:
    """How well a predicted standard deviation tells the error, one row a subject.

    error, sd (N, M, H, W); mask (N, 1, H, W) bool. ``coverage``: share of pixels whose error is below
    ``level`` standard deviations, 0.90 if it is right; ``rank``: Spearman's correlation of sd and absolute
    error over the pixels of an image, 0 for a constant sd; ``score``: mean of log sd + error^2 / (2 sd^2),
    lower is better.
    """
    rows = []
    for n, name in enumerate(ids):
        for e, s in zip(error[n], sd[n], strict=True):
            e, s = e[mask[n, 0]], s[mask[n, 0]].clamp(min=1e-3)
            rank = stats.spearmanr(s, e.abs())[0] if s.std() > 1e-6 else 0.0
            covered = (e.abs() < level * s).float().mean().item()
            score = (s.log() + e.square() / (2 * s.square())).mean().item()
            rows.append({"subject": name, "coverage": covered, "rank": rank, "score": score})
    return pd.DataFrame(rows).groupby("subject", sort=False).mean()


def texture(guess: Tensor, truth: Tensor, window: Tensor | None = None) -> Tensor:
    """Power of ``guess`` over power of ``truth`` by spatial frequency, (N, M, H, W) twice -> (n_bins,)."""
    a, b = (spectrum(x, window=window).sum(0) for x in (guess, truth))
    return (a / b).mean(0)


def by_person(values: Tensor, ids: Iterable[str]) -> np.ndarray:
    """Mean over the slices and contrasts of each person, (N, M) -> one number a person, as they appear.

    NaN is left out; a person of whom nothing is left is NaN.
    """
    rows = pd.DataFrame(values.double().cpu().numpy()).groupby(np.asarray(list(ids)), sort=False)
    return rows.mean().mean(axis=1).to_numpy()


def lesion_contrast(x: Tensor, labels: np.ndarray, mask: np.ndarray) -> Tensor:
    """Mean of the lesion minus mean of the brain elsewhere, (N, M, H, W) -> (N, M).

    labels, mask (N, H, W); NaN where a slice has no lesion.
    """
    lesion = torch.from_numpy((labels > 0) & mask)[:, None]
    other = torch.from_numpy((labels == 0) & mask)[:, None]
    inside, outside = (torch.where(at, x, 0.0).sum((2, 3)) / at.sum((2, 3)) for at in (lesion, other))
    return inside - outside


# -------------------------------------------------------------------------------------- pixel-wise baselines


def pixel_features(x: Tensor, available: Tensor) -> np.ndarray:
    """Each available contrast as it is, and blurred by one and two pixels: (N, M, H, W) -> (N, H, W, 3 k)."""
    x = x[:, available].cpu().numpy()
    blurred = [x, *(ndimage.gaussian_filter(x, (0, 0, s, s)) for s in (1, 2))]
    return np.moveaxis(np.concatenate(blurred, axis=1), 1, -1)


class PixelModel:
    """A scikit-learn regressor from the pixel's own neighbourhood, one for each mask and missing contrast.

    Fitted when first needed, on ``n_pixels`` brain pixels of up to 400 training slices x (N, M, H, W); called
    with slices and a mask (M,). Pixels where no contrast shows brain get the background, -1.
    """

    def __init__(
        self, regressor: Any, x: Tensor, mask: Tensor, *, n_pixels: int = 20_000, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        some = np.sort(rng.permutation(len(x))[:400])  # slices enough for so few pixels
        self.regressor, self.x, self.fitted = regressor, x[some], {}
        inside = np.flatnonzero(mask[some].flatten().numpy())
        self.rows = rng.choice(inside, min(n_pixels, len(inside)), replace=False)

    def _fit(self, missing: Tensor) -> list:
        from sklearn.base import clone

        features = pixel_features(self.x, ~missing)
        features = features.reshape(-1, features.shape[-1])[self.rows]
        targets = (self.x[:, m].flatten().numpy()[self.rows] for m in missing.nonzero()[:, 0])
        return [clone(self.regressor).fit(features, y) for y in targets]

    def __call__(self, x: Tensor, missing: Tensor) -> Tensor:
        if code(missing) not in self.fitted:
            self.fitted[code(missing)] = self._fit(missing)
        models = self.fitted[code(missing)]
        inside = (x[:, ~missing] > -1).any(1).numpy()
        features = pixel_features(x, ~missing)[inside]
        out = x.clone()
        for m, model in zip(missing.nonzero()[:, 0].tolist(), models, strict=True):
            image = np.full(inside.shape, -1.0, dtype=np.float32)
            image[inside] = np.clip(model.predict(features), -1, 1)
            out[:, m] = torch.from_numpy(image)
        return out


def lesion_dice(
    x: Tensor, labels: np.ndarray, mask: np.ndarray, learn: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Dice of the lesion, by slice, of boosted trees on pixel features, fitted on slices ``learn`` (N,) bool.

    Slices without a lesion are NaN. The other slices are those that are scored.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    from helpers import segmentation

    features, truth = pixel_features(x, torch.ones(x.shape[1], dtype=torch.bool)), labels > 0
    inside = np.flatnonzero(mask & learn[:, None, None])
    rows = np.random.default_rng(seed).permutation(inside)[:30_000]
    trees = HistGradientBoostingClassifier(max_iter=60, early_stopping=False)
    trees.fit(features.reshape(-1, features.shape[-1])[rows], truth.flat[rows])
    guess, at = np.zeros_like(truth[~learn]), mask[~learn]
    guess[at] = trees.predict(features[~learn][at])
    return segmentation.dice(guess[:, None], truth[~learn][:, None], empty="nan")[:, 0]


def split_dice(
    x: Tensor, labels: np.ndarray, mask: np.ndarray, units: np.ndarray, *, n: int = 4, seed: int = 0
) -> np.ndarray:
    """Mean of :func:`lesion_dice` in n random halves of the ``units`` (N,), which stay together: (n,).

    At most 300 slices are used, for time and memory.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(x))[:300])
    x, labels, mask, units = x[some], labels[some], mask[some], np.asarray(units)[some]
    found = []
    for _ in range(n):
        names = rng.permutation(np.unique(units))
        learn = np.isin(units, names[: len(names) // 2])
        found.append(np.nanmean(lesion_dice(x, labels, mask, learn, seed=seed)))
    return np.array(found)


# -------------------------------------------------------------------------------------------------- pictures


def grid(
    rows: Sequence[Sequence[Any]],
    *,
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    title: str = "",
    vmin: float = -1.0,
    vmax: float = 1.0,
    outline: Sequence[Any] | None = None,
    framed: int | None = None,
    cmap: str = "gray",
) -> Figure:
    """Slices in rows and columns, with column titles, row names, and an outline a row (a mask, or None).

    Row number ``framed`` gets a coloured frame.
    """
    shape = np.asarray(rows[0][0]).shape
    n, k = len(rows), len(rows[0])
    height = plot.WIDTH / (k + 0.4 * bool(names)) * shape[0] / shape[1] * n + 0.25 * bool(columns)
    figure, axes = plot.plt.subplots(n, k, figsize=(plot.WIDTH, height + 0.35 * bool(title)), squeeze=False)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            ax = axes[i, j]
            ax.imshow(np.asarray(image), cmap=cmap, vmin=vmin, vmax=vmax)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=i == framed, color=plot.COLOURS["method"], linewidth=2)
            if columns and i == 0:
                ax.set_title(columns[j], fontsize=9.5, loc="center")
            if outline is not None and outline[i] is not None and np.asarray(outline[i]).any():
                ax.contour(np.asarray(outline[i]), [0.5], colors=plot.OKABE_ITO["orange"], linewidths=1)
        if names:
            axes[i, 0].set_ylabel(names[i], fontsize=9.5)
    if title:
        figure.suptitle(title)
    return figure
