"""The simulated paired cohort: determinism, the effects it promises, the cache."""

import numpy as np
import pytest

from helpers.data.paired import PairedCohort
from helpers.errors import BookError
from helpers.simulate import bold, paired

SHORT = {"n_frames": 40, "eeg_seconds": 8.0}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path))
    return tmp_path / "simulated"


def test_shapes_and_units():
    a = paired.subject(3, **SHORT)
    assert a.bold.shape == (2, 100, 40) and a.bold.dtype == np.float32
    assert a.eeg.shape == (2, 100, 2000) and a.eeg.dtype == np.float16
    assert a.sensors.shape == (2, 64, 2000) and a.shared.shape == (7,)
    assert np.isfinite(a.eeg).all() and np.isfinite(a.bold).all()
    assert 5e-6 < a.sensors.std() < 1e-4  # volts
    raw = a.raw(1)
    assert raw.info["sfreq"] == 250 and list(raw.annotations.description) == ["eyes closed"]
    np.testing.assert_allclose(raw.get_data(), a.sensors[1])
    assert a.row["participant_id"] == "sub-0004" and a.row["group"] == "patient"


def test_a_subject_alone_is_the_subject_of_the_cohort_whatever_its_size():
    five, three = (paired.cohort(n, seed=4, cache=False, **SHORT) for n in (5, 3))
    np.testing.assert_array_equal(five.eeg[:3], three.eeg)
    alone = paired.subject(2, seed=4, **SHORT)
    np.testing.assert_array_equal(alone.eeg, five.eeg[2])
    np.testing.assert_array_equal(alone.bold, five.bold[2])
    assert five.select(slice(3)).hash == three.hash
    assert paired.cohort(3, seed=5, cache=False, **SHORT).hash != three.hash


def test_settings_of_the_eeg_leave_the_bold_alone():
    a, b = paired.subject(1, **SHORT), paired.subject(1, **{**SHORT, "eeg_seconds": 12.0, "gamma_e": 0.0})
    np.testing.assert_array_equal(a.bold, b.bold)


def test_it_is_a_valid_paired_cohort():
    c = paired.cohort(4, cache=False, **SHORT)
    again = PairedCohort.validate(
        bold=c.bold,
        eeg=c.eeg,
        participants=c.participants,
        tr=c.tr,
        sfreq=c.sfreq,
        provenance=c.provenance,
        atlas=c.atlas,
    )
    assert again.hash == c.hash
    assert c.participants["group"].tolist() == ["control", "patient"] * 2
    assert len(c.pairs()) == 16


def alpha_power(x, sfreq=250.0):
    """Mean log power at 8-13 Hz, (R,)."""
    spectrum = np.abs(np.fft.rfft(x.astype(np.float32) * np.hanning(x.shape[-1]))) ** 2
    f = np.fft.rfftfreq(x.shape[-1], 1 / sfreq)
    return np.log(spectrum[..., (f >= 8) & (f < 13)].mean(axis=-1))


def test_closing_the_eyes_raises_alpha_at_the_back():
    gain = np.mean(
        [np.diff(alpha_power(paired.subject(s, **SHORT).eeg), axis=0)[0] for s in range(6)], axis=0
    )
    back = paired.truth().alpha
    assert gain[back > 0.7].mean() > 0.8  # natural log of power
    assert np.corrcoef(gain, back)[0, 1] > 0.7


def test_alpha_falls_where_slow_activity_is_high():
    """Alpha envelope against the slow activity that drives BOLD, over time, in visual regions."""
    a = paired.subject(0, n_frames=60, eeg_seconds=100.0, coupling=0.6)
    visual = np.flatnonzero(paired.truth().atlas.networks == "Vis")
    x = a.eeg[1, visual].astype(np.float32).reshape(len(visual), 200, 125)  # pieces of 0.5 s
    power = alpha_power(x)
    r = [np.corrcoef(p, s)[0, 1] for p, s in zip(power, a.neural[1, visual, :200], strict=True)]
    assert np.mean(r) < -0.15


def test_bold_follows_slow_activity_by_seconds():
    a = paired.subject(0, **{**SHORT, "n_frames": 100, "snr": 100.0, "global_sd": 0.0})
    slow, frames = a.neural[0], a.bold[0]
    lags = np.arange(0, 12)
    r = [
        np.mean([np.corrcoef(frames[k, 8:], slow[k, 32 - 2 * lag :: 4][:92])[0, 1] for k in range(100)])
        for lag in lags
    ]
    assert 4 <= lags[np.argmax(r)] <= 6 and max(r) > 0.4


def test_the_shared_factor_moves_both_modalities():
    """With everything else equal, u raises coupling within its network and alpha in its regions."""
    quiet = {**SHORT, "own_sd": 0.0, "subject_sd": 0.0, "group_effect": 0.0, "site_effect": 0.0}
    people = [paired.subject(s, **quiet, gamma_f=2.0, gamma_e=0.5) for s in range(16)]
    u = np.array([p.shared for p in people])
    networks = paired.truth().atlas.networks
    names = paired.truth().atlas.network_names
    k = names.index("SomMot")
    inside = np.outer(networks == "SomMot", networks == "SomMot") & ~np.eye(100, dtype=bool)
    coupling = [p.covariance[0][inside].mean() for p in people]
    assert np.corrcoef(u[:, k], coupling)[0, 1] > 0.8
    without = [paired.subject(s, **quiet, gamma_f=2.0, gamma_e=0.0) for s in range(16)]
    gain = [
        (alpha_power(p.eeg[1]) - alpha_power(q.eeg[1]))[networks == "SomMot"].mean()
        for p, q in zip(people, without, strict=True)
    ]
    assert np.corrcoef(u[:, k], gain)[0, 1] > 0.6


