"""Audiovision-MNIST: MFCC, pairs, synthetic words. The real ones: tests/public/test_avmnist.py."""

import itertools

import numpy as np
import pytest

from helpers.data import avmnist
from helpers.errors import BookError, MissingData
from helpers.simulate import digits


@pytest.fixture(scope="module")
def pairs():
    return digits.pairs(seed=0)


def tone(hertz, seconds=0.6, rate=8000):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def peak(wave, **options):
    """Frequency in Hz at which the middle frame has the most mel power."""
    filters = avmnist.mel_filters(8000, 512, 40)
    spectrum = np.abs(np.fft.rfft(wave[:512] * np.hanning(512))) ** 2
    return np.linspace(0, 4000, 257)[(filters[(filters @ spectrum).argmax()]).argmax()]


def test_mel_scale():
    f = np.array([0, 200, 999, 1000, 1500, 4000.0])
    np.testing.assert_allclose(avmnist._hertz(avmnist._mel(f)), f, atol=1e-9)
    assert avmnist._mel(1000) == pytest.approx(15) and avmnist._mel(6400) == pytest.approx(42)


def test_mel_filters_have_equal_area():
    filters = avmnist.mel_filters(8000, 4096, 40)
    assert filters.min() >= 0 and filters.shape == (40, 2049)
    np.testing.assert_allclose(filters.sum(axis=1) * 4000 / 2048, 1, rtol=0.02)


def test_mfcc_against_its_definition():
    """One frame, step by step."""
    wave = np.random.default_rng(0).standard_normal(2000)
    found = avmnist.mfcc(wave, n_fft=512, hop=100, n_mels=40)
    assert found.shape == (20, 1 + 2000 // 100)
    k = 7
    frame = np.pad(wave, 256)[k * 100 : k * 100 + 512]
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(512) / 512))
    mel = 10 * np.log10(avmnist.mel_filters(8000, 512, 40) @ np.abs(np.fft.rfft(frame * window)) ** 2)
    n = np.arange(40)
    for c in (0, 1, 5):
        scale = np.sqrt((1 if c == 0 else 2) / 40)
        assert found[c, k] == pytest.approx(
            scale * (mel * np.cos(np.pi * c * (2 * n + 1) / 80)).sum(), abs=1e-6
        )


def test_silence_and_loudness():
    wave = np.random.default_rng(1).standard_normal(3000)
    one, two = avmnist.mfcc_corrected(wave), avmnist.mfcc_corrected(10 * wave)
    np.testing.assert_allclose(one[1:], two[1:], atol=1e-6)  # loudness is in the first coefficient alone
    np.testing.assert_allclose(two[0] - one[0], 20 * np.sqrt(40), rtol=1e-6)
    assert np.isfinite(avmnist.mfcc_corrected(np.zeros(1000))).all()


def test_the_published_mfcc_folds_and_shifts_frequencies():
    """Every third sample, no filter, called 8 kHz: 3 kHz is heard at 1 kHz, and 1 kHz at 3 kHz."""
    assert peak(tone(3000)[::3]) == pytest.approx(1000, abs=120)
    assert peak(tone(1000)[::3]) == pytest.approx(3000, abs=250)
    assert peak(tone(3000)) == pytest.approx(3000, abs=250)
    # so 3 kHz and 7 kHz / 3 are one and the same tone to it
    folded = avmnist.mfcc_published(np.cos(2 * np.pi * 3000 * np.arange(4800) / 8000))
    other = avmnist.mfcc_published(np.cos(2 * np.pi * (8000 / 3 - 3000) * np.arange(4800) / 8000))
    np.testing.assert_allclose(folded, other, atol=1e-6)


def test_the_published_mfcc_is_mostly_padding():
    found = avmnist.mfcc_published(tone(500, seconds=0.4))
    assert found.shape == (20, 20) and (found[:, 3:] == 0).all() and (found[:, :2] != 0).any()
    full = avmnist.mfcc_corrected(tone(500, seconds=0.4))
    assert full.shape == (20, 20) and (np.abs(full).sum(axis=0) > 0).all()


@pytest.mark.parametrize("n", [1, 19, 20, 21, 400, 3999, 9001])
def test_the_corrected_mfcc_is_20_by_20_for_every_length(n):
    assert avmnist.mfcc_corrected(np.ones(n)).shape == (20, 20)
    assert avmnist.mfcc_published(np.ones(n)).shape == (20, 20)


