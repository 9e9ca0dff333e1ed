"""Run a chapter: ``python -m helpers.run CHAPTER [--profile P] [-p name=value]... [--resume] [--timeout S]``.

``--continue`` is ``--resume`` where there is something to resume with the same parameters, else a new run; it
is for launchers that start again what was killed (``scripts/``, ``helpers.sweep``).

A thin, strict front door to papermill. Everything is checked before anything runs or is written. Results go
to ``_runs/CHAPTER/PROFILE/`` (``runs/README.md`` lists the files); the chapter itself is never written to.
The folder holds ``record.json`` only when the last run there ended well: the record is written last, and set
aside before the next run begins.

Exit codes: 0 ended well; 1 the chapter failed; 2 refused, nothing ran; 130 and 143 stopped by Ctrl-C and
SIGTERM.

Under ``torchrun`` every process runs the notebook, and only rank 0 writes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

import nbformat
import yaml
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill import execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from . import chapters, io, records
from .errors import BookError, MissingData
from .paths import runs_root
from .records import NOTEBOOK, PENDING, PROFILES, RECORD

STATE, LOG, LOCK = "run.json", "run.log", ".lock"
RUNNING, FAILED = "notebook.running.ipynb", "notebook.failed.ipynb"
CHECKPOINTS, PREVIOUS, INTERRUPTED = "checkpoints", "previous", "interrupted"
KERNEL = "python3"


class ChapterFailed(BookError):
    """A chapter began to run and did not end well. The message is one line."""


class Stopped(KeyboardInterrupt):
    """The run was stopped by a signal; its kernel is shut down and its checkpoints are kept."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


# --- what to run: checked first ----------------------------------------------------------------------


