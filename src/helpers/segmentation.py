"""Scoring of segmentations: nested tumour regions, Dice and Hausdorff distance by subject, whole volumes by
tiles.

Axes: ``N`` slices or volumes, ``K`` regions, ``S`` subjects. A subject may own several slices; the overlap is
counted over all of them, so that a subject has one score. What happens when a region is empty is part of the
score and is said in every call.

MONAI does the distances and the tiles (``monai.metrics``, ``monai.inferers``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from helpers.errors import BookError
from helpers.evaluate import Estimate, PairedTest

Empty = Literal["score", "nan"]

# BraTS labels: 1 necrotic core, 2 oedema, 4 enhancing tumour. ET is inside TC, TC inside WT.
REGIONS: dict[str, tuple[int, ...]] = {"ET": (4,), "TC": (1, 4), "WT": (1, 2, 4)}


def _array(x: Tensor | np.ndarray) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def regions(labels: Tensor | np.ndarray, table: Mapping[str, Sequence[int]] = REGIONS) -> Tensor:
    """Labels (N, *space) as nested regions (N, K, *space), bool. A label of no region must be 0.

    Errors: BookError naming the labels that are outside the set.
    """
    labels = torch.as_tensor(_array(labels).astype(np.int64))
    known = {0}.union(*map(set, table.values()))
    strange = sorted(set(labels.unique().tolist()) - known)
    if strange:
        raise BookError(f"labels {strange} are outside the set {sorted(known)}: check the mask or the table")
    return torch.stack([torch.isin(labels, torch.tensor(members)) for members in table.values()], 1)


def labels_of(masks: Tensor | np.ndarray) -> Tensor:
    """Regions ET, TC, WT (N, 3, *space) as labels 0, 1, 2, 4; a smaller region wins over a larger one."""
    masks = torch.as_tensor(_array(masks)).bool()
    if masks.ndim < 3 or masks.shape[1] != 3:
        raise BookError(f"labels_of: expected (N, 3, *space) for ET, TC and WT, got {tuple(masks.shape)}")
    out = torch.zeros_like(masks[:, 0], dtype=torch.uint8)
    for k, label in ((2, 2), (1, 1), (0, 4)):
        out[masks[:, k]] = label
    return out


def _pair(prediction: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _array(prediction).astype(bool), _array(truth).astype(bool)
    if a.shape != b.shape or a.ndim < 3:
        raise BookError(f"prediction {a.shape} and truth {b.shape} do not match: give (N, K, *space) twice")
    return a, b


def _rows(subjects: Sequence[str] | np.ndarray | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Names of the subjects in order of appearance, and the subject of each row."""
    names = np.arange(n).astype(str) if subjects is None else np.asarray(subjects, str)
    if len(names) != n:
        raise BookError(f"{len(names)} subject names for {n} images: give one for each")
    _, first, row = np.unique(names, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return names[np.sort(first)], rank[row]


def dice(
    prediction: Tensor | np.ndarray,
    truth: Tensor | np.ndarray,
    *,
    subjects: Sequence[str] | np.ndarray | None = None,
    empty: Empty = "score",
) -> np.ndarray:
    """Dice by subject and region, (S, K): twice the overlap over the sum of both sizes.

    empty : what an empty truth gives. "score": 1 if the prediction is empty too, else 0. "nan": not a number,
            so that averages over subjects leave these out.
    """
    a, b = _pair(prediction, truth)
    names, row = _rows(subjects, len(a))
    space = tuple(range(2, a.ndim))
    counts = np.stack([(a & b).sum(space), a.sum(space), b.sum(space)])  # (3, N, K)
    both, ours, theirs = (np.zeros((len(names), a.shape[1])) for _ in range(3))
    for total, part in zip((both, ours, theirs), counts, strict=True):
        np.add.at(total, row, part)
    with np.errstate(invalid="ignore"):
        score = 2 * both / (ours + theirs)
    score[(theirs == 0) & (ours == 0)] = 1.0
    if empty == "nan":
        score[theirs == 0] = np.nan
    elif empty != "score":
        raise BookError(f"dice: empty is {empty!r}; choose 'score' or 'nan'")
    return score


def hausdorff95(
    prediction: Tensor | np.ndarray,
    truth: Tensor | np.ndarray,
    *,
    spacing: float | Sequence[float] = 1.0,
    subjects: Sequence[str] | np.ndarray | None = None,
) -> np.ndarray:
    """95th percentile of the distance between the two outlines, (S, K), in the unit of ``spacing``.

    It is not defined where one of the two is empty: those are NaN, and should be counted beside the mean. A
    subject with several slices gets the mean over its slices.
    """
    from monai.metrics import compute_hausdorff_distance

    a, b = _pair(prediction, truth)
    names, row = _rows(subjects, len(a))
    space = tuple(range(2, a.ndim))
    defined = a.any(space) & b.any(space)  # (N, K)
    step = [float(spacing)] * len(space) if np.isscalar(spacing) else [float(s) for s in spacing]
    out = np.full(defined.shape, np.nan)
    with warnings.catch_warnings():  # MONAI 1.6 warns of its own call
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        for n, k in np.argwhere(defined):
            pair = (torch.from_numpy(x[n, k][None, None]) for x in (a, b))
            distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=step)
            out[n, k] = float(distance)
    return np.stack([average(out[row == s], 0) for s in range(len(names))])


