"""Simultaneous EEG-fMRI connectomes: what is read, and what is said when it cannot be."""

import shutil

import numpy as np
import pytest
from scipy.io import savemat

from helpers.data import eeg_fmri_tle as tle
from helpers.data import registry
from helpers.errors import BookError, MissingData
from helpers.paths import data_root


def cached() -> bool:
    return all((data_root() / "eeg_fmri_tle" / name).is_file() for name in tle.SHA256)


needs_data = pytest.mark.skipif(not cached(), reason="the connectomes are not cached under BOOK_DATA")


@pytest.fixture(scope="module")
def people():
    return tle.load()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A writable copy of the files, whose hashes are not checked."""
    shutil.copytree(data_root() / "eeg_fmri_tle", tmp_path / "eeg_fmri_tle")
    for file in (tmp_path / "eeg_fmri_tle").iterdir():
        file.chmod(0o644)
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    monkeypatch.setattr(registry, "verify", lambda files: None)
    return tmp_path / "eeg_fmri_tle"


@pytest.mark.public
@needs_data
def test_the_people(people):
    table = people.participants
    assert len(people) == 69 and people.labels.sum() == 34
    assert table["diagnosis"].value_counts().to_dict() == {"control": 35, "right TLE": 18, "left TLE": 16}
    assert table["site"].value_counts().to_dict() == {"256-channel": 44, "64-channel": 25}
    assert table["participant_id"].is_unique and table["age"].between(18, 65).all()
    assert set(table["sex"]) == {"F", "M"} and not table.isna().any().any()
    assert people.summary()["subjects"].sum() == 69 and "69 subjects" in repr(people)


@pytest.mark.public
@needs_data
def test_the_connectomes(people):
    assert people.fmri.shape == (69, 68, 68) and people.eeg.shape == (69, 5, 68, 68)
    for x in (people.fmri, people.eeg):
        np.testing.assert_array_equal(x, np.swapaxes(x, -1, -2))
        assert (x[..., np.arange(68), np.arange(68)] == 0).all() and np.isfinite(x).all()
    assert people.eeg.min() == 0 and people.eeg.max() < 1


@pytest.mark.public
@needs_data
def test_the_order_of_edges_fits_the_coordinates(people):
    """Coupling falls with distance and mirrored regions couple strongly; in column order neither holds."""
    mean, upper = people.fmri.mean(axis=0), np.triu_indices(68, 1)
    distance = np.linalg.norm(people.atlas.coords[:, None] - people.atlas.coords[None], axis=-1)
    assert np.corrcoef(mean[upper], distance[upper])[0, 1] < -0.3
    left = np.arange(34)
    assert mean[left, left + 34].mean() > mean[upper].mean() + 0.3


@pytest.mark.public
@needs_data
def test_the_atlas(people):
    coords, networks = people.atlas.coords, people.atlas.networks
    assert people.atlas.n_regions == 68 and (coords[:34, 0] < 0).all() and (coords[34:, 0] > 0).all()
    back = coords[np.flatnonzero(networks == "Vis"), 1]
    assert back.mean() < coords[:, 1].mean() - 30
    at = people.atlas.labels.tolist().index
    assert networks[at("RH_precentral")] == "SomMot" and networks[at("LH_cuneus")] == "Vis"


@pytest.mark.public
@needs_data
def test_select_and_hash(people):
    few = people.select(people.systems == "64-channel")
    assert len(few) == 25 and set(few.systems) == {"64-channel"} and few.hash != people.hash
    assert tle.load().hash == people.hash
    with pytest.raises(BookError, match="distinct"):
        people.select([1, 1])


@pytest.mark.public
@needs_data
def test_abide_regions_are_averaged_into_desikan():
    weights = tle.desikan_from_cc200()
    assert weights.shape == (68, 200)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert ((weights > 0).sum(axis=0) > 0).sum() > 150


@pytest.mark.public
@needs_data
def test_a_person_without_an_entry_in_the_table_is_named(copy):
    table = copy / tle._names("64Ch3T", "rtle")[1]
    table.write_text(table.read_text().replace("sub-marsp08", "sub-other"))
    with pytest.raises(BookError, match="unpaired: sub-marsp08, sub-other"):
        tle.load()


@pytest.mark.public
@needs_data
def test_a_file_of_another_layout_is_named(copy):
    name = tle._names("256Ch3T", "ltle")[0]
    savemat(copy / name, {"subj": [{"name": "sub-1"}]})
    with pytest.raises(BookError, match=r"another layout") as error:
        tle.load()
    assert name in str(error.value)
    (copy / name).write_bytes(b"not a MATLAB file at all" * 10)
    with pytest.raises(BookError, match="cannot be read"):
        tle.load()


@pytest.mark.public
@needs_data
def test_a_damaged_file_is_named_and_not_used(tmp_path, monkeypatch):
    shutil.copytree(data_root() / "eeg_fmri_tle", tmp_path / "eeg_fmri_tle")
    file = tmp_path / "eeg_fmri_tle" / tle.COORDS
    file.chmod(0o644)
    file.write_text("1 2 3\n")
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    with pytest.raises(BookError, match="damaged"):
        tle.load()


def test_offline_and_nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))

    class Offline:
        def __init__(self, **kw):
            pass

        def __call__(self, *a):
            raise ConnectionError("no network in this test")

    monkeypatch.setattr(registry.pooch, "HTTPDownloader", Offline)
    with pytest.raises(MissingData) as error:
        tle.load()
    message = str(error.value)
    for part in (tle.URL, str(tmp_path), "embedded"):
        assert part in message
    assert "\n" not in message and not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_edges_of_another_atlas_are_refused():
    full = tle.matrix(np.arange(3.0), 3)
    np.testing.assert_array_equal(full, [[0, 0, 1], [0, 0, 2], [1, 2, 0]])
    with pytest.raises(BookError, match="3 edges are not those of 68 regions"):
        tle.matrix(np.arange(3.0))
