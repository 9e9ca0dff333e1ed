"""run: everything is checked first; a run that did not end well is never taken for one that did."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from tiny_book import CHAPTER, PARAMETERS, code, make_book, write_config, write_notebook

from helpers import chapters, io, records, run
from helpers.errors import BookError

# A training of three steps that keeps its state after each and waits to be killed in the third.
TRAIN = """\
import atexit, json, os, pathlib, time
from helpers import io
atexit.register(pathlib.Path("../left_politely").touch)
folder = run.checkpoint("fit")
file = folder / "state.json"
state = io.read_json(file) if run.resume and file.exists() else {"step": 0, "total": 0}
while state["step"] < 3:
    if state["step"] == 2 and not run.resume:
        pathlib.Path("../kernel.pid").write_text(str(os.getpid()))
        time.sleep(60)
    state = {"step": state["step"] + 1, "total": state["total"] + 10 ** state["step"]}
    io.write_json(file, state)
run.log(total=state["total"])
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("BOOK_RUN_DIR", "BOOK_RESUME", "BOOK_RUNS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_book(tmp_path)


def folder(book: Path, profile: str = "embedded") -> Path:
    return book / "_runs" / CHAPTER / profile


def refuse(capsys, *arguments: str) -> str:
    """The one-line error of a refused command."""
    assert run.main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed
    return printed.err.strip()


@contextlib.contextmanager
def started(book: Path):
    """A run in its own process, stopped in the third step of ``TRAIN``."""
    (book / "kernel.pid").unlink(missing_ok=True)
    # A shell starts jobs in the background with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.run", CHAPTER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 60
        while not (book / "kernel.pid").exists() or not (book / "kernel.pid").read_text():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        yield process, int((book / "kernel.pid").read_text())
    finally:
        process.kill()
        process.communicate()


def wait_until_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=10)


# --- refused before anything is run or written -------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["03_tinny"], "unknown chapter '03_tinny'; did you mean 03_tiny?"),
        ([], "the following arguments are required: chapter"),
        ([CHAPTER, "--profile", "pubic"], "unknown profile 'pubic'; did you mean public?"),
        ([CHAPTER, "-p", "drop_rat=0.1"], "unknown parameter 'drop_rat' of 03_tiny; did you mean drop_rate?"),
        ([CHAPTER, "-p", "drop_rate=1e-4"], "YAML reads 1e-4 as text: write 0.0001"),
        ([CHAPTER, "-p", "drop_rate=1.5"], "1.5 is outside [0, 0.95]"),
        ([CHAPTER, "-p", "seed=true"], "True is bool, not int"),
        ([CHAPTER, "-p", "seed=1.0"], "write 1"),
        ([CHAPTER, "-p", "seed="], "None is not allowed"),
        ([CHAPTER, "-p", "kind=person"], "not one of pearson, ledoit_wolf; did you mean pearson?"),
        ([CHAPTER, "-p", "widths=[8, 0]"], "0 is outside (0, 64]"),
        ([CHAPTER, "-p", "widths=[8"], "'[8' is not a value in YAML"),
        ([CHAPTER, "-p", "drop_rate"], "write -p name=value"),
        ([CHAPTER, "-p", "seed=1", "-p", "seed=2"], "-p seed is given twice"),
        ([CHAPTER, "-p", "profile=public"], "say --profile NAME"),
        ([CHAPTER, "--profile", "full"], "configs/full/03_tiny.yml is missing"),
        ([CHAPTER, "--resume"], "nothing to resume, no run in"),
        ([CHAPTER, "--timeout", "0"], "--timeout 0.0: give a number of seconds above zero"),
        ([CHAPTER, "--timeout", "soon"], "invalid float value: 'soon'"),
        ([CHAPTER, "--resum"], "unrecognized arguments: --resum"),
    ],
)
def test_refused(book, capsys, arguments, words):
    assert words in refuse(capsys, *arguments)
    assert not (book / "_runs").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("drop_rate: 1e-4", "configs/public/03_tiny.yml: parameter drop_rate: '1e-4' is str"),
        (
            "drop: 0.1",
            "configs/public/03_tiny.yml: unknown parameter 'drop' of 03_tiny; did you mean drop_rate?",
        ),
        ("drop_rate: 0.1\ndrop_rate: 0.2", "line 1 is not YAML: drop_rate is given twice"),
        ("seed: 1\nwidths: [8", "configs/public/03_tiny.yml, line 2 is not YAML"),
        ("- seed", "must hold lines 'name: value', not a list"),
        ("seed: !!python/object:os.system {}", "is not YAML"),
        ("profile: full", "configs/public/03_tiny.yml: profile is not set as a parameter"),
    ],
)
def test_refused_configuration(book, capsys, text, words):
    write_config(book, text)
    assert words in refuse(capsys, CHAPTER, "--profile", "public")
    assert not (book / "_runs").exists()


