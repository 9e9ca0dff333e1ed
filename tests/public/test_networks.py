"""NetSim and the feedback networks themselves: orientation three ways, sizes, and our calibration."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.data import networks
from helpers.paths import data_root
from helpers.simulate import networks as simulate

# Edges as the copy in TCDF (Nauta et al. 2019) has them, an independent conversion of the original files.
TCDF = {
    3: "0>1 0>4 1>2 2>3 2>7 2>12 3>4 5>6 5>9 6>7 7>8 7>12 8>9 10>11 10>14 11>12 12>13 13>14",
    14: "0>1 1>2 2>3 3>4 4>0",
}

pytestmark = [
    pytest.mark.public,
    pytest.mark.skipif(
        not all((data_root() / name).is_file() for name in networks._table().index),
        reason="NetSim and the feedback networks are not cached under BOOK_DATA",
    ),
]


def edges(text: str) -> set[tuple[int, ...]]:
    return {tuple(map(int, edge.split(">"))) for edge in text.split()}


@pytest.mark.parametrize("k", networks.NETSIM_HERE)
def test_every_netsim_set(k):
    data, listed = networks.netsim(k), networks.netsim_sets().loc[k]
    assert (data.n_regions, data.n_frames, data.n_edges) == (listed.regions, listed.frames, listed.edges)
    assert len(data) == 50 and data.tr == 3.0
    file = data.in_file_order()
    if k != 14:
        assert not np.tril(file.truth).any()  # the index leak
    if k > 1:
        assert np.tril(data.truth).any()


@pytest.mark.parametrize("n", networks.FEEDBACK_HERE)
def test_every_feedback_network(n):
    data, listed = networks.feedback(n), networks.feedback_sets().loc[n]
    assert (data.n_edges, data.two_cycles) == (listed.edges, listed.two_cycles)
    assert data.n_frames == 500 and len(data) == (59 if n == 6 else 60)


def test_orientation_first_way_the_file():
    assert networks.netsim(1, permute=None).truth[0, 1] == 1


@pytest.mark.parametrize("k", TCDF)
def test_orientation_second_way_an_independent_copy(k):
    found = {tuple(e) for e in np.argwhere(networks.netsim(k, permute=None).truth).tolist()}
    assert found == edges(TCDF[k])


@pytest.mark.parametrize("k", [1, 2, 5, 14])
def test_orientation_third_way_the_data(k):
    """Pairwise LiNGAM knows nothing of the file and agrees with it, and with our simulator."""
    for data in (networks.netsim(k), simulate.network(5, 50, seed=1)):
        x = data.bold - data.bold.mean(axis=-1, keepdims=True)
        x = x / x.std(axis=-1, keepdims=True)
        t = np.tanh(x)
        moved = x @ t.swapaxes(1, 2)
        score = (x @ x.swapaxes(1, 2) * (moved - moved.swapaxes(1, 2))).mean(axis=0)
        assert (score[data.truth == 1] > 0).mean() > 0.85


def test_our_simulator_looks_like_netsim():
    table = simulate.calibration()
    print("\n" + table.to_string())
    bounds = {"edges a region": 0.15, "lag 1": 0.06, "lag 2": 0.06, "skewness": 0.15, "kurtosis": 0.35,
              "r linked": 0.07, "partial r linked": 0.06, "r not linked": 0.06}  # fmt: skip
    for k, R in ((1, 5), (2, 10), (3, 15)):
        gap = (table.loc[f"NetSim {k}"] - table.loc[f"ours, {R} regions"]).abs()
        assert (gap <= pd_series(bounds, gap)).all(), gap


def pd_series(bounds, like):
    return like.index.map(bounds).to_numpy()
