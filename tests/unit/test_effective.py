"""Classical effective connectivity: orientation, definitions, invariances, errors."""

import numpy as np
import pytest
from scipy import stats

from helpers import effective
from helpers.errors import BookError


@pytest.fixture(scope="module")
def bold():
    """Five people, 0 -> 1 -> 2 with skewed heavy-tailed innovations: (5, 3, 3000)."""
    rng = np.random.default_rng(0)
    e = rng.gamma(1.0, size=(5, 3, 3000))
    x = e.copy()
    x[:, 1] += 0.7 * x[:, 0]
    x[:, 2] += 0.7 * x[:, 1]
    return x


@pytest.mark.parametrize("method", ["pwling", "pwling_skew", "softpwling", "leftright"])
def test_direction_points_along_the_arrows(bold, method):
    S = effective.group(bold)[method]
    assert S[0, 1] > S[1, 0] and S[1, 2] > S[2, 1]


def test_granger_finds_the_past_that_helps():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 2000))
    x[:, 1, 1:] += 0.8 * x[:, 0, :-1]
    S = effective.granger(effective.standardise(x)).mean(0)
    assert S[0, 1] > 20 * S[1, 0] and S[0, 1] > 20 * S[2, 1]


def test_granger_equals_two_regressions(bold):
    z = effective.standardise(bold[:1, :, :200])[0]
    y, X = z[:, 1:].T, np.c_[z[:, :-1].T, np.ones(199)]
    rss = lambda X: ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum(0)  # noqa: E731
    expected = np.stack([np.log(rss(np.delete(X, i, 1)) / rss(X)) for i in range(3)])
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(effective.granger(z), expected, atol=1e-10)


def test_partial_correlation_drops_the_indirect_link(bold):
    P = effective.group(bold)["partialcorr"]
    assert P[0, 2] < 0.1 < P[0, 1] and np.array_equal(P, P.T)


def test_pairwise_is_antisymmetric_and_follows_its_formula(bold):
    z = effective.standardise(bold)
    for kind in ("tanh", "skew"):
        R = effective.pairwise(z, kind)
        np.testing.assert_allclose(R, -np.swapaxes(R, 1, 2), atol=1e-12)
    c = np.corrcoef(z[0])[0, 1]
    value = c * (z[0, 0] * np.tanh(z[0, 1]) - np.tanh(z[0, 0]) * z[0, 1]).mean()
    assert effective.pairwise(z)[0, 0, 1] == pytest.approx(value)


def test_left_right_follows_its_formula(bold):
    z = effective.standardise(bold)[0]
    a, b = z[0] * np.sign(stats.skew(z[0])), z[1] * np.sign(stats.skew(z[1]))
    given = lambda m: (a * b)[m].mean() / np.sqrt((a**2)[m].mean() * (b**2)[m].mean())  # noqa: E731
    value = (given(a > 0) - given(b > 0)) * np.sign((a * b).mean())
    assert effective.left_right(z)[0, 1] == pytest.approx(value)


def test_patel_reads_soft_activation(bold):
    kappa, tau = effective.patel(effective.standardise(bold))
    assert (kappa >= 0).all() and (kappa <= 1 + 1e-9).all()
    np.testing.assert_allclose(tau, -np.swapaxes(tau, 1, 2), atol=1e-6)


def test_permuted_regions_give_permuted_scores_and_scale_is_ignored(bold):
    order = np.array([2, 0, 1])
    a, b = effective.group(bold), effective.group(bold[:, order] * 7 + 100)
    for name in a:
        np.testing.assert_allclose(a[name][np.ix_(order, order)], b[name], atol=1e-5)


def test_soft_and_hard_gates():
    P, R = np.array([[0, 1.0], [1.0, 0]]), np.array([[0, 2.0], [-2.0, 0]])
    assert effective.hard(P, R).tolist() == [[0, 1], [0, 0]]
    soft = effective.soft(P, R)
    assert soft[0, 1] == pytest.approx(1 / (1 + np.exp(-1))) and soft[0, 1] + soft[1, 0] == pytest.approx(1)


def test_one_person_alone_equals_the_same_person_in_a_batch(bold):
    many, one = effective.statistics(bold), effective.statistics(bold[3])
    for name in many:
        np.testing.assert_allclose(many[name][3], one[name], atol=1e-12)


def test_acyclicity_is_zero_without_cycles():
    assert effective.acyclicity(np.triu(np.ones((6, 6)), 1)) == pytest.approx(0, abs=1e-12)
    assert effective.acyclicity(np.ones((3, 3)) - np.eye(3)) > 0.1


def test_notears_is_acyclic(bold):
    W = effective.notears(bold)
    assert effective.acyclicity(W) < 1e-6 and W.max() > 0.2


def test_bad_series_give_one_clear_error(bold):
    cases = {"NaN": bold.copy(), "constant": bold.copy(), "one region": bold[:, :1], "frames": bold[..., :20]}
    cases["NaN"][1, 2, 5] = np.nan
    cases["constant"][0, 1] = 4.0
    for word, x in cases.items():
        with pytest.raises(BookError, match=word):
            effective.group(x)
    with pytest.raises(BookError, match="empty"):
        effective.group(bold[:0])
    with pytest.raises(BookError, match="tanh or skew"):
        effective.pairwise(effective.standardise(bold), "cube")


def test_people_of_unequal_length_are_one_clear_error():
    people = [np.random.default_rng(0).standard_normal((3, T)) for T in (100, 90)]
    with pytest.raises(BookError, match="differ"):
        effective.standardise(people)
