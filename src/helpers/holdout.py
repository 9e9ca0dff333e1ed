"""Three-part splits: fit on the training people, choose on the validation people, score the test people once.

A rotation is one split of :func:`helpers.evaluate.splits`. Its test fold is tested, the next fold of the
same repeat validates, and the rest trains: with five folds 6:2:2. ``features`` holds one array (S, F) a
split, made by an encoder that never saw that split's test people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
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


def by_fold(prediction: evaluate.Predictions) -> evaluate.Predictions:
    """Scores and numbers standardised in each fold, so that r compares people scored by one model only.

    Two fitted models share no scale, and a nearly constant one follows the mean of its training people,
    which is high where the mean of its test people is low: pooled, that alone makes r negative.
    """
    frame = prediction.frame.copy()
    frame[["y", "score"]] = frame[["y", "score"]].astype(float)
    for _, rows in frame.groupby(["repeat", "fold"]).groups.items():
        part = frame.loc[rows, ["y", "score"]]
        sd = part.std(ddof=0)
        sd = sd.where(sd > 1e-9 * part.abs().max(), np.inf)  # a constant becomes zero
        frame.loc[rows, ["y", "score"]] = (part - part.mean()) / sd
    return evaluate.Predictions(
        frame, prediction.task, prediction.split_hash, prediction.classes, prediction.train_size
    )


def metric(prediction: evaluate.Predictions) -> evaluate.Estimate:
    """AUC for two classes, Pearson's r for numbers, both within the folds; interval over people."""
    if prediction.task == "regression":
        return evaluate.pearson_r(by_fold(prediction))
    return evaluate.auc(prediction)


def chance(
    features: Sequence[np.ndarray], y: Any, splits: evaluate.Splits, n: int = 10, seed: int = 0
) -> evaluate.Estimate:
    """The whole probe, fitted and chosen anew on shuffled labels ``n`` times: mean, lowest and highest.

    Labels are shuffled within the test folds of the first repeat, so that folds stay as balanced as they are.
    """
    rng, y = np.random.default_rng(seed), np.asarray(y)

    def shuffled() -> np.ndarray:
        new = y.copy()
        for split in splits.repeat(0):
            new[split.test] = rng.permutation(y[split.test])
        return new

    draws = [cross_validate(features, shuffled(), splits) for _ in range(n)]
    task = draws[0].task
    null = [
        evaluate.by_fold(d, "pearson_r" if task == "regression" else "auc")["value"].mean() for d in draws
    ]
    return evaluate.Estimate(float(np.mean(null)), float(min(null)), float(max(null)))


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
    """Paired bootstrap over people of the metric of ``a`` minus that of ``b``, within the folds."""
    regression = a.task == "regression"
    if regression:
        a, b = by_fold(a), by_fold(b)
    return evaluate.paired(
        a, b, method="bootstrap", metric="pearson_r" if regression else "auc", seed=seed
    )


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number, after Holm."""
    p = np.asarray(p, float)
    order, corrected = np.argsort(p, kind="stable"), np.empty(len(p))
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected[order] = np.minimum(steps, 1)
    return corrected


def verdicts(
    predictions: Mapping[str, Mapping[str, evaluate.Predictions]],
    name: str,
    rivals: Sequence[str] | None = None,
    seed: int = 0,
) -> list[str]:
    """A sentence for each task and rival: is ``name`` better, worse, or not distinguishable?

    ``predictions`` holds one mapping of methods for each task. The p-values are corrected over all sentences
    (Holm), and a pair of which neither is above chance says so.
    """
    pairs = [
        (task, rival)
        for task, methods in predictions.items()
        for rival in rivals or methods
        if rival != name
    ]
    tests = [difference(predictions[task][name], predictions[task][rival], seed) for task, rival in pairs]
    corrected = holm([test.p for test in tests])
    found = []
    for (task, rival), test, p in zip(pairs, tests, corrected, strict=True):
        clear = p < 0.05
        word = "not distinguishable from"
        if clear:
            word = "better than" if test.difference.value > 0 else "worse than"
        both = [metric(predictions[task][method]) for method in (name, rival)]
        level = 0.0 if predictions[task][name].task == "regression" else 0.5
        note = "" if any(e.lo > level for e in both) else "; neither is above chance"
        d = test.difference
        numbers = f"{d.value:+.3f} [{d.lo:+.3f}, {d.hi:+.3f}], corrected p = {p:.3f}"
        found.append(f"{task}: {name} {word} {rival}: {numbers}{note}")
    return found


def outside(
    x: np.ndarray, y: np.ndarray, fit: np.ndarray, test: np.ndarray
) -> evaluate.Predictions | None:
    """Scores of other people, the probe's penalty chosen inside ``fit``. None without both classes."""
    y = np.asarray(y)
    if len(np.unique(y[test])) < 2:
        return None
    binary = _classes(y)
    score = evaluate.linear_probe("logistic" if binary else "ridge").fit(x[fit], y[fit])
    score = score.decision_function(x[test])
    predicted = (score > 0).astype(int) if binary else score
    frame = pd.DataFrame(
        dict(repeat=0, fold=0, subject=test, y=y[test], score=score, predicted=predicted)
    )
    people = f"outside of {len(test)}: {hash(tuple(np.asarray(test).tolist())) & 0xFFFFFFFF:08x}"
    task = "binary" if binary else "regression"
    return evaluate.Predictions(frame, task, people, (0, 1) if binary else (), float(len(fit)))