def test_the_group_effects_follow_their_settings():
    strong = {**SHORT, "own_sd": 0.0, "subject_sd": 0.0, "site_effect": 0.0, "gamma_f": 0.0, "gamma_e": 0.0}
    patients = paired.subject(1, **strong, group_effect=0.3, eeg_power_effect=1.0)
    same = paired.subject(1, **strong, group_effect=0.0, eeg_power_effect=0.0)
    default = paired.truth().atlas.networks == "Default"
    inside = np.outer(default, default) & ~np.eye(100, dtype=bool)
    assert patients.covariance[0][inside].mean() < same.covariance[0][inside].mean() - 0.05
    assert (alpha_power(patients.eeg[1]) - alpha_power(same.eeg[1])).mean() < -0.5


def test_without_the_links_the_eeg_knows_nothing_of_the_connectome():
    apart = {**SHORT, "coherence": 0.0, "gamma_e": 0.0, "coupling": 0.0}
    plain = paired.subject(3, **apart).eeg
    np.testing.assert_array_equal(plain, paired.subject(3, **apart, gamma_f=3.0, own_sd=1.0).eeg)
    for link in ({"coherence": 1.0}, {"coherence": 0.5}, {"coupling": 0.5}):
        linked = [paired.subject(3, **{**apart, **link}, own_sd=sd).eeg for sd in (0.3, 1.0)]
        assert not np.array_equal(*linked)


def test_truth_has_unit_size_blocks():
    t = paired.truth()
    np.testing.assert_allclose(np.linalg.norm(t.blocks, axis=(1, 2)), 10.0)
    assert (t.blocks[:, np.arange(100), np.arange(100)] == 0).all()
    assert set(t.atlas.network_names) == set(bold.truth().atlas.network_names)


# -- the cache -----------------------------------------------------------------------------------------------


def simulations(monkeypatch):
    """A list that grows by one entry per simulated subject."""
    calls, work = [], paired._subject
    monkeypatch.setattr(paired, "_subject", lambda *a: calls.append(a[0]) or work(*a))
    return calls


def test_a_cohort_is_simulated_once(cache, monkeypatch):
    calls = simulations(monkeypatch)
    first = paired.cohort(3, **SHORT)
    assert calls == [0, 1, 2] and isinstance(first.eeg, np.memmap)
    assert first.hash == paired.cohort(3, **SHORT).hash == paired.cohort(3, cache=False, **SHORT).hash
    assert len(calls) == 6  # the second time from disk, the third in memory
    assert paired.cohort(2, **SHORT).hash == first.select(slice(2)).hash  # the first part of it
    assert len(calls) == 6
    paired.cohort(2, seed=1, **SHORT)
    paired.cohort(2, **{**SHORT, "gamma_e": 0.0})
    assert len(calls) == 10
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]


def test_new_code_means_a_new_cohort(cache, monkeypatch):
    calls = simulations(monkeypatch)
    paired.cohort(1, **SHORT)
    monkeypatch.setattr(paired, "_code", lambda: "another version")
    paired.cohort(1, **SHORT)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["byte", "short", "gone", "about"])
def test_a_damaged_cache_is_made_again(cache, capsys, damage):
    good = paired.cohort(2, **SHORT).hash
    (folder,) = cache.iterdir()
    file = folder / ("provenance.json" if damage == "about" else "eeg.npy")
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content[: 1000 if damage in ("short", "about") else None])
    assert paired.cohort(2, **SHORT).hash == good
    assert "made again" in capsys.readouterr().out
    assert paired.cohort(2, **SHORT).hash == good
    assert capsys.readouterr().out == ""


def test_an_interrupted_simulation_leaves_nothing(cache, monkeypatch):
    work = paired._subject

    def interrupted(index, *rest):
        if index == 1:
            raise KeyboardInterrupt
        return work(index, *rest)

    monkeypatch.setattr(paired, "_subject", interrupted)
    with pytest.raises(KeyboardInterrupt):
        paired.cohort(2, **SHORT)
    assert list(cache.iterdir()) == []


def test_where_nothing_can_be_written_it_stays_in_memory(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BOOK_CACHE", str(tmp_path / "file"))
    c = paired.cohort(2, **SHORT)
    assert not isinstance(c.eeg, np.memmap) and "set BOOK_CACHE" in capsys.readouterr().out


def test_only_the_last_few_are_kept(cache):
    for seed in range(paired.KEEP + 2):
        paired.cohort(1, seed=seed, **SHORT)
    assert len(list(cache.iterdir())) == paired.KEEP


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired.cohort(0), "n_subjects is 0"),
        (lambda: paired.cohort(2, seed=-1), "seed is -1"),
        (lambda: paired.cohort(2, gama_f=1), "unknown simulation setting gama_f"),
        (lambda: paired.cohort(2, eeg_seconds=1.0), "eeg_seconds is 1.0"),
        (lambda: paired.cohort(2, eeg_seconds=1e4), "eeg_seconds is 10000.0"),
        (lambda: paired.cohort(2, sfreq=50.0), "sfreq is 50.0"),
        (lambda: paired.cohort(2, n_frames=20.5), "whole number"),
        (lambda: paired.cohort(2, coherence=1.5), "coherence is 1.5: expected 0 to 1"),
        (lambda: paired.cohort(2, gamma_f="1"), "gamma_f is '1'"),
        (lambda: paired.cohort(2, gamma_e=float("nan")), "gamma_e is nan"),
        (lambda: paired.subject(-1), "index is -1"),
        (lambda: paired.contaminate(paired.subject(0, **SHORT).raw(0), noisy="X1"), "no channel 'X1'"),
    ],
)
def test_errors_are_one_clear_line(call, message):
    with pytest.raises(BookError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)
