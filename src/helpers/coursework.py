"""Coursework: the exercises of each chapter, their release to students, and their marking.

    python -m helpers.coursework release [FOLDER]            # what `make coursework` does
    python -m helpers.coursework mark CHAPTER SUBMISSION...  # marks notebooks that students sent in

``notebooks/exercises/NN_name.ipynb`` is the instructor's version, in nbgrader's format (schema 3): cells with
solutions (``### BEGIN SOLUTION``), cells that check them, some of it hidden (``### BEGIN HIDDEN TESTS``), and
locked cells. Releasing uses nbgrader's own preprocessors; marking restores every locked and every checking
cell, runs the notebook and asks nbgrader for the grade of each checking cell, as ``nbgrader autograde`` does,
but needs no database. nbgrader is in the extra ``teach``.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from . import chapters
from .errors import BookError, MissingData
from .paths import repo_root

FOLDER = "notebooks/exercises"
SECONDS = 120  # a student's cell that runs longer is stopped
_STARS = {"one star": 1, "two stars": 2, "three stars": 3}
_REGION = r"[ \t]*### BEGIN {0}\n.*?### END {0}(?:\n|$)"


@dataclass(frozen=True)
class Exercise:
    """One exercise of an assignment. ``cells`` are those between its heading and the next, in order."""

    title: str
    stars: int
    cells: list[NotebookNode]

    @property
    def solution(self) -> NotebookNode:
        return next(cell for cell in self.cells if kind(cell) == "solution")

    @property
    def checks(self) -> list[NotebookNode]:
        return [cell for cell in self.cells if kind(cell) == "check"]

    @property
    def points(self) -> int:
        return sum(cell.metadata.nbgrader.points for cell in self.checks)


@dataclass(frozen=True)
class Marks:
    """What one notebook earned: points by checking cell, and the first error of each cell that failed."""

    points: dict[str, float]
    most: dict[str, float]
    said: dict[str, str]

    @property
    def total(self) -> float:
        return sum(self.points.values())

    def of(self, exercise: Exercise) -> float:
        """Points for one exercise."""
        return sum(self.points[cell.metadata.nbgrader.grade_id] for cell in exercise.checks)


# ---------------------------------------------------------------- the instructor's version

def folder() -> Path:
    """The folder of the exercises, or a BookError outside the repository."""
    root = repo_root()
    if root is None:
        raise BookError("no book here: change into the repository, which holds the exercises, first")
    return root / FOLDER


def names() -> list[str]:
    """Chapters that have an assignment, in order."""
    return sorted(path.stem for path in folder().glob("*.ipynb"))


def read(name: str) -> NotebookNode:
    """The instructor's version of an assignment. Raises BookError, with close names, when there is none."""
    path = folder() / f"{name}.ipynb"
    if not path.is_file():
        raise BookError(f"no coursework for {name!r}{chapters.suggest(name, names())}")
    return _read(path)


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise MissingData(f"{path} is not there: give the notebook that the student sent in") from None
    except (nbformat.ValidationError, ValueError, AttributeError, KeyError, OSError) as error:
        raise BookError(f"{path.name} cannot be read as a notebook: {error}") from error


def kind(cell: NotebookNode) -> str:
    """``solution``, ``check``, ``given`` (code that students get) or ``text``."""
    about = cell.metadata.get("nbgrader", {})
    if about.get("solution"):
        return "solution"
    if about.get("grade"):
        return "check"
    return "given" if cell.cell_type == "code" else "text"


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of an assignment. A heading ``## 1. Title`` begins one, and its text says the stars."""
    found: list[Exercise] = []
    for cell in notebook.cells:
        if match := re.match(r"## \d+\. (.+)", cell.source):
            stars = next((n for words, n in _STARS.items() if words in cell.source.lower()), 0)
            found.append(Exercise(match.group(1).strip(), stars, []))
        if found:
            found[-1].cells.append(cell)
    return found


