"""Judging a frozen representation: probes, few labels, unseen sites, monitors of collapse.

In these functions ``features`` holds one array (S, F) a fold, made by the encoder that never saw that
fold's test subjects (for features that need no training, the same array a fold). Splits: one repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch import Tensor

from helpers import evaluate
from helpers.errors import BookError


def _check(features: Sequence[np.ndarray], splits: evaluate.Splits) -> None:
    if splits.n_repeats != 1:
        raise BookError(f"frozen: the splits have {splits.n_repeats} repeats; give splits.repeat(0)")
    if len(features) != len(splits):
        raise BookError(
            f"frozen: {len(features)} arrays of features for {len(splits)} folds; give one a fold"
        )


def cross_validate(
    features: Sequence[np.ndarray], y: Any, splits: evaluate.Splits, estimator: Any = None
) -> evaluate.Predictions:
    """Out-of-fold predictions of a classifier (default: a linear SVM) on the features of each fold."""
    _check(features, splits)
    y = np.asarray(y)
    estimator = evaluate.linear_probe("svm") if estimator is None else estimator

    def fold_scores(split: evaluate.Split) -> np.ndarray:
        x = features[split.fold]
        return clone(estimator).fit(x[split.train], y[split.train]).decision_function(x[split.test])

    return evaluate.cross_validate(fold_scores, None, y, splits)


def few_shot(
    features: Sequence[np.ndarray],
    y: Any,
    splits: evaluate.Splits,
    shots: Sequence[int],
    *,
    draws: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """(len(shots), draws) AUCs with k training labels a class, averaged over folds."""
    _check(features, splits)
    return np.stack(
        [
            np.mean(
                [
                    evaluate.few_shot(features[s.fold], y, s.train, s.test, k, draws, seed + s.fold)
                    for s in splits
                ],
                axis=0,
            )
            for k in shots
        ]
    )


def unseen_site(features: Sequence[np.ndarray], y: Any, site: Any, splits: evaluate.Splits) -> pd.Series:
    """AUC on the test subjects of each site, by probes fitted without any label from that site.

    Only subjects scored by the same probe are compared (folds have encoders of their own, and scores of two
    models share no scale): the share of correctly ordered pairs within a site and fold, over all folds. NaN
    for a site that never has both classes in a test fold.
    """
    _check(features, splits)
    y, site = np.asarray(y), np.asarray(site, str)
    if len(np.unique(site)) < 2:
        raise BookError(f"unseen_site: all subjects are from {site[0]}; it needs two sites or more")
    correct = dict.fromkeys(np.unique(site), 0.0)
    pairs = dict.fromkeys(correct, 0)
    for split in splits:
        x = features[split.fold]
        for name in np.unique(site[split.test]):
            fit, test = split.train[site[split.train] != name], split.test[site[split.test] == name]
            n = int((y[test] == 1).sum()) * int((y[test] == 0).sum())
            if n:
                score = evaluate.linear_probe("svm").fit(x[fit], y[fit]).decision_function(x[test])
                correct[name] += n * roc_auc_score(y[test], score)
                pairs[name] += n
    return pd.Series({name: correct[name] / n if n else np.nan for name, n in pairs.items()})


def activation_pattern(X: np.ndarray, y: Any, estimator: Any = None) -> np.ndarray:
    """(F,) covariance of each feature with a linear classifier's score (Haufe et al. 2014, eq. 6).

    Weights say what a classifier multiplies, also to cancel noise; a pattern says where the signal is.
    """
    estimator = evaluate.linear_probe("svm") if estimator is None else clone(estimator)
    score = estimator.fit(X, y).decision_function(X)
    return (X - X.mean(0)).T @ (score - score.mean()) / len(score)


def effective_rank(z: Tensor) -> Tensor:
    """exp(entropy) of normalised singular values of centred embeddings (B, E): 1 to min(B, E).

    Roy and Vetterli, EUSIPCO 2007.
    """
    s = torch.linalg.svdvals((z - z.mean(0)).float())
    p = s / s.sum().clamp_min(1e-12)
    return torch.exp(-(p * p.clamp_min(1e-12).log()).sum())


def spread(z: Tensor) -> Tensor:
    """Mean standard deviation of unit embeddings (B, E), scaled: 1 = isotropic directions, 0 = all alike."""
    return F.normalize(z.float(), dim=-1).std(0).mean() * z.shape[1] ** 0.5
