"""The container of people with fMRI and EEG: pairing, selection, disk, bad input."""

import numpy as np
import pandas as pd
import pytest

from helpers.data import Provenance
from helpers.data.paired import PairedCohort
from helpers.errors import BookError

S, R, T, N, RATE = 4, 5, 30, 800, 250.0
PROVENANCE = Provenance(name="made up", source="test", licence="none", citation="none")


def parts(**changes):
    """Arguments of ``validate`` for a small valid cohort."""
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{s}" for s in range(S)],
            "age": [20.0, 30.0, 40.0, 50.0],
            "sex": list("FMFM"),
            "site": ["a", "a", "b", "b"],
            "group": ["control", "patient"] * 2,
        }
    )
    whole = {
        "bold": rng.standard_normal((S, 2, R, T)).astype(np.float32),
        "eeg": rng.standard_normal((S, 2, R, N)).astype(np.float16),
        "participants": people,
        "tr": 2.0,
        "sfreq": RATE,
        "provenance": PROVENANCE,
    }
    return {**whole, **changes}


def runs(array):
    """(S, runs, R, n) as a list of lists."""
    return [list(own) for own in array]


def test_a_valid_cohort_keeps_its_numbers():
    given = parts()
    c = PairedCohort.validate(**given)
    assert (len(c), c.n_regions, c.sfreq) == (S, R, RATE)
    np.testing.assert_array_equal(c.bold, given["bold"])
    np.testing.assert_array_equal(c.eeg, given["eeg"])
    assert c.eeg.dtype == np.float16 and c.signal(1, 0).dtype == np.float32
    assert c.labels.tolist() == [0, 1, 0, 1]
    assert c.available("fmri").all() and c.available("eeg").all()
    assert c.summary()["subjects"].tolist() == [2, 2]
    assert "PairedCohort(made up: 4 subjects" in repr(c)


def test_pairs_are_all_combinations_of_one_person():
    pairs = PairedCohort.validate(**parts()).pairs()
    assert pairs.shape == (4 * S, 3)
    for s in range(S):
        assert {tuple(p[1:]) for p in pairs[pairs[:, 0] == s]} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_pairs_of_some_subjects_keep_their_positions():
    c = PairedCohort.validate(**parts())
    assert sorted(set(c.pairs([3, 1])[:, 0])) == [1, 3]
    assert sorted(set(c.pairs(np.array([False, True, False, True]))[:, 0])) == [1, 3]


def test_missing_runs_are_nan_and_leave_no_pair():
    given = parts()
    bold, eeg = runs(given["bold"]), runs(given["eeg"])
    eeg[0][1] = None
    eeg[2] = None
    c = PairedCohort.validate(**{**given, "bold": bold, "eeg": eeg}, paired=False)
    assert c.available("eeg").tolist() == [True, True, False, True]
    assert c.n_samples.tolist() == [[N, 0], [N, N], [0, 0], [N, N]]
    assert np.isnan(c.eeg[2]).all() and c.signal(2, 0).shape == (R, 0)
    pairs = c.pairs()
    assert len(pairs) == 2 + 4 + 0 + 4 and 2 not in pairs[:, 0]
    assert c.summary()["with EEG"].tolist() == [2, 1]


def test_runs_of_different_length_are_padded():
    given = parts()
    bold = runs(given["bold"])
    bold[1][0] = bold[1][0][:, :25]
    c = PairedCohort.validate(**{**given, "bold": bold})
    assert c.fmri(1, 0).shape == (R, 25) and np.isnan(c.bold[1, 0, :, 25:]).all()
    assert np.isfinite(c.fmri(1, 0)).all()


def test_a_mapping_is_sorted_by_the_participants_table():
    given = parts()
    ids = given["participants"]["participant_id"].tolist()
    backwards = {i: given["bold"][k] for k, i in reversed(list(enumerate(ids)))}
    c = PairedCohort.validate(**{**given, "bold": backwards})
    np.testing.assert_array_equal(c.bold, given["bold"])


def test_select_takes_everything_along():
    c = PairedCohort.validate(**parts())
    two = c.select([3, 0])
    assert two.ids.tolist() == ["sub-3", "sub-0"] and two.participants.index.tolist() == [0, 1]
    np.testing.assert_array_equal(two.eeg, c.eeg[[3, 0]])
    assert np.shares_memory(c.select(slice(2)).eeg, c.eeg)
    assert c.select(c.labels == 1).labels.tolist() == [1, 1]
    for index, message in (([0, 0], "twice"), ([], "picked"), ([9], "9")):
        with pytest.raises(BookError, match=message):
            c.select(index)


def test_hash_sees_every_part():
    c = PairedCohort.validate(**parts())
    assert c.hash == PairedCohort.validate(**parts()).hash and len(c.hash) == 12
    given = parts()
    given["eeg"][2, 1, 3, 7] += 1
    assert PairedCohort.validate(**given).hash != c.hash
    assert c.select([1, 0, 2, 3]).hash != c.hash