def setting(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells before the first exercise."""
    first = next((i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## ")), None)
    return notebook.cells[:first]


def stub(source: str) -> str:
    """A solution cell as the student gets it."""
    lines, inside = [], False
    for line in source.split("\n"):
        if "BEGIN SOLUTION" in line:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [f"{indent}# YOUR CODE HERE", f"{indent}raise NotImplementedError()"]
        elif "END SOLUTION" in line:
            inside = False
        elif not inside:
            lines.append(line)
    return "\n".join(lines)


def solved(source: str) -> str:
    """A solution cell without its marks."""
    return re.sub(r"^[ \t]*### (?:BEGIN|END) SOLUTION\n?", "", source, flags=re.M).rstrip()


def visible(source: str) -> str:
    """A checking cell as the student gets it."""
    return re.sub(_REGION.format("HIDDEN TESTS"), "", source, flags=re.S).rstrip()


# ---------------------------------------------------------------- release

def _nbgrader():
    try:
        import nbgrader.preprocessors
        import nbgrader.utils
    except ImportError:
        raise BookError("coursework needs nbgrader: pip install -e .[teach] -c constraints.txt") from None
    return nbgrader


def student(notebook: NotebookNode) -> NotebookNode:
    """The student's version, by nbgrader's preprocessors: no solutions, no hidden tests, the rest locked."""
    made = _nbgrader().preprocessors
    steps = (made.ClearSolutions, made.LockCells, made.ComputeChecksums, made.ClearOutput,
             made.CheckCellMetadata, made.ClearHiddenTests, made.ComputeChecksums)
    notebook, resources = copy.deepcopy(notebook), {}
    for step in steps:
        notebook, resources = step().preprocess(notebook, resources)
    return notebook


def release(target: Path | None = None) -> Path:
    """Write an nbgrader course folder: ``source/``, ``release/`` and ``nbgrader_config.py``; return it."""
    target = target or folder().parents[1] / "_build" / "coursework"
    for name in names():
        notebook = read(name)
        for part, content in (("source", notebook), ("release", student(notebook))):
            path = target / part / name / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(nbformat.writes(content) + "\n", encoding="utf-8")
    (target / "nbgrader_config.py").write_text(
        "c = get_config()\nc.CourseDirectory.course_id = 'hands-on-brain-foundation-models'\n"
        "c.CourseDirectory.root = '.'\n", encoding="utf-8")
    return target


# ---------------------------------------------------------------- marking

def complete(name: str, submission: NotebookNode) -> NotebookNode:
    """A student's notebook with the instructor's locked and checking cells: what is marked.

    Cells that the student added are kept. Raises BookError when a cell of the assignment is gone.
    """
    ours = {cell.metadata.nbgrader.grade_id: cell for cell in read(name).cells if "nbgrader" in cell.metadata}
    cells, seen = [], []
    for cell in copy.deepcopy(submission.cells):
        key = cell.metadata.get("nbgrader", {}).get("grade_id")
        if key in ours:
            seen.append(key)
            if kind(ours[key]) != "solution":
                cell = copy.deepcopy(ours[key])
        cells.append(cell)
    if missing := [key for key in ours if key not in seen]:
        raise BookError(f"{name}: the notebook lacks the cells {', '.join(missing)}: is it another chapter's?"
                        " The student has to paste the answers into a fresh copy")
    if twice := sorted({key for key in seen if seen.count(key) > 1}):
        raise BookError(f"{name}: the notebook holds {', '.join(twice)} twice: delete the copies")
    done = nbformat.from_dict(copy.deepcopy(submission))
    done.cells = cells
    return done


def with_answers(name: str, answers: Mapping[str, str]) -> NotebookNode:
    """The student's version with these solution cells (by grade_id) filled in."""
    notebook = student(read(name))
    left = dict(answers)
    for cell in notebook.cells:
        if kind(cell) == "solution":
            cell.source = left.pop(cell.metadata.nbgrader.grade_id, cell.source)
    if left:
        raise BookError(f"{name} has no solution cell {', '.join(left)}")
    return notebook


def mark(name: str, submissions: Sequence[NotebookNode], *, one_kernel: bool = False) -> list[Marks]:
    """Marks of each notebook. ``one_kernel`` empties a kernel in between: quick, for trusted code."""
    done = [complete(name, submission) for submission in submissions]
    if one_kernel:
        return _run(done)
    return [marks for notebook in done for marks in _run([notebook])]


def _run(notebooks: Sequence[NotebookNode]) -> list[Marks]:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    found = []
    client = NotebookClient(notebooks[0], kernel_name="python3", allow_errors=True, timeout=SECONDS,
                            interrupt_on_timeout=True, resources={"metadata": {"path": str(folder())}})
    with client.setup_kernel(env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}):
        for notebook in notebooks:
            notebook.cells.append(nbformat.v4.new_code_cell("%reset -f"))
            client.nb = notebook
            try:
                for number, cell in enumerate(notebook.cells):
                    client.execute_cell(cell, number)
            except (DeadKernelError, CellTimeoutError):  # what did not run gets nothing
                for cell in notebook.cells[number:]:
                    if kind(cell) == "check":
                        cell.outputs = [nbformat.v4.new_output("error", ename="Stopped", evalue="too slow")]
            found.append(_marks(notebook))
    return found


def _marks(notebook: NotebookNode) -> Marks:
    grade = _nbgrader().utils.determine_grade
    points, most, said = {}, {}, {}
    for cell in notebook.cells:
        if kind(cell) == "check":
            key = cell.metadata.nbgrader.grade_id
            points[key], most[key] = grade(cell)
            errors = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
            if points[key] < most[key]:
                said[key] = " ".join((errors or ["it wrote to stderr"])[0].split())[:120]
    return Marks(points, most, said)


# ---------------------------------------------------------------- command line

def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 when refused."""
    parser = argparse.ArgumentParser(prog="python -m helpers.coursework", description="Coursework.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("release", help="write the student release")
    command.add_argument("folder", nargs="?", type=Path)
    command = commands.add_parser("mark", help="mark notebooks that students sent in")
    command.add_argument("chapter")
    command.add_argument("submission", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "release":
            target = release(given.folder)
            print(f"{len(names())} assignments in {target / 'release'}")
            return 0
        for path in given.submission:
            marks = mark(given.chapter, [_read(path)])[0]
            print(f"{path.stem}: {marks.total:g} of {sum(marks.most.values()):g}")
            for key, value in marks.points.items():
                print(f"  {key:<16}{value:g} of {marks.most[key]:g}  {marks.said.get(key, '')}".rstrip())
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
