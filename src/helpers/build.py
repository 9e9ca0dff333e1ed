"""Build the book: execute the chapters that changed, stage the sources, make the HTML.

    python -m helpers.build [--profile embedded|public|full]

A chapter runs again when its code cells, a helper it imports, its configuration, the pinned packages, a
record it shows or a chapter it borrows from have changed. Prose and captions are taken from the source
notebook each time, so editing a sentence executes nothing. HTML is made in a fresh folder and moved into
place when there was no warning: what lies in ``_build/html`` is always a whole book.
Exit codes: 0 built, 1 failed, 2 refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import nbformat
import yaml

from helpers import pages, paths
from helpers.chapters import without_address
from helpers.errors import BookError

PROFILES = ("embedded", "public", "full")
_TOOLS = ("jupyter-book", "sphinx", "sphinx-book-theme", "pydata-sphinx-theme", "myst-nb")
_STATE = ".build.json"
_NOTE = "inputs.json"


# ---------------------------------------------------------------- which chapters, and which changed

def root_or_error() -> Path:
    """The repository, or a BookError."""
    root = paths.repo_root()
    if root is None:
        raise BookError("no _config.yml and _toc.yml here or above: build the book inside its repository")
    return root


def chapters_of(root: Path) -> list[str]:
    """Names of the chapters (``notebooks/NAME`` entries of ``_toc.yml``), in order; each must exist."""
    files = pages.files(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    names = [Path(f).stem for f in files if f.startswith("notebooks/")]
    for name in names:
        if not (root / "notebooks" / f"{name}.ipynb").is_file():
            raise BookError(f"_toc.yml names the chapter {name}, but notebooks/{name}.ipynb does not exist: "
                            "add the notebook or take the line out")
    for file in files:
        if not file.startswith("notebooks/") and not (root / f"{file}.md").is_file():
            raise BookError(f"_toc.yml names the page {file}, but {file}.md does not exist: add it")
    return names


def _digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def _digest_file(path: Path) -> str:
    return _digest(path.read_bytes()) if path.is_file() else "none"


def _code(notebook: Path) -> list[str]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def inputs(root: Path, chapter: str, profile: str) -> dict[str, str]:
    """Hashes of what a page depends on beyond code, helpers and parameters: packages, records it shows.

    Records count for the embedded profile only; a long run is not repeated for a table about it.
    """
    found = {"constraints.txt": _digest_file(root / "constraints.txt")}
    if profile != "embedded":
        return found
    code = "\n".join(_code(root / "notebooks" / f"{chapter}.ipynb"))
    for folder in sorted((root / "runs").glob("*")):
        if folder.name == chapter or re.search(rf"[\"']{re.escape(folder.name)}[\"']", code):
            for record in sorted(folder.glob("*.json")):
                found[f"the record {folder.name}/{record.stem}"] = _digest_file(record)
    return found


def reasons(root: Path, chapter: str, profile: str) -> list[str]:
    """Why a chapter has to run again; empty when its last run still stands."""
    from helpers import records, run

    folder = run.folder_of(chapter, profile)
    changed = run.outdated(chapter, profile)
    if changed in (["not run"], ["record"]):
        return changed
    changed = [*changed, *records.read(folder / "record.json").stale(strict=True)]
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        note = {}
    if note.get("record") == _digest_file(folder / "record.json"):
        now, then = inputs(root, chapter, profile), note["inputs"]
        changed += [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
    elif profile == "embedded":
        changed.append("run by hand since")
    return list(dict.fromkeys(changed))


# ---------------------------------------------------------------- executing

def execute(root: Path, chapter: str, profile: str) -> None:
    """Run one chapter and note what it depended on. Raises BookError naming chapter, cell and error."""
    from helpers.run import run_chapter

    before = inputs(root, chapter, profile)  # taken first: an edit made during the run makes it stale
    folder = Path(run_chapter(chapter, profile))
    note = {"inputs": before, "record": _digest_file(folder / "record.json")}
    _write(folder / _NOTE, json.dumps(note, indent=1).encode())


# ---------------------------------------------------------------- staging

def merge(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The source notebook with the outputs of its run: prose, tags and captions are always the current ones.

    A cell with parameters that papermill put in stays, after the parameters cell: the page says what ran.
    """
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in ran if "injected-parameters" in cell.metadata.get("tags", [])]
    ran = [cell for cell in ran if cell not in injected]
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    if [without_address(cell.source) for cell in code] != [without_address(cell.source) for cell in ran]:
        raise BookError("the executed notebook holds other code than its source: run it again")
    merged = nbformat.from_dict(source)
    merged.metadata = nbformat.from_dict(executed.metadata)
    merged.metadata.pop("papermill", None)
    outputs = iter(ran)
    cells = []
    for cell in merged.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            done = next(outputs)
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
            if "parameters" in cell.metadata.get("tags", []) and injected:
                cells += injected
    merged.cells = cells
    return merged