@pytest.mark.parametrize("count", [0, 2])
def test_refused_without_exactly_one_parameters_cell(book, capsys, count):
    write_notebook(book, [code(PARAMETERS, "parameters") for _ in range(count)])
    assert f"{count} cells are tagged 'parameters'" in refuse(capsys, CHAPTER)
    write_notebook(book, [code("seed: int = 1  # seed", "parameters")])
    assert "its parameters cell has no 'profile'" in refuse(capsys, CHAPTER)


def test_refused_when_the_folder_cannot_be_written(book, capsys, monkeypatch):
    (book / "_runs").touch()
    assert "cannot write" in refuse(capsys, CHAPTER)
    monkeypatch.setenv("BOOK_RUNS", "/proc/runs")
    assert "cannot write /proc/runs/03_tiny/embedded" in refuse(capsys, CHAPTER)


def test_refused_with_another_python_as_kernel(book, capsys, monkeypatch):
    def kernel(program):
        spec = book / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(json.dumps({"argv": [program, "-m", "ipykernel_launcher"], "display_name": "x"}))

    kernel("/usr/elsewhere/bin/python")
    monkeypatch.setenv("JUPYTER_PATH", str(book))
    assert "is /usr/elsewhere/bin/python, not " in refuse(capsys, CHAPTER)
    assert not (book / "_runs").exists()
    for mine in ("python", sys.executable):
        kernel(mine)
        run.check_kernel()


def test_what_wins(book):
    write_config(book, "drop_rate: 0.3\nwidths: [4]\n# all for now\n")
    assert run.resolve(CHAPTER)["drop_rate"] == 0.2
    values = run.resolve(CHAPTER, "public", {"drop_rate": 0})
    assert values["profile"] == "public" and values["widths"] == [4] and values["seed"] == 7
    assert values["drop_rate"] == 0.0 and type(values["drop_rate"]) is float
    write_config(book, "# nothing yet\n")
    assert run.resolve(CHAPTER, "public")["widths"] == [8, 16]


def test_values_on_the_command_line(book):
    known = chapters.parameters(CHAPTER)
    words = ["seed=3", "drop_rate=0.5", "widths=[1, 2]", "kind=no", "cohort=2024", "verbose=true"]
    assert run.from_text(words, known) == {
        "seed": 3, "drop_rate": 0.5, "widths": [1, 2], "kind": "no", "cohort": "2024", "verbose": True
    }  # fmt: skip
    assert run.from_text(["cohort=null"], known) == run.from_text(["cohort=None"], known) == {"cohort": None}
    assert run.from_text(["cohort=a=b"], known) == {"cohort": "a=b"}


# --- one real run after another ----------------------------------------------------------------------


