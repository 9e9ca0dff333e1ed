"""The network simulator: same seed, same data; the truth drives the signal; statistics like NetSim's."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import pytest

from helpers.data import networks
from helpers.errors import BookError
from helpers.simulate import networks as simulate


@lru_cache(maxsize=8)
def network(n_regions=5, n_subjects=50, **settings):
    return simulate.network(n_regions, n_subjects, **settings)


def tanh_direction(data) -> np.ndarray:
    """Mean over people of pairwise LiNGAM's statistic, (R, R): above 0 where i should drive j."""
    x = data.bold - data.bold.mean(axis=-1, keepdims=True)
    x = x / x.std(axis=-1, keepdims=True)
    T, t = data.n_frames, np.tanh(x)
    moved = x @ t.swapaxes(1, 2) / T
    return (x @ x.swapaxes(1, 2) / T * (moved - moved.swapaxes(1, 2))).mean(axis=0)


def one_way(truth: np.ndarray) -> np.ndarray:
    return (truth == 1) & (truth.T == 0)


def test_same_seed_same_data():
    a, b = simulate.network(5, 3, seed=4), simulate.network(5, 3, seed=4)
    assert a.hash == b.hash != simulate.network(5, 3, seed=5).hash
    one, two = (next(simulate.random_graphs(8, seed=3)) for _ in range(2))
    np.testing.assert_array_equal(one.bold, two.bold)


def test_statistics_are_near_those_of_netsim():
    """Bounds around NetSim 1, where the files themselves are not needed."""
    found = networks.statistics(network())
    for name, low, high in (
        ("lag 1", 0.28, 0.40),
        ("lag 2", -0.16, -0.02),
        ("skewness", -0.1, 0.25),
        ("kurtosis", -0.45, 0.25),
        ("r linked", 0.25, 0.42),
        ("r not linked", 0.07, 0.20),
        ("edges a region", 1.0, 1.0),
    ):
        assert low <= found[name] <= high, (name, found[name])


def test_direction_is_in_the_data_and_can_be_reversed():
    """Orientation, without any file: weights act from row to column."""
    data = network()
    assert (tanh_direction(data)[one_way(data.truth)] > 0).mean() >= 0.8
    turned = network(**simulate.REVERSED)
    assert (tanh_direction(turned)[one_way(turned.truth)] > 0).mean() <= 0.2


def test_a_cause_moves_its_effect_and_not_the_other_way():
    """Switch the input of one region off: only regions it reaches change (no noise)."""
    truth = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    weights = truth[None] * np.float32(0.5)
    advance = simulate._linear(weights, 0.1)
    z = np.zeros((1, 3), dtype=np.float32)
    for _ in range(200):
        z = advance(z, np.array([[0.0, 1.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(z, [[0.0, 1.0, 0.5]], atol=1e-4)


def test_linear_step_agrees_with_small_steps():
    rng = np.random.default_rng(0)
    weights = simulate._stable(rng.normal(0.3, 0.1, (2, 4, 4)) * (1 - np.eye(4)))
    exact = simulate._linear(weights, 0.1)
    u, z, small = (rng.normal(size=(2, 4)).astype(np.float32) for _ in range(3))
    small = z.copy().astype(float)
    for _ in range(2000):
        small += 0.1 / 2000 / 0.05 * (np.einsum("bij,bi->bj", weights, small) - small + u)
    np.testing.assert_allclose(exact(z, u), small, atol=2e-3)


def test_balloon_rests_at_rest_and_answers_once():
    state, y = simulate._rest(1, 1), []
    for t in range(400):
        drive = np.full((1, 1), 1.0 if t < 10 else 0.0, dtype=np.float32)
        y.append(float(simulate._balloon(state, drive, 0.1)[0, 0]))
    assert abs(y[0]) < 0.02 and 25 <= int(np.argmax(y)) <= 70 and min(y[60:200]) < 0 and abs(y[-1]) < 0.05


def test_ring_graph():
    assert [int(simulate.ring_graph(R).sum()) for R in (5, 10, 15)] == [5, 11, 18]
    looped = simulate.ring_graph(5, loops=2)
    assert looped.sum() == 7 and (looped * looped.T).sum() == 4


def test_given_truth_is_kept():
    truth = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    data = simulate.network(n_subjects=2, truth=truth)
    np.testing.assert_array_equal(data.in_file_order().truth, truth)
    assert (data.subject_truth[:, data.truth == 0] == 0).all()
    assert (data.subject_truth[:, data.truth == 1] > 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        dict(modulation=0.8),
        dict(haemodynamics="gamma"),
        dict(shared=0.5, mixing=0.3, negative=0.5, spread=0.4),
        dict(high_pass=0.0, noise=0.0),
        dict(tr=0.25, n_frames=400),
        dict(loops=3),
    ],
)
def test_every_knob_gives_finite_series(settings):
    data = simulate.network(5, 3, **settings)
    assert np.isfinite(data.bold).all() and data.bold.std(axis=-1).min() > 0


def test_two_groups_differ_in_two_edges_only():
    data, group = simulate.two_groups(40, seed=2)
    weights, edges = data.subject_truth, data.truth == 1
    gap = weights[group == "control"].mean(0) - weights[group == "patient"].mean(0)
    assert (gap[edges] > 0.12).sum() == 2
    assert sorted(set(group)) == ["control", "patient"] and len(data) == len(group) == 40
    for bad in (dict(changed=0), dict(effect=2.0), dict(n_subjects=1)):
        with pytest.raises(BookError):
            simulate.two_groups(**bad)


def test_random_graphs():
    batches = list(simulate.random_graphs(150, seed=1, batch=50))
    assert sum(len(b) for b in batches) == 150 and len({b.truth.shape[1] for b in batches}) > 1
    truth = [g for b in batches for g in b.truth]
    assert all(np.diag(g).sum() == 0 for g in truth) and any((g * g.T).any() for g in truth)
    assert all(np.isfinite(b.bold).all() and b.bold.shape[1] == b.truth.shape[1] for b in batches)
    upper = np.mean([np.triu(g).sum() / max(g.sum(), 1) for g in truth])
    assert 0.4 < upper < 0.6  # the number of a region gives nothing away


def test_speed():
    start = time.process_time()
    simulate.network(5, 50, seed=9)
    assert time.process_time() - start < 4.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(n_regions=1), "n_regions"),
        (dict(n_subjects=0), "n_subjects"),
        (dict(n_frames=10), "n_frames"),
        (dict(tr=0), "tr"),
        (dict(loops=9), "loops"),
        (dict(seed=-1), "seed"),
        (dict(truth=np.eye(3)), "diagonal"),
        (dict(truth=np.zeros(3)), "shape"),
        (dict(haemodynamics="balon"), "balloon or gamma"),
        (dict(noise=-1.0), "noise"),
        (dict(noise="1"), "noise"),
        (dict(up=0), "up"),
        (dict(negative=2.0), "negative"),
        (dict(nose=1.0), "unknown simulation setting nose"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(BookError, match=message):
        simulate.network(**arguments)


def test_bad_random_graphs():
    for arguments in (dict(n_graphs=0), dict(n_graphs=1, n_regions=(5, 4))):
        with pytest.raises(BookError):
            next(simulate.random_graphs(**arguments))
