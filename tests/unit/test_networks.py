"""Networks with a known truth: orientation, order of the regions, and what is said when a file is bad."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from helpers.data import networks, registry
from helpers.data.cohort import Provenance
from helpers.data.networks import NetworkSet
from helpers.errors import BookError, MissingData

HERE = Provenance(name="made by hand", source="test", licence="none", citation="none")


def example(S=3, R=4, T=40, **other) -> NetworkSet:
    truth = np.zeros((R, R), dtype=int)
    truth[0, 1] = truth[1, 2] = truth[2, 1] = 1
    bold = np.random.default_rng(0).normal(size=(S, R, T))
    return NetworkSet.validate(
        **{**dict(bold=bold, truth=truth, tr=2.0, name="example", provenance=HERE), **other}
    )


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A data folder with one NetSim set and one feedback network, and the checksums that go with them."""
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    monkeypatch.setattr(registry.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    truth = np.zeros((5, 5))
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4)):
        truth[i, j] = 1
    x = np.random.default_rng(0).normal(size=(4, 5, 60, 1))
    (tmp_path / "netsim").mkdir()
    np.save(tmp_path / "netsim" / "fmri_sim1.npy", x)
    np.savetxt(tmp_path / "netsim" / "fmri_sim1_struct.csv", truth.T[~np.eye(5, dtype=bool)])
    series = tmp_path / "feedbacks" / "data" / "Network1_amp"
    graph = tmp_path / "feedbacks" / "ground.truth" / "Network1_amp"
    series.mkdir(parents=True)
    graph.mkdir(parents=True)
    for s in (1, 2):
        table = pd.DataFrame(np.random.default_rng(s).normal(size=(50, 3)), columns=["X1", "X2", "X3"])
        table.to_csv(series / f"sim-0{s}.Network1_amp.continuous.txt", sep="\t", index=False)
    edges = "Graph Nodes:\nX1,X2,X3\n\nGraph Edges:\n1. X1 --> X2\n2. X2 --> X1\n3. X3 --> X2\n"
    (graph / "Network1_amp.ground.truth.graph.txt").write_text(edges)

    def remember():
        found = {
            str(p.relative_to(tmp_path)): hashlib.sha256(p.read_bytes()).hexdigest()
            for folder in ("netsim", "feedbacks")
            for p in sorted((tmp_path / folder).rglob("*"))
            if p.is_file()
        }
        table = pd.DataFrame({"sha256": found})
        monkeypatch.setattr(networks, "_table", lambda: table)

    remember()
    return tmp_path, remember


# -- orientation and order -----------------------------------------------------------------------------


def test_netsim_file_is_the_transposed_truth(upstream):
    found = networks.netsim(1, permute=None)
    assert [tuple(e) for e in np.argwhere(found.truth)] == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]
    assert found.bold.shape == (4, 5, 60) and found.bold.dtype == np.float32


def test_arrows_of_the_feedback_file(upstream):
    found = networks.feedback(1, permute=None)
    assert [tuple(e) for e in np.argwhere(found.truth)] == [(0, 1), (1, 0), (2, 1)]
    assert found.n_edges == 3 and found.two_cycles == 1 and len(found) == 2 and found.tr == 1.2


def test_regions_are_permuted_the_same_way_every_time(upstream):
    first, again, file = networks.netsim(1), networks.netsim(1), networks.netsim(1, permute=None)
    assert first.hash == again.hash != file.hash
    assert not np.array_equal(first.order, np.arange(5))
    np.testing.assert_array_equal(first.bold, file.bold[:, first.order])
    for i, j in np.argwhere(first.truth):
        assert file.truth[first.order[i], first.order[j]] == 1
    assert networks.netsim(1, permute=7).hash != first.hash
    assert first.in_file_order().hash == file.hash
    assert first.permuted(3).in_file_order().hash == file.hash


def test_select_and_weights_follow_the_regions():
    weights = np.arange(3 * 16.0).reshape(3, 4, 4)
    data = example(subject_truth=weights)
    turned = data.reordered([3, 1, 0, 2])
    assert turned.subject_truth[1, 0, 2] == weights[1, 3, 0]
    assert turned.select([2, 0]).bold.shape == (2, 4, 40)
    np.testing.assert_array_equal(turned.select([2, 0]).subject_truth[0], turned.subject_truth[2])


def test_tables_of_what_exists():
    sets = networks.netsim_sets()
    assert len(sets) == 28 and sets["here"].sum() == 16 and sets.loc[4, "edges"] == 61
    assert networks.feedback_sets()["here"].sum() == 6
    files = networks._table().index
    assert all(
        f"netsim/fmri_sim{k}{end}" in files for k in networks.NETSIM_HERE for end in (".npy", "_struct.csv")
    )
    assert not any("sim-25.Network6" in name for name in files)


