"""The definitions of chapter 02: against naive code, nilearn and known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from nilearn.connectome import ConnectivityMeasure
from threadpoolctl import threadpool_limits

from helpers import chapters, data, evaluate


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("02_baselines")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def spd(n: int, R: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, R, 4 * R))
    return x @ np.swapaxes(x, 1, 2) / (4 * R)


def test_ridge_both_ways(chapter):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 50)), rng.standard_normal(20)
    slow, fast = chapter.ridge_over_edges(X, y, 0.3), chapter.ridge_over_subjects(X, y, 0.3)
    np.testing.assert_allclose(slow, fast, atol=1e-10)


# ------------------------------------------------------------------------------------------- tangent space


def test_tangent_is_nilearns(chapter):
    rng = np.random.default_rng(0)
    series = [
        rng.standard_normal((200, 6)) @ (np.eye(6) + 0.2 * rng.standard_normal((6, 6))) for _ in range(8)
    ]
    measure = ConnectivityMeasure(kind="tangent", standardize=False, cov_estimator=_Covariance())
    theirs = measure.fit_transform(series)
    C = np.array([_Covariance().fit(x).covariance_ for x in series])
    ours = chapter.Tangent(n_iter=30).fit(C)
    np.testing.assert_allclose(ours.logs(C), theirs, atol=1e-4)
    vectors = ours.transform(C)
    assert vectors.shape == (8, 21)
    np.testing.assert_allclose((vectors**2).sum(1), (ours.logs(C) ** 2).sum((1, 2)))  # lengths are kept


class _Covariance:
    """An empirical covariance in scikit-learn's form."""

    def get_params(self, deep=True):
        return {}

    def fit(self, x, y=None):
        self.covariance_ = np.cov(x.T, bias=True)
        return self


def test_tangent_mean_is_where_the_logs_average_to_zero(chapter):
    C = spd(10, 5)
    fitted = chapter.Tangent(n_iter=30).fit(C)
    np.testing.assert_allclose(fitted.logs(C).mean(0), 0, atol=1e-6)


def test_tangent_lengths_do_not_depend_on_the_units_of_the_regions(chapter):
    """Affine invariance: C -> A C A' changes neither distances from the mean nor inner products."""
    C, A = spd(10, 5), np.random.default_rng(1).standard_normal((5, 5))
    a = chapter.Tangent(n_iter=30).fit_transform(C)
    b = chapter.Tangent(n_iter=30).fit_transform(A @ C @ A.T)
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-6)


def test_tangent_is_fitted_on_training_subjects_only(chapter):
    C = spd(12, 4)
    fitted = chapter.Tangent().fit(C[:8])
    mean = fitted.mean_.copy()
    fitted.transform(C)
    np.testing.assert_array_equal(fitted.mean_, mean)
    assert not np.allclose(mean, chapter.Tangent().fit(C).mean_)


# ------------------------------------------------------------------------------------------- graph measures


def test_graph_features_equal_naive_loops(chapter):
    rng = np.random.default_rng(0)
    R, modules = 7, np.array([0, 0, 0, 1, 1, 2, 2])
    fc = rng.uniform(-1, 1, (3, R, R))
    fc = (fc + np.swapaxes(fc, 1, 2)) / 2
    got = chapter.graph_features(fc, modules).reshape(3, 3, R)
    for s in range(3):
        w = np.maximum(fc[s], 0)
        np.fill_diagonal(w, 0)
        for i in range(R):
            k = (w[i] > 0).sum()
            triangles = sum((w[i, j] * w[j, m] * w[m, i]) ** (1 / 3) for j in range(R) for m in range(R))
            share = [w[i, modules == q].sum() / w[i].sum() for q in range(3)]
            expected = [w[i].sum(), triangles / max(k * (k - 1), 1), 1 - sum(x**2 for x in share)]
            np.testing.assert_allclose(got[s, :, i], expected)


def test_graph_features_of_a_silent_region_are_finite(chapter):
    fc = np.eye(4)[None]
    assert np.array_equal(chapter.graph_features(fc, np.zeros(4, int)), np.zeros((1, 12)))


def test_demographics(chapter):
    people = data.load_cohort("embedded", n_subjects=12).participants
    full = chapter.demographics(people)
    assert full.shape == (12, 1 + 2 + people["site"].nunique()) and np.isfinite(full).all()
    assert chapter.demographics(people, without="age").shape[1] == full.shape[1] - 1
    assert chapter.demographics(people.assign(mean_fd=0.1)).shape[1] == full.shape[1] + 1


# ------------------------------------------------------------------------------- sampling error and power