def test_good_then_failed_then_good(tmp_path, monkeypatch, capfd):
    root = tmp_path / "bo{o}k with spaces"
    root.mkdir()
    monkeypatch.chdir(
        make_book(root, "import os\nassert drop_rate < 0.9, 'too\\nmuch'\nprint('hello', os.getcwd())")
    )
    source = chapters.path(CHAPTER).read_bytes()
    here = folder(root)

    assert run.main([CHAPTER, "-p", "drop_rate=0.5", "-p", "cohort=x y"]) == 0
    printed = capfd.readouterr()
    assert (
        printed.err == ""
        and "5 code cells" in printed.out
        and "3/5 Work" in printed.out
        and "done in" in printed.out
    )
    assert sorted(os.listdir(here)) == [".lock", "notebook.ipynb", "record.json", "run.json", "run.log"]
    record = records.read(here / "record.json")
    assert record.metrics == {"rate": 0.5} and record.parameters == run.resolve(
        CHAPTER, overrides={"drop_rate": 0.5, "cohort": "x y"}
    )
    assert record.wall_seconds > 0.2 and record.stale(strict=True) == []
    notebook = nbformat.read(here / "notebook.ipynb", as_version=4)
    assert notebook.cells[-2].outputs[0].text == f"hello {root / 'notebooks'}\n"
    assert "hello" in (here / "run.log").read_text()
    assert str(root) not in (here / "notebook.ipynb").read_text().replace(f"hello {root}", "")
    assert run.read_state(here)["status"] == "finished" and chapters.path(CHAPTER).read_bytes() == source
    assert run.outdated(CHAPTER, "embedded", {"drop_rate": 0.5, "cohort": "x y"}) == []
    assert run.outdated(CHAPTER) == ["parameters"] and run.outdated(CHAPTER, "public") == ["not run"]
    assert "the last run in" in refuse(capfd, CHAPTER, "--resume")

    done = subprocess.run(
        [sys.executable, "-m", "helpers.run", CHAPTER, "-p", "drop_rate=0.9"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {CHAPTER} embedded failed in cell 6 (Work): AssertionError: too much; see"
        f" {here / 'notebook.failed.ipynb'}\n"
    )
    assert "AssertionError" in (here / "notebook.failed.ipynb").read_text()
    left = [".lock", "notebook.failed.ipynb", "previous", "run.json", "run.log"]
    assert sorted(os.listdir(here)) == left, "the failed run must leave nothing that looks like a result"
    assert run.outdated(CHAPTER) == ["not run"] and run.read_state(here)["status"] == "failed"
    with pytest.raises(BookError, match="no finished embedded run"):
        records.keep(CHAPTER, "embedded")
    assert records.read(here / "previous" / "record.json") == record, "the good run before it is kept"
    assert "no checkpoint in" in refuse(capfd, CHAPTER, "--resume")

    assert run.run_chapter(CHAPTER) == here
    assert sorted(os.listdir(here)) == [".lock", "notebook.ipynb", "record.json", "run.json", "run.log"]
    assert run.outdated(CHAPTER) == []
    cells = nbformat.read(here / "notebook.ipynb", as_version=4).cells
    assert len(cells) == len(chapters.read(CHAPTER).cells), "with the defaults nothing is injected"
    make_book(root, "x = 1")
    assert run.outdated(CHAPTER) == ["notebook"]


def test_killed_then_resumed_gives_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_book(tmp_path, TRAIN))
    here = folder(tmp_path)
    with started(tmp_path) as (process, kernel):
        error = refuse(capsys, CHAPTER)
        assert f"another run is going on in {here} (process {process.pid} on " in error
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        wait_until_gone(kernel)
    assert not (here / "record.json").exists() and run.outdated(CHAPTER) == ["not run"]
    assert run.read_state(here)["status"] == "running", "nobody was left to say otherwise"
    error = refuse(capsys, CHAPTER, "--resume", "-p", "drop_rate=0.5")
    assert "--resume: drop_rate was 0.2 in the interrupted run and is now 0.5" in error
    assert io.read_json(here / "checkpoints" / "fit" / "state.json") == {"step": 2, "total": 11}

    assert run.main([CHAPTER, "--resume"]) == 0
    record = records.read(here / "record.json")
    assert record.metrics == {"total": 111, "rate": 0.2} and record.resumed
    assert not (here / "checkpoints").exists() and not (here / "notebook.running.ipynb").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(tmp_path, monkeypatch, capsys, signum):
    monkeypatch.chdir(make_book(tmp_path, TRAIN))
    here = folder(tmp_path)
    with started(tmp_path) as (process, kernel):
        began = time.monotonic()
        process.send_signal(signum)
        _, error = process.communicate(timeout=20)
        assert process.returncode == 128 + signum and time.monotonic() - began < 15
        assert not psutil.pid_exists(kernel)
        assert not (tmp_path / "left_politely").exists(), "a busy kernel is ended at once"
    assert error == f"error: stopped by {signum.name}; --resume continues from the last checkpoint\n"
    assert run.read_state(here)["status"] == "interrupted"
    left = [".lock", "checkpoints", "notebook.failed.ipynb", "run.json", "run.log"]
    assert sorted(os.listdir(here)) == left
    with run._locked(here):  # the lock was let go
        run._check_resume(here, run.resolve(CHAPTER))


