"""Own data: BIDS trees from the generators of nilearn and MNE-BIDS become cohorts; what is broken is told."""

import json
import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("zarr")
pytest.importorskip("mne_bids")

from nilearn._utils.data_gen import create_fake_bids_dataset

from helpers import store
from helpers.errors import BookError
from helpers.ingest import atlases, fmriprep, participants, report, work
from helpers.ingest.__main__ import main

SIZE, FRAMES, KEPT, TR = 10, 30, 29, 2.0  # the first frame is not in steady state
PEOPLE = """participant_id\tage\tgender\tdx\tnote
sub-01\t20\tF\tASD\tfirst
sub-02\t31.5\tmale\tTD\tn/a
sub-03\t40\tf\tTD\tthird
"""
OPTIONS = ("--column", "group=dx", "--column", "sex=gender", "--value", "group=patient:ASD,control:TD")
OPTIONS += (
    "--set",
    "site=Here",
    "--min-frames",
    "20",
    "--min-dof",
    "3",
    "--motion",
    "basic",
    "--max-fd",
    "5",
)


def labels() -> np.ndarray:
    """Four slabs of 2 x 6 x 6 voxels inside the brain of the fake images."""
    image = np.zeros((SIZE,) * 3, np.int32)
    for k in range(4):
        image[1 + 2 * k : 3 + 2 * k, 2:8, 2:8] = 10 * (k + 1)
    return image


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Three subjects with two runs each, by nilearn's generator; 30 frames, real confounds of fMRIPrep."""
    base = tmp_path_factory.mktemp("bids")
    options = dict(n_sub=3, n_ses=1, tasks=["rest"], n_runs=[2], n_voxels=SIZE)
    root = create_fake_bids_dataset(base, **options) / "derivatives"
    (root / "participants.tsv").write_text(PEOPLE)
    (root / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": TR}))
    nibabel.Nifti1Image(labels(), np.eye(4)).to_filename(root / "four.nii.gz")
    (root / "four.tsv").write_text("index\tname\tnetwork\n10\tA\tVis\n20\tB\tVis\n30\tC\tCont\n40\tD\tCont\n")
    return root


@pytest.fixture
def mine(tree, tmp_path, monkeypatch) -> Path:
    """A copy of the tree to spoil, in an empty working folder; no pictures, which take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "picture", lambda *words: None)
    return Path(shutil.copytree(tree, tmp_path / "derivatives"))


def call(root: Path, *more: str, out: str = "c.zarr") -> int:
    return main(["fmriprep", str(root), "--atlas", str(root / "four.nii.gz"), "--out", out, *OPTIONS, *more])


def bolds(root: Path, subject: str) -> list[Path]:
    return sorted(root.glob(f"{subject}/**/*space-MNI_desc-preproc_bold.nii.gz"))


def reasons() -> dict[str, str]:
    table = pd.read_csv("c.zarr.report/runs.tsv", sep="\t", keep_default_na=False)
    return dict(zip(table["run"], table["reason"], strict=True))


def refused(capfd, code: int, *words: str) -> str:
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    for word in words:
        assert word in error, error
    return error


# --- fMRI ----------------------------------------------------------------------------------------------


def test_derivatives_become_a_cohort_with_a_report(tree, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert call(tree, "--jobs", "2") == 0
    said = capfd.readouterr().out
    cohort = store.load("c.zarr")
    assert cohort.ids.tolist() == ["sub-01", "sub-02", "sub-03"] and cohort.bold.shape == (3, 4, KEPT)
    assert cohort.participants["group"].tolist() == ["patient", "control", "control"]
    assert cohort.participants["sex"].tolist() == ["F", "M", "F"]
    assert cohort.participants["age"].tolist() == [20, 31.5, 40] and set(cohort.tr) == {TR}
    assert cohort.atlas.labels.tolist() == ["A", "B", "C", "D"] and cohort.atlas.network_names == (
        "Vis",
        "Cont",
    )
    assert np.allclose(cohort.atlas.coords[0], [1.5, 4.5, 4.5])
    assert "3 runs used, 0 left out" in said and "strategy simple" in cohort.provenance.notes
    page = Path("c.zarr.report/index.html").read_text()
    pictures = re.findall(r'src="(pictures/[^"]+)" alt="[^"]+"', page)
    assert len(pictures) == 6 and all((Path("c.zarr.report") / p).stat().st_size > 5000 for p in pictures)
    assert "http" not in page, "nothing comes from the network"


def test_series_are_the_region_means_cleaned_as_nilearn_does(mine):
    from nilearn.interfaces.fmriprep import load_confounds_strategy
    from nilearn.signal import clean

    path = bolds(mine, "sub-01")[0]
    regions = atlases.find(str(mine / "four.nii.gz"))
    settings = fmriprep.Settings(motion="basic", min_frames=20, min_dof=3, max_fd=5)
    run = fmriprep.find(mine)[0]
    run = fmriprep.process(run, mine / "p.png", regions=regions, settings=settings)
    assert run.reason == "" and run.files[0] == path
    data = nibabel.load(path).get_fdata()
    expected = np.stack([data[labels() == k].mean(0) for k in (10, 20, 30, 40)])
    used, kept = load_confounds_strategy(str(path), "simple", motion="basic")
    assert len(kept) == KEPT
    expected = clean(expected.T, confounds=used, sample_mask=kept, standardize=None, t_r=TR).T
    assert np.abs(run.series - expected).max() < 1e-3 * expected.std()


def test_a_second_call_does_nothing_twice_and_a_changed_setting_all(mine, capfd, monkeypatch):
    assert call(mine) == 0
    shutil.rmtree("c.zarr")
    bolds(mine, "sub-02")[0].touch()
    os.utime(bolds(mine, "sub-02")[0], ns=(1, 1))
    capfd.readouterr()
    assert call(mine) == 0
    assert capfd.readouterr().out.count("found done") == 5, "the touched run is done again"
    shutil.rmtree("c.zarr")
    assert call(mine, "--min-coverage", "0.4") == 0
    assert "found done" not in capfd.readouterr().out
    half = Path("c.zarr.work") / "sub-01_ses-01_task-rest_run-01_space-MNI.npz"
    half.write_bytes(half.read_bytes()[:500])
    shutil.rmtree("c.zarr")
    assert call(mine, "--min-coverage", "0.4") == 0
    assert capfd.readouterr().out.count("found done") == 5, "a half-written result is done again"


def spoil_truncate(root: Path) -> None:
    path = bolds(root, "sub-02")[0]
    path.write_bytes(path.read_bytes()[:2000])


def spoil_no_confounds(root: Path) -> None:
    next(root.glob("sub-02/**/*run-01_desc-confounds_timeseries.tsv")).unlink()


def spoil_short_confounds(root: Path) -> None:
    path = next(root.glob("sub-02/**/*run-01_desc-confounds_timeseries.tsv"))
    path.write_text("\n".join(path.read_text().splitlines()[:20]))


def spoil_json(root: Path) -> None:
    bolds(root, "sub-02")[0].with_name(bolds(root, "sub-02")[0].name.replace("nii.gz", "json")).write_text(
        "{"
    )


def change(root: Path, function) -> None:
    path = bolds(root, "sub-02")[0]
    image = nibabel.load(path)
    nibabel.Nifti1Image(function(image.get_fdata()), image.affine).to_filename(path)


def put(data: np.ndarray, where, value: float) -> np.ndarray:
    data[where] = value
    return data


def spoil_motion(root: Path) -> None:
    path = next(root.glob("sub-02/**/*run-01_desc-confounds_timeseries.tsv"))
    table = pd.read_csv(path, sep="\t")
    table["framewise_displacement"] = 6.0
    table.to_csv(path, sep="\t", index=False)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (spoil_truncate, "Error"),
        (spoil_no_confounds, "no confounds table"),
        (spoil_short_confounds, "the confounds table has 19 rows, the image 30 frames"),
        (spoil_json, "is not JSON"),
        (lambda r: change(r, lambda x: put(x, (5, 5, 5, 3), np.nan)), "NaN or infinite values in the image"),
        (lambda r: change(r, lambda x: x[..., 0]), "expected four axes"),
        (lambda r: change(r, lambda x: put(x, (slice(1, 7),), 100.0)), "3 of 4 regions are not covered"),
        (spoil_motion, "mean FD is above 5 mm; 100% of the frames moved"),
    ],
)
def test_a_broken_run_is_told_and_left_out(mine, capfd, spoil, says):
    """The other run of the same subject is taken instead; nobody else is touched."""
    spoil(mine)
    assert call(mine) == 0
    told = reasons()["sub-02_ses-01_task-rest_run-01_space-MNI"]
    assert says in told, told
    assert sum(bool(r) for r in reasons().values()) == 1
    assert store.Store("c.zarr").ids.tolist() == ["sub-01", "sub-02", "sub-03"]
    assert "left out: sub-02" in capfd.readouterr().out


def test_people_without_a_row_or_with_half_of_one_are_left_out(mine):
    text = PEOPLE.replace("sub-01\t20", "sub-01\tn/a").replace("\tTD\tthird", "\tXX\tthird")
    (mine / "participants.tsv").write_text(text)
    assert call(mine) == 0
    assert store.Store("c.zarr").ids.tolist() == ["sub-02"]
    assert {r for r in reasons().values() if r} == {
        "participants.tsv: age is missing or not a number",
        "participants.tsv: group is '', not one of control, patient (--value)",
    }


def test_an_uncovered_region_is_zero_and_a_repair(mine):
    for path in bolds(mine, "sub-03"):
        image = nibabel.load(path)
        data = put(image.get_fdata(), (slice(7, 9),), 0.0)
        nibabel.Nifti1Image(data, image.affine).to_filename(path)
    assert call(mine, "--max-uncovered", "0.3") == 0
    cohort = store.load("c.zarr")
    assert (cohort.series(2)[3] == 0).all() and cohort.repairs["region"].tolist() == ["D"]


def test_runs_one_after_the_other(mine):
    assert call(mine, "--runs", "concat") == 0
    cohort = store.load("c.zarr")
    assert cohort.n_frames.tolist() == [2 * KEPT] * 3
    assert np.allclose(cohort.series(0)[:, :KEPT].std(axis=1), 1, atol=1e-3)


def test_the_layout_of_development_fmri(tmp_path, monkeypatch, tree):
    """A flat folder with a short table of confounds, as nilearn.datasets.fetch_development_fmri leaves it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "development_fmri"
    root.mkdir()
    rng = np.random.default_rng(0)
    for k, subject in enumerate(("sub-pixar001", "sub-pixar002")):
        stem = f"{subject}_task-pixar"
        data = nibabel.load(bolds(tree, "sub-01")[k]).get_fdata().astype(np.float32)
        image = nibabel.Nifti1Image(data, np.eye(4))
        image.header.set_zooms((1, 1, 1, TR))
        image.header.set_xyzt_units("mm", "sec")
        name = f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
        image.to_filename(root / name)
        names = [f"{m}_{a}" for m in ("trans", "rot") for a in "xyz"] + ["csf", "framewise_displacement"]
        pd.DataFrame(1e-3 * rng.standard_normal((FRAMES, 8)), columns=names).to_csv(
            root / f"{stem}_desc-reducedConfounds_regressors.tsv", sep="\t", index=False
        )
    (root / "participants.tsv").write_text(
        "participant_id\tAge\tAgeGroup\tChild_Adult\tGender\nsub-pixar001\t4.77\t4yo\tchild\tM\n"
        "sub-pixar002\t4.8\t4yo\tchild\tF\n"
    )
    words = ["--column", "age=Age", "--column", "sex=Gender", "--set", "group=control", "--set", "site=MIT"]
    words += ["--min-frames", "20", "--min-dof", "3", "--max-fd", "5"]
    atlas = str(tree / "four.nii.gz")
    assert main(["fmriprep", str(root), "--atlas", atlas, "--out", "c.zarr", *words]) == 0
    mine = store.Store("c.zarr")
    assert mine.ids.tolist() == ["sub-pixar001", "sub-pixar002"] and set(mine.tr) == {TR}
    assert mine.participants["AgeGroup"].tolist() == ["4yo", "4yo"]


@pytest.mark.parametrize("tr, to", [(0.72, 2.0), (0.8, 2.0), (3.0, 2.0), (2.0, 2.0)])
def test_resampling_keeps_what_is_slow_and_does_not_alias_what_is_fast(tr, to):
    t = np.arange(600) * tr
    slow = np.sin(2 * np.pi * 0.03 * t)
    out, now = fmriprep.resample(slow[None].astype(np.float32), tr, to)
    assert abs(now / to - 1) < 1e-3
    expected = np.sin(2 * np.pi * 0.03 * now * np.arange(out.shape[1]))
    middle = slice(30, -30)
    assert np.abs(out[0] - expected)[middle].max() < 0.03
    if tr < to:
        fast = np.sin(2 * np.pi * (0.5 / to + 0.2) * t)
        out, _ = fmriprep.resample(fast[None].astype(np.float32), tr, to)
        assert np.abs(out[0, middle]).max() < 0.03, "folded frequencies"
        step = round(to / tr)
        assert np.abs(fast[::step][30:-30]).max() > 0.5, "taking every n-th frame would fold them"


def test_another_tr_in_the_cohort(mine):
    assert call(mine, "--tr", "2.5", "--min-frames", "20") == 0
    mine = store.Store("c.zarr")
    assert set(mine.tr) == {2.5} and set(mine.n_frames) == {24}


@pytest.mark.parametrize(
    "words, says",
    [
        (["--tr", "2", "--strategy", "scrubbing"], "no even clock"),
        (["--strategy", "magic"], "--strategy is one of simple"),
        (["--min-coverage", "2"], "share from 0 to 1"),
        (["--task", "other"], "no run"),
        (["--column", "age=years"], "has participant_id, age, gender"),
        (["--set", "hair=red"], "unknown column 'hair'"),
        (["--value", "sex=ASD"], "OURS:THEIRS"),
        (["--frobnicate", "1"], "unrecognized arguments"),
        (["--participants", "none.tsv"], "no such file"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(mine, capfd, words, says):
    assert call(mine, *words) == 2
    refused(capfd, 2, says)
    assert not list(Path().glob("c.zarr*"))


def test_atlases_that_cannot_be_used(mine, capfd):
    bad = nibabel.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4))
    bad.to_filename("half.nii.gz")
    Path("text.nii.gz").write_text("not an image")
    for name, says in (
        ("nothing", "neither a file nor"),
        ("half.nii.gz", "no labels"),
        ("text.nii.gz", "read"),
    ):
        assert main(["fmriprep", str(mine), "--atlas", name, "--out", "c.zarr", *OPTIONS]) == 2
        refused(capfd, 2, says)
    far = np.zeros((4, 4, 4), np.int32)
    far[1, 1, 1] = 1
    nibabel.Nifti1Image(far, np.diag([1, 1, 1, 1]) + np.eye(4, k=3) * 500).to_filename("far.nii.gz")
    assert main(["fmriprep", str(mine), "--atlas", "far.nii.gz", "--out", "c.zarr", *OPTIONS]) == 1
    assert "none of 6 runs is fit for use" in refused(capfd, 1)
    assert "within the brain mask" in next(iter(reasons().values())) and not Path("c.zarr").exists()


def test_a_missing_repetition_time_is_not_guessed(mine, capfd):
    (mine / "task-rest_bold.json").unlink()
    assert call(mine) == 1
    assert all("no repetition time" in reason for reason in reasons().values())


def test_a_full_disk_ends_the_work(mine, capfd, monkeypatch):
    def full(*args, **kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work.np, "savez", full)
    assert call(mine) == 2
    assert "the disk is full" in refused(capfd, 2)


def test_participants_tables(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage\tsex\tsite\tgroup\n01\t5\tM\tA\tcontrol\nsub-02\tx\tM\tA\tcontrol\n")
    table = participants.read(path)
    assert table.index.tolist() == ["sub-01", "sub-02"]
    assert participants.trouble(table.loc["sub-01"]) == "" and "age" in participants.trouble(
        table.loc["sub-02"]
    )
    path.write_text("participant_id\tage\n01\t5\n")
    with pytest.raises(BookError, match="no column sex, site, group: say --column sex="):
        participants.read(path)
    path.write_text("participant_id\tage\tsex\tsite\tgroup\n01\t5\tM\tA\tx\nsub-01\t5\tM\tA\tx\n")
    with pytest.raises(BookError, match="sub-01 appears twice"):
        participants.read(path)


# --- EEG -------------------------------------------------------------------------------------------------


def brainvision(path: Path, x: np.ndarray, names: tuple[str, ...], rate: float) -> None:
    """A recording (C, N) in microvolts in BrainVision's three files."""
    head = ["Brain Vision Data Exchange Header File Version 1.0", "[Common Infos]", "Codepage=UTF-8"]
    head += [f"DataFile={path.stem}.eeg", f"MarkerFile={path.stem}.vmrk", "DataFormat=BINARY"]
    head += ["DataOrientation=MULTIPLEXED", f"NumberOfChannels={len(x)}", f"SamplingInterval={1e6 / rate:g}"]
    head += ["[Binary Infos]", "BinaryFormat=IEEE_FLOAT_32", "[Channel Infos]"]
    head += [f"Ch{k}={name},,1,µV" for k, name in enumerate(names, 1)]
    path.write_text("\n".join(head) + "\n", encoding="utf-8")
    marks = "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
    marks += f"DataFile={path.stem}.eeg\n[Marker Infos]\nMk1=New Segment,,1,1,0,20200101000000000000\n"
    path.with_suffix(".vmrk").write_text(marks)
    path.with_suffix(".eeg").write_bytes(np.ascontiguousarray(x.T, "<f4").tobytes())


@pytest.fixture(scope="module")
def eeg_tree(tmp_path_factory) -> Path:
    """Two people with 40 s of simulated EEG, written by MNE-BIDS."""
    import mne
    import mne_bids

    from helpers.data import schaefer
    from helpers.simulate import eeg as physics

    base = tmp_path_factory.mktemp("eeg")
    root = base / "bids"
    rate, rng = 250.0, np.random.default_rng(0)
    fwd = physics.forward(schaefer(100).coords, sfreq=rate)
    for k in (1, 2):
        t = np.arange(int(40 * rate)) / rate
        sources = rng.standard_normal((100, len(t))).cumsum(axis=1)
        sources -= sources.mean(axis=1, keepdims=True)
        x = fwd.gain @ sources
        x = 10 * x / x.std() + rng.standard_normal(x.shape)
        path = base / f"rec{k}.vhdr"
        brainvision(path, x, tuple(fwd.info["ch_names"]), rate)
        raw = mne.io.read_raw_brainvision(path, verbose="error")
        raw.info["line_freq"] = 50
        where = mne_bids.BIDSPath(subject=f"{k:02d}", task="rest", root=root, datatype="eeg")
        mne_bids.write_raw_bids(raw, where, verbose="error")
    table = pd.read_csv(root / "participants.tsv", sep="\t")
    table["age"], table["sex"] = [25, 30], ["F", "M"]
    table.to_csv(root / "participants.tsv", sep="\t", index=False)
    return root


def eeg(root: Path, *more: str) -> int:
    words = ["--set", "site=Lab", "--set", "group=control", "--min-seconds", "20", "--reject", "threshold"]
    atlas = "four.nii.gz"
    nibabel.Nifti1Image(labels(), np.diag([8.0, 8, 8, 1])).to_filename(atlas)
    return main(["eeg", str(root), "--atlas", atlas, "--out", "e.zarr", *words, *more])


def test_recordings_become_a_cohort(eeg_tree, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert eeg(eeg_tree) == 0
    mine = store.Store("e.zarr")
    assert mine.ids.tolist() == ["sub-01", "sub-02"] and mine.n_regions == 4
    assert np.allclose(mine.tr, 1 / 125) and (mine.n_frames >= 20 * 125).all()
    assert "pictures/sub-01_task-rest.png" in Path("e.zarr.report/index.html").read_text()
    assert np.isfinite(mine.window(0, 10, 1000)).all()


def test_a_broken_recording_is_left_out(eeg_tree, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    root = Path(shutil.copytree(eeg_tree, tmp_path / "bids"))
    header = next(root.glob("sub-02/**/*.vhdr"))
    header.write_text("nonsense")
    assert eeg(root, "--reject", "none") == 0
    assert store.Store("e.zarr").ids.tolist() == ["sub-01"]
    assert "left out: sub-02" in capfd.readouterr().out
    for words, says in ((["--high", "90"], "does not fit a rate"), (["--reject", "no"], "--reject no")):
        shutil.rmtree("e.zarr", ignore_errors=True)
        assert eeg(root, *words) == 2
        refused(capfd, 2, says)
