"""Scores of directed graphs on graphs made by hand, surrogates, and the board."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from helpers import graphs
from helpers.errors import BookError
from helpers.evaluate import Estimate

CHAIN = np.eye(4, k=1, dtype=int)  # 0 -> 1 -> 2 -> 3


def test_shd_of_a_reversed_edge_is_two_and_one():
    turned = CHAIN.copy()
    turned[0, 1], turned[1, 0] = 0, 1
    assert graphs.shd(turned, CHAIN) == (2, 1)
    assert graphs.shd(CHAIN, CHAIN) == (0, 0)
    assert graphs.shd(np.zeros((4, 4)), CHAIN) == (3, 3)


def test_the_undirected_truth_gets_two_thirds_free():
    m = graphs.metrics((CHAIN | CHAIN.T).astype(float), CHAIN)
    assert m["f1"] == pytest.approx(2 / 3) and m["direction"] == 0.5 and m["f1_oracle"] == 0.5
    assert m["auroc"] == pytest.approx(5 / 6)


def test_the_truth_is_perfect_and_its_transpose_is_not():
    m = graphs.metrics(CHAIN + 0.0, CHAIN)
    assert all(m[k] == 1 for k in ("auroc", "auprc", "direction", "f1_oracle", "f1")) and m["shd_2"] == 0
    m = graphs.metrics(CHAIN.T + 0.0, CHAIN)
    assert m["direction"] == 0 and m["f1"] == 0 and m["shd_2"] == 6 and m["shd_1"] == 3


def test_auroc_and_auprc_equal_sklearn_also_with_ties():
    rng = np.random.default_rng(0)
    truth = (rng.random((8, 8)) < 0.3).astype(int)
    np.fill_diagonal(truth, 0)
    off = ~np.eye(8, dtype=bool)
    for S in (rng.standard_normal((8, 8)), rng.integers(0, 4, (8, 8)).astype(float)):
        m = graphs.metrics(S, truth)
        assert m["auroc"] == pytest.approx(roc_auc_score(truth[off], S[off]))
        assert m["auprc"] == pytest.approx(average_precision_score(truth[off], S[off]))
        assert graphs.per_person(S[None], truth)[0][0] == pytest.approx(m["auroc"])


def test_ties_do_not_depend_on_position():
    S = np.ones((4, 4))
    orders = [np.random.default_rng(k).permutation(4) for k in range(3)]
    scores = [graphs.metrics(S, CHAIN[np.ix_(o, o)])["f1_oracle"] for o in orders]
    assert scores == pytest.approx([3 / 12] * 3)


def test_two_cycles_are_counted_apart():
    truth = CHAIN.copy()
    truth[1, 0] = 1
    m = graphs.metrics(truth + 0.0, truth)
    assert m["loops_found"] == 1 and m["direction"] == 1
    assert graphs.metrics(CHAIN + 0.0, truth)["loops_found"] == 0
    assert np.isnan(graphs.metrics(CHAIN + 0.0, CHAIN)["loops_found"])


def test_the_diagonal_is_ignored():
    S = CHAIN + 0.0
    assert graphs.metrics(S + 100 * np.eye(4), CHAIN) == pytest.approx(graphs.metrics(S, CHAIN), nan_ok=True)


def test_many_matrices_are_averaged():
    S = np.stack([CHAIN, CHAIN.T]) + 0.0
    assert graphs.metrics(S, CHAIN)["direction"] == 0.5


def test_f1_of_an_empty_graph_is_zero():
    assert graphs.f1(np.zeros((4, 4)), CHAIN) == 0 and graphs.f1(CHAIN, CHAIN) == 1


def test_two_means_parts_two_clusters():
    assert 0.2 < graphs.two_means(np.array([0, 0.1, 0.2, 0.9, 1.0])) < 0.9
    assert graphs.two_means(np.full(5, 3.0)) == 3


@pytest.mark.parametrize("truth", [np.zeros((4, 4)), np.ones((4, 4)), 2 * CHAIN])
def test_a_useless_truth_is_refused(truth):
    with pytest.raises(BookError, match="truth"):
        graphs.metrics(CHAIN + 0.0, truth)


def test_scores_that_do_not_fit_or_hold_nan_are_refused():
    with pytest.raises(BookError, match="do not fit"):
        graphs.metrics(np.zeros((3, 3)), CHAIN)
    with pytest.raises(BookError, match="NaN"):
        graphs.metrics(np.full((4, 4), np.nan), CHAIN)


def test_shifting_keeps_each_series_and_destroys_relations():
    x = np.repeat(np.random.default_rng(0).standard_normal((20, 1, 200)), 4, 1)
    y = graphs.shifted(x)
    np.testing.assert_allclose(np.sort(y, -1), np.sort(x, -1))
    c = np.stack([np.corrcoef(s) for s in y])[:, ~np.eye(4, dtype=bool)]
    assert np.abs(c).mean() < 0.15
    assert np.array_equal(y, graphs.shifted(x)) and not np.array_equal(y, graphs.shifted(x, 1))


@pytest.mark.parametrize("T", [200, 201])
def test_phase_randomising_keeps_correlations_and_makes_gaussian(T):
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(30, 3, T))
    x[:, 1] += x[:, 0]
    y = graphs.phase_randomised(x)
    a, b = (np.stack([np.corrcoef(s) for s in z]) for z in (x, y))
    np.testing.assert_allclose(a, b, atol=1e-8)
    skew = lambda z: (((z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True)) ** 3).mean()  # noqa: E731
    assert skew(x) > 1 and abs(skew(y)) < 0.1


def test_the_board_keeps_kinds_apart_and_compares_people():
    rng = np.random.default_rng(0)
    loop = CHAIN.copy()
    loop[1, 0] = 1
    board = graphs.Board({"a": CHAIN, "b": loop}, n_draws=20)
    for name, truth in board.truths.items():
        noise = rng.standard_normal((2, 12, 4, 4))
        board.classical(name, rng.gamma(1, size=(12, 4, 100)))
        board.add("good", name, person=truth + 0.2 * noise)
        board.add("poor", name, person=noise)
        board.add("fixed", name, group=truth + 0.0)
    assert board.sets(False) == ["a"] and board.sets(True) == ["b"]
    e, p, sentence = board.compare("good", "poor", False)
    assert e.lo > 0 and p < 0.01 and "better than" in sentence
    back = board.compare("poor", "good", False)[0]
    assert back.value == pytest.approx(-e.value) and back.hi < 0
    record = board.record(["good", "fixed", "softpwling"])
    assert isinstance(record["good_subject_auroc"], Estimate) and record["fixed_auroc"] == 1.0
    expected = {"good_feedback_auroc", "good_direction", "good_f1_oracle", "softpwling_subject_direction"}
    assert expected <= set(record)
    columns = {f"{where}, {level}" for where in ("no loops", "loops") for level in ("group", "person")}
    assert set(board.evidence(["good"])["good"]) == columns
    each = board.per_set(["good", "poor"])
    assert list(each.index) == ["a", "b"]
    auc = [graphs.metrics(S, CHAIN)["auroc"] for S in board.person["poor"]["a"]]
    assert each.loc["a", ("poor", "AUROC, person")] == pytest.approx(np.mean(auc))
    board.by_seed = ("poor",)
    e = board.estimate("poor", False, "person")
    assert (e.value, e.lo, e.hi) == pytest.approx((np.mean(auc), min(auc), max(auc)))
    assert board.scorecard(["poor"], ["auprc"], people=True).shape == (1, 4)
    table = board.scorecard(["good", "fixed"], ["auroc", "f1"])
    assert table.loc["fixed", ("no loops", "auroc")] == 1 and table.shape == (2, 4)
    with pytest.raises(BookError, match="neither"):
        board.add("none", "a")


def test_agreement_of_a_constant_map_is_zero():
    assert graphs.agreement(np.ones((4, 4)), CHAIN) == 0
    assert graphs.agreement(CHAIN + 5 * np.eye(4), CHAIN) == pytest.approx(1)
