"""The supporting cast of chapter 07: digit networks and rivals, a report generator, demonstrations, published
numbers.

The method itself is in the notebook. Here is what it is compared with, and what its critique needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from helpers import evaluate, plot, records, segmentation, train
from helpers.data import avmnist

# ------------------------------------------------------------------------------------------------- pictures

# labels 0 nothing, 1 core, 2 oedema, 3 unused, 4 enhancing; the last number is the opacity
LABEL_COLOURS = np.array(
    [[0, 0, 0, 0], [0.9, 0.6, 0, 0.8], [0, 0.45, 0.7, 0.7], [0] * 4, [0, 0.62, 0.45, 0.9]]
)


def middle(image: Tensor) -> Tensor:
    """A slice (H, W) as it is; of a volume (D, H, W) the slice in the middle."""
    return image if image.ndim == 2 else image[len(image) // 2]


def centre(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Images (B, M, *space) cut to ``patch`` about their middle, where they are larger."""
    for axis, n in enumerate(patch, start=2):
        extra = max(0, x.shape[axis] - n)
        x = x.narrow(axis, extra // 2, x.shape[axis] - extra)
    return x


def show(ax: Axes, image: Tensor, regions: Tensor | None = None, title: str = "") -> None:
    """A z-scored slice or volume in grey, with regions (K, ...) in colour: three are ET, TC and WT."""
    ax.imshow(middle(image), cmap="gray", vmin=-2, vmax=3)
    if regions is not None:
        flat = torch.stack([middle(r) for r in regions])[None]
        labels = (
            segmentation.labels_of(flat)[0].numpy() if len(regions) == 3 else 2 * flat[0, 0].int().numpy()
        )
        ax.imshow(LABEL_COLOURS[labels])
    rows, columns = (np.flatnonzero((middle(image) != 0).any(k).numpy()) for k in (1, 0))
    ax.set(xticks=[], yticks=[], title=title)
    if len(rows):  # cut to the brain
        ax.set(xlim=(columns[0] - 1.5, columns[-1] + 1.5), ylim=(rows[-1] + 1.5, rows[0] - 1.5))


def mask_figure(scores: Mapping[str, np.ndarray], lone: np.ndarray, names: Sequence[str], regions) -> Figure:
    """Mean Dice by mask, a panel a region: ``scores`` (masks, S, K) by method, intervals of the first;
    ``lone`` (few, S, K) are the dedicated models of the first masks."""
    style = dict(figsize=(7, 6.4), sharey=True, squeeze=False, layout="constrained")
    figure, axes = plt.subplots(1, len(regions), **style)
    rows, offsets = np.arange(len(names)), np.linspace(-0.27, 0.27, len(scores))
    for k, (ax, region) in enumerate(zip(axes[0], regions, strict=True)):
        spans = [segmentation.mean(s) for s in next(iter(scores.values()))[..., k]]
        lo, hi = ([getattr(e, end) for e in spans] for end in ("lo", "hi"))
        ax.hlines(rows + offsets[0], lo, hi, color=plot.CYCLE[0], lw=1.5)
        for (name, s), marker, colour, up in zip(scores.items(), "o^xs", plot.CYCLE, offsets, strict=False):
            means = segmentation.average(s[..., k], 1)
            ax.plot(means, rows + up, marker, ms=5, color=colour, label=name)
        means = segmentation.average(lone[..., k], 1)
        ax.plot(means, range(len(lone)), "D", ms=5, mfc="none", color="black", label="dedicated")
        ax.hlines(rows[:-1] + 0.5, 0, 1, color="0.9", lw=0.6)
        ax.set(title=region, xlabel="Dice", xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
        ax.set_yticks(rows, names)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def clouds(ax: Axes, r: np.ndarray, s: np.ndarray, names: Sequence[str], title: str) -> None:
    """t-SNE of shared (crosses) and specific (circles) features (N, M, C), one colour a modality."""
    flat = np.concatenate([z.reshape(-1, z.shape[-1]) for z in (r, s)])
    perplexity = min(20, (len(flat) - 1) / 3)
    xy = TSNE(perplexity=perplexity, max_iter=300, random_state=0).fit_transform(flat)
    for z, marker in zip(xy.reshape(2, *r.shape[:2], 2), "xo", strict=True):
        for i, (name, colour) in enumerate(zip(names, plot.CYCLE, strict=False)):
            ax.plot(*z[:, i].T, marker, ms=3, color=colour, label=name if marker == "o" else None)
    ax.set(title=title, xticks=[], yticks=[])
    if ax.get_subplotspec().is_first_col():
        handles = ax.get_legend_handles_labels()
        ax.figure.legend(*handles, loc="outside lower center", ncols=len(names))


def bars(table: pd.DataFrame, label: str, title: str) -> Axes:
    """Pairs of horizontal bars, a row each: grey the first column, in colour the second."""
    ax = table.plot.barh(figsize=(7, 1.9), color=["0.7", plot.COLOURS["method"]], xlabel=label)
    ax.set(title=title, xlim=(0, 1.8 * table.to_numpy().max()))
    return ax


def budget_figure(curve: Mapping[str, evaluate.Estimate], names: Mapping[str, str], title: str) -> Axes:
    """Dots with intervals over training steps. ``curve``: KEY_STEPS -> Estimate; ``names``: label -> KEY."""
    _, axes = plot.panel(1, height=3.2)
    shifts = np.linspace(0.97, 1.03, max(2, len(names)))
    for (name, key), colour, shift in zip(names.items(), plot.CYCLE, shifts, strict=False):
        at = {int(k.removeprefix(f"{key}_")): e for k, e in curve.items() if k.rpartition("_")[0] == key}
        at = {n * shift: at[n] for n in sorted(at)}
        axes[0].plot(list(at), [e.value for e in at.values()], "o-", color=colour, label=name)
        for n, e in at.items():
            axes[0].plot([n, n], [e.lo, e.hi], color=colour, lw=1.2)
    axes[0].set(xlabel="training steps", ylabel="Dice", title=title)
    axes[0].legend()
    return axes[0]


# ---------------------------------------------------------------------------------------------------- results


def percent(e: evaluate.Estimate) -> str:
    """An Estimate of a share, in per cent: ``47 (44 to 51)``."""
    return f"{100 * e.value:.0f} ({100 * e.lo:.0f} to {100 * e.hi:.0f})"


def points(e: evaluate.Estimate) -> str:
    """A difference of shares, in points: ``+1.2 (-0.3 to +2.7)``."""
    return f"{100 * e.value:+.1f} ({100 * e.lo:+.1f} to {100 * e.hi:+.1f})"


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def recorded(run: records.Run, name: str) -> evaluate.Estimate | float | None:
    """A metric, with its interval if it has one, of this run or else of the public record; None without."""
    if name not in run.metrics:
        return records.metric(run.chapter, "public", name)
    if f"{name}_lo" not in run.metrics:
        return run.metrics[name]
    return evaluate.Estimate(*(run.metrics[name + end] for end in ("", "_lo", "_hi")))


def recorded_group(run: records.Run, prefix: str) -> dict[str, evaluate.Estimate | float | None]:
    """All metrics whose names begin so, of this run or else of the public record, by what follows."""
    for source in (run, records.load(run.chapter, "public")):
        names = [n for n in getattr(source, "metrics", {}) if n.startswith(prefix)]
        names = [n for n in names if not n.endswith(("_lo", "_hi"))]
        if names:
            return {n.removeprefix(prefix): recorded(run, n) for n in names}
    return {}


def variation(history: train.History) -> float:
    """Spread of the shared feature over images, over its mean size, in the last epoch; 0 without one."""
    last = history.frame.iloc[-1]
    return float(last.get("spread of r", 0.0) / last.get("size of r", 1.0))


def auc_by_person(label: Tensor, score: Tensor, names: np.ndarray, n_boot: int = 300) -> evaluate.Estimate:
    """AUC of rows (N,) with a 95 % interval; the bootstrap draws people, not rows."""
    label, score = label.numpy(), score.numpy()
    rows = [np.flatnonzero(names == person) for person in np.unique(names)]
    rng, draws = np.random.default_rng(0), []
    for _ in range(n_boot):
        drawn = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        if 0 < label[drawn].mean() < 1:
            draws.append(roc_auc_score(label[drawn], score[drawn]))
    lo, hi = np.quantile(draws, [0.025, 0.975])
    return evaluate.Estimate(float(roc_auc_score(label, score)), float(lo), float(hi))


# ----------------------------------------------------------------------------------------- rivals and chance


def pixel_classifier(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on single pixels (n, contrasts): a function that says which pixels are inside.

    The threshold is the one with the best Dice on the training pixels.
    """
    if not y.any():
        return lambda new: np.zeros(len(new), bool)
    model = LogisticRegression(C=1.0).fit(x, y)
    p = model.predict_proba(x)[:, 1]
    cuts = np.quantile(p, np.clip(1 - y.mean() * np.array([0.5, 0.75, 1, 1.5, 2, 3]), 0, 1))
    best = max(cuts, key=lambda cut: (y & (p > cut)).sum() / (y.sum() + (p > cut).sum()))
    return lambda new: model.predict_proba(new)[:, 1] > best if len(new) else np.zeros(0, bool)


def brain(x: Tensor) -> Tensor:
    """Where any contrast of scaled images (N, M, *space) is not 0: (N, *space) bool."""
    return (x != 0).any(1)


def pixel_baseline(
    x: Tensor, y: Tensor, masks: Tensor, *, n_pixels: int = 20_000, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """One pixel classifier a mask and region: a function from images to regions, bool (masks, N, K, *space).

    Fitted on equally many brain pixels of each training image ``x`` (N, M, *space) with ``y`` (N, K, *space).
    """
    rng, pixels, truths = np.random.default_rng(seed), [], []
    for image, regions in zip(x, y, strict=True):
        at = (image != 0).any(0).nonzero().numpy()
        at = tuple(at[rng.integers(0, len(at), -(-n_pixels // len(x)))].T)
        pixels.append(image.numpy()[:, *at].T)
        truths.append(regions.numpy()[:, *at].T)
    pixels, truths = np.concatenate(pixels), np.concatenate(truths)
    table = masks.numpy()
    fitted = [[pixel_classifier(pixels[:, m], t) for t in truths.T] for m in table]

    def predict(new: Tensor) -> Tensor:
        inside = brain(new)
        rows = new.movedim(1, -1)[inside].numpy()
        out = torch.zeros(len(masks), len(new), y.shape[1], *new.shape[2:], dtype=torch.bool)
        for m, mask in enumerate(table):
            for k, classify in enumerate(fitted[m]):
                out[m, :, k][inside] = torch.from_numpy(classify(rows[:, mask]))
        return out

    return predict


def unlike(x: Tensor) -> Tensor:
    """Contrasts that look unlike: T1 and T2 inverted, T1c folded at its half; background stays 0."""
    x, folded, brain = x.clone(), (x[:, 2] - 0.5).square(), x[:, 2] != 0
    x[:, 1], x[:, 3] = -x[:, 1], -x[:, 3]
    x[:, 2] = torch.where(brain, (folded - folded[brain].mean()) / folded[brain].std(), 0.0)
    return x


def linear_answers(features: np.ndarray, pairs: avmnist.Pairs, C: float = 1.0) -> np.ndarray:
    """Digits of the test pairs by logistic regression on features (S, ...), fitted on the training pairs."""
    flat = features.reshape(len(features), -1)
    model = LogisticRegression(C=C, max_iter=1000).fit(flat[pairs.train], pairs.labels[pairs.train])
    return model.predict(flat[pairs.test])


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Cases that only a, and only b, gets right (S,) bool, and McNemar's exact two-sided p."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, float(stats.binomtest(only_a, max(only_a + only_b, 1)).pvalue)


# ---------------------------------------------------------------------------------------------------- digits


def lenet() -> nn.Sequential:
    """Images (B, 1, 28, 28) -> (B, 160)."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(5, 10, 5), nn.Dropout(0.5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip


def sound_net() -> nn.Sequential:
    """MFCC (B, 1, 20, 20) -> (B, 160)."""
    layers: list[nn.Module] = []
    for a, b in ((1, 32), (32, 48), (48, 20)):
        layers += [nn.Conv2d(a, b, 2), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2, 4), nn.Dropout(0.25), nn.Flatten(), nn.Linear(320, 160))


def digit_head() -> nn.Sequential:
    """Two features of 160 -> ten digits."""
    return nn.Sequential(nn.Linear(320, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))


def specific_digits(nets: Sequence[nn.Module], inputs: Sequence[Tensor], available: Tensor) -> Tensor:
    """Each net on the rows that have its input, zeros elsewhere: (B, 2, 160)."""
    s = torch.zeros(len(available), 2, 160, device=available.device)
    for i, (net, x) in enumerate(zip(nets, inputs, strict=True)):
        rows = available[:, i].nonzero()[:, 0]
        if len(rows):
            s = s.index_put((rows, torch.full_like(rows, i)), net(x[rows].unsqueeze(1)))
    return s


class LateFusion(nn.Module):
    """Two encoders, one classifier on both features; a learned vector stands where one is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.specific, self.decoder = nn.ModuleList([lenet(), sound_net()]), digit_head()
        self.missing = nn.Parameter(torch.zeros(2, 160))

    def forward(self, image: Tensor, sound: Tensor, available: Tensor) -> dict[str, Tensor]:
        s = specific_digits(self.specific, (image, sound), available)
        return dict(logits=self.decoder(torch.where(available[..., None], s, self.missing).flatten(1)))


class SMIL(LateFusion):
    """A small SMIL (Ma et al. 2021): a missing sound is guessed from the image.

    The guess is a mixture of ``centres`` (K, 20, 20) with learned weights, plus noise of learned size. The
    original also learns to perturb features; see ``smil_step`` for the meta-learning.
    """

    def __init__(self, centres: Tensor | None = None) -> None:
        super().__init__()
        centres = torch.zeros(10, 20, 20) if centres is None else centres
        self.register_buffer("centres", centres)
        self.mixture, self.noise = nn.Linear(784, len(centres)), nn.Linear(784, 1)

    def complete(self, image: Tensor, sound: Tensor, available: Tensor) -> Tensor:
        flat = image.flatten(1)
        guess = torch.einsum("bk,khw->bhw", self.mixture(flat).softmax(-1), self.centres)
        guess = guess + F.softplus(self.noise(flat) - 2).unsqueeze(-1) * torch.randn_like(guess)
        return torch.where(available[:, 1, None, None], sound, guess)

    def forward(self, image: Tensor, sound: Tensor, available: Tensor) -> dict[str, Tensor]:
        return super().forward(image, self.complete(image, sound, available), torch.ones_like(available))


def smil_step(model: SMIL, batch: Sequence[Tensor], rate: float = 0.05) -> Tensor:
    """Inner step on all pairs, with guesses; outer loss on complete pairs, with the adapted weights."""
    image, sound, available, digit = batch
    weights = {n: p for n, p in model.named_parameters() if n.startswith(("specific", "decoder"))}
    inner = F.cross_entropy(model(image, sound, available)["logits"], digit)
    slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    adapted = {n: p - rate * g for (n, p), g in zip(weights.items(), slopes, strict=True)}
    whole = available[:, 1]
    if not whole.any():
        return inner
    pair = (image[whole], sound[whole], available[whole])
    outer = torch.func.functional_call(model, adapted, pair)["logits"]
    return inner + F.cross_entropy(outer, digit[whole])


def centres(sounds: Tensor, n: int = 10, seed: int = 0) -> Tensor:
    """K-means centres of sounds (S, 20, 20): (n, 20, 20)."""
    found = KMeans(n, n_init=1, random_state=seed).fit(sounds.flatten(1).numpy()).cluster_centers_
    return torch.from_numpy(found).float().unflatten(1, sounds.shape[1:])


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Shortest wall time of a call, after one to warm up: what the machine can do when nothing else runs."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def step_seconds(model: nn.Module, step: Callable, batch: Sequence[Tensor], repeats: int = 5) -> float:
    """Shortest wall time of a training step, forward and backward."""
    return seconds(lambda: step(model.train(), batch).backward(), repeats)


def aliased(tones: np.ndarray) -> np.ndarray:
    """Where pure tones (Hz, sampled at 8 kHz) appear when every third sample is kept and called 8 kHz."""
    t = np.arange(8000) / 8000
    kept = np.sin(2 * np.pi * np.asarray(tones)[:, None] * t)[:, :7998:3]
    return np.abs(np.fft.rfft(kept)).argmax(1) * 8000 / kept.shape[1]


def tone_plot(ax: Axes) -> None:
    """True tones against where they appear in the published MFCC (:func:`aliased`)."""
    tones = np.linspace(50, 3900, 78)
    ax.plot(tones / 1000, aliased(tones) / 1000, ".", color=plot.COLOURS["method"])
    ax.set(xlabel="true tone, kHz", ylabel="published, kHz", title="pure tones")


# the metrics of the digits, in the order of the figure
DIGIT_KEYS = (
    "linear", "image_only", "late_fusion_20", "shaspec_05", "shaspec_10", "shaspec_15", "shaspec_20",
    "smil_20", "upper", "shaspec_both_20", "shaspec_both_100",
)  # fmt: skip

# --------------------------------------------------------------------------------------------------- reports

WORDS = ("end", "oedema", "marked", "mild", "rim", "enhances", "clearly", "no", "enhancement")


def reports(targets: Tensor, seed: int, told: float = 0.8) -> tuple[Tensor, Tensor]:
    """A report of six words for each slice (N, 6), and whether it holds enhancing tumour (N,) bool.

    ``targets`` (N, K, H, W), ET first and WT last. The share ``told`` of the reports names the enhancement
    as it is; the others guess.
    """
    rng, wet = np.random.default_rng(seed), targets[:, -1].flatten(1).sum(1).numpy()
    there = targets[:, 0].flatten(1).any(1).numpy()
    said = np.where(rng.random(len(there)) < told, there, rng.random(len(there)) < 0.5)
    lines = [
        ["oedema", size, *(["rim", "enhances", "clearly"] if yes else ["no", "rim", "enhancement"]), "end"]
        for size, yes in zip(np.where(wet > np.median(wet), "marked", "mild"), said, strict=True)
    ]
    return torch.tensor([[WORDS.index(w) for w in line] for line in lines]), torch.from_numpy(there)


# -------------------------------------------------------------------------------------------- demonstrations


class StandardisedConv(nn.Conv2d):
    """A 3 x 3 convolution whose filters have mean 0 and deviation 1."""

    def forward(self, x: Tensor) -> Tensor:
        deviation, average = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - average) / (deviation + 1e-5), padding=1)


def largest_gradient(x: Tensor, depth: int, conv: Callable[..., nn.Module] = StandardisedConv) -> float:
    """Largest weight gradient of ``depth`` layers of conv, norm and LeakyReLU for input x (B, 32, H, W)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [conv(32, 32, 3, padding=1, bias=False), nn.InstanceNorm2d(32, affine=True), nn.LeakyReLU()]
    net = nn.Sequential(*layers)
    (net(x) * torch.randn_like(x)).mean().backward()
    return max(float(p.grad.abs().max()) for p in net.parameters())


def split_core(inside: np.ndarray, t1c: np.ndarray) -> np.ndarray:
    """The part of a predicted tumour (H, W) that 3-means on T1c calls brightest."""
    found = KMeans(3, n_init=3, random_state=0).fit(t1c[inside][:, None])
    bright = np.zeros_like(inside)
    bright[inside] = found.labels_ == found.cluster_centers_.argmax()
    return bright


# ----------------------------------------------------------------------------------------- published numbers

RIVALS = ("RobustSeg", "mmFormer", "ShaSpec", "ShaSpec*")
# Wang et al. 2023, Table 1: Dice %, a row a mask (the order of the chapter), ET, TC and WT of RIVALS.
TABLE1 = """
25.69 39.33 43.52 45.11  53.57 61.21 69.44 69.57  85.69 86.10 88.68 88.83
17.29 32.53 41.00 42.58  47.90 56.55 63.18 64.53  70.11 67.52 73.44 74.82
67.07 72.60 73.29 75.80  76.83 75.41 78.65 81.40  73.31 72.22 73.82 74.95
28.97 43.05 46.31 46.21  57.49 64.20 69.03 69.05  82.24 81.15 83.99 84.90
32.13 42.96 44.76 44.81  60.68 65.91 72.67 72.77  88.24 87.06 89.76 89.86
70.30 75.07 75.60 77.76  80.62 77.88 84.50 84.75  88.51 87.30 90.06 90.12
33.84 47.52 47.20 47.22  61.16 69.75 72.93 72.93  88.28 87.59 90.02 90.09
69.06 74.04 75.76 78.26  78.72 78.59 82.10 82.64  77.18 74.42 78.74 78.88
32.01 44.99 46.84 49.87  62.19 69.42 71.38 71.39  84.78 82.20 86.03 86.09
69.71 74.51 75.95 78.59  80.20 78.61 83.82 84.08  85.19 82.99 85.42 86.43
70.78 75.47 76.42 78.51  81.06 79.80 85.23 85.36  88.73 87.33 90.29 90.36
36.41 47.70 46.55 46.56  64.38 71.52 73.97 73.99  88.81 87.75 90.36 90.37
70.88 75.67 75.99 78.15  80.72 79.55 85.26 85.67  89.27 88.14 90.78 90.79
70.10 74.75 76.37 78.35  80.33 80.39 84.18 84.27  86.01 82.71 86.47 86.51
71.13 77.61 78.08 78.47  80.86 85.78 85.45 85.75  89.45 89.64 90.88 90.88
"""
# Table 3: accuracy %, 5, 10, 15 and 20 % of the sounds in training.
TABLE3 = {"SMIL": (92.89, 93.11, 93.33, 94.44), "ShaSpec": (93.33, 93.56, 93.78, 94.67)}


# what records.compare puts into the column of the paper
PAPER = {
    "dice_et_mean15": "0.62", "dice_tc_mean15": "0.77", "dice_wt_mean15": "0.86",
    "dice_et_dedicated_mean4": "0.52", "dice_tc_dedicated_mean4": "0.74", "dice_wt_dedicated_mean4": "0.84",
    "dice_wt_flair_only": "0.89", "avmnist_image_only": "0.92 (10,000 images)", "avmnist_shaspec_05": "0.93",
    "avmnist_shaspec_10": "0.94", "avmnist_shaspec_15": "0.94", "avmnist_shaspec_20": "0.95",
    "avmnist_smil_20": "0.94", "avmnist_upper": "0.98", "avmnist_shaspec_both_20": "0.95 (read off)",
    "avmnist_shaspec_both_100": "0.98 (read off)", "smil_over_shaspec_step_time": "5.1",
    "n_parameters": "187.71 M (code)",
}  # fmt: skip


def table1() -> np.ndarray:
    """Dice % of the paper's Table 1: (15 masks, 3 regions, 4 methods)."""
    return np.array(TABLE1.split(), float).reshape(15, 3, len(RIVALS))