def staged_files(root: Path, chapters: list[str], profile: str) -> dict[str, bytes]:
    """Path in the staged tree -> content: configuration, prose, pictures and executed notebooks."""
    files = {name: (root / name).read_bytes() for name in ("_config.yml", "_toc.yml")}
    for folder in ("book", "notebooks"):
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if path.is_file() and not hidden and path.suffix != ".ipynb":
                files[name] = path.read_bytes()
    files = {name: content for name, content in files.items() if not name.startswith("book/quizzes/")}
    shown = {}
    for chapter in chapters:
        name = f"notebooks/{chapter}.ipynb"
        source = nbformat.read(root / name, as_version=4)
        executed = nbformat.read(paths.runs_root() / chapter / profile / "notebook.ipynb", as_version=4)
        shown[chapter] = merge(source, executed)
        files |= pages.frames(shown[chapter])
        files[name] = nbformat.writes(shown[chapter]).encode()
    prose = {name: text for name, text in files.items() if name.startswith("book/") and name.endswith(".md")}
    files |= pages.generated(root, shown, prose)
    return files


def _write(path: Path, content: bytes) -> None:
    from helpers.io import atomic_write

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content)


def stage(files: dict[str, bytes], folder: Path) -> int:
    """Make ``folder`` hold exactly these files; only those that differ are written, and counted."""
    written = 0
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            _write(path, content)
            written += 1
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()
    return written


# ---------------------------------------------------------------- HTML

def state_of(files: dict[str, bytes]) -> dict[str, str]:
    """What the HTML depends on: the staged files and the versions of the tools."""
    state = {name: _digest(content) for name, content in sorted(files.items())}
    return state | {tool: version(tool) for tool in _TOOLS}


def is_current(html: Path, state: dict[str, str]) -> bool:
    """Whether the HTML was made from exactly this state."""
    try:
        made_from = json.loads((html / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return made_from == state and (html / "index.html").is_file()


def make_html(build: Path, state: dict[str, str]) -> None:
    """Run Jupyter Book on the staged tree, warnings being errors, and move the result to ``_build/html``."""
    fresh = build / "next"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build",
               str(build / "source"), "--path-output", str(fresh), "-W", "-n", "--keep-going", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    log = build / "sphinx.log"
    log.write_text(re.sub(r"\x1b\[[\d;]*m", "", result.stdout + result.stderr), encoding="utf-8")
    made = fresh / "_build" / "html"
    if result.returncode or not (made / "index.html").is_file():
        said = [line for line in log.read_text(encoding="utf-8").splitlines()
                if "WARNING" in line or "ERROR" in line or "Error" in line]
        raise BookError("Jupyter Book failed or warned: " + " ;; ".join(said[:12] or ["see the log"])
                        + f" (log: {log})")
    (made / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    html, old = build / "html", build / "old"
    shutil.rmtree(old, ignore_errors=True)
    if html.exists():
        html.rename(old)
    made.rename(html)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _alone(build: Path) -> Iterator[None]:
    """Let one build at a time work in this folder (where the system has file locks)."""
    build.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(build / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another build is at work here; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(profile: str = "embedded") -> Path:
    """Bring the book up to date; returns its first page. Raises one BookError with every failure in it."""
    if profile not in PROFILES:
        raise BookError(f"unknown profile '{profile}': choose one of {', '.join(PROFILES)}")
    root = root_or_error()
    chapters = chapters_of(root)
    folder = root / "_build"
    with _alone(folder):
        failures = []
        for chapter in chapters:
            why = reasons(root, chapter, profile)
            if not why:
                print(f"{chapter}: unchanged", flush=True)
                continue
            print(f"{chapter}: executing ({', '.join(why)})", flush=True)
            try:
                execute(root, chapter, profile)
            except BookError as error:
                failures.append(str(error) if chapter in str(error) else f"{chapter}: {error}")
        if failures:
            raise BookError(f"{len(failures)} chapter(s) failed. " + " ;; ".join(failures))
        files = staged_files(root, chapters, profile)
        stage(files, folder / "source")
        state = state_of(files)
        if is_current(folder / "html", state):
            print("HTML: unchanged", flush=True)
        else:
            print("HTML: building", flush=True)
            make_html(folder, state)
    return folder / "html" / "index.html"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring for the exit codes."""
    parser = argparse.ArgumentParser(prog="python -m helpers.build",
                                     description="Execute what changed, build the HTML.")
    parser.add_argument("--profile", default="embedded", help="embedded (default), public or full")
    profile = parser.parse_args(argv).profile
    began = time.perf_counter()
    try:
        page = build(profile)
    except BookError as error:
        for line in str(error).split(" ;; "):
            print(line, file=sys.stderr)
        old = (paths.repo_root() or Path.cwd()) / "_build" / "html" / "index.html"
        if old.exists():
            print(f"The book was NOT built; {old} is from an earlier build.", file=sys.stderr)
        return 2 if "unknown profile" in str(error) else 1
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        return 130
    print(f"The book ({profile}): {page.as_uri()}")
    print(f"Built in {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
