"""Honest evaluation: splits by subject, cross-validation, intervals, paired tests, chance, linear probes.

Vocabulary. ``S`` subjects, ``F`` features, ``J`` splits (folds x repeats), ``B`` bootstrap draws. A *score*
is the continuous output of a model on a subject that it was not fitted on; every metric here is computed
from stored scores, so that two models are always compared on the same subjects of the same splits.

Sources: Nadeau & Bengio 2003 (corrected resampled t-test), Hanley & McNeil 1982 (standard error of the AUC),
Wilson 1927 (interval of a proportion), DeLong 1988 and Mann-Whitney for the AUC as a share of ordered pairs.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from helpers.errors import BookError

Task = Literal["binary", "multiclass", "regression"]
GRID = tuple(10.0**k for k in range(-3, 3))  # C (or 1 / alpha) tried by C="cv"


# -------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; prints as ``0.73 [0.65, 0.80]``. A format applies to all three."""

    value: float
    lo: float
    hi: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.value:{spec}} [{self.lo:{spec}}, {self.hi:{spec}}]"

    def __str__(self) -> str:
        return format(self)

    __repr__ = __str__

    def __float__(self) -> float:
        return float(self.value)


def _interval(value: float, draws: np.ndarray, level: float = 0.95) -> Estimate:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        raise BookError(
            "interval: no bootstrap draw holds enough subjects of each class; use more test subjects"
        )
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(lo), float(hi))


