"""The EEGLAB recording: what is read, and what is said when it cannot be."""

import shutil

import numpy as np
import pytest

from helpers.data import eeglab, registry
from helpers.errors import BookError, MissingData
from helpers.paths import data_root


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty data cache and no network."""
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))

    class Offline:
        def __init__(self, **kw):
            pass

        def __call__(self, *a):
            raise ConnectionError("no network in this test")

    monkeypatch.setattr(registry.pooch, "HTTPDownloader", Offline)
    return tmp_path


def cached() -> bool:
    return all((data_root() / "eeglab" / name).is_file() for name in eeglab.SHA256)


@pytest.mark.public
@pytest.mark.skipif(not cached(), reason="the recording is not cached under BOOK_DATA")
def test_the_recording():
    raw = eeglab.load()
    assert raw.info["sfreq"] == 128.0 and raw.n_times == 30504
    assert len(raw.copy().pick("eeg").ch_names) == 30 and len(raw.copy().pick("eog").ch_names) == 2
    assert set(raw.annotations.description) == {"square", "rt"}
    eeg = raw.get_data("eeg")
    assert 1e-6 < np.median(eeg.std(axis=1)) < 1e-4  # volts
    np.testing.assert_allclose(eeg.mean(axis=0), 0.0, atol=1e-10)
    assert raw.get_montage() is not None


@pytest.mark.public
@pytest.mark.skipif(not cached(), reason="the recording is not cached under BOOK_DATA")
def test_a_damaged_file_is_named_and_not_used(tmp_path, monkeypatch):
    shutil.copytree(data_root() / "eeglab", tmp_path / "eeglab")
    for file in (tmp_path / "eeglab").iterdir():
        file.chmod(0o644)
    with (tmp_path / "eeglab" / "eeglab_data.fdt").open("r+b") as handle:
        handle.write(b"\0\0\0\0")
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    with pytest.raises(BookError, match="damaged") as error:
        eeglab.load()
    assert "eeglab_data.fdt" in str(error.value)


def test_offline_and_nothing_cached(empty_cache):
    with pytest.raises(MissingData) as error:
        eeglab.load()
    message = str(error.value)
    assert "\n" not in message
    for part in ("eeglab_data.set", eeglab.URL, str(empty_cache), "embedded"):
        assert part in message
    assert not [file for file in empty_cache.rglob("*") if file.is_file()]


def test_provenance_names_its_files():
    assert set(eeglab.provenance.sha256) == {"eeglab_data.set", "eeglab_data.fdt"}
    assert eeglab.COMMIT in eeglab.provenance.source