def test_pairs(pairs):
    assert len(pairs) == 1500 and len(pairs.train) == 1050 and len(pairs.test) == 450
    assert np.bincount(pairs.labels[pairs.train]).tolist() == [105] * 10
    assert np.bincount(pairs.labels[pairs.test]).tolist() == [45] * 10
    assert pairs.images.shape == (1500, 28, 28) and pairs.images.min() == -1 and pairs.images.max() == 1
    table = pairs.table
    assert table["recording"].is_unique and table["image"].is_unique
    assert (table["recording"].str[0] == table["digit"].astype(str)).all()
    takes = table["recording"].str.rsplit("_", n=1).str[1].astype(int)
    assert ((takes < 15) == (table["split"] == "test")).all()


def test_pairs_are_seeded(pairs):
    assert digits.pairs(seed=0).hash == pairs.hash != digits.pairs(seed=1).hash
    np.testing.assert_array_equal(digits.word(3, "voice-b", 20), pairs.waves[3 * 105 + 35 + 5])


def test_sound_is_there_for_nested_shares(pairs):
    sets = [pairs.with_sound(rate, seed=4) for rate in (0.05, 0.10, 0.15, 0.20)]
    assert [int(s.sum()) for s in sets] == [50, 110, 160, 210]
    for small, large in itertools.pairwise(sets):
        assert (small <= large).all()
    assert not sets[-1][pairs.test].any() and pairs.with_sound(1.0).sum() == 1050
    assert (np.bincount(pairs.labels[sets[3]]) == 21).all()
    assert (pairs.with_sound(0.2, seed=5) != sets[3]).any()


def test_the_words_can_be_told_apart_and_the_published_mfcc_tells_them_less_well(pairs):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    score = {}
    for kind in ("corrected", "published"):
        X = pairs.mfcc(kind).reshape(1500, -1)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
        model.fit(X[pairs.train], pairs.labels[pairs.train])
        score[kind] = model.score(X[pairs.test], pairs.labels[pairs.test])
    assert score["corrected"] > 0.95 and 0.6 < score["published"] < score["corrected"] - 0.02


def test_voices_and_words_differ_as_they_should():
    def spectrum(digit, voice, take):
        return avmnist.mfcc_corrected(digits.word(digit, voice, take))[1:].ravel()

    same = [np.linalg.norm(spectrum(7, "voice-a", k) - spectrum(7, "voice-a", k + 1)) for k in range(8)]
    other = [np.linalg.norm(spectrum(7, "voice-a", k) - spectrum(2, "voice-a", k)) for k in range(8)]
    assert np.median(same) < np.median(other)
    wave = digits.word(6, "voice-c", 0, noise=0.0)
    assert np.abs(wave).max() == pytest.approx(1) and 0.15 < len(wave) / 8000 < 1.2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: p.mfcc("librosa"), "not one of corrected, published"),
        (lambda p: p.with_sound(0.0), "rate is 0.0"),
        (lambda p: p.with_sound(20), "rate is 20"),
        (lambda p: avmnist.mfcc(np.zeros((2, 9))), "expected (time,)"),
        (lambda p: avmnist.mfcc(np.array([])), "not empty"),
        (lambda p: avmnist.load(train_images="both"), "choose train or test"),
        (lambda p: digits.word(10, "voice-a", 0), "digits 0 to 9"),
        (lambda p: digits.word(1, "theo", 0), "voice-a, voice-b, voice-c"),
        (
            lambda p: avmnist.Pairs.validate(
                images=p.images * 3, waves=p.waves, labels=p.labels, table=p.table, provenance=p.provenance
            ),
            "images must lie in [-1, 1]",
        ),
        (
            lambda p: avmnist.Pairs.validate(
                images=p.images, waves=p.waves[:-1], labels=p.labels, table=p.table, provenance=p.provenance
            ),
            "do not fit",
        ),
    ],
)
def test_errors_are_one_clear_line(pairs, call, says):
    with pytest.raises(BookError) as error:
        call(pairs)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(MissingData) as error:
        avmnist.load()
    assert "t10k-images" in str(error.value) and "embedded" in str(error.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