def test_save_and_open(tmp_path):
    c = PairedCohort.validate(**parts())
    folder = c.save(tmp_path / "mine")
    again = PairedCohort.open(folder)
    assert again.hash == c.hash and isinstance(again.eeg, np.memmap)
    pd.testing.assert_frame_equal(again.participants, c.participants, check_dtype=False)
    assert again.provenance == c.provenance and again.atlas.name == c.atlas.name
    assert (again.sfreq, again.fmri_runs, again.eeg_runs) == (c.sfreq, c.fmri_runs, c.eeg_runs)
    with pytest.raises(BookError, match="exists already"):
        c.save(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


@pytest.mark.parametrize("name", ["eeg.npy", "bold.npy", "participants.tsv", "provenance.json"])
def test_a_changed_or_missing_file_is_refused(tmp_path, name):
    folder = PairedCohort.validate(**parts()).save(tmp_path / "mine")
    with open(folder / name, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"~~")
    with pytest.raises(BookError, match=r"has changed|damaged"):
        PairedCohort.open(folder)
    (folder / name).unlink()
    with pytest.raises(BookError, match=r"missing|not a paired cohort"):
        PairedCohort.open(folder)


def spoiled(field, place, value):
    given = parts()
    array = given[field].astype(np.float32)
    array[place] = value
    return {**given, field: array}


def without(field, s):
    given = parts()
    nested = runs(given[field])
    nested[s] = None
    return {**given, field: nested}


def shorter(field, keep):
    given = parts()
    nested = runs(given[field])
    nested[1][1] = nested[1][1][keep]
    return {**given, field: nested}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: without("eeg", 2), "unpaired: sub-2 without EEG"),
        (lambda: without("bold", 1), "unpaired: sub-1 without fMRI"),
        (lambda: parts(eeg=parts()["eeg"][:3]), "unpaired: bold has 4 subjects, eeg has 3"),
        (lambda: parts(eeg={"sub-9": parts()["eeg"][0]}), "unpaired: eeg of sub-9"),
        (lambda: parts(sfreq=20.0), "wrong sampling rate, expected 100 to 5000 Hz"),
        (lambda: parts(sfreq=[250.0, 250.0, 500.0, 250.0]), "wrong sampling rate: sub-0 has 250 Hz"),
        (lambda: parts(sfreq="fast"), "sfreq is 'fast'"),
        (lambda: parts(tr=2000.0), "tr must be seconds"),
        (lambda: parts(tr=[2.0, 2.0]), "one number or one a subject"),
        (
            lambda: spoiled("eeg", (1, 0, 3, 5), np.nan),
            "EEG of sub-1, run 1: NaN or infinite values in region_4",
        ),
        (lambda: spoiled("bold", (0, 1, 2, 0), np.inf), "fMRI of sub-0, run 2: NaN or infinite"),
        (
            lambda: spoiled("eeg", (3, 1, 0), 2.5),
            "EEG of sub-3, run 2: flat (constant over time) in region_1",
        ),
        (lambda: spoiled("bold", (3, 1, 0), 0.0), "fMRI of sub-3, run 2: flat"),
        (lambda: shorter("eeg", slice(3)), "EEG of sub-1, run 2: 3 regions where 5 are expected"),
        (lambda: shorter("bold", slice(4)), "fMRI of sub-1, run 2: 4 regions where 5 are expected"),
        (lambda: shorter("eeg", (slice(None), slice(100))), "100 time points, at least 500"),
        (lambda: parts(bold=parts()["bold"][:, :1]), "has 1 runs, expected 2"),
        (lambda: parts(bold=parts()["bold"][:, :, 0]), "expected real numbers (regions, time)"),
        (lambda: parts(eeg=parts()["eeg"].astype(complex)), "expected real numbers"),
        (lambda: parts(bold=3), "bold must be an array"),
        (lambda: parts(bold=[], eeg=[]), "holds no subject"),
        (lambda: parts(participants=parts()["participants"].drop(columns="age")), "lacks the column age"),
    ],
)
def test_bad_input_is_one_clear_line(given, message):
    with pytest.raises(BookError) as error:
        PairedCohort.validate(**given())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_modality():
    with pytest.raises(BookError, match="choose 'fmri' or 'eeg'"):
        PairedCohort.validate(**parts()).available("meg")


@pytest.mark.parametrize("missing", ["bold", "eeg"])
def test_a_cohort_of_one_modality(tmp_path, missing):
    c = PairedCohort.validate(**{**parts(), missing: [None] * S}, paired=False)
    assert len(c) == S and c.n_regions == R and len(c.pairs()) == 0
    assert not c.available("fmri" if missing == "bold" else "eeg").any()
    assert PairedCohort.open(c.save(tmp_path / "mine")).hash == c.hash
    assert c.select([2, 1]).ids.tolist() == ["sub-2", "sub-1"] and "0" in repr(c)
