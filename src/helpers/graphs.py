"""Scoring estimated directed graphs against a known truth, with intervals over people, and surrogate data.

A score matrix S[i, j] speaks for i -> j, as does ``truth[i, j] == 1``; diagonals are ignored. ``Board``
collects the estimates of several methods on several data sets, for groups and for single people, and keeps
networks with two-cycles ("loops") apart.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers import effective
from helpers.errors import BookError
from helpers.evaluate import Estimate

KEYS = ("auroc", "auprc", "direction", "f1_oracle", "f1", "shd_2", "shd_1", "loops_found")
KINDS = {"": False, "feedback_": True}  # prefix of a metric's name: does the network have loops


# ---------------------------------------------------------------- one matrix


def _checked(S: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    S, truth = np.asarray(S, float), np.asarray(truth)
    if truth.ndim != 2 or truth.shape[0] != truth.shape[1] or S.shape[-2:] != truth.shape:
        raise BookError(f"graphs: scores {S.shape} do not fit a truth {truth.shape}; both end in (R, R)")
    off = ~np.eye(len(truth), dtype=bool)
    if not np.isin(truth[off], (0, 1)).all() or not 0 < truth[off].sum() < off.sum():
        raise BookError("graphs: the truth must hold 0 and 1, some of each, off the diagonal")
    if np.isnan(S[..., off]).any():
        raise BookError("graphs: the scores hold NaN")
    return S, truth


def two_means(s: np.ndarray) -> float:
    """The cut between two clusters of scores (two-means on the line)."""
    low, high = np.min(s), np.max(s)
    for _ in range(50):
        upper = s > (low + high) / 2
        if not upper.any() or upper.all():
            break
        low, high = s[~upper].mean(), s[upper].mean()
    return float((low + high) / 2)


def shd(graph: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Structural Hamming distance in both conventions: a reversed edge counts two, or one."""
    off = ~np.eye(len(truth), dtype=bool)
    wrong = (np.asarray(graph).astype(bool) != np.asarray(truth).astype(bool)) & off
    return int(wrong.sum()), int(np.triu(wrong | wrong.T).sum())


def f1(graph: np.ndarray, truth: np.ndarray) -> float:
    """F1 of a graph of 0 and 1 against the truth; 0 for an empty graph."""
    off = ~np.eye(len(truth), dtype=bool)
    graph, true = np.asarray(graph).astype(bool)[off], np.asarray(truth).astype(bool)[off]
    return float(2 * (graph & true).sum() / max(1, graph.sum() + true.sum()))


def auroc(s: np.ndarray, g: np.ndarray) -> float:
    """Share of (true, false) pairs of entries in the right order; ties count one half."""
    rank, n = stats.rankdata(s), int(g.sum())
    return float((rank[g].sum() - n * (n + 1) / 2) / (n * (len(g) - n)))


def direction(S: np.ndarray, truth: np.ndarray) -> float:
    """Share of the one-way edges i -> j with S[i, j] > S[j, i]; ties count one half. NaN without any."""
    one = (truth == 1) & (truth.T == 0)
    return float(np.where(S == S.T, 0.5, S > S.T)[one].mean()) if one.any() else np.nan


