"""The simulated EEG: physics, alpha, determinism, errors."""

import numpy as np
import pytest

from helpers.errors import BookError
from helpers.simulate import eeg


@pytest.fixture(scope="module")
def coords():
    """Forty points on a brain-like ellipsoid, MNI millimetres."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((40, 3))
    direction[:, 2] = np.abs(direction[:, 2])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * [55.0, 75.0, 55.0] + [0.0, -18.0, 10.0]


def band_ratio(x, sfreq, peak=(8.0, 12.0), floor=(14.0, 20.0)):
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2
    frequency = np.fft.rfftfreq(len(x), 1 / sfreq)

    def mean(band):
        return power[(frequency >= band[0]) & (frequency < band[1])].mean()

    return mean(peak) / mean(floor)


def test_forward_is_average_referenced_and_physical(coords):
    fwd = eeg.forward(coords)
    assert fwd.gain.shape == (64, 40)
    assert fwd.info["sfreq"] == 200.0
    np.testing.assert_allclose(fwd.gain.mean(axis=0), 0.0, atol=1e-9 * np.abs(fwd.gain).max())
    assert 10 < np.abs(fwd.gain).max() < 2000  # V/(A m): microvolts for tens of nanoampere metres


def test_an_outward_dipole_is_positive_above_itself():
    fwd = eeg.forward(np.array([[-30.0, -95.0, 0.0], [30.0, 60.0, 20.0]]))
    names = fwd.info.ch_names
    assert names[fwd.gain[:, 0].argmax()] in {"O1", "PO7", "PO3", "Oz"}
    assert names[fwd.gain[:, 1].argmax()] in {"Fp2", "AF4", "AF8", "F4", "F2"}


def test_a_left_right_mirror_image_mirrors_the_topography(coords):
    fwd, mirrored = eeg.forward(coords), eeg.forward(coords * [-1, 1, 1])
    pairs = [("C3", "C4"), ("O1", "O2"), ("F5", "F6"), ("T7", "T8")]
    index = fwd.info.ch_names.index
    left = np.array([fwd.gain[index(a)] for a, _ in pairs])
    right = np.array([mirrored.gain[index(b)] for _, b in pairs])
    assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.98


def test_coloured_noise_has_its_slope_and_unit_variance():
    x = eeg.coloured_noise(np.random.default_rng(0), (50, 8000), exponent=1.2, sfreq=200.0)
    np.testing.assert_allclose(x.std(axis=1), 1.0, rtol=1e-4)
    frequency = np.fft.rfftfreq(8000, 1 / 200)
    power = (np.abs(np.fft.rfft(x)) ** 2).mean(axis=0)
    band = (frequency > 1) & (frequency < 80)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-1.2, abs=0.05)
    assert power[(frequency > 0) & (frequency < 0.5)].max() < 1e-6 * power[band].mean()


def test_posterior_weight_runs_from_back_to_front(coords):
    weight = eeg.posterior_weight(coords)
    assert weight.max() == pytest.approx(1.0) and weight.min() == pytest.approx(0.15)
    assert weight.argmax() == coords[:, 1].argmin()


def test_alpha_is_stronger_with_eyes_closed_and_at_the_back(coords):
    raw = eeg.recording(coords, seconds=20.0, blocks=("eyes open", "eyes closed"))
    occipital, frontal = (x.reshape(2, -1) for x in raw.get_data(["Oz", "Fz"]))
    assert band_ratio(occipital[1], 200) > 1.5 * band_ratio(occipital[0], 200)
    assert band_ratio(occipital[1], 200) > 1.5 * band_ratio(frontal[1], 200)


def test_alpha_follows_a_slow_signal_downwards(coords):
    n = 4000
    slow = np.repeat([0.0, 1.0], n // 2)[None].repeat(len(coords), axis=0).astype(np.float32)
    a = eeg.alpha_sources(np.random.default_rng(3), coords, n, slow=slow, coupling=0.6)
    b = eeg.alpha_sources(np.random.default_rng(3), coords, n)
    np.testing.assert_allclose(a[:, : n // 2], b[:, : n // 2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a[:, n // 2 :], b[:, n // 2 :] * np.exp(-0.6), rtol=1e-4, atol=1e-6)


def test_recording_is_a_plausible_annotated_raw(coords):
    raw = eeg.recording(coords, seconds=10.0)
    assert len(raw.ch_names) == 64 and raw.n_times == 4 * 2000
    assert list(raw.annotations.description) == ["eyes open", "eyes closed"] * 2
    assert 2e-6 < np.median(raw.get_data().std(axis=1)) < 5e-5  # volts
    np.testing.assert_allclose(raw.get_data().mean(axis=0), 0.0, atol=1e-12)


def test_recording_depends_on_seed_and_subject_only(coords):
    first = eeg.recording(coords, 3, seed=1, seconds=5.0).get_data()
    np.testing.assert_array_equal(first, eeg.recording(coords, 3, seed=1, seconds=5.0).get_data())
    assert not np.allclose(first, eeg.recording(coords, 4, seed=1, seconds=5.0).get_data())
    assert not np.allclose(first, eeg.recording(coords, 3, seed=2, seconds=5.0).get_data())


def test_back_projection_finds_the_active_region(coords):
    fwd = eeg.forward(coords)
    sources = np.zeros((40, 10))
    sources[7] = 1.0
    estimate = eeg.back_project(eeg.sense(sources, fwd, noise=0.0), fwd)
    assert np.corrcoef(fwd.gain.T)[7, np.abs(estimate[:, 0]).argmax()] > 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: eeg.forward(c[:, :2]), "finite (R, 3)"),
        (lambda c: eeg.forward(np.where(c == c[0, 0], np.nan, c)), "finite (R, 3)"),
        (lambda c: eeg.recording(c, blocks=("asleep",)), "asleep"),
        (lambda c: eeg.recording(c, blocks=()), "none"),
        (lambda c: eeg.recording(c, seconds=1.0), "at least 4 seconds"),
        (lambda c: eeg.sense(np.zeros((40, 5)), eeg.forward(c)), "random generator"),
        (
            lambda c: eeg.coloured_noise(np.random.default_rng(0), (2, 1), exponent=1.0, sfreq=200.0),
            "longer signal",
        ),
    ],
)
def test_errors_are_one_clear_line(coords, call, message):
    with pytest.raises(BookError) as error:
        call(coords)
    assert message in str(error.value) and "\n" not in str(error.value)
