"""Sweeps: a grid is run once, what failed is tried again and listed, and the table says what came out."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny_book import CHAPTER, make_book

pytest.importorskip("distributed")

from helpers import chapters, io, records, run, sweep
from helpers.errors import BookError

WORK = """\
import os, pathlib
if seed == 0 and not pathlib.Path("../died").exists():
    pathlib.Path("../died").touch()
    os.kill(os.getpid(), 9)
run.log(score=seed + drop_rate, score_lo=0.0, score_hi=9.0, other=1.0)
"""


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    for name in ("BOOK_RUN_DIR", "BOOK_RESUME", "BOOK_RUNS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return make_book(tmp_path, WORK)


def refuse(capsys, *arguments: str) -> str:
    assert sweep.main([CHAPTER, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_a_grid_becomes_typed_values(book):
    known = chapters.parameters(CHAPTER)
    words = ["seed=0:4:2", "kind=pearson,ledoit_wolf", "drop_rate=0,0.5", "widths=[8];[16, 32]"]
    found = sweep.grid([*words, "verbose=true,false"], known)
    assert found == {
        "seed": [0, 2],
        "kind": ["pearson", "ledoit_wolf"],
        "drop_rate": [0.0, 0.5],
        "widths": [[8], [16, 32]],
        "verbose": [True, False],
    }
    jobs = sweep.plan(CHAPTER, "embedded", found, {}, Path("x"))
    assert len(jobs) == 2**5 == len({job.folder for job in jobs})


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--grid", "seeds=0:3"], "did you mean seed?"),
        (["--grid", "seed"], "write --grid name=a,b"),
        (["--grid", "seed=0:2", "seed=3"], "given twice"),
        (["--grid", "seed=3:3"], "at least one value"),
        (["--grid", "seed=1,1"], "each once"),
        (["--grid", "kind=person"], "not one of pearson"),
        (["--grid", "drop_rate=0.1,2"], "2.0 is outside"),
        (["--grid", "seed=0:20000"], "more than 10000"),
        (
            ["--grid", "seed=0:200", "widths=" + ";".join(f"[{k}]" for k in range(1, 60))],
            "grid has 11800 runs",
        ),
        (["--grid", "seed=0:2", "-p", "seed=1"], "in --grid and in -p"),
        (["--grid", "seed=0:2", "--workers", "0"], "--workers is at least 1"),
        (["--grid", "seed=0:2", "--profile", "pubic"], "did you mean public?"),
        (["--grid", "seed=0:2", "--frobnicate"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(book, capsys, arguments, says):
    assert says in refuse(capsys, *arguments)
    assert not (book / "_runs").exists()


@pytest.mark.slow
def test_two_real_runs_of_which_one_dies_once(book, capsys):
    words = [CHAPTER, "--grid", "seed=0:2", "-p", "drop_rate=0.5", "--workers", "2"]
    assert sweep.main(words) == 0
    printed = capsys.readouterr().out
    assert (
        "2 runs, 0 ended well before, 2 to do" in printed
        and "score, 2 runs: 1.000 [-5.353, 7.353]" in printed
    )
    table = pd.read_csv(book / "_runs" / "sweeps" / CHAPTER / "embedded" / "table.csv", keep_default_na=False)
    assert table["attempts"].tolist() == [2, 1] and table["score"].tolist() == [0.5, 1.5]
    assert not (book / "_runs" / CHAPTER).exists(), "the chapter's own run is not touched"
    assert sweep.main(words) == 0
    assert "2 ended well before, 0 to do" in capsys.readouterr().out


def imitation(words: list[str], folder: str, where: str, threads: int) -> dict:
    """What ``attempt`` does, without a kernel; it counts its calls in files and fails where it should."""
    values = dict(word.split("=", 1) for word in words if "=" in word)
    seed, kind = int(values["seed"]), values["kind"]
    output = Path(folder) / CHAPTER / "embedded"
    count = Path(where) / f"count_{seed}_{kind}"
    count.write_text(count.read_text() + "x" if count.exists() else "x")
    if kind == "ledoit_wolf" and seed == 1 and not (Path(where) / "mended").exists():
        return {"code": 1, "error": "ValueError: this does not work", "seconds": 1.0}
    if seed == 2 and count.read_text() == "x":
        raise RuntimeError("the worker died")
    record = records.start(CHAPTER, profile="embedded", seed=seed, parameters={}).log(score=seed).record()
    io.write_json(output / "record.json", record.as_dict())
    asked = run.resolve(CHAPTER, "embedded", {"seed": seed, "kind": kind})
    io.write_json(output / "run.json", {"parameters": asked})
    return {"code": 0, "error": "", "seconds": 1.0}


def counts(book: Path) -> dict[str, int]:
    return {path.name[6:]: len(path.read_text()) for path in sorted(book.glob("count_*"))}


def test_what_failed_is_tried_again_and_listed_and_what_ended_well_is_not(book, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "attempt", imitation)
    words = [CHAPTER, "--grid", "seed=0:3", "kind=pearson,ledoit_wolf", "--workers", "2"]
    assert sweep.main(words) == 1
    printed = capsys.readouterr()
    assert "6 runs, 0 ended well before, 6 to do" in printed.out
    assert "failed (2 attempts): seed=1 kind=ledoit_wolf: ValueError: this does not work" in printed.out
    assert printed.err == "error: 1 of 6 runs failed; the same command tries them again\n"
    assert counts(book) == {
        "0_ledoit_wolf": 1, "0_pearson": 1, "1_ledoit_wolf": 2, "1_pearson": 1, "2_ledoit_wolf": 2,
        "2_pearson": 2,
    }  # fmt: skip
    root = book / "_runs" / "sweeps" / CHAPTER / "embedded"
    table = pd.read_csv(root / "table.csv")
    assert len(table) == 6 and table["state"].tolist().count("failed") == 1
    assert table.set_index(["seed", "kind"]).loc[(2, "pearson"), "score"] == 2
    assert (root / "intervals.png").stat().st_size > 5000

    (book / "mended").touch()
    assert sweep.main(words) == 0
    printed = capsys.readouterr().out
    assert "5 ended well before, 1 to do" in printed
    assert "score, kind pearson: 1.000 [-1.484, 3.484]" in printed
    assert sum(counts(book).values()) == 10, "nothing that ended well ran again"
    assert sweep.main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("ended well: -m helpers.run") == 6
    assert sweep.main([*words, "--again"]) == 0
    assert sum(counts(book).values()) == 16
    with open(next(root.glob("seed=0_kind=pearson*")) / CHAPTER / "embedded" / "record.json", "w") as file:
        file.write("{")
    assert sweep.main(words) == 0
    assert "5 ended well before, 1 to do" in capsys.readouterr().out, "a damaged record is no result"


def test_the_interval_is_students_over_seeds():
    jobs = [
        sweep.Job(
            CHAPTER, "embedded", {"seed": k, "kind": kind}, {}, Path("x"), "finished", metrics={"auc": v}
        )
        for kind, values in (("a", (0.6, 0.7, 0.8)), ("b", (0.5,)))
        for k, v in enumerate(values)
    ]
    found = sweep.summary(jobs, "auc")
    assert found["kind a"].value == pytest.approx(0.7)
    assert found["kind a"].hi - 0.7 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)
    assert found["kind b"].lo == found["kind b"].hi == 0.5
    assert sweep.main_metric(jobs, None) == "auc"
    with pytest.raises(BookError, match="the runs have auc"):
        sweep.main_metric(jobs, "loss")


def test_the_slurm_job_says_what_was_asked(book):
    words = ["--grid", "seed=0:2", "--dry-run", "--workers", "2", "--slurm", "cores=8", "memory=32GB"]
    words += ["queue=gpu", "walltime=08:00:00", "job_extra_directives=--gres=gpu:1"]
    code = f"import sys; from helpers import sweep; sys.exit(sweep.main({[CHAPTER, *words]!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    script = done.stdout
    for line in ("#SBATCH -p gpu", "#SBATCH --mem=30G", "#SBATCH -t 08:00:00", "#SBATCH --gres=gpu:1"):
        assert line in script, script
    assert "#SBATCH --cpus-per-task=8" in script and "--nthreads 1" in script
