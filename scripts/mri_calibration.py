"""Print how the simulated tumours of chapters 07 and 08 compare with real ones, and how hard they are.

    python scripts/mri_calibration.py [--subjects 60] [--size 128]

1. Intensity over white matter in pure voxels of each tissue and in each label, and contrast-to-noise ratio
   against white matter, per contrast.
2. Sizes of the regions.
3. Dice of a pixel classifier (logistic regression on intensities and two blurs of them) for each set of
   available contrasts, trained on some people and tested on others: what intensity alone can know.
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from helpers.simulate import tumours

PURE = {"CSF": 0, "GM": 1, "WM": 2, "spot": 4, "oedema": 5, "enhancing": 6, "core": 7}

ROWS = (*PURE, "label 1", "label 2", "label 4")


def intensities(n: int, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Intensity over white matter, and distance to it over the noise, in pure voxels: mean ± sd of people."""
    ratio, cnr = {}, {}
    for index in range(n):
        p = tumours.subject(index, contrasts=tumours.CONTRASTS, size=size)
        pure = {k: p.fractions[i] > 0.9 for k, i in PURE.items()}
        pure |= {f"label {v}": p.labels == v for v in (1, 2, 4)}
        for m, name in enumerate(tumours.CONTRASTS):
            x = p.images[m] / p.bias[m]
            white, sd = np.median(x[pure["WM"]]), tumours.Settings().noise
            for k, inside in pure.items():
                if inside.sum() >= 20:
                    ratio.setdefault((k, name), []).append(np.median(x[inside]) / white)
                    cnr.setdefault((k, name), []).append((np.median(x[inside]) - white) / sd)

    def table(values: dict) -> pd.DataFrame:
        cells = {key: f"{np.mean(v):.2f} ± {np.std(v):.2f}" for key, v in values.items()}
        return pd.DataFrame({c: {k: cells.get((k, c), "") for k in ROWS} for c in tumours.CONTRASTS})

    return table(ratio), table(cnr)


def features(volumes) -> np.ndarray:
    """(S, M, 3, H, W): each contrast as it is, and blurred by 3 and 8 mm."""
    x = np.nan_to_num(volumes.images)
    sigma = 3.0 / volumes.spacing[0], 8.0 / volumes.spacing[0]
    return np.stack([x, *(ndimage.gaussian_filter(x, (0, 0, s, s)) for s in sigma)], axis=2)


def dice(truth: np.ndarray, found: np.ndarray, ids: np.ndarray) -> float:
    """Mean over people whose truth is not empty."""
    scores = []
    for person in np.unique(ids):
        t, f = truth[ids == person], found[ids == person]
        if t.any():
            scores.append(2 * (t & f).sum() / (t.sum() + f.sum()))
    return float(np.mean(scores))


def classifier(n: int, size: int) -> pd.DataFrame:
    volumes = tumours.cohort(n, size=size).normalise()
    train, test = volumes.split(n * 2 // 3, n - n * 2 // 3)
    rng, rows = np.random.default_rng(0), {}
    F, G = features(train), features(test)
    masks = [c for k in (1, 2, 3, 4) for c in combinations(range(4), k)]
    for available in masks:
        X = F[:, available].reshape(len(train), -1, size, size).transpose(0, 2, 3, 1)[train.mask]
        Z = G[:, available].reshape(len(test), -1, size, size).transpose(0, 2, 3, 1)[test.mask]
        y = train.labels[train.mask]
        take = np.concatenate([rng.permutation(np.flatnonzero(y == k))[:6000] for k in (0, 1, 2, 4)])
        add = np.concatenate([X, X**2], axis=1)
        weight = {k: (y == k).mean() / (y[take] == k).mean() for k in (0, 1, 2, 4)}
        model = LogisticRegression(max_iter=150, class_weight=weight).fit(add[take], y[take])
        label = np.zeros(test.labels.shape, dtype=np.uint8)
        label[test.mask] = model.predict(np.concatenate([Z, Z**2], axis=1))
        name = "+".join(volumes.contrasts[m] for m in available)
        rows[name] = {
            r: dice(np.isin(test.labels, v), np.isin(label, v), test.ids) for r, v in test.regions.items()
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.loc["mean of 15"] = table.mean()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--size", type=int, default=128)
    given = parser.parse_args()
    start = time.perf_counter()
    volumes = tumours.cohort(given.subjects, size=given.size, contrasts=tumours.CONTRASTS)
    seconds = time.perf_counter() - start
    print(f"{volumes}\n{seconds / given.subjects * 1000:.0f} ms a person\n")
    print(volumes.summary().to_string(), "\n")
    for name, size in zip(volumes.regions, volumes.targets().sum(axis=(2, 3)).T, strict=True):
        area = size[size > 0] * volumes.spacing[0] ** 2 / 100
        shown = np.percentile(area, [5, 25, 50, 75, 95]).round(1)
        print(f"{name} cm2 in a slice, percentiles 5, 25, 50, 75, 95:", shown)
    ratio, cnr = intensities(min(given.subjects, 40), given.size)
    print("\nintensity over white matter\n" + ratio.to_string())
    print("\ncontrast to noise against white matter\n" + cnr.to_string())
    scores = classifier(given.subjects, min(given.size, 64))
    print("\nDice of a pixel classifier\n" + scores.round(2).to_string())


if __name__ == "__main__":
    main()
