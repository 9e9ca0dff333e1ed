"""Three-part splits: fit on the training people, choose on the validation people, score the test people once.

A rotation is one split of :func:`helpers.evaluate.splits`. Its test fold is tested, the next fold of the
same repeat validates, and the rest trains: with five folds 6:2:2. ``features`` holds one array (S, F) a
split, made by an encoder that never saw that split's test people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from helpers import evaluate
from helpers.errors import BookError


def parts(split: evaluate.Split, splits: evaluate.Splits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers for training, validation and test."""
    mine = [s for s in splits if s.repeat == split.repeat]
    if len(mine) < 3:
        raise BookError(
            f"holdout: {len(mine)} folds do not make three parts; split with n_splits of 3 or more"
        )
    at = next(i for i, s in enumerate(mine) if s.fold == split.fold)
    held = mine[(at + 1) % len(mine)].test
    return np.setdiff1d(split.train, held), held, split.test


def _classes(y: np.ndarray) -> bool:
    return len(np.unique(y)) == 2


def association(y: np.ndarray, score: np.ndarray) -> float:
    """AUC for two classes, Pearson's r for numbers; NaN where ``y`` is constant."""
    if len(np.unique(y)) < 2:
        return float("nan")
    return float(roc_auc_score(y, score) if _classes(y) else np.corrcoef(y, score)[0, 1])


def probe(
    x: np.ndarray, y: np.ndarray, fit: np.ndarray, held: np.ndarray, test: np.ndarray, task: str
) -> np.ndarray:
    """Scores (n_test,) of a linear probe fitted on ``fit``, its penalty chosen on ``held``.

    ``task`` is "binary" (logistic, chosen by AUC) or "regression" (ridge, chosen by squared error).
    """
    kind = "logistic" if task == "binary" else "ridge"
    best, scores = -np.inf, np.full(len(test), np.nan)
    for C in evaluate.GRID:
        model = evaluate.linear_probe(kind, C=C).fit(x[fit], y[fit])
        guess = model.decision_function(x[held])
        value = association(y[held], guess) if task == "binary" else -np.square(guess - y[held]).mean()
        if np.isnan(value):
            raise BookError(f"holdout: the {len(held)} validation people are of one class; use fewer folds")
        if value > best:
            best, scores = value, model.decision_function(x[test])
    return scores


def cross_validate(
    features: Sequence[np.ndarray],
    y: Any,
    splits: evaluate.Splits,
    among: evaluate.Splits | None = None,
) -> evaluate.Predictions:
    """Out-of-fold predictions of :func:`probe` on the features of each split.

    ``among`` is the whole list when ``splits`` are some of it: the validation fold comes from there.
    """
    if len(features) != len(splits):
        raise BookError(
            f"holdout: {len(features)} arrays of features for {len(splits)} splits; give one a split"
        )
    y, whole = np.asarray(y), splits if among is None else among
    task = "binary" if _classes(y) else "regression"
    at = {(s.repeat, s.fold): x for s, x in zip(splits, features, strict=True)}

    def scores(split: evaluate.Split) -> np.ndarray:
        return probe(at[split.repeat, split.fold], y, *parts(split, whole), task)

    return evaluate.cross_validate(scores, None, y, splits, task=task)


def metric(prediction: evaluate.Predictions) -> evaluate.Estimate:
    """AUC for two classes, Pearson's r for numbers, with an interval over people."""
    score = evaluate.pearson_r if prediction.task == "regression" else evaluate.auc
    return score(prediction)


def chance(prediction: evaluate.Predictions, n: int = 500, seed: int = 0) -> evaluate.Estimate:
    """The metric of these scores on shuffled labels: mean and middle 95 %."""
    rng, frame = np.random.default_rng(seed), prediction.frame
    y, score = frame["y"].to_numpy(), frame["score"].to_numpy()
    null = [association(rng.permutation(y), score) for _ in range(n)]
    return evaluate.Estimate(float(np.mean(null)), *map(float, np.quantile(null, [0.025, 0.975])))


def first(splits: evaluate.Splits, n: int) -> evaluate.Splits:
    """The first ``n`` splits."""
    return evaluate.Splits(splits.items[:n], splits.subjects, f"{splits.name}, first {n}")


def restrict(prediction: evaluate.Predictions, splits: evaluate.Splits) -> evaluate.Predictions:
    """The predictions on some of the splits only, comparable with others on those."""
    wanted = {(s.repeat, s.fold) for s in splits}
    keys = zip(prediction.frame["repeat"], prediction.frame["fold"], strict=True)
    frame = prediction.frame[[key in wanted for key in keys]].reset_index(drop=True)
    return evaluate.Predictions(
        frame, prediction.task, splits.hash, prediction.classes, prediction.train_size
    )


def difference(a: evaluate.Predictions, b: evaluate.Predictions, seed: int = 0) -> evaluate.PairedTest:
    """Paired bootstrap over people of the metric of ``a`` minus that of ``b``."""
    name = "pearson_r" if a.task == "regression" else "auc"
    return evaluate.paired(a, b, method="bootstrap", metric=name, seed=seed)


def verdicts(predictions: Mapping[str, evaluate.Predictions], name: str, seed: int = 0) -> dict[str, str]:
    """A sentence for each rival: is ``name`` better, worse, or not distinguishable?"""
    found = {}
    for rival in [other for other in predictions if other != name]:
        result = difference(predictions[name], predictions[rival], seed)
        lo, hi = result.difference.lo, result.difference.hi
        word = "better than" if lo > 0 else "worse than" if hi < 0 else "not distinguishable from"
        found[rival] = f"{name} {word} {rival}: {result}"
    return found


def outside(x: np.ndarray, y: np.ndarray, fit: np.ndarray, test: np.ndarray) -> float:
    """AUC or r on other people; the probe's penalty is chosen inside ``fit``. NaN without both classes."""
    y = np.asarray(y)
    if len(np.unique(y[test])) < 2:
        return float("nan")
    model = evaluate.linear_probe("logistic" if _classes(y) else "ridge").fit(x[fit], y[fit])
    return association(y[test], model.decision_function(x[test]))
