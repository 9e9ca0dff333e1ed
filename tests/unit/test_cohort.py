"""Cohorts: the border refuses what is wrong and names it; saved cohorts come back whole or not at all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import helpers
from helpers import io
from helpers.data import Atlas, Cohort, Provenance, group_fc, load_cohort, schaefer
from helpers.errors import BookError

S, R, T = 6, 5, 40
PROVENANCE = Provenance("test", "made here", "none", "nobody")


def parts(**changes) -> dict:
    """Arguments of a valid cohort, with some changed."""
    rng = np.random.default_rng(0)
    participants = pd.DataFrame(
        {
            "participant_id": [f"sub-{k}" for k in range(S)],
            "age": [20.0, 30, 40, 50, 60, 70],
            "sex": ["F", "M"] * 3,
            "site": ["a", "a", "b", "b", "b", "b"],
            "group": ["control", "patient"] * 3,
            "score": [1.5, np.nan, 3, 4, 5, 6],
        }
    )
    atlas = Atlas("toy", [f"R{k}" for k in range(R)], ["Vis", "Vis", "Cont", "", "Default"], np.zeros((R, 3)))
    good = {
        "bold": rng.standard_normal((S, R, T)),
        "participants": participants,
        "tr": 2.0,
        "atlas": atlas,
        "provenance": PROVENANCE,
    }
    return {**good, **changes}


def ragged() -> Cohort:
    rng = np.random.default_rng(1)
    return Cohort.validate(**parts(bold=[rng.standard_normal((R, T + 3 * s)) for s in range(S)]))


def changed(column: str, row: int, value) -> pd.DataFrame:
    table = parts()["participants"].astype({column: object})
    table.loc[row, column] = value
    return table


def with_values(s: int, r: int, values) -> np.ndarray:
    bold = parts()["bold"].copy()
    bold[s, r] = values
    return bold


# -- what a cohort is ------------------------------------------------------------------------------


def test_a_valid_cohort_keeps_its_data():
    given = parts()
    cohort = Cohort.validate(**given)
    assert cohort.bold.dtype == np.float32
    np.testing.assert_allclose(cohort.bold, given["bold"], rtol=1e-6)
    assert len(cohort) == S and cohort.n_regions == R
    assert cohort.ids.tolist() == [f"sub-{k}" for k in range(S)]
    assert cohort.tr.tolist() == [2.0] * S and cohort.n_frames.tolist() == [T] * S
    assert len(cohort.repairs) == 0
    assert "6 subjects" in repr(cohort) and "\n" not in repr(cohort)


def test_shorter_scans_are_padded_with_nan_and_series_leaves_the_padding_out():
    cohort = ragged()
    assert cohort.bold.shape == (S, R, T + 15)
    assert np.isnan(cohort.bold[0, :, T:]).all() and np.isfinite(cohort.bold[5]).all()
    for s in range(S):
        assert cohort.series(s).shape == (R, T + 3 * s) and np.isfinite(cohort.series(s)).all()
    assert np.shares_memory(cohort.series(2), cohort.bold)


def test_padded_array_and_list_give_the_same_cohort():
    cohort = ragged()
    again = Cohort.validate(**parts(bold=cohort.bold, n_frames=cohort.n_frames))
    assert again.hash == cohort.hash


def test_select_takes_people_with_all_that_belongs_to_them():
    bold = ragged()
    cohort = Cohort.validate(**parts(bold=with_values(4, 2, 0.0)), on_constant="zero")
    part = cohort.select([4, 1])
    assert part.ids.tolist() == ["sub-4", "sub-1"]
    assert part.participants.index.tolist() == [0, 1] and part.participants["age"].tolist() == [60, 30]
    np.testing.assert_array_equal(part.series(1), cohort.series(1))
    assert part.repairs["region"].tolist() == ["R2"] and len(cohort.select([0, 1]).repairs) == 0
    assert cohort.select(cohort.participants["site"] == "b").ids.tolist() == [
        "sub-2",
        "sub-3",
        "sub-4",
        "sub-5",
    ]
    assert bold.select([0, 1]).bold.shape[-1] == T + 3


@pytest.mark.parametrize("index", [[], [0, 0], [99], np.zeros(S, bool), np.ones(S + 1, bool), 3])
def test_select_refuses_an_index_that_means_nothing(index):
    with pytest.raises(BookError, match="select"):
        Cohort.validate(**parts()).select(index)


def test_hash_depends_on_series_lengths_ids_and_order():
    base = Cohort.validate(**parts())
    assert base.hash == Cohort.validate(**parts()).hash and len(base.hash) == 12
    bold = parts()["bold"]
    bold[3, 2, 7] += 1e-3
    others = [
        Cohort.validate(**parts(bold=bold)),
        Cohort.validate(**parts(tr=2.5)),
        Cohort.validate(**parts(participants=changed("participant_id", 0, "sub-x"))),
        base.select([1, 0, 2, 3, 4, 5]),
    ]
    assert len({c.hash for c in [base, *others]}) == 5


def test_summary_has_one_row_a_site():
    table = ragged().summary()
    assert table.index.tolist() == ["a", "b"]
    assert table["subjects"].tolist() == [2, 4] and table["patients"].tolist() == [1, 2]
    assert table["women"].tolist() == [1, 2] and table.loc["b", "frames"] == f"{T + 6}-{T + 15}"


def test_atlas_knows_what_it_knows():
    atlas = parts()["atlas"]
    assert atlas.network_names == ("Vis", "Cont", "Default") and not atlas.has_networks and atlas.has_coords
    bare = Atlas.unnamed(4)
    assert bare.n_regions == 4 and not bare.has_coords and not bare.has_networks and bare.network_names == ()
    with pytest.raises(BookError, match="do not fit together"):
        Atlas("bad", ["a", "b"], ["x"], np.zeros((2, 3)))


# -- the border ------------------------------------------------------------------------------------

BAD = {
    "nan": (dict(bold=with_values(2, 3, np.nan)), r"NaN.*sub-2 region R3"),
    "inf": (dict(bold=with_values(1, 0, [np.inf] + [0.0] * (T - 1))), r"infinite.*sub-1 region R0"),
    "constant": (dict(bold=with_values(4, 1, 7.5)), r"constant.*sub-4 region R1"),
    "all zero": (dict(bold=with_values(0, 4, 0.0)), r"constant.*sub-0 region R4"),
    "float32 overflow": (dict(bold=with_values(0, 4, np.linspace(0, 1e300, T))), r"float32.*sub-0 region R4"),
    "one scan only": (dict(bold=np.ones((R, T))), r"shape \(40,\)"),
    "text": (dict(bold=np.full((S, R, T), "x")), "dtype"),
    "complex": (dict(bold=np.ones((S, R, T), complex)), "dtype complex128"),
    "no subject": (dict(bold=np.ones((0, R, T))), "no subject"),
    "not an array": (dict(bold=3), "bold must be"),
    "unequal regions": (
        dict(bold=[np.random.default_rng(0).random((R + (s == 3), T)) for s in range(S)]),
        "sub-3 has 6",
    ),
    "time and regions swapped": (dict(bold=parts()["bold"].transpose(0, 2, 1)), r"axes are \(region, time\)"),
    "too few frames": (
        dict(bold=[np.random.default_rng(s).random((R, 5 if s == 2 else T)) for s in range(S)]),
        r"sub-2 \(5\)",
    ),
    "n_frames too long": (dict(n_frames=[T] * 5 + [T + 1]), "number 5 is 41"),
    "n_frames wrong length": (dict(n_frames=[T]), "6 whole numbers"),
    "tr zero": (dict(tr=0), r"sub-0 \(0\)"),
    "tr negative for one": (dict(tr=[2, 2, -1, 2, 2, 2]), r"positive.*: sub-2 \(-1\)$"),
    "tr nan": (dict(tr=np.nan), "positive"),
    "tr text": (dict(tr="two"), "seconds"),
    "tr wrong length": (dict(tr=[2.0, 2.0]), r"shape \(2,\)"),
    "rows": (dict(participants=parts()["participants"].head(5)), "5 rows, bold has 6"),
    "column": (dict(participants=parts()["participants"].drop(columns="site")), "lacks the column site"),
    "duplicate": (dict(participants=changed("participant_id", 1, "sub-0")), "sub-0 appears twice"),
    "no id": (dict(participants=changed("participant_id", 1, "")), "participant_id is empty in row 1"),
    "no site": (dict(participants=changed("site", 3, None)), "site is empty in row 3"),
    "sex": (dict(participants=changed("sex", 1, "male")), r"sex.*sub-1 \('male'\)"),
    "group": (dict(participants=changed("group", 5, 1)), r"group.*sub-5 \(1\)"),
    "age": (dict(participants=changed("age", 2, -9999)), "age.*sub-2"),
    "age text": (dict(participants=changed("age", 2, "old")), "age.*sub-2"),
    "not a table": (dict(participants=[1, 2]), "DataFrame"),
    "atlas": (dict(atlas=Atlas.unnamed(R + 1)), "has 6 regions"),
    "on_constant": (dict(on_constant="drop"), "on_constant is 'drop'"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_border_refuses(name):
    changes, message = BAD[name]
    with pytest.raises(BookError, match=message) as error:
        Cohort.validate(**parts(**changes))
    assert "\n" not in str(error.value)


def test_many_faults_are_named_in_a_few_words():
    bold = parts()["bold"]
    bold[:, :, 3] = np.nan
    with pytest.raises(BookError, match="and 27 more"):
        Cohort.validate(**parts(bold=bold))


def test_the_border_does_not_touch_what_it_is_given():
    given = parts(bold=with_values(4, 1, 7.5))
    before, table = given["bold"].copy(), given["participants"].copy()
    Cohort.validate(**given, on_constant="zero")
    np.testing.assert_array_equal(given["bold"], before)
    pd.testing.assert_frame_equal(given["participants"], table)


def test_constant_regions_can_be_set_to_zero_and_are_counted():
    bold = with_values(4, 1, 7.5)
    bold[2, 0] = 0
    cohort = Cohort.validate(**parts(bold=bold), on_constant="zero")
    assert (cohort.series(4)[1] == 0).all() and (cohort.series(4)[2] != 0).all()
    assert cohort.repairs[["participant_id", "region"]].to_numpy().tolist() == [
        ["sub-2", "R0"],
        ["sub-4", "R1"],
    ]
    assert "2 repairs" in repr(cohort)


def test_padding_is_no_nan_and_no_constant():
    cohort = ragged()
    again = Cohort.validate(**parts(bold=cohort.bold, n_frames=cohort.n_frames))
    assert again.n_frames.tolist() == cohort.n_frames.tolist()
    with pytest.raises(BookError, match="NaN"):  # but forgetting n_frames is an error
        Cohort.validate(**parts(bold=cohort.bold))


# -- on disk ---------------------------------------------------------------------------------------


def test_saved_cohort_comes_back_the_same(tmp_path):
    bold = [x.copy() for x in (ragged().series(s) for s in range(S))]
    bold[3][2] = 0
    cohort = Cohort.validate(**parts(bold=bold, tr=[2, 2, 1.5, 1.5, 2, 0.72]), on_constant="zero")
    again = Cohort.open(cohort.save(tmp_path / "deep" / "mine"))
    assert again.hash == cohort.hash and repr(again) == repr(cohort)
    np.testing.assert_array_equal(again.bold, cohort.bold)
    pd.testing.assert_frame_equal(again.participants, cohort.participants)
    pd.testing.assert_frame_equal(again.repairs, cohort.repairs, check_dtype=False)
    assert again.provenance == cohort.provenance and again.atlas.network_names == cohort.atlas.network_names
    np.testing.assert_array_equal(again.atlas.labels, cohort.atlas.labels)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["mine"]


def test_unknown_coordinates_survive(tmp_path):
    cohort = Cohort.validate(**parts(atlas=None))
    again = Cohort.open(cohort.save(tmp_path / "c"))
    assert not again.atlas.has_coords and not again.atlas.has_networks


def test_an_existing_folder_is_never_overwritten(tmp_path):
    folder = Cohort.validate(**parts()).save(tmp_path / "c")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(BookError, match="exists already"):
        ragged().save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "write_json", full)
    with pytest.raises(BookError, match=r"cannot write the cohort.*No space"):
        Cohort.validate(**parts()).save(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bold.npz", "participants.tsv", "atlas.tsv", "repairs.tsv"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_damaged_files_are_refused(tmp_path, name, harm):
    path = Cohort.validate(**parts()).save(tmp_path / "c") / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if harm == "cut" else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(BookError, match=name):
        Cohort.open(tmp_path / "c")


@pytest.mark.parametrize("harm", ["cut", "hash", "format", "gone"])
def test_a_damaged_provenance_is_refused(tmp_path, harm):
    path = Cohort.validate(**parts()).save(tmp_path / "c") / "provenance.json"
    about = json.loads(path.read_text())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_text(path.read_text()[:40])
    else:
        about[harm] = "x"
        path.write_text(json.dumps(about))
    with pytest.raises(BookError, match=r"provenance\.json|format x"):
        Cohort.open(tmp_path / "c")


# -- loading by profile ----------------------------------------------------------------------------


def test_load_cohort_by_profile(tmp_path):
    embedded = load_cohort("embedded", n_subjects=3, seed=1, n_frames=50)
    assert embedded.bold.shape == (3, 100, 50)
    folder = embedded.save(tmp_path / "mine")
    assert load_cohort("full", cohort=str(folder)).hash == embedded.hash
    assert load_cohort("full", cohort=str(folder), n_subjects=2).ids.tolist() == embedded.ids[:2].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(profile="tiny"), "unknown profile 'tiny'"),
        (dict(profile="full"), "cohort=FOLDER"),
        (dict(profile="full", cohort="nowhere/at/all"), "not a cohort folder"),
        (dict(profile="embedded", n_subjects=0), "n_subjects is 0"),
        (dict(profile="embedded", n_subjects=2, colour="red"), "unknown simulation setting colour"),
        (dict(profile="public", n_subjects=141), "n_subjects is 141"),
    ],
)
def test_load_cohort_refuses(call, message):
    with pytest.raises(BookError, match=message):
        load_cohort(**call)


# -- the atlases that ship -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [100, 400])
def test_schaefer_assets(n):
    atlas, fc = schaefer(n), group_fc(n)
    assert atlas.n_regions == n and len(set(atlas.labels.tolist())) == n
    assert atlas.network_names == ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
    assert atlas.has_coords and atlas.has_networks
    left = np.char.startswith(atlas.labels, "LH")
    assert left.sum() == n // 2 and (atlas.coords[left, 0] < 0).all() and (atlas.coords[~left, 0] > 0).all()
    assert fc.shape == (n, n) and (fc == fc.T).all() and (np.diag(fc) == 1).all() and np.abs(fc).max() <= 1
    same = atlas.networks[:, None] == atlas.networks
    edges = np.triu(np.ones((n, n), bool), 1)
    assert fc[same & edges].mean() > fc[~same & edges].mean() + 0.1  # labels are in the order of the matrix


def test_visual_regions_are_at_the_back():
    atlas = schaefer(100)
    assert (
        atlas.coords[atlas.networks == "Vis", 1].mean()
        < -60
        < 0
        < atlas.coords[atlas.networks == "Limbic", 1].mean()
    )


def test_atlas_of_another_size_is_refused():
    with pytest.raises(BookError, match="no Schaefer atlas of 200"):
        schaefer(200)


def test_changing_an_atlas_does_not_change_the_next_one():
    schaefer(100).labels[0] = "broken"
    assert schaefer(100).labels[0] == "LH_Vis_1"


def test_assets_are_those_that_provenance_describes():
    folder = Path(helpers.__file__).parent / "assets"
    stated = dict(
        re.findall(r"^\| `([\w.]+)` \|.*`([0-9a-f]{64})` \|$", (folder / "PROVENANCE.md").read_text(), re.M)
    )
    assert stated == {
        name: io.sha256(folder / name) for name in ("schaefer100.npz", "schaefer400.npz", "cc200.csv")
    }
    assert sum((folder / name).stat().st_size for name in stated) < 500_000


def test_the_asset_script_refuses_another_file(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "make_assets.py"
    wheel = tmp_path / "brainspace-0.3.0-py3-none-any.whl"
    wheel.write_bytes(b"not it")
    done = subprocess.run([sys.executable, script, wheel], capture_output=True, text=True)
    assert done.returncode == 1 and "expected aec3854a" in done.stderr
