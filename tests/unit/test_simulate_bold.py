"""The simulated cohort: its statistics, where its effects sit, and that anyone can be made again."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from helpers import connectivity, evaluate
from helpers.errors import BookError
from helpers.simulate import bold


@lru_cache(maxsize=8)
def cohort(**settings):
    return bold.cohort(200, **settings)


@lru_cache(maxsize=8)
def features(**settings) -> np.ndarray:
    """Fisher-z edges, (200, 4950)."""
    return connectivity.fisher_z(connectivity.upper(connectivity.fc(cohort(**settings))))


def target(name: str, **settings) -> np.ndarray:
    return cohort(**settings).participants[name].to_numpy()


def auc(X: np.ndarray, column: str = "group", **settings):
    """Cross-validated AUC of a linear SVM, 5 folds, with its interval over subjects."""
    people = cohort(**settings).participants
    splits = evaluate.splits(people, n_splits=5, n_repeats=2, stratify=(column,), seed=0)
    model = evaluate.linear_probe("svm", C=1.0)
    return evaluate.auc(evaluate.cross_validate(model, X, people[column].to_numpy(str), splits))


def dynamic_features(cohort, window: int = 10, step: int = 5) -> np.ndarray:
    """Lagged autocorrelation of windowed FC along its first components, made without labels, (S, 15)."""
    windows = []
    for s in range(len(cohort)):
        x = cohort.series(s)
        starts = range(0, x.shape[1] - window + 1, step)
        fc = connectivity.upper(connectivity.pearson(np.stack([x[:, i : i + window] for i in starts])))
        windows.append(fc - fc.mean(axis=0))
    W = np.array(windows)
    axes = np.linalg.svd(W.reshape(-1, W.shape[-1])[::17], full_matrices=False)[2][:3]
    course = W @ axes.T
    power = (course**2).mean(axis=1)
    lagged = [(course[:, k:] * course[:, :-k]).mean(axis=1) / power for k in (2, 4, 6, 8)]
    return np.concatenate([np.log(power), *lagged], axis=1)


# -- calibration -----------------------------------------------------------------------------------


def test_people_are_as_alike_as_in_abide():
    between = connectivity.upper(np.corrcoef(features())).mean()
    assert 0.28 < between < 0.42


@pytest.mark.parametrize("seed", [0, 1])
def test_default_group_effect_is_seen_by_a_linear_model(seed):
    assert 0.65 < auc(features(seed=seed), seed=seed).value < 0.85


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_group_effect_chance_is_in_the_interval(seed):
    estimate = auc(features(seed=seed, group_effect=0.0), seed=seed, group_effect=0.0)
    assert estimate.lo < 0.5 < estimate.hi


def test_a_larger_effect_is_easier():
    strong = dict(group_effect=0.25)
    assert auc(features(**strong), **strong).value > auc(features()).value + 0.1


def test_site_sex_and_age_are_in_the_connectivity():
    X, people = features(), cohort().participants
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    site = people["site"].to_numpy(str)
    assert cross_val_score(SVC(kernel="precomputed"), Z @ Z.T, site, cv=5).mean() > 0.5  # chance is 0.25
    assert auc(X, "sex").lo > 0.55
    splits = evaluate.splits(people, n_splits=5, n_repeats=1, seed=0)
    pred = evaluate.cross_validate(
        evaluate.linear_probe("ridge", C=1.0), X, people["age"].to_numpy(float), splits
    )
    assert 0.3 < evaluate.pearson_r(pred).value < 0.8


def test_dwell_effect_is_hidden_from_static_fc_and_open_to_dynamics():
    only = dict(group_effect=0.0, dwell_effect=1.0)
    static = auc(features(**only), **only)
    dynamic = auc(dynamic_features(cohort(**only)), **only)
    assert static.lo < 0.5 < static.hi
    assert dynamic.lo > 0.6
    none = dict(group_effect=0.0)
    idle = auc(dynamic_features(cohort(**none)), **none)
    assert idle.lo < 0.5 < idle.hi


# -- truth -----------------------------------------------------------------------------------------


def test_the_group_effect_sits_within_default_and_nowhere_else():
    truth = bold.truth()
    inside = truth.atlas.networks == truth.group_network
    within = np.outer(inside, inside) & ~np.eye(100, dtype=bool)
    assert (truth.group[within] < 0).all() and (truth.group[~within] == 0).all()
    difference = [features()[target("group") == g].mean(axis=0) for g in ("patient", "control")]
    gap = connectivity.from_upper(difference[0] - difference[1], 100)
    assert gap[within].mean() < -0.05 and abs(gap[~within & ~np.eye(100, dtype=bool)].mean()) < 0.02


def test_directions_are_symmetric_with_length_ten_over_the_edges():
    truth = bold.truth(n_sites=3)
    assert truth.site.shape == (3, 100, 100)
    for direction in (truth.group, truth.sex, truth.age, truth.state, *truth.site):
        np.testing.assert_allclose(direction, direction.T, atol=1e-12)
        assert (np.diag(direction) == 0).all()
        assert np.linalg.norm(connectivity.upper(direction)) == pytest.approx(10)


def test_the_true_covariance_is_what_long_scans_show():
    person = bold.subject(3, n_frames=20_000, snr=100.0, global_sd=0.0)
    assert np.linalg.eigvalsh(person.covariance).min() > 0
    np.testing.assert_allclose(np.diag(person.covariance), 1)
    x = (
        person.bold
        - np.outer(person.bold @ np.linspace(-1, 1, 20_000), np.linspace(-1, 1, 20_000)) * 3 / 20_000
    )
    error = connectivity.upper(connectivity.pearson(x) - person.covariance)
    assert np.sqrt((error**2).mean()) < 0.05
    assert (
        np.corrcoef(connectivity.upper(connectivity.pearson(x)), connectivity.upper(person.covariance))[0, 1]
        > 0.98
    )


def test_both_states_last_half_of_every_run_however_often_they_switch():
    switches = {}
    for dwell_effect in (0.0, 1.0, 2.0):
        people = [bold.subject(i, dwell_effect=dwell_effect) for i in range(1, 40, 2)]
        for person in people:
            assert person.occupancy.mean() == pytest.approx(0.5, abs=1e-6)
            assert ((person.occupancy >= 0) & (person.occupancy <= 1)).all()
            np.testing.assert_allclose(person.covariance, person.states.mean(axis=0))
        switches[dwell_effect] = np.mean([np.count_nonzero(np.diff(p.occupancy > 0.5)) for p in people])
    assert 6 <= switches[0.0] < switches[1.0] / 1.8 < switches[2.0] / 3.5
    controls = [bold.subject(0, dwell_effect=d).bold for d in (0.0, 2.0)]
    np.testing.assert_array_equal(*controls)  # the knob turns patients only


def test_state_covariance_shows_in_the_frames_of_that_state():
    person = bold.subject(1, n_frames=20_000, snr=100.0, global_sd=0.0)
    first = connectivity.pearson(person.bold[:, person.occupancy > 0.99])
    errors = [np.abs(connectivity.upper(first - state)).mean() for state in person.states]
    assert errors[0] < errors[1] / 2


# -- the signal ------------------------------------------------------------------------------------


def test_power_falls_with_frequency_as_in_bold():
    x = cohort().bold[:20]
    power = (np.abs(np.fft.rfft(x - x.mean(-1, keepdims=True))) ** 2).mean(axis=(0, 1))
    frequency = np.fft.rfftfreq(x.shape[-1], 2.0)
    slow, fast = power[(frequency > 0.01) & (frequency < 0.1)].mean(), power[frequency > 0.15].mean()
    assert 2 < slow / fast < 50


def test_hrf_peaks_near_five_seconds():
    t = np.arange(0, 32, 0.1)
    h = bold.hrf(t)
    assert t[h.argmax()] == pytest.approx(5, abs=0.3) and 12 < t[h.argmin()] < 18 and h.min() < 0


def test_any_first_part_is_balanced():
    people = bold.cohort(16, n_frames=20).participants
    assert (people.groupby(["site", "group"]).size() == 2).all() and len(
        people.groupby(["site", "group"])
    ) == 8
    assert people["age"].between(16, 65).all() and set(people["sex"]) == {"F", "M"}


def test_lengths_can_differ():
    made = bold.cohort(12, n_frames=(50, 90), tr=0.8)
    assert made.n_frames.min() >= 50 and made.n_frames.max() <= 90 and len(set(made.n_frames.tolist())) > 3
    assert made.tr.tolist() == [0.8] * 12


# -- made again ------------------------------------------------------------------------------------


def test_anyone_can_be_made_again_alone():
    few = bold.cohort(7, seed=3, n_frames=60, dwell_effect=0.5)
    more = bold.cohort(9, seed=3, n_frames=60, dwell_effect=0.5)
    assert more.select(slice(7)).hash == few.hash
    for s in (0, 5):
        person = bold.subject(s, seed=3, n_frames=60, dwell_effect=0.5)
        assert person.bold.tobytes() == few.series(s).tobytes()
        assert person.row == few.participants.loc[s].to_dict()


def test_seeds_and_settings_change_the_people():
    changes = (
        {},
        {"seed": 1},
        {"snr": 2.0},
        {"site_effect": 0.3},
        {"group_effect": 0.3},
        {"dwell_effect": 1.0},
    )
    assert len({bold.cohort(2, n_frames=40, **kw).hash for kw in changes}) == len(changes)


def test_the_number_of_threads_changes_nothing():
    code = "from helpers.simulate import bold; print(bold.cohort(3, n_frames=60).hash)"
    hashes = set()
    for threads in ("1", "2", "4"):
        env = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        hashes.add(done.stdout.strip())
    assert hashes == {bold.cohort(3, n_frames=60).hash}


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_subjects=0), "n_subjects is 0"),
        (dict(n_subjects=2.0), "n_subjects is 2.0"),
        (dict(seed=-1), "seed is -1"),
        (dict(seed="a"), "seed is 'a'"),
        (dict(n_frames=10), "n_frames is 10"),
        (dict(n_frames=(90, 50)), "n_frames"),
        (dict(n_frames=50.5), "n_frames is 50.5"),
        (dict(tr=0), "tr is 0"),
        (dict(n_sites=0), "n_sites is 0"),
        (dict(n_sites=99), "n_sites is 99"),
        (dict(n_sites=2.5), "n_sites is 2.5"),
        (dict(group_effect="big"), "group_effect is 'big'"),
        (dict(dwell_effect=float("nan")), "dwell_effect is nan"),
        (dict(own_sd=-0.1), "own_sd is -0.1"),
        (dict(snr=0), "snr is 0"),
        (dict(effect=1), "unknown simulation setting effect"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(BookError, match=message):
        bold.cohort(**{"n_subjects": 2, **settings})


@pytest.mark.parametrize("index", [-1, 1.5, True, "3"])
def test_a_wrong_index_is_refused(index):
    with pytest.raises(BookError, match="index is"):
        bold.subject(index)