def resolve(
    chapter: str, profile: str = "embedded", overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters of a run: the notebook's defaults, then configs/PROFILE/CHAPTER.yml, then ``overrides``.

    Raises BookError for an unknown chapter, profile or parameter, and for a value that is not allowed.
    """
    known = chapters.parameters(chapter)
    given = _given(chapter, profile, known, overrides or {})
    return {name: given.get(name, parameter.default) for name, parameter in known.items()}


def _given(
    chapter: str, profile: str, known: Mapping[str, chapters.Parameter], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The profile, and what the configuration file and the caller set."""
    if profile not in PROFILES:
        raise BookError(f"unknown profile {profile!r}{chapters.suggest(profile, PROFILES)}")
    if "profile" not in known:
        raise BookError(f"notebooks/{chapter}.ipynb: its parameters cell has no 'profile'")
    config = {} if profile == "embedded" else read_config(chapter, profile)
    values: dict[str, Any] = {"profile": known["profile"].check(profile)}
    for source, where in ((config, f"configs/{profile}/{chapter}.yml: "), (overrides, "")):
        for name, value in source.items():
            if name == "profile":
                raise BookError(f"{where}profile is not set as a parameter; say --profile NAME")
            if name not in known:
                hint = chapters.suggest(str(name), [k for k in known if k != "profile"])
                raise BookError(f"{where}unknown parameter {name!r} of {chapter}{hint}")
            try:
                values[name] = known[name].check(value)
            except BookError as error:
                raise BookError(f"{where}{error}") from error
    return values


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_config(chapter: str, profile: str) -> dict[str, Any]:
    """Parameters in configs/PROFILE/CHAPTER.yml, unchecked. Raises BookError if missing or malformed."""
    name = f"configs/{profile}/{chapter}.yml"
    file = chapters.folder().parent / name
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _StrictLoader)
    except FileNotFoundError:
        raise BookError(f"{name} is missing: {chapter} has no {profile} profile yet") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise BookError(f"{name}{at} is not YAML: {getattr(error, 'problem', None) or error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BookError(f"{name} must hold lines 'name: value', not a {type(content).__name__}")
    return content


def from_text(words: list[str], known: Mapping[str, chapters.Parameter]) -> dict[str, Any]:
    """Values of ``-p name=value``. A value is YAML, but where the parameter is text it is taken as it is."""
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise BookError(f"-p {word}: write -p name=value")
        if name in values:
            raise BookError(f"-p {name} is given twice")
        parameter = known.get(name)
        is_text = parameter is not None and parameter.kind == "str" and not parameter.is_list
        if is_text and not (parameter.optional and text in ("null", "None", "")):
            values[name] = text
            continue
        try:
            values[name] = None if text == "None" else yaml.safe_load(text)
        except yaml.YAMLError:
            raise BookError(f"-p {word}: {text!r} is not a value in YAML") from None
    return values


def check_kernel() -> None:
    """Make sure that Jupyter's ``python3`` kernel is this Python. Raises BookError."""
    python = os.path.abspath(sys.executable)
    mend = f"{python} -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager().get_kernel_spec(KERNEL)
    except NoSuchKernel:
        raise BookError(f"Jupyter has no {KERNEL} kernel here: run {mend}") from None
    program = spec.argv[0]
    version = ".".join(map(str, sys.version_info[:2]))
    if program in {"python", "python3", f"python{version}"}:  # Jupyter takes these for this Python
        return
    there = os.path.abspath(program)
    if os.path.normcase(os.path.dirname(there)) != os.path.normcase(os.path.dirname(python)):
        raise BookError(
            f"Jupyter's {KERNEL} kernel ({spec.resource_dir}) is {there}, not {python}: run {mend}"
        )


# --- the folder of a run -----------------------------------------------------------------------------


def folder_of(chapter: str, profile: str) -> Path:
    """``_runs/CHAPTER/PROFILE`` (or under BOOK_RUNS)."""
    return runs_root() / chapter / profile


def read_state(folder: Path) -> dict[str, Any]:
    """What the last run in this folder was and how it ended; empty without one or if damaged."""
    try:
        state = io.read_json(folder / STATE)
    except BookError:
        return {}
    return state if isinstance(state, dict) else {}


def outdated(
    chapter: str, profile: str = "embedded", overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """Why the results in the run's folder are not those of the present code and parameters; [] if they are.

    ``["not run"]``, ``["record"]`` (damaged), or any of "notebook", "parameters", "helpers.train" and so on.
    """
    folder = folder_of(chapter, profile)
    if not (folder / RECORD).is_file() or not (folder / NOTEBOOK).is_file():
        return ["not run"]
    try:
        record = records.read(folder / RECORD)
    except BookError:
        return ["record"]
    changed = record.stale()
    if read_state(folder).get("parameters") != resolve(chapter, profile, overrides):
        changed.append("parameters")
    return changed


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The system lets go of it when the process dies, however it dies."""
    with _refused(folder), open(folder / LOCK, "a") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            state = read_state(folder)
            raise BookError(
                f"another run is going on in {folder} (process {state.get('pid', 'unknown')} on"
                f" {state.get('host', 'this machine')}): wait for it, or stop it"
            ) from None
        yield


def _lock(file: TextIO) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Turn a failed write in the folder into the reader's error."""
    try:
        yield
    except OSError as error:
        told = io.explain(error, folder)
        if told is None:
            raise
        raise told from error


def _check_resume(folder: Path, parameters: Mapping[str, Any]) -> None:
    """Raise BookError unless an interrupted run with the same parameters is there."""
    state = read_state(folder)
    if not state:
        raise BookError(f"--resume: nothing to resume, no run in {folder}; run it without --resume")
    if state.get("status") == "finished":
        raise BookError(f"--resume: nothing to resume, the last run in {folder} ended well")
    if not _has_files(folder / CHECKPOINTS):
        raise BookError(f"--resume: nothing to resume, no checkpoint in {folder}; run it without --resume")
    before = state.get("parameters", {})
    for name in sorted(set(before) | set(parameters)):
        if before.get(name) != parameters.get(name):
            raise BookError(
                f"--resume: {name} was {before.get(name)!r} in the interrupted run and is now"
                f" {parameters.get(name)!r}; give the same parameters, or run it without --resume"
            )


def can_resume(chapter: str, profile: str, overrides: Mapping[str, Any] | None = None) -> bool:
    """Whether an interrupted run with these parameters left a checkpoint; every rank finds the same."""
    try:
        _check_resume(folder_of(chapter, profile), resolve(chapter, profile, overrides))
    except BookError:
        return False
    return True


def _has_files(folder: Path) -> bool:
    return any(file.is_file() and not file.name.endswith(io.TEMP_SUFFIX) for file in folder.rglob("*"))


def _set_aside(folder: Path) -> str:
    """Empty the folder: a good run moves to previous/, one that left checkpoints to interrupted/."""
    kept = {LOCK, PREVIOUS, INTERRUPTED}
    old = [path for path in folder.iterdir() if path.name not in kept]
    good = (folder / RECORD).is_file()
    unfinished = not good and _has_files(folder / CHECKPOINTS)
    if not (good or unfinished):
        for path in old:
            _remove(path)
        return ""
    target = folder / (PREVIOUS if good else INTERRUPTED)
    _remove(target)
    target.mkdir()
    for path in sorted(
        old, key=lambda path: path.name != RECORD
    ):  # the record first: without it, it is not a result
        path.rename(target / path.name)
    return f"the checkpoints of the interrupted run are kept in {target}" if unfinished else ""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- running -----------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """Where the run is: one line for each section, and the cell for error messages."""

    chapter: str
    profile: str
    total: int
    show: bool
    began: float = 0.0
    code_cells: int = 0
    cell: int = 0  # in the source notebook, from 1
    heading: str = ""

    def on_cell_start(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        injected = "injected-parameters" in cell.metadata.get("tags", [])
        self.cell += not injected
        if cell.cell_type == "code":
            self.code_cells += not injected
        elif match := re.search(r"^## +(.+)$", cell.source, re.MULTILINE):
            self.heading = match.group(1).strip()
            if self.show:
                self.say(
                    f"{self.code_cells}/{self.total} {self.heading} ({time.monotonic() - self.began:.0f} s)"
                )

    def say(self, text: str) -> None:
        print(f"{self.chapter} {self.profile}: {text}", flush=True)


class _Client(PapermillNotebookClient):
    """Papermill's client; when a run is cut short its busy kernel is ended at once, not asked to end."""

    def papermill_execute_cells(self) -> None:
        try:
            super().papermill_execute_cells()
        except BaseException:
            self.shutdown_kernel = "immediate"
            raise


class _Engine(Engine):
    """Papermill's engine, with the kernel's own environment and folder, and one time limit for the whole."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options) -> None:
        deadline, log = options["deadline"], options["log"]

        def time_left(cell: nbformat.NotebookNode) -> int | None:
            return None if deadline is None else max(1, math.ceil(deadline - time.monotonic()))

        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=120,
            timeout_func=time_left,
            on_cell_start=options["on_cell_start"],
            log=logging.getLogger("papermill"),
            stdout_file=log,
            stderr_file=log,
        )
        client.execute(env=options["env"], cwd=options["folder"], stdout=log, stderr=log)


papermill_engines.register("book", _Engine)


def run_chapter(
    chapter: str,
    profile: str = "embedded",
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    timeout: float | None = None,
) -> Path:
    """Execute a chapter and return its folder, which then holds notebook.ipynb and record.json.

    ``overrides`` are typed values. ``timeout`` is in seconds, for the whole chapter. Raises BookError when
    refused (nothing ran), ChapterFailed when the notebook failed, Stopped on SIGINT or SIGTERM.
    """
    source = chapters.path(chapter)
    notebook = chapters.read(chapter)
    known = chapters.parameters_of(notebook, f"notebooks/{source.name}")
    given = _given(chapter, profile, known, overrides or {})
    parameters = {name: given.get(name, parameter.default) for name, parameter in known.items()}
    given = {name: value for name, value in given.items() if value != known[name].default}
    if timeout is not None and not timeout > 0:
        raise BookError(f"--timeout {timeout}: give a number of seconds above zero")
    check_kernel()
    folder = folder_of(chapter, profile)
    rank = int(os.environ.get("RANK", "0"))
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    progress = _Progress(chapter, profile, code_cells, show=rank == 0)
    work = {"source": source, "given": given, "folder": folder, "resume": resume, "timeout": timeout}
    if rank > 0:
        return _run_other_rank(progress, rank, **work)

    if resume and not folder.is_dir():
        _check_resume(folder, parameters)
    io.make_folder(folder)
    with _locked(folder):
        state = {
            "status": "running",
            "parameters": parameters,
            "notebook_sha256": chapters.code_sha256(notebook),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        with _refused(folder):
            if resume:
                _check_resume(folder, parameters)
                if read_state(folder).get("notebook_sha256") != state["notebook_sha256"]:
                    progress.say("note: the notebook's code changed since the run that is resumed")
                for name in (RUNNING, FAILED, PENDING):
                    (folder / name).unlink(missing_ok=True)
            else:
                if note := _set_aside(folder):
                    progress.say(f"note: {note}")
            io.write_json(folder / STATE, state)
        status = "failed"
        try:
            result = _run_and_commit(progress, **work)
            status = "finished"
            return result
        except Stopped:
            status = "interrupted"
            raise
        finally:
            with contextlib.suppress(
                BookError
            ):  # a full disk: the state stays "running", which is not "finished"
                io.write_json(folder / STATE, state | {"status": status})


def _run_and_commit(progress: _Progress, *, folder: Path, **work: Any) -> Path:
    """Execute; then check the record and give notebook and record their names, the record last."""
    running, failed = folder / RUNNING, folder / FAILED
    try:
        with open(folder / LOG, "a", encoding="utf-8") as log:
            notebook = _execute(progress, running, log, folder=folder, **work)
        record = _check_record(folder, progress)
        io.atomic_write(folder / NOTEBOOK, nbformat.writes(notebook) + "\n")
        os.replace(folder / PENDING, folder / RECORD)
    except (BookError, Stopped, OSError) as error:
        (folder / PENDING).unlink(missing_ok=True)
        where = ""
        if running.is_file():
            os.replace(running, failed)
            where = f"; see {failed}"
        if isinstance(error, Stopped):
            raise
        if isinstance(error, OSError):
            error = io.explain(error, folder) or error
        raise ChapterFailed(f"{error}{where}") from error
    for name in (RUNNING, FAILED, CHECKPOINTS, PREVIOUS, INTERRUPTED):
        _remove(folder / name)
    progress.say(f"done in {records.seconds(record.wall_seconds)}: {folder / NOTEBOOK}")
    return folder


def _run_other_rank(progress: _Progress, rank: int, **work: Any) -> Path:
    """A process of a distributed run that is not the first: its notebook is needed only to tell an error."""
    with tempfile.TemporaryDirectory(prefix=f"book-rank-{rank}-") as temp:
        output = Path(temp) / f"notebook.rank-{rank}.ipynb"
        try:
            with open(Path(temp) / LOG, "w", encoding="utf-8") as log:
                _execute(progress, output, log, **work)
        except ChapterFailed as error:
            raise ChapterFailed(f"rank {rank}: {error}") from error
    return work["folder"]


def _execute(
    progress: _Progress,
    output: Path,
    log: TextIO,
    *,
    source: Path,
    given: Mapping[str, Any],
    folder: Path,
    resume: bool,
    timeout: float | None,
) -> nbformat.NotebookNode:
    """Run the notebook into ``output`` with papermill. Raises ChapterFailed naming the cell."""
    environment = {
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "GOMP_SPINCOUNT": "20000",  # threads that spin for long while they wait are slow on shared cores
        **os.environ,
        "BOOK_RUN_DIR": str(folder),
        "BOOK_RESUME": "1" if resume else "0",
    }
    progress.began = time.monotonic()
    terminal = sys.stderr.isatty() and progress.show
    progress.show = progress.show and not terminal
    if progress.show:
        progress.say(f"{progress.total} code cells, log in {folder / LOG}")
    try:
        with _signals(), _logging_to(log):
            notebook = execute_notebook(
                _escaped(source),
                _escaped(output),
                parameters=dict(given),
                engine_name="book",
                kernel_name=KERNEL,
                progress_bar=terminal,
                deadline=None if timeout is None else progress.began + timeout,
                on_cell_start=progress.on_cell_start,
                env=environment,
                folder=str(source.parent),
                log=log,
            )
    except PapermillExecutionError as error:
        log.write("\n".join(error.traceback) + "\n")
        message = " ".join(str(error.evalue).split())
        raise ChapterFailed(f"{_at(progress)}: {error.ename}: {message[:500]}") from error
    except DeadKernelError as error:
        raise ChapterFailed(f"{_at(progress)}: the kernel died (out of memory?)") from error
    except CellTimeoutError as error:
        raise ChapterFailed(f"{_at(progress)}: not done within --timeout {timeout:g} s") from error
    for key, path in (("input_path", source), ("output_path", folder / NOTEBOOK)):
        notebook.metadata.papermill[key] = path.name  # no path of this machine in a page
    return notebook


def _at(progress: _Progress) -> str:
    heading = f" ({progress.heading})" if progress.heading else ""
    return f"{progress.chapter} {progress.profile} failed in cell {progress.cell}{heading}"


def _escaped(path: Path) -> str:
    """Papermill takes braces in a path for fields to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _check_record(folder: Path, progress: _Progress) -> records.Record:
    try:
        record = records.read(folder / PENDING)
    except MissingData:
        raise ChapterFailed(
            f"{progress.chapter} {progress.profile}: the notebook ended without a record; its last cell calls"
            " run.finish()"
        ) from None
    if (record.chapter, record.profile) != (progress.chapter, progress.profile):
        raise ChapterFailed(
            f"{progress.chapter} {progress.profile}: the notebook's records.start says {record.chapter},"
            f" {record.profile}"
        )
    return record


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Raise Stopped on SIGINT, SIGTERM and SIGHUP (in the main thread, where Python allows it)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

    def stop(signum: int, frame: Any) -> NoReturn:
        for one in caught:  # the kernel is being ended: a second Ctrl-C must not leave it behind
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(signum)

    before = {one: signal.signal(one, stop) for one in caught if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _logging_to(log: TextIO) -> Iterator[None]:
    """Send the messages of papermill and of its event loop to the run's log instead of the terminal."""
    handler = logging.StreamHandler(log)
    handler.handleError = lambda entry: None  # a full disk is told once, by the run
    # Papermill does not see parameters with a Literal type; ours are checked.
    handler.addFilter(lambda entry: not entry.getMessage().startswith("Passed unknown parameter"))
    loggers = [logging.getLogger(name) for name in ("papermill", "asyncio", "traitlets")]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    loggers[0].setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)


# --- command line ------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BookError(f"{message} (see python -m helpers.run --help)")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m helpers.run", description="Run a chapter of the book.", allow_abbrev=False
    )
    parser.add_argument("chapter", help="its name, for example 03_brainmass")
    parser.add_argument("--profile", default="embedded", help="embedded (default), public or full")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter; may be repeated",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run from its last checkpoint"
    )
    parser.add_argument(
        "--continue", action="store_true", dest="go_on", help="--resume where possible, else a new run"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="stop after this many seconds")
    return parser.parse_args(arguments)


def _guard(action: Callable[[], object]) -> int:
    """Run, and turn each outcome into one line and an exit code."""
    try:
        action()
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ChapterFailed) else 2
    except KeyboardInterrupt as error:
        print(f"error: {error or 'stopped'}; --resume continues from the last checkpoint", file=sys.stderr)
        return 128 + getattr(error, "signum", signal.SIGINT)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""

    def run() -> None:
        given = _parse(arguments)
        overrides = from_text(given.parameter, chapters.parameters(given.chapter)) if given.parameter else {}
        resume = given.resume or (given.go_on and can_resume(given.chapter, given.profile, overrides))
        run_chapter(given.chapter, given.profile, overrides, resume, given.timeout)

    return _guard(run)


if __name__ == "__main__":
    sys.exit(main())