def wilson(correct: float, n: int, level: float = 0.95) -> Estimate:
    """Wilson (1927) interval of a proportion: ``correct`` of ``n`` subjects (a count, or a share below 1)."""
    if n < 1 or not 0 <= correct <= n:
        raise BookError(
            f"wilson: {correct} correct of {n} is not a proportion; give a count in [0, n] and n >= 1"
        )
    p = correct if 0 < correct < 1 else correct / n
    z = stats.norm.ppf((1 + level) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Estimate(float(p), float(centre - half), float(centre + half))


def auc_standard_error(auc: float, n_positive: int, n_negative: int) -> float:
    """Standard error of an AUC measured on so many test subjects of each class (Hanley & McNeil 1982)."""
    if n_positive < 1 or n_negative < 1 or not 0 <= auc <= 1:
        raise BookError(
            f"auc_standard_error: AUC {auc} with {n_positive} + {n_negative} subjects; need both classes"
        )
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    var = auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    return float(np.sqrt(var / (n_positive * n_negative)))


# ----------------------------------------------------------------------------------------------------- splits


@dataclass(frozen=True)
class Split:
    """``train`` and ``test``: row numbers of the participants table (int arrays); its repeat and fold."""

    train: np.ndarray
    test: np.ndarray
    repeat: int
    fold: int

    def __iter__(
        self,
    ) -> Iterator[np.ndarray]:  # so that `for train, test in splits` reads as in scikit-learn
        return iter((self.train, self.test))


@dataclass(frozen=True)
class Splits(Sequence):
    """A fixed list of splits. ``hash`` (8 hex digits) names the exact index sets and their subjects."""

    items: tuple[Split, ...]
    subjects: np.ndarray  # (S,) str, the participant of each row
    name: str = "splits"
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        h = hashlib.sha256("\n".join(map(str, self.subjects)).encode())
        for s in self.items:
            for part in ([s.repeat, s.fold, len(s.train), len(s.test)], s.train, s.test):
                h.update(np.asarray(part, dtype="<i8").tobytes())
        object.__setattr__(self, "hash", h.hexdigest()[:8])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Split:
        return self.items[i]

    @property
    def n_repeats(self) -> int:
        return len({s.repeat for s in self.items})

    def repeat(self, r: int) -> Splits:
        """The splits of repeat ``r`` alone."""
        return Splits(
            tuple(s for s in self.items if s.repeat == r), self.subjects, f"{self.name}, repeat {r}"
        )

    def check(self) -> Splits:
        """Raise if a subject is in both halves of a split, or a repeat tests a row twice."""
        for s in self.items:
            shared = np.intersect1d(self.subjects[s.train], self.subjects[s.test])
            if len(shared):
                raise BookError(
                    f"splits: {shared[0]} is in train and test of repeat {s.repeat}, fold {s.fold}"
                )
        for r in {s.repeat for s in self.items}:
            tested = np.concatenate([s.test for s in self.items if s.repeat == r])
            if len(np.unique(tested)) < len(tested):
                raise BookError(f"splits: a row is tested twice in repeat {r}")
        return self

    def __repr__(self) -> str:
        test = [len(s.test) for s in self.items]
        size = f"{min(test)}-{max(test)}" if min(test) < max(test) else f"{test[0]}"
        n = len(self.subjects)
        return f"{self.name}: {n} rows, {size} in each test set, hash {self.hash}"


def _one_thread(function: Callable) -> Callable:
    """Small matrices: more BLAS threads make these functions slower, a hundred times on a busy machine."""

    @functools.wraps(function)
    def limited(*args: Any, **kw: Any) -> Any:
        with threadpool_limits(1):
            return function(*args, **kw)

    return limited


def _columns(participants: pd.DataFrame, names: Sequence[str], who: str) -> None:
    missing = [c for c in names if c not in participants]
    if missing:
        raise BookError(
            f"{who}: the participants table has no column {missing[0]!r}; it has {list(participants)}"
        )


def _subject_ids(participants: pd.DataFrame) -> np.ndarray:
    if "participant_id" in participants:
        return participants["participant_id"].to_numpy(str)
    return np.arange(len(participants)).astype(str)


def _strata(table: pd.DataFrame, columns: Sequence[str], n_splits: int) -> np.ndarray:
    """(S,) str labels of the cells of ``columns``; cells with fewer than ``n_splits`` members are pooled.

    A rare cell first joins the other rare cells with the same value of the first column; if they are still
    too few, they join the largest cell with that value.
    """
    if not columns:
        return np.full(len(table), "all")
    first = table[columns[0]].to_numpy(str)
    for value, count in zip(*np.unique(first, return_counts=True), strict=True):
        if count < n_splits:
            raise BookError(
                f"splits: only {count} subjects have {columns[0]} = {value}, fewer than {n_splits} folds; "
                "use fewer folds or more subjects"
            )
    cell = np.array(["|".join(row) for row in table[list(columns)].astype(str).to_numpy(str)])
    for value in np.unique(first):
        mine = first == value
        names, counts = np.unique(cell[mine], return_counts=True)
        rare = mine & np.isin(cell, names[counts < n_splits])
        if rare.any():
            enough = rare.sum() >= n_splits or (counts < n_splits).all()
            cell[rare] = f"{value}|other" if enough else names[counts.argmax()]
    return cell


def splits(
    participants: pd.DataFrame,
    *,
    n_splits: int = 5,
    n_repeats: int = 2,
    stratify: Sequence[str] = ("group", "site"),
    seed: int = 0,
) -> Splits:
    """Repeated k-fold splits by subject, balanced over the cells of the ``stratify`` columns.

    Rows that share a ``participant_id`` (sessions) stay together. Cells with fewer members than folds are
    pooled (see ``_strata``). ``stratify=()`` gives plain shuffled folds. Raises BookError when a class has
    fewer subjects than folds.
    """
    _columns(participants, stratify, "splits")
    if "group" in stratify and participants["group"].nunique() < 2:
        only = participants["group"].iloc[0]
        raise BookError(f"splits: all {len(participants)} rows have group = {only}; it takes two groups")
    ids = _subject_ids(participants)
    names, first = np.unique(ids, return_index=True)
    first = np.sort(first)  # one row a subject, in the order of the table
    if not 2 <= n_splits <= len(names):
        raise BookError(
            f"splits: {n_splits} folds asked of {len(names)} subjects; need 2 <= n_splits <= subjects"
        )
    if n_repeats < 1:
        raise BookError(f"splits: {n_repeats} repeats asked; give 1 or more")
    strata = _strata(participants.iloc[first], list(stratify), n_splits)
    items = []
    for r in range(n_repeats):
        folds = StratifiedKFold(n_splits, shuffle=True, random_state=np.random.RandomState([seed, r]))
        for f, (_, test) in enumerate(folds.split(first, strata)):
            tested = np.isin(ids, ids[first[test]])
            items.append(Split(np.flatnonzero(~tested), np.flatnonzero(tested), r, f))
    name = f"{n_repeats} x {n_splits}-fold" + (f" within {' x '.join(stratify)}" if stratify else "")
    return Splits(tuple(items), ids, name).check()


def leave_site_out(participants: pd.DataFrame, *, column: str = "site") -> Splits:
    """One split a site: train on all others, test on this one. Raises BookError if there is one site only."""
    _columns(participants, [column], "leave_site_out")
    site = participants[column].to_numpy(str)
    names = np.unique(site)
    if len(names) < 2:
        raise BookError(
            f"leave_site_out: all subjects come from one {column} ({names[0]}); need at least two"
        )
    items = tuple(
        Split(np.flatnonzero(site != s), np.flatnonzero(site == s), 0, i) for i, s in enumerate(names)
    )
    return Splits(items, _subject_ids(participants), f"leave-{column}-out").check()


# ----------------------------------------------------------------------------------------------- linear probe


def _task(y: np.ndarray) -> Task:
    """Regression for non-integer numbers or more than 20 distinct ones; otherwise classes."""
    values = np.unique(y)
    if len(values) < 2:
        raise BookError(
            f"labels: all {len(y)} subjects have the label {values[0] if len(values) else None}; need two"
        )
    number = np.issubdtype(y.dtype, np.number)
    if number and (len(values) > 20 or (len(values) > 2 and not np.all(values == np.round(values)))):
        return "regression"
    return "binary" if len(values) == 2 else "multiclass"


def _as_labels(y: Any) -> np.ndarray:
    y = np.asarray(y)
    if y.dtype.kind not in "biuf":
        y = y.astype(str)
    elif y.dtype.kind == "f" and not np.isfinite(y).all():
        raise BookError(
            f"labels: {int((~np.isfinite(y)).sum())} of {len(y)} are NaN or infinite; drop those subjects"
        )
    return y.astype(int) if y.dtype.kind == "b" else y


class LinearProbe(BaseEstimator):
    """A linear model for few subjects and many features, fitted in the space of the subjects.

    Features are standardised on the training subjects, then only inner products are used: ``K = Z Z' / F``
    (n x n). By the representer theorem this is the same model as the one fitted on F features (for ``ridge``
    and ``logistic`` through ``K = A A'``), at a cost that does not grow with F. ``C`` is the inverse
    penalty; dividing by F makes one value sensible for any F.

    kind : "logistic" (L2 logistic regression), "svm" (linear SVC), "ridge" (least squares; +-1 for classes)
    C    : a number, or "cv": chosen from ``GRID`` by 5-fold cross-validation inside the training subjects
    """

    def __init__(self, kind: str = "logistic", C: float | str = "cv", seed: int = 0):
        self.kind, self.C, self.seed = kind, C, seed

    # -- the three inner models, on an n x n kernel

    def _axes(self, K: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Eigenvalues and vectors of the kernel, needed once for all values of C (not for the SVM)."""
        if self.kind == "svm":
            return None
        w, v = np.linalg.eigh(K)
        keep = w > 1e-8 * max(w[-1], 1e-12)
        return w[keep], v[:, keep]

    def _fit_axes(self, K: np.ndarray, axes: Any, y: np.ndarray, task: Task, C: float) -> Any:
        """A function from kernel rows (m, n) to scores: (m,), or (m, classes) for more than two classes."""
        if axes is None:
            return SVC(kernel="precomputed", C=C).fit(K, y).decision_function
        w, v = axes
        if self.kind == "ridge":
            target = y.astype(float) if task == "regression" else np.eye(y.max() + 1)[y] * 2 - 1
            mean = target.mean(0)
            dual = v @ ((v.T @ (target - mean)).T / (w + 1 / C)).T
            if task == "binary":
                return lambda k: k @ dual[:, 1] + mean[1]
            return lambda k: k @ dual + mean
        to_axes = v / np.sqrt(
            w
        )  # kernel rows -> principal coordinates; isotropic, so the L2 penalty is unchanged
        model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-6).fit(K @ to_axes, y)
        return lambda k: model.decision_function(k @ to_axes)

    def _choose(self, K: np.ndarray, y: np.ndarray, task: Task) -> float:
        if self.C != "cv":
            return float(self.C)
        if task == "regression":
            folds = list(KFold(5, shuffle=True, random_state=self.seed).split(y))
        else:
            k = min(5, np.bincount(y).min())
            if k < 2:
                raise BookError(
                    "linear_probe: C='cv' needs two training subjects of each class; give a number for C"
                )
            folds = list(StratifiedKFold(k, shuffle=True, random_state=self.seed).split(y, y))
        loss = np.zeros(len(GRID))
        for train, test in folds:
            inner, K_test = K[np.ix_(train, train)], K[np.ix_(test, train)]
            axes = self._axes(inner)
            for i, C in enumerate(GRID):
                score = self._fit_axes(inner, axes, y[train], task, C)(K_test)
                if task == "regression":
                    loss[i] += np.mean((score - y[test]) ** 2)
                elif task == "binary":
                    loss[i] -= _ranked_auc(y[test], score)
                else:
                    loss[i] -= balanced_accuracy_score(y[test], score.argmax(1))
        return GRID[int(loss.argmin())]

    # -- scikit-learn interface

    def kernel(self, X: np.ndarray, X_new: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Kernels (n, n) and (m, n) after standardising with the mean and deviation of ``X`` (n, F) alone."""
        X = _as_features(X)
        self._mean, sd = X.mean(0), X.std(0)
        self._scale = np.where(sd > 1e-7 * (1 + np.abs(self._mean)), sd, np.inf) * np.sqrt(X.shape[1])
        Z = (X - self._mean) / self._scale  # a feature constant in training weighs nothing
        new = None if X_new is None else (_as_features(X_new) - self._mean) / self._scale @ Z.T
        self._Z = Z
        return Z @ Z.T, new

    def fit_kernel(self, K: np.ndarray, y: Any, task: Task | None = None) -> LinearProbe:
        y = _as_labels(y)
        self.task_ = task or _task(y)
        if self.task_ == "regression":
            code = y.astype(float)
            if self.kind != "ridge":
                raise BookError(
                    f"linear_probe: {self.kind} is a classifier and the target is continuous; use 'ridge'"
                )
        else:
            self.classes_, code = np.unique(y, return_inverse=True)
        self.C_ = self._choose(K, code, self.task_)
        self._score = self._fit_axes(K, self._axes(K), code, self.task_, self.C_)
        return self

    def fit(self, X: Any, y: Any) -> LinearProbe:
        K, _ = self.kernel(X)
        return self.fit_kernel(K, y)

    def decision_kernel(self, K_new: np.ndarray) -> np.ndarray:
        return self._score(K_new)

    def decision_function(self, X: Any) -> np.ndarray:
        """(m,) or (m, classes) scores; for regression the prediction itself."""
        return self._score((_as_features(X) - self._mean) / self._scale @ self._Z.T)

    def predict(self, X: Any) -> np.ndarray:
        return self._label(self.decision_function(X))

    def _label(self, score: np.ndarray) -> np.ndarray:
        if self.task_ == "regression":
            return score
        return self.classes_[(score > 0).astype(int) if score.ndim == 1 else score.argmax(1)]


def linear_probe(
    kind: Literal["logistic", "svm", "ridge"] = "logistic", C: float | str = "cv"
) -> LinearProbe:
    """A linear model on frozen features: standardise on train, then logistic regression, SVM or ridge
    (LinearProbe).

    ``C`` is the inverse penalty, or "cv" to choose it by five folds inside the training subjects.
    """
    if kind not in ("logistic", "svm", "ridge"):
        raise BookError(f"linear_probe: unknown kind {kind!r}; choose logistic, svm or ridge")
    if C != "cv" and not (isinstance(C, (int, float)) and C > 0):
        raise BookError(f"linear_probe: C must be a positive number or 'cv', not {C!r}")
    return LinearProbe(kind, C)


def _ranked_auc(y: np.ndarray, score: np.ndarray) -> float:
    """AUC of labels 0 / 1 from ranks (Mann-Whitney); ties count one half. Lighter than scikit-learn's."""
    ranks = stats.rankdata(score)
    n_pos = int(y.sum())
    return float((ranks[y == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * (len(y) - n_pos)))


def _as_features(X: Any) -> np.ndarray:
    X = np.asarray(X, dtype=np.float64)
    return X.reshape(len(X), -1)


def _check_features(X: Any, y: np.ndarray) -> None:
    if len(X) != len(y):
        raise BookError(
            f"cross_validate: {len(X)} rows of features but {len(y)} labels; give one row a subject"
        )
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = int(np.flatnonzero(~np.isfinite(X.reshape(len(X), -1)).all(1))[0])
        raise BookError(
            f"cross_validate: NaN or infinite features, first in row {bad}; repair or drop that subject"
        )


def _take(X: Any, index: np.ndarray) -> Any:
    if isinstance(X, (pd.DataFrame, pd.Series)):
        return X.iloc[index]
    return X[index] if isinstance(X, np.ndarray) else [X[i] for i in index]


# ------------------------------------------------------------------------------------------- cross-validation


@dataclass(frozen=True)
class Predictions:
    """Scores on held-out subjects. ``frame``: repeat, fold, subject (row number), y, score, predicted.

    ``y`` and ``predicted`` are class codes (0, 1, ...) of ``classes``, or numbers for regression. ``score``
    is continuous: higher means class 1; for several classes it is the score of the predicted class. One
    repeat: ``pred.repeat(0)``.
    """

    frame: pd.DataFrame
    task: Task
    split_hash: str
    classes: tuple = ()
    train_size: float = float("nan")  # mean number of training rows, for the corrected t-test

    def repeat(self, r: int) -> Predictions:
        frame = self.frame[self.frame["repeat"] == r]
        return Predictions(frame, self.task, f"{self.split_hash}.{r}", self.classes, self.train_size)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        f = self.frame
        return (
            f"Predictions: {self.task}, {f['subject'].nunique()} subjects, {f['repeat'].nunique()} repeats, "
            f"splits {self.split_hash}"
        )


def _scores(model: Any, X: Any, task: Task, proba: bool | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(score, predicted) of a fitted scikit-learn estimator; predicted in the model's own labels."""
    if task == "regression":
        return np.asarray(model.predict(X), float), None
    use_proba = proba if proba is not None else not hasattr(model, "decision_function")
    if use_proba:
        score = model.predict_proba(X)
        score = score[:, 1] if task == "binary" else score
    else:
        score = model.decision_function(X)
    score = np.asarray(score, float)
    return (score.max(1) if score.ndim == 2 else score), np.asarray(model.predict(X))


@_one_thread
def cross_validate(
    model: Any, X: Any, y: Any, splits: Splits, *, proba: bool | None = None, task: Task | None = None
) -> Predictions:
    """Fit ``model`` on the training rows of every split and keep its scores on the test rows.

    model : a scikit-learn estimator (cloned for each split), or a function ``f(split) -> scores (n_test,)``
            for models that fit themselves (networks); the function must look at training labels only; X may
            then be None. Its positive scores count as class 1 in ``balanced_accuracy``
    X     : (S, ...) array, DataFrame, or a list of S items (series of unequal length); y : (S,) labels or
            numbers
    proba : True = predict_proba, False = decision_function, None = whichever the model has
    task  : overrides what is read from ``y`` (two values: binary; up to 20 whole values: multiclass; else
    regression)
    """
    y = _as_labels(y)
    if len(y) != len(splits.subjects):
        raise BookError(f"cross_validate: {len(y)} labels, but the splits are of {len(splits.subjects)} rows")
    if X is not None:
        _check_features(X, y)
    task = task or _task(y)
    classes, code = ((), y.astype(float)) if task == "regression" else np.unique(y, return_inverse=True)
    is_function = not hasattr(model, "fit") and isinstance(model, Callable)
    parts = []
    for s in splits:
        if task != "regression" and len(np.unique(code[s.train])) < len(classes):
            raise BookError(
                f"cross_validate: the training set of repeat {s.repeat}, fold {s.fold} lacks a class"
            )
        if is_function:
            score, label = np.asarray(model(s), float), None
            if score.shape != (len(s.test),) or not np.isfinite(score).all():
                raise BookError(
                    f"cross_validate: the model gave scores {score.shape}; need {len(s.test)} finite numbers"
                )
        elif isinstance(model, LinearProbe):
            probe = clone(model)
            K, K_test = probe.kernel(_take(X, s.train), _take(X, s.test))
            raw = probe.fit_kernel(K, y[s.train], task).decision_kernel(K_test)
            score, label = (raw.max(1) if raw.ndim == 2 else raw), probe._label(raw)
        else:
            fitted = clone(model).fit(_take(X, s.train), y[s.train])
            score, label = _scores(fitted, _take(X, s.test), task, proba)
        if task == "regression":
            predicted = score
        else:
            predicted = (score > 0).astype(int) if label is None else np.searchsorted(classes, label)
        parts.append(
            pd.DataFrame(
                dict(
                    repeat=s.repeat,
                    fold=s.fold,
                    subject=s.test,
                    y=code[s.test],
                    score=score,
                    predicted=predicted,
                )
            )
        )
    train_size = float(np.mean([len(s.train) for s in splits]))
    return Predictions(pd.concat(parts, ignore_index=True), task, splits.hash, tuple(classes), train_size)


# ---------------------------------------------------------------------------------------------------- metrics


def _need(pred: Predictions, tasks: tuple[str, ...], who: str) -> None:
    if pred.task not in tasks:
        raise BookError(f"{who}: needs {' or '.join(tasks)} predictions, these are {pred.task}")


def _draws(pred: Predictions, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of bootstrap weights (b, rows): how often a row's subject was drawn. First: all ones."""
    rows = pred.frame["subject"].to_numpy()
    subjects, column = np.unique(rows, return_inverse=True)
    n = len(subjects)
    rng = np.random.default_rng(seed)
    yield np.ones((1, len(rows)))
    block = max(1, int(2e6) // len(rows))
    for start in range(0, n_boot, block):
        b = min(block, n_boot - start)
        picked = rng.integers(0, n, (b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(picked.ravel(), minlength=b * n).reshape(b, n).astype(float)[:, column]


def _boot(
    pred: Predictions, metric: Callable[[np.ndarray], np.ndarray], n_boot: int, seed: int
) -> np.ndarray:
    """(1 + n_boot,) values of a weighted metric: the sample itself, then the draws over subjects."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([metric(w) for w in _draws(pred, n_boot, seed)])


def _auc_metric(pred: Predictions, within: str) -> Callable[[np.ndarray], np.ndarray]:
    """Weighted AUC: share of (control, patient) pairs in order, ties one half, pairs of one block only."""
    f = pred.frame
    block = f["repeat"].to_numpy() * 100_000 + (f["fold"].to_numpy() if within == "fold" else 0)
    score, y = f["score"].to_numpy(), f["y"].to_numpy()
    order = np.lexsort((score, block))
    block, score, y = block[order], score[order], y[order]
    new_block = np.r_[True, block[1:] != block[:-1]]
    new_value = new_block | np.r_[True, score[1:] != score[:-1]]
    starts = np.flatnonzero(new_block)
    tie_first = np.flatnonzero(new_value)[np.cumsum(new_value) - 1]
    tie_last = np.r_[np.flatnonzero(new_value)[1:], len(y)][np.cumsum(new_value) - 1]
    begin = starts[np.cumsum(new_block) - 1]

    def metric(w: np.ndarray) -> np.ndarray:
        w = w[:, order]
        negative = np.concatenate([np.zeros((len(w), 1)), np.cumsum(w * (y == 0), axis=1)], axis=1)
        below = 0.5 * (negative[:, tie_first] + negative[:, tie_last]) - negative[:, begin]
        positive = w * (y == 1)
        n_pos = np.add.reduceat(positive, starts, axis=1)
        n_neg = np.add.reduceat(w * (y == 0), starts, axis=1)
        return (positive * below).sum(1) / (n_pos * n_neg).sum(1)

    return metric


def auc(
    pred: Predictions, *, n_boot: int = 2000, seed: int = 0, within: Literal["fold", "repeat"] = "fold"
) -> Estimate:
    """ROC AUC with a 95 % bootstrap interval over subjects (the models stay fixed).

    A draw picks subjects with replacement and takes all their scores in all repeats. ``within="fold"``
    compares only subjects scored by the same fitted model (two models share no scale); ``"repeat"`` pools the
    folds of a repeat.
    """
    _need(pred, ("binary",), "auc")
    values = _boot(pred, _auc_metric(pred, within), n_boot, seed)
    if not np.isfinite(values[0]):
        raise BookError(
            "auc: no test fold holds both classes; pool with within='repeat' or change the splits"
        )
    return _interval(values[0], values[1:])


def _recall_metric(pred: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    y, hit = pred.frame["y"].to_numpy(int), (pred.frame["predicted"] == pred.frame["y"]).to_numpy(float)
    member = np.eye(len(pred.classes))[y]
    return lambda w: np.nanmean((w @ (member * hit[:, None])) / (w @ member), axis=1)


def balanced_accuracy(pred: Predictions, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Mean recall over classes, with a bootstrap interval over subjects; chance is 1 / classes."""
    _need(pred, ("binary", "multiclass"), "balanced_accuracy")
    values = _boot(pred, _recall_metric(pred), n_boot, seed)
    return _interval(values[0], values[1:])


def _r_metric(pred: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    f = pred.frame
    repeat = pd.factorize(f["repeat"])[0]
    x, y = f["score"].to_numpy() - f["score"].mean(), f["y"].to_numpy() - f["y"].mean()
    member = np.eye(repeat.max() + 1)[repeat]

    def metric(w: np.ndarray) -> np.ndarray:
        n, sx, sy, sxx, syy, sxy = (
            w @ (member * q[:, None]) for q in (np.ones_like(x), x, y, x * x, y * y, x * y)
        )
        cov = sxy / n - sx * sy / n**2
        return np.mean(cov / np.sqrt((sxx / n - (sx / n) ** 2) * (syy / n - (sy / n) ** 2)), axis=1)

    return metric


def pearson_r(pred: Predictions, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Correlation of predicted and true values in each repeat, averaged; interval over subjects."""
    _need(pred, ("regression",), "pearson_r")
    values = _boot(pred, _r_metric(pred), n_boot, seed)
    return _interval(values[0], values[1:])


def _mae_metric(pred: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    error = np.abs(pred.frame["score"] - pred.frame["y"]).to_numpy()
    return lambda w: (w @ error) / w.sum(1)


def mae(pred: Predictions, *, n_boot: int = 2000, seed: int = 0) -> Estimate:
    """Mean absolute error in the units of y, with a bootstrap interval over subjects."""
    _need(pred, ("regression",), "mae")
    values = _boot(pred, _mae_metric(pred), n_boot, seed)
    return _interval(values[0], values[1:])


_METRICS: dict[str, Callable[[Predictions], Callable[[np.ndarray], np.ndarray]]] = {
    "auc": lambda pred: _auc_metric(pred, "fold"),
    "balanced_accuracy": _recall_metric,
    "pearson_r": _r_metric,
    "mae": _mae_metric,
}


def _metric_name(pred: Predictions, metric: str | None) -> str:
    default = {"binary": "auc", "multiclass": "balanced_accuracy", "regression": "mae"}[pred.task]
    allowed = {"binary": ("auc", "balanced_accuracy"), "multiclass": ("balanced_accuracy",)}
    if metric is not None and metric not in allowed.get(pred.task, ("pearson_r", "mae")):
        raise BookError(f"metric {metric!r} does not fit {pred.task} predictions")
    return metric or default


def by_fold(pred: Predictions, metric: str | None = None) -> pd.DataFrame:
    """The metric in each split: repeat, fold, n_test, value (NaN where a fold lacks a class)."""
    name = _metric_name(pred, metric)
    rows = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for (r, f), part in pred.frame.groupby(["repeat", "fold"], sort=True):
            one = Predictions(part, pred.task, pred.split_hash, pred.classes)
            rows.append((r, f, len(part), float(_METRICS[name](one)(np.ones((1, len(part))))[0])))
    return pd.DataFrame(rows, columns=["repeat", "fold", "n_test", "value"])


# ----------------------------------------------------------------------------------------------- paired tests


@dataclass(frozen=True)
class PairedTest:
    """Difference a - b of two models on the same splits, with its interval and two-sided p-value."""

    difference: Estimate
    p: float
    method: str
    metric: str

    def __str__(self) -> str:
        d = self.difference
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{d.value:+.3f} [{d.lo:+.3f}, {d.hi:+.3f}], {p} ({self.method})"

    __repr__ = __str__


def corrected_t(differences: np.ndarray, train_size: float, test_size: float) -> tuple[float, float, float]:
    """(mean, standard error, p) of J per-split differences, with Nadeau & Bengio's variance (2003, eq. 9 and
    10).

    Splits share training subjects, so the naive variance s^2 / J is too small; it becomes (1/J +
    n_test/n_train) s^2.
    """
    d = np.asarray(differences, float)
    if len(d) < 2:
        raise BookError("corrected_t: needs at least two splits")
    se = np.sqrt((1 / len(d) + test_size / train_size) * d.var(ddof=1))
    p = 1.0 if d.mean() == 0 else 0.0 if se == 0 else 2 * stats.t.sf(abs(d.mean()) / se, len(d) - 1)
    return float(d.mean()), float(se), float(p)


def paired(
    pred_a: Predictions,
    pred_b: Predictions,
    *,
    method: Literal["corrected_t", "wilcoxon", "bootstrap"] = "corrected_t",
    metric: str | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Is model a better than model b, on the same subjects of the same splits?

    corrected_t : Nadeau & Bengio's t-test over splits (default; accounts for shared training subjects)
    wilcoxon    : signed ranks over splits; treats splits as independent, so p is too small: shown for
                  comparison
    bootstrap   : subjects drawn with replacement, both models scored on the same draw (models fixed)
    """
    if pred_a.split_hash != pred_b.split_hash or len(pred_a) != len(pred_b):
        raise BookError(
            f"paired: the models were tested on different splits ({pred_a.split_hash}, {pred_b.split_hash}); "
            "cross-validate both on the same Splits"
        )
    if pred_a.task != pred_b.task or not np.array_equal(pred_a.frame["y"], pred_b.frame["y"]):
        raise BookError("paired: the two models were given different labels")
    name = _metric_name(pred_a, metric)
    if method == "bootstrap" or method == "wilcoxon":
        a, b = (_boot(p, _METRICS[name](p), n_boot, seed) for p in (pred_a, pred_b))  # same seed, same draws
        difference = _interval(a[0] - b[0], (a - b)[1:])
    if method == "bootstrap":
        d = (a - b)[1:]
        d = d[np.isfinite(d)]
        p = 2 * (1 + min((d <= 0).sum(), (d >= 0).sum())) / (1 + len(d))
        return PairedTest(difference, float(min(p, 1)), method, name)
    folds_a, folds_b = by_fold(pred_a, name), by_fold(pred_b, name)
    d = (folds_a["value"] - folds_b["value"]).to_numpy()
    test_size = folds_a["n_test"].to_numpy()[np.isfinite(d)].mean() if np.isfinite(d).any() else 0
    d = d[np.isfinite(d)]
    if len(d) < 2:
        raise BookError("paired: needs two splits whose test sets hold both classes; use method='bootstrap'")
    if method == "wilcoxon":
        p = 1.0 if np.all(d == 0) else float(stats.wilcoxon(d).pvalue)
        return PairedTest(difference, p, method, name)
    if method != "corrected_t":
        raise BookError(f"paired: unknown method {method!r}; choose corrected_t, wilcoxon or bootstrap")
    mean, se, p = corrected_t(d, pred_a.train_size, test_size)
    half = stats.t.ppf(0.975, len(d) - 1) * se
    return PairedTest(Estimate(mean, mean - half, mean + half), p, method, name)


# --------------------------------------------------------------------------------------- chance and few shots


@_one_thread
def permutation_chance(
    model: Any, X: Any, y: Any, splits: Splits, *, n: int = 100, seed: int = 0, within: Any = None
) -> np.ndarray:
    """(n,) AUCs of the same model and splits after the labels were shuffled: what no information looks like
    here.

    within : (S,) labels, such as the site; labels are then shuffled inside each value only, so that what the
             site alone says about the label stays in the null
    Fast for ``linear_probe`` (kernels are computed once a split); other estimators are refitted n times a
    split.
    """
    y = _as_labels(y)
    if _task(y) != "binary":
        raise BookError("permutation_chance: needs two classes")
    _check_features(X, y)
    blocks = (
        np.zeros(len(y), int)
        if within is None
        else np.unique(np.asarray(within, str), return_inverse=True)[1]
    )
    if len(blocks) != len(y):
        raise BookError(f"permutation_chance: within has {len(blocks)} entries for {len(y)} subjects")
    rng = np.random.default_rng(seed)
    code = np.unique(y, return_inverse=True)[1]
    shuffled = np.empty((n, len(y)), int)
    for i in range(n):
        shuffled[i, np.argsort(blocks, kind="stable")] = code[np.lexsort((rng.random(len(y)), blocks))]
    ordered = np.zeros(n)
    pairs = np.zeros(n)
    for s in splits:
        fast = isinstance(model, LinearProbe)
        if fast:
            probe = clone(model)
            K, K_test = probe.kernel(_take(X, s.train), _take(X, s.test))
        for i, label in enumerate(shuffled):
            train, test = label[s.train], label[s.test]
            n_pairs = int((test == 1).sum()) * int((test == 0).sum())
            if n_pairs == 0 or len(np.unique(train)) < 2:
                continue
            if fast:
                score = probe.fit_kernel(K, train).decision_kernel(K_test)
            else:
                score, _ = _scores(
                    clone(model).fit(_take(X, s.train), train), _take(X, s.test), "binary", None
                )
            ordered[i] += n_pairs * _ranked_auc(test, score)
            pairs[i] += n_pairs
    if (pairs == 0).any():
        raise BookError("permutation_chance: a shuffle left no test fold with both classes; use fewer folds")
    return ordered / pairs


def permutation_p(value: float | Estimate, null: np.ndarray) -> float:
    """Share of the null at least as high as ``value``, counting the observation itself: (1 + k) / (1 + n)."""
    return float((1 + (np.asarray(null) >= float(value)).sum()) / (1 + len(null)))


@_one_thread
def few_shot(
    features: Any,
    y: Any,
    pool_index: np.ndarray,
    test_index: np.ndarray,
    k: int,
    draws: int = 20,
    seed: int = 0,
    model: Any = None,
) -> np.ndarray:
    """(draws,) AUCs on fixed test subjects, each after fitting on ``k`` subjects a class drawn from the pool.

    ``model`` defaults to ``linear_probe("logistic", C=1.0)``. Same seed, same draws for every feature set, so
    that methods can be compared draw by draw.
    """
    y = _as_labels(y)
    pool_index, test_index = np.asarray(pool_index), np.asarray(test_index)
    if _task(y) != "binary":
        raise BookError("few_shot: needs two classes")
    _check_features(features, y)
    ids = np.intersect1d(pool_index, test_index)
    if len(ids):
        raise BookError(f"few_shot: row {ids[0]} is in the pool and in the test set")
    code = np.unique(y, return_inverse=True)[1]
    members = [pool_index[code[pool_index] == c] for c in (0, 1)]
    available = min(map(len, members))
    if not 1 <= k <= available:
        raise BookError(
            f"few_shot: {k} subjects a class asked, the pool has {available}; choose 1 <= k <= {available}"
        )
    if len(np.unique(code[test_index])) < 2:
        raise BookError("few_shot: the test set holds one class only")
    model = linear_probe("logistic", C=1.0) if model is None else model
    rng = np.random.default_rng(seed)
    out = np.empty(draws)
    for i in range(draws):
        chosen = np.concatenate([rng.choice(m, k, replace=False) for m in members])
        fitted = clone(model).fit(_take(features, chosen), code[chosen])
        out[i] = _ranked_auc(
            code[test_index], _scores(fitted, _take(features, test_index), "binary", None)[0]
        )
    return out


# ------------------------------------------------------------------------------------------------------ table


def table(rows: Mapping[str, Any], column: str = "AUC") -> pd.DataFrame:
    """A table for display: one row a method. A value is an Estimate, a number, a text, or a dict of them by
    column.

    Estimates stay objects, so that ``plot.intervals`` can draw the table; they print as ``0.73 [0.65,
    0.80]``.
    """
    records = {name: dict(v) if isinstance(v, Mapping) else {column: v} for name, v in rows.items()}
    columns = list(dict.fromkeys(c for r in records.values() for c in r))
    data = [[_cell(r.get(c, "")) for c in columns] for r in records.values()]
    return pd.DataFrame(data, index=pd.Index(list(records), name=""), columns=columns, dtype=object)


def _cell(v: Any) -> Any:
    if isinstance(v, PairedTest):
        return str(v)
    return round(float(v), 3) if isinstance(v, (float, np.floating)) else v