def test_time_limit_and_a_kernel_that_dies(tmp_path, monkeypatch, capsys):
    cells = "import os, time\nif verbose:\n    os.kill(os.getpid(), 9)\ntime.sleep(60)"
    monkeypatch.chdir(make_book(tmp_path, cells))
    assert run.main([CHAPTER, "-p", "verbose=true"]) == 1
    assert "failed in cell 6 (Work): the kernel died (out of memory?); see " in capsys.readouterr().err
    began = time.monotonic()
    assert run.main([CHAPTER, "--timeout", "4"]) == 1
    assert time.monotonic() - began < 30
    assert "not done within --timeout 4 s; see " in capsys.readouterr().err
    assert sorted(os.listdir(folder(tmp_path))) == [".lock", "notebook.failed.ipynb", "run.json", "run.log"]


def test_other_ranks_write_nothing(tmp_path, monkeypatch, capfd):
    cell = "import os\nprint(os.environ['BOOK_RUN_DIR'])\nassert drop_rate < 0.9, 'rank error'"
    monkeypatch.chdir(make_book(tmp_path, cell))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    assert run.main([CHAPTER]) == 0
    assert capfd.readouterr() == ("", "")
    assert run.main([CHAPTER, "-p", "drop_rate=0.9"]) == 1
    assert (
        "rank 1: 03_tiny embedded failed in cell 6 (Work): AssertionError: rank error"
        in capfd.readouterr().err
    )
    assert not (tmp_path / "_runs").exists()
    assert not list((tmp_path / "tmp").glob("book-rank-*"))


# --- the end of a run, without a kernel --------------------------------------------------------------


@pytest.fixture
def fake(book, monkeypatch):
    """Execution is replaced: it writes a notebook, and calls what the test puts into ``fake``."""
    actions = []

    def execute(progress, output, log, *, source, folder, **_):
        notebook = nbformat.read(source, as_version=4)
        nbformat.write(notebook, output)
        for action in actions:
            action(folder)
        return notebook

    def good(here):
        monkeypatch.setenv("BOOK_RUN_DIR", str(here))
        records.start(CHAPTER, profile=here.name, seed=7, parameters={}).log(total=len(actions)).finish()
        monkeypatch.delenv("BOOK_RUN_DIR")

    actions.append(good)
    monkeypatch.setattr(run, "_execute", execute)
    return actions