def average(scores: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Mean along ``axis`` over what is not NaN; NaN where nothing is left."""
    scores = np.asarray(scores, float)
    there = np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        return np.where(there, scores, 0.0).sum(axis) / there.sum(axis)


def mean(scores: np.ndarray, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Mean of one number a subject (S,), NaN left out, with a 95 % bootstrap interval over subjects."""
    scores = np.asarray(scores, float)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        raise BookError("mean: no subject has a score; every truth is empty")
    draws = np.random.default_rng(seed).integers(0, len(scores), (n_boot, len(scores)))
    lo, hi = np.quantile(scores[draws].mean(1), [0.025, 0.975])
    return Estimate(float(scores.mean()), float(lo), float(hi))


def paired(a: np.ndarray, b: np.ndarray, *, n_boot: int = 2000, seed: int = 0) -> PairedTest:
    """Mean difference a - b over the subjects that have both scores, bootstrap interval, Wilcoxon's p."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1:
        raise BookError(f"paired: scores {a.shape} and {b.shape} do not match: give one number a subject")
    difference = (a - b)[np.isfinite(a) & np.isfinite(b)]
    p = 1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue)
    return PairedTest(mean(difference, n_boot=n_boot, seed=seed), p, "Wilcoxon", "Dice")


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: Sequence[int],
    *,
    overlap: float = 1 / 3,
    batch: int = 2,
) -> Tensor:
    """``predict`` on overlapping tiles of x (B, M, *space), averaged with equal weights: (B, K, *space).

    An image smaller than the tile is padded with zeros and cut back. Modalities stay in axis 1.
    """
    from monai.inferers import sliding_window_inference

    if x.ndim - 2 != len(tile):
        raise BookError(f"sliding_window: a tile of {len(tile)} sizes for images of {x.ndim - 2} dimensions")
    if not 0 <= overlap < 1:
        raise BookError(f"sliding_window: overlap is {overlap}; give a share in [0, 1)")
    return sliding_window_inference(x, tuple(tile), batch, predict, overlap=overlap, mode="constant")


def augment(x: Tensor, y: Tensor, patch: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """Random flips of the last axis, image by image; volumes (B, M, D, H, W) are also cut to ``patch``.

    Half of the cuts are centred on a voxel of a region of ``y``, as in the public code of ShaSpec.
    """
    flip = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < 0.5
    x, y = torch.where(flip, x.flip(-1), x), torch.where(flip, y.flip(-1), y)
    if x.ndim == 5 and patch is not None:
        spots = y.any(1).nonzero() if torch.rand(()) < 0.5 else y.new_zeros(0)
        at = spots[torch.randint(len(spots), ())][1:].tolist() if len(spots) else None
        for axis, (n, p) in enumerate(zip(x.shape[2:], patch, strict=True)):
            p = min(n, p)
            low = int(torch.randint(n - p + 1, ())) if at is None else min(max(at[axis] - p // 2, 0), n - p)
            x, y = x.narrow(axis + 2, low, p), y.narrow(axis + 2, low, p)
    return x, y


CUTS = torch.linspace(-3, 1, 9)  # candidates on the logits


def cut_counts(logits: Tensor, truth: Tensor, candidates: Tensor = CUTS) -> Tensor:
    """Twice the overlap and the sum of both sizes for every cut: (cuts, C, 2). Batches may be added up.

    ``logits`` (N, C, *space); ``truth`` bool, the same shape.
    """
    if logits.shape != truth.shape:
        raise BookError(
            f"best_cuts: logits {tuple(logits.shape)} and truth {tuple(truth.shape)} do not match"
        )
    space, rows = [0, *range(2, logits.ndim)], []
    for cut in candidates:
        found = logits > cut
        rows.append(torch.stack([2 * (found & truth).sum(space), found.sum(space) + truth.sum(space)], -1))
    return torch.stack(rows)


def best_cuts(logits: Tensor, truth: Tensor, candidates: Sequence[float] | None = None) -> Tensor:
    """The cut on the logits with the best Dice over all images, for every channel: (C,).

    ``logits`` (N, C, *space); ``truth`` bool, the same shape. Give training images: a cut is a fitted number.
    """
    options = CUTS if candidates is None else torch.as_tensor(candidates)
    return cuts_from(cut_counts(logits, truth, options), options).to(logits)


def cuts_from(counts: Tensor, candidates: Tensor = CUTS) -> Tensor:
    """The best cut of each channel, from the sum of :func:`cut_counts` over batches: (C,)."""
    return candidates[(counts[..., 0] / counts[..., 1].clamp_min(1)).argmax(0)]


def judge(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    names: np.ndarray,
    *metrics: Callable[..., np.ndarray],
) -> list[np.ndarray]:
    """Each metric as (P, S, K), for ``predict`` from images (N, ...) to P predictions (P, N, K, *space).

    A few people at a time (of volumes one), and their predictions are forgotten: memory does not grow.
    ``metrics`` are called as ``metric(prediction, truth, subjects=names)``, such as :func:`dice`.
    """
    if not len(x) == len(y) == len(names):
        raise BookError(f"judge: {len(x)} images, {len(y)} truths and {len(names)} names do not match")
    order, at_once, found = list(dict.fromkeys(names.tolist())), 5 if x.ndim == 4 else 1, []
    for i in range(0, len(order), at_once):
        rows = np.isin(names, order[i : i + at_once])
        answers, truth, who = predict(x[rows]), y[rows], names[rows]
        found.append([[metric(a, truth, subjects=who) for a in answers] for metric in metrics])
    return [np.concatenate(parts, 1) for parts in zip(*found, strict=True)]
