"""EEG from electrodes to regions: every step does its work, and bad recordings are refused early."""

import mne
import numpy as np
import pytest

from helpers import eeg as tools
from helpers.data import eeglab, schaefer
from helpers.errors import BookError
from helpers.paths import data_root
from helpers.simulate import eeg, paired

COORDS = schaefer(100).coords


@pytest.fixture(scope="module")
def recording():
    """Forty seconds of simulated EEG, eyes open then closed."""
    return eeg.recording(COORDS, seconds=20.0, blocks=("eyes open", "eyes closed"))


@pytest.fixture(scope="module")
def dirty(recording):
    return paired.contaminate(recording, blinks=3, muscle=1)


def changed(raw, edit):
    """A copy of a recording whose samples (C, N) went through ``edit`` in place."""
    x = raw.get_data()
    edit(x)
    copy = mne.io.RawArray(x, raw.info.copy(), verbose="error")
    return copy


def test_contamination_is_seeded_and_does_what_it_says(recording, dirty):
    again = paired.contaminate(recording, blinks=3, muscle=1)
    np.testing.assert_array_equal(again.get_data(), dirty.get_data())
    added = dirty.get_data() - recording.get_data()
    names = dirty.ch_names
    assert added[names.index("T8")].std() > 50e-6
    assert np.ptp(added[names.index("Fp1")]) > 150e-6 > 5 * np.ptp(added[names.index("Oz")])
    assert list(dirty.annotations.description) == list(recording.annotations.description)


def test_the_loose_electrode_is_found_and_no_other(recording, dirty):
    clean = dirty.copy().filter(1, 45, verbose="error")
    table = tools.bad_channels(clean)
    assert table.index[table["verdict"] != "good"].tolist() == ["T8"]
    good = tools.bad_channels(recording.copy().filter(1, 45, verbose="error"))
    assert (good["verdict"] == "good").all()


def test_a_channel_of_normal_size_that_resembles_no_other_is_bad(recording):
    rng = np.random.default_rng(0)

    def replace(x):
        x[30] = rng.standard_normal(x.shape[1]) * x[30].std()

    table = tools.bad_channels(changed(recording, replace))
    assert table["verdict"].iloc[30] == "lonely" and (table["verdict"] != "good").sum() == 1


def test_preprocess_leaves_little_of_what_was_added(recording, dirty):
    parcels = tools.preprocess(dirty, COORDS)
    assert parcels.signal.shape[0] == 100 and parcels.signal.dtype == np.float32
    assert parcels.sfreq == 250 and np.isfinite(parcels.signal).all()
    assert parcels.qc.loc["bad channels", "detail"] == "T8"
    assert parcels.signal.shape[1] % round(tools.PIECE * 250) == 0
    assert (
        parcels.raw.get_data().std() < 1.2 * recording.copy().filter(1, 45, verbose="error").get_data().std()
    )
    np.testing.assert_allclose(parcels.raw.get_data().mean(axis=0), 0, atol=1e-10)
    hum = np.abs(np.fft.rfft(parcels.raw.get_data()))[:, round(50 / 250 * parcels.raw.n_times)]
    assert hum.max() / parcels.raw.n_times < 0.1 * 5e-6 / 2


def test_without_rejection_the_clean_recording_comes_back(recording):
    parcels = tools.preprocess(recording, COORDS, reject=None)
    expected = recording.copy().filter(1, 45, verbose="error").resample(250, verbose="error")
    n = parcels.raw.n_times
    assert n == int(40 // tools.PIECE) * round(tools.PIECE * 250)
    got, want = parcels.raw.get_data().ravel(), expected.get_data()[:, :n].ravel()
    assert np.corrcoef(got, want)[0, 1] > 0.999
    fwd = eeg.forward(COORDS, sfreq=250.0)
    np.testing.assert_allclose(
        parcels.signal, eeg.back_project(parcels.raw.get_data(), fwd) * 1e9, rtol=1e-4, atol=1e-3
    )


def test_pieces_are_cut_where_everything_moves(recording):
    def jump(x):
        x[:, 3000:3200] += 500e-6 * np.random.default_rng(1).standard_normal((64, 1))

    raw = changed(recording, jump)
    for method in ("autoreject", "threshold"):
        parcels = tools.preprocess(raw, COORDS, reject=method)
        assert parcels.raw.n_times < 40 * 250 - 300
        assert np.abs(parcels.raw.get_data()).max() < 250e-6


def test_it_is_deterministic(dirty):
    a, b = (tools.preprocess(dirty, COORDS, seed=3) for _ in range(2))
    np.testing.assert_array_equal(a.signal, b.signal)


def test_a_marked_channel_is_interpolated_even_if_it_is_flat(recording):
    def flatten(x):
        x[10] = 0

    raw = changed(recording, flatten)
    raw.info["bads"] = [raw.ch_names[10]]
    parcels = tools.preprocess(raw, COORDS, reject=None)
    assert parcels.qc.loc["bad channels", "detail"] == raw.ch_names[10]
    assert parcels.raw.get_data()[10].std() > 0


def test_names_of_other_dialects_are_understood():
    assert tools.known_names(["Fc5.", "EEG FP1", "oz", "T8"]) == {
        "Fc5.": "FC5",
        "EEG FP1": "Fp1",
        "oz": "Oz",
        "T8": "T8",
    }


def test_the_input_is_left_alone(dirty):
    before = dirty.get_data().copy()
    tools.preprocess(dirty, COORDS, reject=None)
    np.testing.assert_array_equal(dirty.get_data(), before)
    assert dirty.info["bads"] == [] and dirty.info["sfreq"] == 200


def flat(x):
    x[5] = 1e-6


def hole(x):
    x[7, 100:110] = np.nan


def microvolts(x):
    x *= 1e6


def noise(x):
    x[:30] = np.random.default_rng(0).standard_normal((30, x.shape[1])) * 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: r.copy().resample(80, verbose="error"), "wrong sampling rate: 80 Hz is too slow"),
        (lambda r: r.copy().rename_channels({"Cz": "Q1", "Pz": "Q2"}), "unknown channels Q1, Q2"),
        (lambda r: changed(r, flat), f"flat (constant) channels {eeg.CHANNELS[5]}"),
        (lambda r: changed(r, hole), f"NaN or infinite values in {eeg.CHANNELS[7]}"),
        (lambda r: changed(r, microvolts), "MNE expects volts"),
        (lambda r: changed(r, noise), "of 64 channels are bad"),
        (lambda r: r.copy().pick(list(eeg.CHANNELS[:10])), "10 EEG channels"),
        (lambda r: r.copy().crop(0, 5), "lasts 5.0 s"),
        (lambda r: r.get_data(), "not ndarray"),
    ],
)
def test_bad_recordings_are_one_clear_line(recording, make, message):
    with pytest.raises(BookError) as error:
        tools.preprocess(make(recording), COORDS)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"reject": "all"}, "reject is 'all'"), ({"band": (45.0, 1.0)}, "two rising frequencies")],
)
def test_bad_options_are_one_clear_line(recording, options, message):
    with pytest.raises(BookError, match=message):
        tools.preprocess(recording, COORDS, **options)


@pytest.mark.public
@pytest.mark.skipif(
    not all((data_root() / "eeglab" / name).is_file() for name in eeglab.SHA256),
    reason="the recording is not cached under BOOK_DATA",
)
def test_a_real_recording():
    parcels = tools.preprocess(eeglab.load(), COORDS)
    assert parcels.signal.shape[0] == 100 and parcels.signal.shape[1] > 200 * 250
    assert "30 EEG channels" in parcels.qc.loc["channels", "result"]