def metrics(S: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every metric of ``KEYS``; matrices (..., R, R) are scored one by one and averaged.

    f1_oracle cuts at the true number of edges, ties shared; f1, SHD and loops_found (the share of true
    two-cycles of which both arrows survive) cut by two-means.
    """
    S, truth = _checked(S, truth)
    if S.ndim > 2:
        rows = [metrics(s, truth) for s in S.reshape(-1, *truth.shape)]
        return {key: float(np.mean([row[key] for row in rows])) for key in KEYS}
    off, K = ~np.eye(len(truth), dtype=bool), int(truth.sum())
    s, g = S[off], truth[off] == 1
    cut = np.sort(s)[-K]
    above, tied = s > cut, s == cut
    oracle = (g[above].sum() + (K - above.sum()) * g[tied].mean()) / K
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.diff(s[order], append=-np.inf))  # the end of every run of ties
    hits = np.cumsum(g[order])[last]
    auprc = np.sum(np.diff(hits, prepend=0) / K * hits / (last + 1))
    graph = (two_means(s[np.isfinite(s)]) < S) & off
    two = np.triu((truth == 1) & (truth.T == 1))
    both, one = shd(graph, truth)
    values = (
        auroc(s, g), auprc, direction(S, truth), oracle, f1(graph, truth),
        both, one, (graph & graph.T)[two].mean() if two.any() else np.nan,
    )  # fmt: skip
    return dict(zip(KEYS, map(float, values), strict=True))


def per_person(S: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and direction of each matrix of (..., R, R), as flat arrays."""
    S, truth = _checked(S, truth)
    S = S.reshape(-1, *truth.shape)
    off, one = ~np.eye(len(truth), dtype=bool), (truth == 1) & (truth.T == 0)
    g, rank = truth[off] == 1, stats.rankdata(S[:, off], axis=-1)
    n = g.sum()
    auc = (rank[:, g].sum(1) - n * (n + 1) / 2) / (n * (~g).sum())
    back = np.swapaxes(S, 1, 2)[:, one]
    right = np.where(S[:, one] == back, 0.5, S[:, one] > back)
    return auc, right.mean(1) if one.any() else np.full(len(S), np.nan)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two matrices off the diagonal; 0 when one of them is constant."""
    off = ~np.eye(len(a), dtype=bool)
    if np.ptp(a[off]) < 1e-12 or np.ptp(b[off]) < 1e-12:
        return 0.0
    return float(np.corrcoef(a[off], b[off])[0, 1])


# ---------------------------------------------------------------- surrogate data


def shifted(bold: np.ndarray, seed: int = 0) -> np.ndarray:
    """Each series (..., R, T) rolled by an amount of its own: keeps autocorrelations, destroys all relations.

    The amounts are T / R apart, in random order: two regions rolled by nearly the same would keep theirs.
    """
    bold, rng = np.asarray(bold), np.random.default_rng([seed, 7])
    *people, R, T = bold.shape
    place = np.argsort(rng.random((*people, R)), axis=-1)
    start = place * T // R + rng.integers(T, size=(*people, 1))
    return np.take_along_axis(bold, (np.arange(T) + start[..., None]) % T, -1)


def phase_randomised(bold: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same random phases for all regions of a person: keeps cross-spectra, makes series Gaussian."""
    bold, rng = np.asarray(bold), np.random.default_rng([seed, 8])
    spectrum = np.fft.rfft(bold, axis=-1)
    turn = np.exp(2j * np.pi * rng.random((*bold.shape[:-2], 1, spectrum.shape[-1])))
    turn[..., 0] = 1
    if bold.shape[-1] % 2 == 0:
        turn[..., -1] = 1
    return np.fft.irfft(spectrum * turn, bold.shape[-1], axis=-1)


# ---------------------------------------------------------------- many methods, many sets


@dataclass
class Board:
    """Estimates of several methods on several sets.

    truths   set -> (R, R)
    group    method -> set -> (R, R), or (K, R, R) for K trainings
    person   method -> set -> (S, R, R), or (K, S, R, R)
    drawn    method -> set -> (n_draws,) group AUROC, people drawn again with replacement
    seconds  set -> seconds of all classical group estimates
    by_seed  methods whose interval runs from the worst to the best training: people hardly move them
    """

    truths: Mapping[str, np.ndarray]
    n_draws: int = 500
    seed: int = 0
    by_seed: tuple[str, ...] = ()
    group: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    person: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    drawn: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def looped(self, name: str) -> bool:
        """Has the network a two-cycle?"""
        return bool((self.truths[name] * self.truths[name].T).any())

    def sets(self, loops: bool, method: str | None = None) -> list[str]:
        """Names of the sets with, or without, loops (that a method was run on)."""
        return [
            n for n in self.truths if self.looped(n) == loops and (method is None or n in self.group[method])
        ]

    def _weights(self, n: int) -> np.ndarray:
        return np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), self.n_draws) / n

    def classical(self, name: str, bold: np.ndarray) -> None:
        """Run every classical estimator on a set of people."""
        start = time.perf_counter()
        found = effective.statistics(bold)
        means = effective.scores({k: v.mean(0) for k, v in found.items()})
        self.seconds[name] = time.perf_counter() - start
        w = self._weights(len(bold))
        again = effective.scores({k: np.tensordot(w, v, 1) for k, v in found.items()})
        for method, S in effective.scores(found).items():
            self.person.setdefault(method, {})[name] = S
            self.group.setdefault(method, {})[name] = means[method]
            values = per_person(again[method], self.truths[name])[0]
            self.drawn.setdefault(method, {})[name] = values

    def add(self, method: str, name: str, *, person: Any = None, group: Any = None) -> None:
        """Estimates of one method; the group's is the mean over people unless it is given."""
        if person is None and group is None:
            raise BookError(f"Board.add: {method} on {name} has neither people nor a group")
        if person is not None:
            person = np.asarray(person)
            self.person.setdefault(method, {})[name] = person
            if group is None:
                group, w = person.mean(-3), self._weights(person.shape[-3])
                again = np.einsum("ns,...sij->n...ij", w, np.where(np.isfinite(person), person, 0))
                values = per_person(again, self.truths[name])[0]
                self.drawn.setdefault(method, {})[name] = values.reshape(self.n_draws, -1).mean(1)
        self.group.setdefault(method, {})[name] = np.asarray(group)

    def scorecard(
        self, methods: Sequence[str], keys: Sequence[str] = KEYS, *, people: bool = False
    ) -> pd.DataFrame:
        """Mean metrics of group estimates, over the networks without and with loops.

        people=True adds the column "one person": the direction of single people.
        """
        rows = {}
        for method in methods:
            parts = {}
            for loops in (False, True):
                of = [metrics(self.group[method][n], self.truths[n]) for n in self.sets(loops, method)]
                where = "with loops" if loops else "no loops"
                for key in keys if of else ():
                    parts[where, key] = np.mean([m[key] for m in of])
                if of and people and method in self.person:
                    right = [self._people(method, n, 1).mean() for n in self.sets(loops, method)]
                    parts[where, "one person"] = np.nanmean(right)
            rows[method] = parts
        table = pd.DataFrame(rows).T
        return table.dropna(axis=1, how="all")

    def per_set(self, methods: Sequence[str]) -> pd.DataFrame:
        """One row a set: AUROC and direction of single people, and of the group, for every method."""
        rows = {}
        for name, truth in self.truths.items():
            row = {}
            for method in methods:
                auc, right = per_person(self.group[method][name], truth)
                row[method, "AUROC, person"] = self._people(method, name).mean()
                row[method, "dir, person"] = self._people(method, name, 1).mean()
                row[method, "AUROC, group"], row[method, "dir, group"] = auc.mean(), right.mean()
            rows[name] = row
        return pd.DataFrame(rows).T

    def estimate(self, method: str, loops: bool, level: str = "group") -> Estimate | float | None:
        """Mean AUROC over sets with its interval over people (a number alone where people are not drawn)."""
        names = self.sets(loops, method)
        if not names or (level == "person" and method not in self.person):
            return None
        if method in self.by_seed:
            source = self.group if level == "group" else self.person
            K = len(source[method][names[0]])
            auc = [per_person(source[method][n], self.truths[n])[0].reshape(K, -1) for n in names]
            each = np.mean([a.mean(1) for a in auc], 0)
            return Estimate(*map(float, (each.mean(), each.min(), each.max())))
        if level == "group":
            value = np.mean([per_person(self.group[method][n], self.truths[n])[0].mean() for n in names])
            if method not in self.drawn:
                return float(value)
            again = np.mean([self.drawn[method][n] for n in names], 0)
        else:
            each = [self._people(method, n) for n in names]
            value, again = np.mean([x.mean() for x in each]), self._resampled(each).mean(0)
        return Estimate(float(value), *map(float, np.quantile(again, [0.025, 0.975])))

    def _people(self, method: str, name: str, what: int = 0) -> np.ndarray:
        """AUROC (or direction) of each person, averaged over trainings: (S,)."""
        S = self.person[method][name]
        return per_person(S, self.truths[name])[what].reshape(-1, S.shape[-3]).mean(0)

    def _resampled(self, each: Sequence[np.ndarray], n: int = 2000) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        return np.stack([rng.choice(x, (n, len(x))).mean(1) for x in each])

    def evidence(self, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
        """method -> column -> AUROC with its interval, for ``evaluate.table``."""
        table = {}
        for method in methods:
            cells = {
                f"{'loops' if loops else 'no loops'}, {level}": self.estimate(method, loops, level)
                for loops in (False, True)
                for level in ("group", "person")
            }
            table[method] = {k: v for k, v in cells.items() if v is not None}
        return table

    def record(self, methods: Sequence[str], each: Sequence[str] = ()) -> dict[str, Any]:
        """Flat metrics for a run record: AUROC, AUPRC, direction, F1 at the true number of edges, SHD.

        For the methods in ``each`` also the values of ``per_set``, one by one.
        """
        flat: dict[str, Any] = {}
        for (method, what), column in self.per_set(each).items() if each else ():
            for name, value in column.items():
                key = f"{method}_{what}_{name}".lower().replace(",", "").replace(" ", "_")
                flat[key] = value
        for method in methods:
            key = method.replace(" ", "")
            for prefix, loops in KINDS.items():
                names = self.sets(loops, method)
                for level in ("group", "person") if names else ():
                    value = self.estimate(method, loops, level)
                    name = "subject_auroc" if level == "person" else "auroc"
                    flat |= {} if value is None else {f"{key}_{prefix}{name}": value}
                of = [metrics(self.group[method][n], self.truths[n]) for n in names]
                for what in ("direction", "f1_oracle", "auprc", "shd_1") if of else ():
                    flat[f"{key}_{prefix}{what}"] = float(np.mean([m[what] for m in of]))
                if names and method in self.person:
                    right = [self._people(method, n, 1).mean() for n in names]
                    flat[f"{key}_{prefix}subject_direction"] = float(np.nanmean(right))
        return flat

    def compare(self, a: str, b: str, loops: bool) -> tuple[Estimate, float, str]:
        """AUROC of single people, method a minus b on the same people: interval, p, and a sentence.

        The unit is the person, the networks are given; with five networks or more the sentence adds the p of
        a t test whose unit is the network.
        """
        names = self.sets(loops, a)
        each = [self._people(a, n) - self._people(b, n) for n in names]
        again = self._resampled(each, 4000).mean(0)
        e = Estimate(
            float(np.mean([x.mean() for x in each])), *map(float, np.quantile(again, [0.025, 0.975]))
        )
        p = min(1.0, 2 * (1 + min((again <= 0).sum(), (again >= 0).sum())) / 4001)
        word = "better than" if e.lo > 0 else "worse than" if e.hi < 0 else "not distinguishable from"
        ahead = sum(x.mean() > 0 for x in each)
        where = f"{'with' if loops else 'no'} loops, ahead on {ahead} of {len(names)} sets"
        show = lambda p: "p < 0.001" if p < 0.001 else f"p = {p:.3f}"  # noqa: E731
        if len(names) > 4:
            where += f"; networks as units, {show(stats.ttest_1samp([x.mean() for x in each], 0).pvalue)}"
        return e, p, f"{a} {word} {b} on these networks: {e:+.3f}, {show(p)} ({where})"
