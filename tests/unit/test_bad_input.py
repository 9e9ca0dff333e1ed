"""Bad input to the real chapters, from the command line to the exit code.

Refused commands are in ``test_run.py``, bad arrays in ``test_cohort.py``, bad labels and splits in
``test_evaluate.py``, bad downloads in ``test_registry.py``, killed writers in ``test_io.py``. Here each
kind of bad data meets a chapter: one line, exit code 1, no result, and the good run before it is kept.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import chapters, run
from helpers.data import Cohort
from helpers.data.abide import PHENOTYPES
from helpers.simulate import bold

CHAPTERS = chapters.names()
GOOD = {"record.json": "{}", "notebook.ipynb": "the good run before"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The output folder of the test, an empty data cache, and no network."""
    for name in ("BOOK_RUN_DIR", "BOOK_RESUME", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "data"))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return bold.cohort(40, n_frames=60, seed=0)


def nan_series(cohort: Cohort) -> Cohort:
    series = cohort.bold.copy()
    series[3, 7, 10] = np.nan
    return replace(cohort, bold=series)


def one_class(cohort: Cohort) -> Cohort:
    return replace(cohort, participants=cohort.participants.assign(group="control"))


def one_site(cohort: Cohort) -> Cohort:
    return replace(cohort, participants=cohort.participants.assign(site="A"))


def two_frames(cohort: Cohort) -> Cohort:
    return replace(cohort, bold=cohort.bold[:, :, :2], n_frames=np.full(len(cohort), 2))


def fails(folder: Path, capfd, chapter: str, profile: str, *words: str) -> str:
    """Run a chapter over a good run of the past; return its one-line error."""
    here = folder / chapter / profile
    here.mkdir(parents=True)
    for name, text in GOOD.items():
        (here / name).write_text(text)
    arguments = [chapter, "--profile", profile]
    for word in words:
        arguments += ["-p", word]
    assert run.main(arguments) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert "Traceback" not in error and "notebook.failed.ipynb" in error
    kept = [".lock", "notebook.failed.ipynb", "previous", "run.json", "run.log"]
    assert sorted(os.listdir(here)) == kept, "nothing that looks like a result"
    assert {name: (here / "previous" / name).read_text() for name in GOOD} == GOOD, "nothing is lost"
    return error


@pytest.mark.parametrize(
    "chapter, spoil, says",
    [
        ("01_signals", two_frames, "too few frames, below 20"),
        ("02_baselines", one_class, "all 40"),
        ("03_brainmass", one_class, "rows have group = control; it takes two groups"),
        ("02_baselines", one_site, "all subjects come from one site (A); need at least two"),
        ("03_brainmass", nan_series, "NaN or infinite values in sub-0004 region LH_Vis_8"),
    ],
)
def test_a_bad_cohort(folder, capfd, tmp_path, cohort, chapter, spoil, says):
    spoil(cohort).save(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    given = (f"cohort_folder={tmp_path / 'mine'}", f"n_subjects={len(cohort)}")
    assert says in fails(folder, capfd, chapter, "full", *given)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_fewer_subjects_than_folds(folder, capfd):
    error = fails(folder, capfd, "03_brainmass", "embedded", "n_subjects=16", "n_folds=20", "n_unlabelled=0")
    assert "20 folds asked of 16 subjects" in error


def test_missing_data(folder, capfd, tmp_path):
    error = fails(folder, capfd, "03_brainmass", "public")
    assert "is not on this computer and could not be downloaded" in error and "BOOK_DATA" in error
    assert not list(tmp_path.glob("data/**/*.*")), "half a download is not left behind"


def test_a_checksum_that_differs(folder, capfd, tmp_path):
    file = tmp_path / "data" / "nilearn" / "ABIDE_pcp" / PHENOTYPES
    file.parent.mkdir(parents=True)
    file.write_text("SUB_ID,DX_GROUP\n1,1\n")
    error = fails(folder, capfd, "02_baselines", "public")
    assert "damaged (checksum differs), not used" in error and PHENOTYPES in error
    assert not file.exists() and file.with_name(f"{PHENOTYPES}.corrupt").is_file(), "set aside, not deleted"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_refused_parameters_of_every_chapter(folder, capfd, chapter):
    number = next(p for p in chapters.parameters(chapter).values() if p.kind == "int" and p.name != "seed")
    for word, says in (
        ("n_subject=30", "unknown parameter 'n_subject'"),
        (f"{number.name}=many", "not int"),
        (f"{number.name}=-1", "outside"),
    ):
        assert run.main([chapter, "-p", word]) == 2
        error = capfd.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and says in error, error
    assert not folder.exists()