# -- bad data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bold, message",
    [
        (np.ones((2, 4, 0)), "empty"),
        ([np.zeros((4, 40)), np.zeros((4, 41))], "40 to 41 frames"),
        ([np.zeros((4, 40)), np.zeros((5, 40))], "shapes"),
        (np.zeros((2, 1, 40)), "one region"),
        (np.zeros((2, 4, 20)), "20 frames"),
        (np.full((2, 4, 40), np.nan), "NaN"),
        (np.zeros((2, 4, 40)), "constant"),
        (np.zeros((2, 4, 40), dtype="U1"), "real numbers"),
        ([], "real numbers|empty"),
    ],
)
def test_bad_series(bold, message):
    with pytest.raises(BookError, match=message) as error:
        example(bold=bold)
    assert "example" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(truth=np.eye(4)), "diagonal"),
        (dict(truth=np.full((4, 4), 0.5)), "0 and 1"),
        (dict(truth=np.zeros((3, 3))), "4 x 4"),
        (dict(tr=0), "tr"),
        (dict(tr="2"), "tr"),
        (dict(subject_truth=np.zeros((2, 4, 4))), "subject_truth"),
    ],
)
def test_bad_truth(change, message):
    with pytest.raises(BookError, match=message):
        example(**change)


@pytest.mark.parametrize("index", [[], [5], [[0]]])
def test_bad_select(index):
    with pytest.raises(BookError, match="select"):
        example().select(index)


def test_bad_order():
    with pytest.raises(BookError, match="order"):
        example().reordered([0, 0, 1, 2])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        ("X1\tX2\n1\t2\n3", "truncated"),
        ("X1\tX2\n1\t2\n3\tzz", "truncated"),
        ("1\t2\n3\t4", "columns"),
    ],
)
def test_bad_series_file(upstream, text, message):
    folder, remember = upstream
    path = folder / "feedbacks" / "data" / "Network1_amp" / "sim-02.Network1_amp.continuous.txt"
    path.write_text(text)
    remember()
    with pytest.raises(BookError, match=message) as error:
        networks.feedback(1)
    assert path.name in str(error.value)


def test_bad_graph_file(upstream):
    folder, remember = upstream
    path = folder / "feedbacks" / "ground.truth" / "Network1_amp" / "Network1_amp.ground.truth.graph.txt"
    for text, message in (("Graph Edges:\n", "no edge"), ("1. X1 --> X9\n", "X9")):
        path.write_text(text)
        remember()
        with pytest.raises(BookError, match=message):
            networks.feedback(1)


def test_truncated_npy_and_wrong_csv(upstream):
    folder, remember = upstream
    npy, csv = folder / "netsim" / "fmri_sim1.npy", folder / "netsim" / "fmri_sim1_struct.csv"
    whole = npy.read_bytes()
    npy.write_bytes(whole[:-100])
    remember()
    with pytest.raises(BookError, match="truncated"):
        networks.netsim(1)
    npy.write_bytes(whole)
    csv.write_text("1\n0\n")
    remember()
    with pytest.raises(BookError, match="2 numbers"):
        networks.netsim(1)


def test_wrong_checksum_is_never_used(upstream):
    folder, _ = upstream
    path = folder / "netsim" / "fmri_sim1.npy"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BookError, match="checksum") as error:
        networks.netsim(1)
    assert "fmri_sim1.npy" in str(error.value) and not path.exists()


def test_no_network_and_nothing_cached(tmp_path, monkeypatch):
    class Offline:
        def __init__(self, **kw):
            pass

        def __call__(self, *a):
            raise ConnectionError("no network in this test")

    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    monkeypatch.setattr(registry.pooch, "HTTPDownloader", Offline)
    for load, name in (
        (lambda: networks.netsim(2), "fmri_sim2.npy"),
        (lambda: networks.feedback(6), "Network6"),
    ):
        with pytest.raises(MissingData) as error:
            load()
        message = str(error.value)
        assert name in message and "githubusercontent" in message and "embedded" in message
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("k", [0, 29, "1", 1.0, True, None])
def test_no_such_netsim(k):
    with pytest.raises(BookError, match="there is no NetSim"):
        networks.netsim(k)


def test_a_set_without_known_checksum():
    with pytest.raises(BookError, match="no checksum"):
        networks.netsim(6)
    with pytest.raises(BookError, match="no checksum"):
        networks.feedback(7)