def test_sampled_auc_and_its_spread(chapter):
    draws = chapter.sampled_auc(0.73, 140, 4000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(0.73, abs=0.005)
    assert draws.std() == pytest.approx(evaluate.auc_standard_error(0.73, 70, 70), rel=0.1)


def test_subjects_needed(chapter):
    need = chapter.subjects_needed
    assert need(0.73, 0.02, 0.0) > need(0.73, 0.02, 0.5) > need(0.73, 0.05, 0.5) > need(0.73, 0.10, 0.9)
    n, rng = need(0.70, 0.10, 0.0), np.random.default_rng(0)  # power by simulation, independent test sets
    a, b = (chapter.sampled_auc(x, n, 3000, rng) for x in (0.70, 0.80))
    se = np.hypot(*(evaluate.auc_standard_error(x, n // 2, n - n // 2) for x in (0.70, 0.80)))
    assert np.mean(b - a > 1.96 * se) == pytest.approx(0.8, abs=0.04)


def test_alike_is_high_for_the_same_model_and_low_for_independent_ones(chapter):
    rng = np.random.default_rng(0)
    y = np.resize([0, 1], 120)
    people = pd.DataFrame({"group": y.astype(str), "site": "A"})
    s = evaluate.splits(people)
    one, two = (rng.standard_normal(120) + y for _ in range(2))
    pred = [
        evaluate.cross_validate(lambda k, x=x: x[k.test], None, y, s) for x in (one, one + 0.1 * two, two)
    ]
    assert chapter.alike(pred[0], pred[1]) > 0.8
    assert chapter.alike(pred[0], pred[2]) < 0.4


def test_what_it_means(chapter):
    row = chapter.what_it_means(0.727, 0.710, 150)
    assert row["people between them"] == 3
    assert row["accuracy A"] == "0.727 [0.651, 0.792]"
    assert row["p if A errs only where B does (best case)"] == "0.25"
    assert chapter.what_it_means(0.9, 0.5, 5000)["p if the errors are unrelated"] == "< 0.001"
    assert chapter.what_it_means(0.7, 0.7, 100)["people between them"] == 0


def test_equal_models_are_equal(chapter):
    d = chapter.equal_models(400, 60, 2, np.random.default_rng(0))
    assert d.shape == (400, 2, 5)
    assert abs(d.mean()) < 3 * d.mean((1, 2)).std() / np.sqrt(400)


# ------------------------------------------------------------------------------------------------- leaks


def test_pick_best_finds_the_block_that_knows(chapter):
    rng = np.random.default_rng(0)
    y = np.resize(["a", "b"], 60)
    noise, signal = rng.standard_normal((60, 5)), rng.standard_normal((60, 5)) + (y == "b")[:, None]
    candidates = [(0, evaluate.linear_probe("svm", 1.0)), (1, evaluate.linear_probe("svm", 1.0))]
    X = list(zip(noise, signal, strict=True))
    picked = chapter.PickBest(candidates).fit(X, y)
    assert picked.block_ == 1
    assert picked.decision_function(X).shape == (60,) and set(picked.predict(X)) == {"a", "b"}


def test_invented_diagnosis(chapter):
    site = np.repeat(["A", "B", "C"], 20)
    y = chapter.invented_diagnosis(site, np.random.default_rng(0), share=0.8)
    assert [y[site == s].mean() for s in "ABC"] == [0.2, 0.8, 0.2]


def test_without_site_learns_from_training_rows_only(chapter):
    rng = np.random.default_rng(0)
    site = np.resize(["A", "B"], 40)
    X = rng.standard_normal((40, 3)) + 5 * (site == "B")[:, None]
    train = np.arange(30)
    Z = chapter.without_site(X, site, train)
    for s in "AB":
        np.testing.assert_allclose(Z[train][site[train] == s].mean(0), 0, atol=1e-10)
    moved = X.copy()
    moved[35] += 100
    np.testing.assert_array_equal(chapter.without_site(moved, site, train)[train], Z[train])


def test_harmonisation_with_labels_writes_them_into_the_data(chapter):
    """Noise without any site or label effect: after 'protecting' the label, a pooled classifier finds it."""
    rng = np.random.default_rng(0)
    site = np.repeat(["A", "B"], 60)
    y = chapter.invented_diagnosis(site, rng, share=0.85)
    X = rng.standard_normal((120, 500))
    table = pd.DataFrame({"group": y.astype(str), "site": site})
    s, svm = evaluate.splits(table), evaluate.linear_probe("svm", 1.0)
    raw = evaluate.auc(evaluate.cross_validate(svm, X, y, s), n_boot=200)
    protected = chapter.without_site(X, site, np.arange(120), y)
    leaked = evaluate.auc(evaluate.cross_validate(svm, protected, y, s), n_boot=200)
    assert leaked.lo > raw.hi


def test_persistence(chapter):
    rng = np.random.default_rng(0)
    networks = np.resize(["a", "b"], 6)
    white = rng.standard_normal((5, 6, 400))
    slow = np.cumsum(white, -1)
    slow = slow[..., 20:] - slow[..., :-20]  # moving sum over 20 frames
    quick, lasting = (chapter.persistence(x, networks, range(1, 4)) for x in (white, slow))
    assert quick.shape == (5, 9) and np.abs(quick).mean() < 0.1 and lasting.mean() > 0.5


def test_static_connectivity_does_not_see_dwell_but_persistence_does(chapter):
    from helpers import connectivity

    cohort = data.load_cohort("embedded", n_subjects=120, seed=1, group_effect=0.0, dwell_effect=1.0)
    y = cohort.participants["group"].to_numpy(str)
    s = evaluate.splits(cohort.participants)
    static = connectivity.upper(connectivity.fc(cohort))
    dynamic = chapter.persistence(cohort.bold.astype(float), cohort.atlas.networks, range(1, 16))
    probe = evaluate.linear_probe("svm", 1.0)
    a, b = (evaluate.auc(evaluate.cross_validate(probe, X, y, s)) for X in (static, dynamic))
    assert a.lo < 0.5 and b.lo > 0.6
