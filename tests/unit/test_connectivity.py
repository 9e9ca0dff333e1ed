"""Connectivity: against numpy and nilearn, and by its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nilearn.connectome import ConnectivityMeasure

from helpers import connectivity
from helpers.data import Cohort
from helpers.errors import BookError
from helpers.simulate import bold as simulate

FINITE = st.floats(-1e3, 1e3, width=32)
SERIES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 12)).flatmap(
    lambda shape: st.sampled_from([np.float32, np.float64]).flatmap(
        lambda kind: hnp.arrays(kind, shape, elements=FINITE)
    )
)


def correlated(seed=0, shape=(4, 30, 60)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((shape[-2], shape[-2]))
    return mix @ rng.standard_normal(shape) + 5


def test_pearson_is_numpys():
    x = correlated()
    expected = np.stack([np.corrcoef(scan) for scan in x])
    np.testing.assert_allclose(connectivity.pearson(x), expected, atol=1e-12)
    single = connectivity.pearson(x.astype(np.float32))
    assert single.dtype == np.float32 and connectivity.pearson(x).dtype == np.float64
    np.testing.assert_allclose(single, expected, atol=2e-6)


def test_pearson_of_a_batch_is_that_of_each():
    x = correlated(shape=(2, 3, 8, 20))
    batch = connectivity.pearson(x)
    assert batch.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(batch[1, 2], connectivity.pearson(x[1, 2]), atol=1e-14)


@settings(max_examples=150, deadline=None)
@given(SERIES)
def test_pearson_is_a_correlation_matrix_whatever_it_is_given(x):
    fc = connectivity.pearson(x)
    assert fc.shape == (*x.shape[:-1], x.shape[-2]) and fc.dtype == x.dtype
    assert (np.abs(fc) <= 1).all()
    assert (np.diagonal(fc, axis1=-2, axis2=-1) == 1).all()
    np.testing.assert_allclose(fc, np.swapaxes(fc, -1, -2), atol=1e-6)
    assert np.linalg.eigvalsh(fc.astype(np.float64)).min() > -1e-4


@settings(max_examples=80, deadline=None)
@given(SERIES)
def test_ledoit_wolf_shrinks_towards_zero_and_stays_a_correlation(x):
    fc, rho = connectivity.ledoit_wolf(x)
    raw = connectivity.pearson(x)
    assert rho.shape == x.shape[:-2] and ((rho >= 0) & (rho <= 1)).all()
    assert (np.abs(fc) <= np.abs(raw) + 1e-6).all()
    assert (np.diagonal(fc, axis1=-2, axis2=-1) == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.0, 1.0, 0.1, -1234.567, 1e6])
def test_a_constant_region_is_correlated_with_none(dtype, level):
    x = correlated()[0].astype(dtype)
    x[7] = level
    for fc in (connectivity.pearson(x), connectivity.ledoit_wolf(x)[0]):
        off = np.delete(fc[7], 7)
        assert (off == 0).all() and (fc[:, 7] == fc[7]).all() and fc[7, 7] == 1
    others = np.delete(np.arange(30), 7)
    np.testing.assert_allclose(
        connectivity.pearson(x)[np.ix_(others, others)], connectivity.pearson(x[others]), atol=1e-6
    )


def test_a_small_signal_on_a_large_level_is_not_taken_for_constant():
    x = correlated()
    fc = connectivity.pearson(1e-3 * x + 1e4)
    np.testing.assert_allclose(fc, connectivity.pearson(x), atol=1e-6)


@pytest.mark.parametrize("n_frames", [20, 60, 200, 1000])
def test_ledoit_wolf_is_what_nilearn_returns_and_its_law_holds(n_frames):
    x = correlated(n_frames, (3, 30, n_frames))
    theirs = ConnectivityMeasure(kind="correlation").fit_transform([scan.T for scan in x])
    fc, rho = connectivity.ledoit_wolf(x)
    np.testing.assert_allclose(fc, theirs, atol=1e-10)
    law = (1 - rho[:, None, None]) * connectivity.pearson(x)
    off = ~np.eye(30, dtype=bool)
    np.testing.assert_allclose(theirs[:, off], law[:, off], atol=1e-10)


def test_ledoit_wolf_agrees_with_nilearn_also_with_a_region_that_is_zero():
    x = correlated()[0]
    x[3] = 0
    theirs = ConnectivityMeasure(kind="correlation").fit_transform([x.T])[0]
    np.testing.assert_allclose(connectivity.ledoit_wolf(x)[0], theirs, atol=1e-10)


def test_shrinkage_grows_as_the_scan_gets_shorter():
    x = correlated(3, (30, 400))
    rho = [connectivity.ledoit_wolf(x[:, :t])[1] for t in (400, 200, 100, 50, 25)]
    assert (np.diff(rho) > 0).all()


def test_fc_of_a_cohort_uses_each_persons_own_frames():
    cohort = simulate.cohort(4, n_frames=(40, 80))
    assert len(set(cohort.n_frames.tolist())) > 1
    fc = connectivity.fc(cohort)
    assert fc.shape == (4, 100, 100) and fc.dtype == np.float32
    for s in range(4):
        np.testing.assert_allclose(fc[s], np.corrcoef(cohort.bold[s][:, : cohort.n_frames[s]]), atol=1e-5)
    shrunken = connectivity.fc(cohort, "ledoit_wolf")
    np.testing.assert_array_equal(shrunken[2], connectivity.ledoit_wolf(cohort.series(2))[0])
    assert isinstance(cohort, Cohort)


def test_upper_and_back():
    fc = connectivity.pearson(correlated(shape=(3, 7, 20)))
    edges = connectivity.upper(fc)
    assert edges.shape == (3, 21)
    assert edges[1, 0] == fc[1, 0, 1] and edges[1, 5] == fc[1, 0, 6] and edges[1, 6] == fc[1, 1, 2]
    np.testing.assert_allclose(connectivity.from_upper(edges, 7), fc, atol=1e-12)
    assert (connectivity.from_upper(edges, 7, diagonal=0)[:, range(7), range(7)] == 0).all()


def test_fisher_z_is_finite_at_one_and_undone_by_tanh():
    r = np.array([-1.0, -0.5, 0, 0.9, 1])
    z = connectivity.fisher_z(r)
    assert np.isfinite(z).all()
    np.testing.assert_allclose(np.tanh(z), r, atol=2e-6)
    assert np.isfinite(connectivity.fisher_z(r.astype(np.float32))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: connectivity.pearson(np.ones(5)), "expected numbers"),
        (lambda: connectivity.pearson(np.full((3, 4), "x")), "expected numbers"),
        (lambda: connectivity.pearson(np.ones((3, 1))), "1 frames"),
        (
            lambda: connectivity.pearson(np.array([[[1, 2.0], [3, 4]], [[1, 2], [np.nan, 3]]])),
            "scan 1 region 1",
        ),
        (lambda: connectivity.ledoit_wolf(np.array([[1, 2.0], [3, np.inf]])), "region 1"),
        (lambda: connectivity.upper(np.ones((3, 4))), "expected"),
        (lambda: connectivity.from_upper(np.ones(5), 4), "has 6"),
        (lambda: connectivity.fc(simulate.cohort(1, n_frames=20), "spearman"), "spearman"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(BookError, match=message):
        call()


def test_forgetting_the_padding_fails_loudly():
    cohort = simulate.cohort(4, n_frames=(40, 80))
    with pytest.raises(BookError, match="padding"):
        connectivity.pearson(cohort.bold)
