"""Chapter 01: what its functions promise."""

import numpy as np
import pytest
import yaml

from helpers import chapters, connectivity, data
from helpers.paths import repo_root
from helpers.simulate import bold, eeg

CHAPTER = "01_signals"


@pytest.fixture(scope="module")
def nb():
    return chapters.load(CHAPTER)


@pytest.fixture
def x():
    """(R, T) series with a common signal."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((12, 200)) + 0.5 * rng.standard_normal(200)


def test_bold_is_the_hrf_of_an_event(nb):
    activity = np.zeros(400)
    activity[30] = 1 / 0.1
    curve = nb.response(activity, 0.1)
    assert not curve[:30].any()  # causal
    np.testing.assert_allclose(curve[30:330], bold.hrf(np.arange(0, 30, 0.1)), atol=1e-12)
    two = nb.response(2 * activity + np.roll(activity, 50), 0.1)
    np.testing.assert_allclose(two, 2 * curve + np.roll(curve, 50), atol=1e-6)


def test_region_means_are_means(nb):
    labels = np.array([[[1, 1], [2, 0]]])
    image = np.arange(12.0).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(nb.region_means(image, labels, 2), [[1.5, 2.5, 3.5], [6, 7, 8]])


def test_global_signal_is_gone(nb, x):
    residual = nb.remove_global_signal(x)
    g = nb.standardise(x).mean(axis=0)
    np.testing.assert_allclose(residual @ g, 0, atol=1e-9)
    assert connectivity.upper(connectivity.pearson(residual)).mean() < 0.02
    assert connectivity.upper(connectivity.pearson(x)).mean() > 0.1


def test_global_signal_of_a_flat_region(nb, x):
    x[3] = 7.0
    assert np.isfinite(nb.remove_global_signal(x)).all()


def test_spike_touches_its_frames_only(nb, x):
    before = x.copy()
    moved = nb.with_spike(x, 50, np.random.default_rng(1))
    np.testing.assert_array_equal(x, before)
    changed = (moved != x).any(axis=0)
    assert changed[50:53].all() and changed.sum() == 3
    still, spiked = (connectivity.upper(connectivity.pearson(y)).mean() for y in (x, moved))
    assert spiked > still + 0.1


def test_naive_and_fast_connectivity_agree(nb, x):
    np.testing.assert_allclose(nb.naive_pearson(x), connectivity.pearson(x), atol=1e-12)


def test_between_subject_r(nb):
    edges = np.random.default_rng(0).standard_normal((6, 5000))
    assert nb.between_subject_r(np.tile(edges[0], (4, 1))) == pytest.approx(1)
    assert abs(nb.between_subject_r(edges)) < 0.05


def test_shrinkage_lowers_the_error_where_nothing_is_connected(nb):
    noise = np.random.default_rng(0).standard_normal((30, 60))
    pearson, shrunk, best = nb.errors(np.eye(30), noise, 60)
    assert best == pytest.approx(0) and shrunk < pearson


def test_the_best_factor_is_the_best(nb):
    person = bold.subject(0, n_frames=120, global_sd=0.0, snr=1e6, state_sd=0.0)
    for T in (30, 60, 120):
        pearson, shrunk, best = nb.errors(person.covariance, person.bold, T)
        assert best <= min(pearson, shrunk)


def test_ledoit_wolf_scales_every_edge_of_one_scan(nb, x):
    pearson, shrunk = nb.scan_edges(x), nb.scan_edges(x, "ledoit_wolf")
    factor = shrunk / pearson
    assert 0 < factor[0] < 1
    np.testing.assert_allclose(factor, factor[0], rtol=1e-6)


def test_amplitude_depends_on_the_number_of_frames(nb):
    noise = np.random.default_rng(0).standard_normal((40, 400))
    spread = [nb.scan_edges(noise[:, :T]).std() for T in (50, 100, 400)]
    assert spread[0] > spread[1] > spread[2]
    np.testing.assert_allclose(spread, 1 / np.sqrt([50, 100, 400]), rtol=0.1)


def test_as_abide_keeps_its_band(nb):
    x = np.random.default_rng(0).standard_normal((20, 600))
    power = (np.abs(np.fft.rfft(nb.as_abide(x, 2.0))) ** 2).mean(axis=0)
    frequency = np.fft.rfftfreq(600, 2.0)
    inside = (frequency > 0.02) & (frequency < 0.08)
    outside = (frequency < 0.004) | (frequency > 0.15)
    assert power[outside].mean() < 0.02 * power[inside].mean()


def test_autocorrelation(nb):
    rng = np.random.default_rng(0)
    white = rng.standard_normal((50, 500))
    assert abs(nb.autocorrelation(white, 1)) < 0.02
    assert nb.autocorrelation(white + np.roll(white, 1, axis=1), 1) == pytest.approx(0.5, abs=0.02)
    assert abs(nb.autocorrelation(white + np.roll(white, 1, axis=1), 2)) < 0.02


def test_description_of_the_embedded_cohort_is_near_abide(nb):
    cohort = data.load_cohort("embedded", n_subjects=40)
    stats = nb.describe([cohort.series(s) for s in range(40)])
    assert {f"edge_q{q:02d}" for q in (5, 25, 50, 75, 95)} <= set(stats)
    assert 0.28 <= stats["between_subject_r"] <= 0.42
    filtered = nb.describe([nb.as_abide(cohort.series(s), 2.0) for s in range(40)])
    assert filtered["edge_mean"] == pytest.approx(0.0, abs=0.03)
    assert filtered["amplitude"] == pytest.approx(0.23, abs=0.05)  # 0.23 in ABIDE
    assert filtered["autocorr_lag1"] == pytest.approx(0.79, abs=0.08)  # 0.79 in ABIDE


def test_spectra_of_annotated_blocks(nb):
    raw = eeg.recording(data.schaefer().coords, seconds=20.0)
    frequency, opened = nb.block_psd(raw, eeg.EYES_OPEN)
    _, closed = nb.block_psd(raw, eeg.EYES_CLOSED)
    assert opened.shape == closed.shape == (64, len(frequency))
    ratio = nb.band_power(frequency, closed) / nb.band_power(frequency, opened)
    oz, fz = raw.ch_names.index("Oz"), raw.ch_names.index("Fz")
    assert ratio[oz] > 2 and ratio[oz] > ratio[fz]
    beta = nb.band_power(frequency, closed, 15, 30) / nb.band_power(frequency, opened, 15, 30)
    assert beta[oz] == pytest.approx(1, abs=0.2)


def test_interactive_view_needs_no_network(nb):
    class View:
        html = "<html><link rel='icon' href='https://example.org/x.ico'><p title='a'>1 & 2</p></html>"

    page = nb.offline(View).data
    assert "https" not in page
    assert page.count("srcdoc='") == 1 and "title=&#39;a&#39;" in page and "1 &amp; 2" in page


@pytest.mark.parametrize("profile", ["public", "full", "ci"])
def test_configs_hold_known_values(profile):
    text = (repo_root() / "configs" / profile / f"{CHAPTER}.yml").read_text()
    known = chapters.parameters(CHAPTER)
    for name, value in (yaml.safe_load(text) or {}).items():
        known[name].check(value)
