"""The loader of eyes open and closed EEG, against a small mirror on this computer written by the test."""

import functools
import hashlib
import http.server
import threading

import numpy as np
import pytest

from helpers.data import eegbci, registry, schaefer
from helpers.errors import BookError, MissingData
from helpers.simulate import eeg


def edf(x: np.ndarray, names: list[str], sfreq: int) -> bytes:
    """An EDF file of x (C, N) in microvolts: one record a second, 16-bit samples. See edfplus.info."""
    C, N = x.shape
    low, high = -1000.0, 1000.0
    head = f"{'0':8}{'X':80}{'X':80}01.01.0101.01.01{256 * (C + 1):<8}{'':44}{N // sfreq:<8}{1:<8}{C:<4}"
    fields = [
        [f"{n:16}" for n in names],
        [f"{'':80}"] * C,
        [f"{'uV':8}"] * C,
        [f"{low:<8g}"] * C,
        [f"{high:<8g}"] * C,
        [f"{-32768:<8}"] * C,
        [f"{32767:<8}"] * C,
        [f"{'':80}"] * C,
        [f"{sfreq:<8}"] * C,
        [f"{'':32}"] * C,
    ]
    header = (head + "".join("".join(f) for f in fields)).encode("ascii")
    digital = np.round((x - low) / (high - low) * 65535 - 32768).astype("<i2")
    records = digital.reshape(C, N // sfreq, sfreq).transpose(1, 0, 2)
    return header + records.tobytes()


@pytest.fixture(scope="module")
def signals():
    """Sixteen seconds of simulated EEG, eyes open and closed, (2, 64, N) microvolts at 160 Hz."""
    raw = eeg.recording(schaefer(100).coords, seconds=16.0, blocks=("eyes open", "eyes closed"), sfreq=160.0)
    x = raw.get_data() * 1e6
    return np.stack([x[:, :2560], x[:, 2560:]])


@pytest.fixture
def mirror(tmp_path, monkeypatch, signals):
    """A web server with two people; the data cache is empty and the checksums are those of the mirror."""
    pages = tmp_path / "web"
    names = [f"{name}." if len(name) > 2 else f"{name}.." for name in eeg.CHANNELS]  # as in the real files
    sums = {}
    for subject in (1, 2):
        for run in (1, 2):
            file = pages / eegbci.name(subject, run)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(edf(signals[run - 1] * subject, names, 160))
            sums[eegbci.name(subject, run)] = hashlib.sha256(file.read_bytes()).hexdigest()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(pages)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(eegbci, "URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(eegbci, "checksums", lambda: sums)
    monkeypatch.setattr(registry, "_memory", lambda root: tmp_path / "verified.json")
    yield pages
    server.shutdown()
    server.server_close()


def test_load_from_the_mirror_then_from_the_disk(mirror, signals, capsys):
    people = eegbci.load([1, 2])
    assert people.ids == ("S001", "S002") and len(people) == 2
    assert capsys.readouterr().out.count("downloading") == 4
    for s in (0, 1):
        for run in (0, 1):
            raw = people.raws[s][run]
            assert raw.ch_names == list(eeg.CHANNELS) and raw.info["sfreq"] == 160
            np.testing.assert_allclose(raw.get_data() * 1e6, signals[run] * (s + 1), atol=0.05)
    assert list(people.raws[0][1].annotations.description) == ["eyes closed"]
    for file in mirror.rglob("*.edf"):
        file.unlink()
    assert eegbci.load([1, 2]).hash == people.hash
    assert capsys.readouterr().out == ""


def test_the_runs_go_through_the_preprocessing(mirror):
    opened, closed = eegbci.load([1]).parcels(schaefer(100).coords, reject=None)[0]
    assert opened.signal.shape[0] == 100 and opened.sfreq == 250
    back = np.argsort(schaefer(100).coords[:, 1])[:20]

    def alpha(x):
        power = np.abs(np.fft.rfft(x)) ** 2
        f = np.fft.rfftfreq(x.shape[1], 1 / 250)
        return np.log(power[:, (f >= 8) & (f < 13)].mean(axis=1))

    assert (alpha(closed.signal[back]) - alpha(opened.signal[back])).mean() > 0.5


def test_a_damaged_download_is_refused(mirror):
    file = mirror / eegbci.name(1, 2)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BookError, match="another checksum"):
        eegbci.load([1])


def test_a_file_that_the_mirror_lacks(mirror):
    (mirror / eegbci.name(2, 1)).unlink()
    with pytest.raises(MissingData, match="404"):
        eegbci.load([1, 2])


def spoil(mirror, content):
    """Put ``content`` in the place of the first file, with a checksum that fits."""
    file = mirror / eegbci.name(1, 1)
    file.write_bytes(content)
    eegbci.checksums()[eegbci.name(1, 1)] = hashlib.sha256(content).hexdigest()


def test_wrong_sampling_rate(mirror, signals):
    x = signals[0]
    spoil(mirror, edf(x, [f"{n}." for n in eeg.CHANNELS], 128))
    with pytest.raises(BookError, match=r"wrong sampling rate: S001R01.edf has 128 Hz"):
        eegbci.load([1])


def test_unknown_channel(mirror, signals):
    spoil(mirror, edf(signals[0], ["Q7", *eeg.CHANNELS[1:]], 160))
    with pytest.raises(BookError, match="unknown channels Q7"):
        eegbci.load([1])


def test_not_an_edf_file(mirror):
    spoil(mirror, b"<html>sign in</html>" * 100)
    with pytest.raises(BookError, match="cannot be read as EDF"):
        eegbci.load([1])


@pytest.mark.parametrize("subjects", [[], [0], [110], [1, 1], [True], ["S001"]])
def test_subjects_that_do_not_exist(subjects):
    with pytest.raises(BookError, match="distinct numbers from 1 to 109"):
        eegbci.load(subjects)


def test_people_of_another_rate_are_refused_before_any_download():
    with pytest.raises(BookError, match="wrong sampling rate: subjects 88"):
        eegbci.load([1, 88])
    assert not set(eegbci.OTHER_RATE) & set(eegbci.SUBJECTS) and len(eegbci.SUBJECTS) == 106


def test_addresses_and_checksums_are_those_of_mne():
    assert eegbci.URL.startswith("https://physionet.org/")
    for subject in (1, 109):
        for run in (1, 2):
            assert len(eegbci.checksums()[eegbci.name(subject, run)].removeprefix("sha256:")) == 64
