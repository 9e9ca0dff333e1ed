"""Splits, metrics, tests and probes against naive or independent implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from helpers import evaluate as ev
from helpers.errors import BookError


def people(n: int = 80, sites: str = "ABCD", seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in range(n)],
            "group": rng.permutation(np.resize(["control", "patient"], n)),
            "site": rng.choice(list(sites), n),
            "age": rng.normal(30, 8, n),
        }
    )


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    table = people()
    X = np.random.default_rng(1).standard_normal((len(table), 300))
    y = table["group"].to_numpy(str)
    X[y == "patient", :30] += 0.5
    return table, X, y


# ------------------------------------------------------------------------------------------------- splits


def test_splits_are_disjoint_complete_and_balanced():
    table = people(200)
    s = ev.splits(table, n_splits=5, n_repeats=3, seed=1)
    assert len(s) == 15 and s.n_repeats == 3 and len(s.repeat(1)) == 5
    cell = (table["group"] + table["site"]).to_numpy(str)
    for one in s:
        assert not set(one.train) & set(one.test) and len(one.train) + len(one.test) == 200
        for c in np.unique(cell):
            assert abs((cell[one.test] == c).sum() - (cell == c).sum() / 5) <= 1
    for r in range(3):
        tested = np.concatenate([one.test for one in s if one.repeat == r])
        assert sorted(tested) == list(range(200))


def test_hash_names_the_exact_index_sets():
    table = people()
    assert ev.splits(table, seed=1).hash == ev.splits(table, seed=1).hash
    assert ev.splits(table, seed=1).hash != ev.splits(table, seed=2).hash
    renamed = table.assign(participant_id=[f"x{i}" for i in range(len(table))])
    assert ev.splits(table, seed=1).hash != ev.splits(renamed, seed=1).hash
    assert len(ev.splits(table).hash) == 8 and ev.splits(table).hash in repr(ev.splits(table))


def test_sessions_of_a_subject_stay_together():
    table = pd.concat([people(40)] * 2, ignore_index=True)
    for one in ev.splits(table, n_splits=4):
        assert not set(table["participant_id"][one.train]) & set(table["participant_id"][one.test])


def test_rare_cells_are_pooled():
    table = people(60)
    table.loc[:1, "site"] = ["E", "F"]  # two sites of one subject each
    s = ev.splits(table, n_splits=5)
    patients = (table["group"] == "patient").to_numpy()
    counts = [patients[one.test].sum() for one in s]
    assert max(counts) - min(counts) <= 3


def test_check_sees_a_leak():
    ids = np.array(["a", "b", "a"])
    with pytest.raises(BookError, match="a is in train and test"):
        ev.Splits((ev.Split(np.array([0, 1]), np.array([2]), 0, 0),), ids).check()


def test_leave_site_out():
    table = people()
    s = ev.leave_site_out(table)
    assert len(s) == 4
    for one in s:
        assert table["site"][one.test].nunique() == 1
        assert not set(table["site"][one.train]) & set(table["site"][one.test])
    with pytest.raises(BookError, match="one site"):
        ev.leave_site_out(people(sites="A"))


@pytest.mark.parametrize(
    ("table", "kw", "message"),
    [
        (people(3), {"n_splits": 5}, "5 folds asked of 3"),
        (people(8), {"n_splits": 5}, "fewer than 5 folds"),
        (people().drop(columns="site"), {}, "no column 'site'"),
        (people(), {"n_splits": 1}, "1 folds"),
        (people(), {"n_repeats": 0}, "0 repeats"),
    ],
)
def test_splits_refuse(table, kw, message):
    with pytest.raises(BookError, match=message):
        ev.splits(table, **kw)


# ------------------------------------------------------------------------------ linear probe, predictions


@pytest.mark.parametrize("kind", ["svm", "logistic", "ridge"])
def test_probe_equals_the_model_on_features(cohort, kind):
    """The kernel form must be the model that scikit-learn fits on the features themselves."""
    table, X, y = cohort
    code = (y == "patient").astype(int)
    train, test = next(iter(ev.splits(table)))
    scale = StandardScaler().fit(X[train])
    Z, Z_test = (scale.transform(X[i]) / np.sqrt(X.shape[1]) for i in (train, test))
    slow = {
        "svm": SVC(kernel="linear", C=0.7, tol=1e-8),
        "logistic": LogisticRegression(C=0.7, tol=1e-10, max_iter=5000),
        "ridge": Ridge(alpha=1 / 0.7),
    }[kind]
    slow.fit(Z, code[train] * 2 - 1 if kind == "ridge" else code[train])
    expected = slow.predict(Z_test) if kind == "ridge" else slow.decision_function(Z_test)
    probe = ev.linear_probe(kind, C=0.7).fit(X[train], y[train])
    np.testing.assert_allclose(probe.decision_function(X[test]), expected, atol=2e-3)
    assert set(probe.predict(X[test])) <= {"control", "patient"}


def test_cross_validate_standardises_on_train_only(cohort):
    """Test rows must not move the scores of other test rows."""
    table, X, y = cohort
    s = ev.splits(table, n_repeats=1)
    one = ev.Splits((s[0],), s.subjects)
    a = ev.cross_validate(ev.linear_probe("svm", 1.0), X, y, one).frame
    moved = X.copy()
    moved[s[0].test[0]] *= 1e3
    b = ev.cross_validate(ev.linear_probe("svm", 1.0), moved, y, one).frame
    np.testing.assert_allclose(a["score"][1:], b["score"][1:])


def test_kernel_path_equals_the_estimator_path(cohort):
    table, X, y = cohort
    s = ev.splits(table, n_repeats=1)
    a = ev.cross_validate(ev.linear_probe("logistic"), X, y, s).frame
    train, test = s[0]
    fitted = ev.linear_probe("logistic").fit(X[train], y[train])
    np.testing.assert_allclose(a["score"][a["fold"] == 0], fitted.decision_function(X[test]))
    assert fitted.C_ in ev.GRID


def test_other_models_lists_and_functions(cohort):
    table, X, y = cohort
    s = ev.splits(table, n_repeats=1)
    sk = ev.cross_validate(make_pipeline(StandardScaler(), LogisticRegression()), X, y, s, proba=True)
    assert sk.frame["score"].between(0, 1).all() and sk.classes == ("control", "patient")
    frame = ev.cross_validate(LogisticRegression(), pd.DataFrame(X), y, s)
    assert len(frame) == len(y)

    def first_feature(split):
        return X[split.test, 0]

    assert ev.auc(ev.cross_validate(first_feature, None, y, s)).value > 0.4
    series = [np.ones((3, 5 + i % 2)) * i for i in range(len(y))]  # unequal lengths, as for a tangent space

    class Mean(LogisticRegression):
        def _m(self, Xs):
            return np.array([[x.mean()] for x in Xs])

        def fit(self, Xs, y):
            return super().fit(self._m(Xs), y)

        def decision_function(self, Xs):
            return super().decision_function(self._m(Xs))

        def predict(self, Xs):
            return self.classes_[(self.decision_function(Xs) > 0).astype(int)]

    assert len(ev.cross_validate(Mean(), series, y, s)) == len(y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, X, y: (X, np.full(len(y), "control")), "all 80 subjects have the label"),
        (lambda t, X, y: (np.where(np.arange(80)[:, None] == 7, np.nan, X), y), "NaN.*row 7"),
        (lambda t, X, y: (X[:-1], y), "79 rows of features but 80 labels"),
        (lambda t, X, y: (X, y[:-1]), "79 labels, but the splits are of 80"),
    ],
)
def test_cross_validate_refuses(cohort, change, message):
    table, X, y = cohort
    X2, y2 = change(table, X, y)
    with pytest.raises(BookError, match=message):
        ev.cross_validate(ev.linear_probe("svm", 1.0), X2, y2, ev.splits(table))


def test_bad_probes(cohort):
    table, X, _ = cohort
    for bad in ({"kind": "forest"}, {"C": -1}, {"C": "auto"}):
        with pytest.raises(BookError, match="linear_probe"):
            ev.linear_probe(**bad)
    with pytest.raises(BookError, match="use 'ridge'"):
        ev.linear_probe("svm").fit(X, table["age"])
    with pytest.raises(BookError, match="NaN"):
        ev.linear_probe("ridge").fit(X, np.where(np.arange(80) == 1, np.nan, table["age"]))


# ------------------------------------------------------------------------------------------------ metrics


def test_auc_is_the_mean_of_the_folds_and_pools_by_repeat(cohort):
    table, X, y = cohort
    s = ev.splits(table, n_repeats=2, n_splits=4)
    pred = ev.cross_validate(ev.linear_probe("svm", 1.0), X, y, s)
    folds = [roc_auc_score(f["y"], f["score"]) for _, f in pred.frame.groupby(["repeat", "fold"])]
    np.testing.assert_allclose(ev.by_fold(pred)["value"], folds)
    assert ev.auc(pred).value == pytest.approx(np.mean(folds), abs=0.01)  # folds weigh by their pairs
    pooled = [roc_auc_score(f["y"], f["score"]) for _, f in pred.frame.groupby("repeat")]
    assert ev.auc(pred, within="repeat").value == pytest.approx(np.mean(pooled))
    assert ev.auc(pred.repeat(0), within="repeat").value == pytest.approx(pooled[0])


def test_bootstrap_auc_equals_a_naive_one_with_ties():
    rng = np.random.default_rng(0)
    n = 50
    y = np.resize([0, 1], n)
    frame = pd.DataFrame({"repeat": 0, "fold": 0, "subject": np.arange(n), "y": y})
    frame["score"] = np.round(rng.standard_normal(n) + 0.7 * y, 0)  # many ties
    frame["predicted"] = (frame["score"] > 0).astype(int)
    pred = ev.Predictions(frame, "binary", "x", (0, 1))
    fast = ev._boot(pred, ev._auc_metric(pred, "fold"), 40, seed=3)
    drawn = np.random.default_rng(3).integers(0, n, (40, n))
    naive = [roc_auc_score(y[d], frame["score"].to_numpy()[d]) for d in drawn]
    np.testing.assert_allclose(fast[0], roc_auc_score(y, frame["score"]))
    np.testing.assert_allclose(fast[1:], naive)


def test_interval_covers_the_truth():
    """95 % intervals of the AUC of two normals: between 88 and 100 of 100 must hold the true value."""
    rng = np.random.default_rng(0)
    held = 0
    for i in range(100):
        y = np.resize([0, 1], 80)
        score = rng.standard_normal(80) + y
        frame = pd.DataFrame({"repeat": 0, "fold": 0, "subject": np.arange(80), "y": y, "score": score})
        e = ev.auc(ev.Predictions(frame.assign(predicted=0), "binary", "x", (0, 1)), n_boot=300, seed=i)
        held += e.lo <= 0.7602 <= e.hi  # Phi(1 / sqrt 2)
    assert 88 <= held <= 100


def test_multiclass_and_balanced_accuracy():
    table = people(120)
    site = table["site"].to_numpy(str)
    X = np.random.default_rng(0).standard_normal((120, 40)) + 1.5 * (
        site[:, None] == np.resize(list("ABCD"), 40)
    )
    s = ev.splits(table)
    for kind in ("svm", "logistic", "ridge"):
        pred = ev.cross_validate(ev.linear_probe(kind, 1.0), X, site, s)
        assert pred.task == "multiclass" and pred.classes == tuple("ABCD")
        e = ev.balanced_accuracy(pred)
        f = pred.frame
        assert e.value == pytest.approx(balanced_accuracy_score(f["y"], f["predicted"]), abs=1e-9)
        assert e.value > 0.7 and e.lo <= e.value <= e.hi
    with pytest.raises(BookError, match="auc: needs binary"):
        ev.auc(pred)


def test_regression():
    table = people(100)
    X = np.random.default_rng(0).standard_normal((100, 200))
    X[:, :40] += (table["age"].to_numpy()[:, None] - 30) / 8
    pred = ev.cross_validate(ev.linear_probe("ridge"), X, table["age"], ev.splits(table))
    assert pred.task == "regression"
    r = np.mean([np.corrcoef(f["y"], f["score"])[0, 1] for _, f in pred.frame.groupby("repeat")])
    assert ev.pearson_r(pred).value == pytest.approx(r)
    assert ev.mae(pred).value == pytest.approx((pred.frame["y"] - pred.frame["score"]).abs().mean())
    assert ev.mae(pred).value < 8 and ev.pearson_r(pred).lo > 0


# ------------------------------------------------------------------------------- tests of differences


def test_paired(cohort):
    table, X, y = cohort
    s = ev.splits(table, n_repeats=3)
    good = ev.cross_validate(ev.linear_probe("svm", 1.0), X, y, s)
    bad = ev.cross_validate(ev.linear_probe("svm", 1.0), X[:, 200:], y, s)
    for method in ("corrected_t", "wilcoxon", "bootstrap"):
        t = ev.paired(good, bad, method=method)
        assert t.difference.value > 0.1 and t.p < 0.05 and method in str(t)
        back = ev.paired(bad, good, method=method)
        assert back.difference.value == pytest.approx(-t.difference.value)
        assert ev.paired(good, good, method=method).p > 0.9
    other = ev.cross_validate(ev.linear_probe("svm", 1.0), X, y, ev.splits(table, seed=5, n_repeats=3))
    with pytest.raises(BookError, match="different splits"):
        ev.paired(good, other)
    with pytest.raises(BookError, match="different labels"):
        flipped = np.where(y == "patient", "control", "patient")
        ev.paired(good, ev.cross_validate(ev.linear_probe("svm", 1.0), X, flipped, s))
    with pytest.raises(BookError, match="unknown method"):
        ev.paired(good, bad, method="z")


def test_corrected_t_is_nadeau_and_bengio():
    d = np.array([0.02, 0.05, -0.01, 0.04, 0.03])
    mean, se, p = ev.corrected_t(d, train_size=80, test_size=20)
    assert mean == pytest.approx(d.mean())
    assert se == pytest.approx(np.sqrt((1 / 5 + 20 / 80) * d.var(ddof=1)))
    assert 0 < p < 1
    assert ev.corrected_t(np.zeros(5), 80, 20)[2] == 1.0


# ------------------------------------------------------------------------------- chance, few shots


def test_permutation_chance(cohort):
    table, X, y = cohort
    s = ev.splits(table)
    null = ev.permutation_chance(ev.linear_probe("svm", 1.0), X, y, s, n=40)
    assert null.shape == (40,) and 0.4 < null.mean() < 0.6
    observed = ev.auc(ev.cross_validate(ev.linear_probe("svm", 1.0), X, y, s))
    assert ev.permutation_p(observed, null) == pytest.approx(1 / 41)
    np.testing.assert_array_equal(null, ev.permutation_chance(ev.linear_probe("svm", 1.0), X, y, s, n=40))
    slow = ev.permutation_chance(DummyClassifier(), X, y, s, n=3)
    np.testing.assert_allclose(slow, 0.5)


def test_permutation_within_sites_keeps_what_the_site_tells():
    """Group equals site for three quarters: a model that reads the site keeps its score under the null."""
    table = people(80, sites="AB")
    y = np.where(np.arange(80) % 4 == 0, "patient", np.where(table["site"] == "A", "control", "patient"))
    X = np.eye(2)[(table["site"] == "B").astype(int)] + 0.01 * np.random.default_rng(0).standard_normal(
        (80, 2)
    )
    s = ev.splits(table.assign(group=y))
    model = ev.linear_probe("ridge", 1.0)
    assert ev.permutation_chance(model, X, y, s, n=20, within=table["site"]).mean() > 0.65
    assert ev.permutation_chance(model, X, y, s, n=20).mean() < 0.6
    with pytest.raises(BookError, match="within has 3"):
        ev.permutation_chance(model, X, y, s, n=2, within=["a", "b", "c"])


def test_few_shot(cohort):
    _, X, y = cohort
    pool, test = np.arange(50), np.arange(50, 80)
    few = ev.few_shot(X, y, pool, test, k=3)
    many = ev.few_shot(X, y, pool, test, k=15)
    assert few.shape == (20,) and many.mean() > few.mean()
    np.testing.assert_array_equal(few, ev.few_shot(X, y, pool, test, k=3))
    with pytest.raises(BookError, match="40 subjects a class asked"):
        ev.few_shot(X, y, pool, test, k=40)
    with pytest.raises(BookError, match="in the pool and in the test"):
        ev.few_shot(X, y, np.arange(51), test, k=3)


# ------------------------------------------------------------------------------- small statistics


def test_wilson_and_hanley_mcneil():
    e = ev.wilson(0.727, 150)
    assert (round(e.lo, 3), round(e.hi, 3)) == (0.651, 0.792)
    assert ev.wilson(0, 10).lo == pytest.approx(0, abs=1e-12) and ev.wilson(10, 10).hi == pytest.approx(1)
    with pytest.raises(BookError):
        ev.wilson(11, 10)
    rng = np.random.default_rng(
        0
    )  # Hanley-McNeil assumes exponential-like scores; close enough for two normals
    draws = [
        ev._ranked_auc(np.resize([0, 1], 140), rng.standard_normal(140) + np.resize([0, 0.9], 140))
        for _ in range(800)
    ]
    assert ev.auc_standard_error(np.mean(draws), 70, 70) == pytest.approx(np.std(draws), rel=0.12)
    with pytest.raises(BookError):
        ev.auc_standard_error(0.7, 0, 10)


def test_estimate_prints_and_table_keeps_objects():
    e = ev.Estimate(0.731, 0.652, 0.799)
    assert str(e) == "0.73 [0.65, 0.80]" and f"{e:.3f}" == "0.731 [0.652, 0.799]" and float(e) == 0.731
    t = ev.table({"a": {"AUC": e, "p": 0.0312}, "b": e})
    assert t.loc["a", "AUC"] is e and t.loc["b", "p"] == ""
    assert "0.73 [0.65, 0.80]" in t.to_html() and "0.73 [0.65, 0.80]" in str(t)


def test_splits_refuse_a_cohort_of_one_group():
    table = pd.DataFrame({"participant_id": np.arange(12).astype(str), "group": "control", "site": "A"})
    with pytest.raises(BookError, match="all 12 rows have group = control"):
        ev.splits(table, n_splits=2)