def fails(words: str, capsys) -> None:
    assert run.main([CHAPTER]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error, error


def test_a_notebook_without_a_record_failed(book, fake, capsys):
    fake.clear()
    fails("the notebook ended without a record; its last cell calls run.finish()", capsys)
    assert (folder(book) / "notebook.failed.ipynb").exists() and not (
        folder(book) / "notebook.ipynb"
    ).exists()


def test_a_record_of_another_chapter_or_half_of_one_failed(book, fake, capsys):
    def other(here):
        record = io.read_json(here / records.PENDING)
        io.write_json(here / records.PENDING, record | {"chapter": "04_other"})

    fake.append(other)
    fails("records.start says 04_other, embedded", capsys)
    fake[1] = lambda here: (here / records.PENDING).write_text('{"chapter"')
    fails("record.pending.json is damaged or half-written", capsys)
    assert not (folder(book) / records.PENDING).exists() and run.outdated(CHAPTER) == ["not run"]


def test_a_full_disk_at_the_end(book, fake, capsys, monkeypatch):
    assert run.main([CHAPTER]) == 0
    real = io.atomic_write

    def full(path, content):
        if path.name == "notebook.ipynb":
            raise BookError(f"cannot write {path}: the disk is full")
        return real(path, content)

    monkeypatch.setattr(io, "atomic_write", full)
    fails("the disk is full; see ", capsys)
    assert not (folder(book) / "record.json").exists() and run.read_state(folder(book))["status"] == "failed"
    assert (folder(book) / "previous" / "record.json").exists()


def test_a_full_disk_in_the_middle(book, fake, capsys):
    def full(here):
        raise OSError(28, "No space left on device")

    fake.append(full)
    fails("the disk is full: free some space", capsys)
    assert run.outdated(CHAPTER) == ["not run"]


def test_killed_between_notebook_and_record(book, fake, monkeypatch):
    """The record is the last to get its name: without it the new notebook is not a result."""

    class Killed(BaseException):
        pass

    real = os.replace

    def replace(source, target):
        if Path(target).name == "record.json":
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        run.run_chapter(CHAPTER)
    assert (folder(book) / "notebook.ipynb").exists() and run.outdated(CHAPTER) == ["not run"]
    monkeypatch.setattr(os, "replace", real)
    run.run_chapter(CHAPTER)
    assert run.outdated(CHAPTER) == []


def test_a_new_run_keeps_the_checkpoints_of_an_interrupted_one(book, fake, capsys):
    state = folder(book) / "checkpoints" / "fit" / "state"
    state.parent.mkdir(parents=True)
    state.write_text("hours of work")
    kept = folder(book) / "interrupted" / "checkpoints" / "fit" / "state"
    fake.append(lambda here: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.run_chapter(CHAPTER)
    assert "the checkpoints of the interrupted run are kept in" in capsys.readouterr().out
    assert kept.read_text() == "hours of work" and not state.exists()
    fake.pop()
    run.run_chapter(CHAPTER)
    assert not kept.exists(), "a run that ended well needs them no more"


def test_left_over_temporary_files_are_no_checkpoint(book, fake):
    (folder(book) / "checkpoints").mkdir(parents=True)
    (folder(book) / "checkpoints" / ".epoch.pt.12ab.tmp").write_text("half")
    io.write_json(folder(book) / run.STATE, {"status": "running", "parameters": {}})
    with pytest.raises(BookError, match="no checkpoint in"):
        run.run_chapter(CHAPTER, resume=True)


def test_can_resume_only_an_interrupted_run_with_the_same_parameters(book):
    """What --continue asks, on every rank."""
    assert not run.can_resume(CHAPTER, "embedded")
    state = {"status": "interrupted", "parameters": run.resolve(CHAPTER)}
    io.write_json(folder(book) / "run.json", state)
    assert not run.can_resume(CHAPTER, "embedded"), "no checkpoint"
    io.write_json(folder(book) / "checkpoints" / "fit" / "state.json", {})
    assert run.can_resume(CHAPTER, "embedded")
    assert not run.can_resume(CHAPTER, "embedded", {"seed": 8})
    io.write_json(folder(book) / "run.json", state | {"status": "finished"})
    assert not run.can_resume(CHAPTER, "embedded")


def test_resume_tells_that_the_code_changed(book, fake, capsys):
    def stop(here):
        io.write_json(here / "checkpoints" / "a.json", {})
        raise run.Stopped(signal.SIGTERM)

    fake.append(stop)
    with pytest.raises(run.Stopped):
        run.run_chapter(CHAPTER)
    fake.pop()
    make_book(book, "x = 1")
    run.run_chapter(CHAPTER, resume=True)
    assert "the notebook's code changed since" in capsys.readouterr().out
    assert run.outdated(CHAPTER) == []


def test_a_damaged_record_or_state_is_outdated(book, fake):
    run.run_chapter(CHAPTER)
    (folder(book) / run.STATE).write_text("{")
    assert run.outdated(CHAPTER) == ["parameters"]
    (folder(book) / records.RECORD).write_text("{")
    assert run.outdated(CHAPTER) == ["record"]
