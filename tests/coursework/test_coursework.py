"""Each assignment: full marks for the solution, none for an untouched copy, fair ones for wrong answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="coursework needs the extra 'teach'")

from helpers import chapters, coursework
from helpers.errors import BookError, MissingData

ROOT = Path(__file__).resolve().parents[2]
NAMES = coursework.names()
WRONG = Path(__file__).parent / "wrong"


@cache
def wrong_answers(name: str) -> dict[str, list[tuple[float, str]]]:
    """Solution cell -> [(points it should earn, source)]."""
    text = (WRONG / f"{name}.py").read_text(encoding="utf-8")
    found: dict[str, list[tuple[float, str]]] = {}
    for block in re.split(r"^# %% ", text, flags=re.M)[1:]:
        head, _, source = block.partition("\n")
        key, points = re.match(r"([\w-]+) (\d+): \w", head).groups()
        found.setdefault(key, []).append((float(points), source.strip()))
    return found


@cache
def assignment(name: str) -> list[coursework.Exercise]:
    return coursework.exercises(coursework.read(name))


def key_of(exercise: coursework.Exercise) -> str:
    return exercise.solution.metadata.nbgrader.grade_id


@cache
def marked(name: str) -> list[coursework.Marks]:
    """The instructor, an untouched copy, and one copy for each round of wrong answers; all in one kernel."""
    rounds = max(map(len, wrong_answers(name).values()))
    copies = [coursework.read(name), coursework.student(coursework.read(name))]
    for i in range(rounds):
        answers = {key: each[i][1] for key, each in wrong_answers(name).items() if i < len(each)}
        copies.append(coursework.with_answers(name, answers))
    return coursework.mark(name, copies, one_kernel=True)


def test_every_chapter_has_coursework() -> None:
    assert NAMES == [name for name in chapters.names() if name in NAMES], "an assignment without a chapter"
    assert [name for name in chapters.names() if name not in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
def test_three_exercises_from_easy_to_hard(name: str) -> None:
    assert [exercise.stars for exercise in assignment(name)] == [1, 2, 3]
    assert [exercise.points for exercise in assignment(name)] == [2, 4, 6]
    for exercise in assignment(name):
        assert len(exercise.checks) >= 2
        assert any("BEGIN HIDDEN TESTS" in cell.source for cell in exercise.checks)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_in_order_and_empty(name: str) -> None:
    notebook = coursework.read(name)
    nbformat.validate(notebook)
    keys = [cell.metadata.nbgrader.grade_id for cell in notebook.cells]
    assert max(Counter(keys).values()) == 1
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_the_release_gives_nothing_away(name: str) -> None:
    notebook = coursework.student(coursework.read(name))
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "SOLUTION" not in text and "HIDDEN" not in text
    for ours, theirs in zip(coursework.read(name).cells, notebook.cells, strict=True):
        kind = coursework.kind(ours)
        assert theirs.metadata.nbgrader.locked or kind == "solution"
        if kind == "solution":
            assert theirs.source == coursework.stub(ours.source)
        if kind == "check":
            assert theirs.source.rstrip() == coursework.visible(ours.source)


@pytest.mark.parametrize("name", NAMES)
def test_the_instructor_gets_full_marks(name: str) -> None:
    marks = marked(name)[0]
    assert marks.said == {}
    assert marks.points == marks.most


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_copy_gets_nothing(name: str) -> None:
    assert marked(name)[1].total == 0


@pytest.mark.parametrize("name", NAMES)
def test_typical_wrong_answers_lose_the_marks_they_should(name: str) -> None:
    answers = wrong_answers(name)
    assert set(answers) == {key_of(exercise) for exercise in assignment(name)}
    for exercise in assignment(name):
        tried = answers[key_of(exercise)]
        assert len(tried) >= 2
        got = [marks.of(exercise) for marks, _ in zip(marked(name)[2:], tried, strict=False)]
        said = [marks.said for marks in marked(name)[2:]]
        assert got == [points for points, _ in tried], f"{exercise.title}: {said}"
        assert all(points < exercise.points for points in got)


# ---------------------------------------------------------------- the machinery

def small(name: str) -> nbformat.NotebookNode:
    return coursework.student(coursework.read(name))


def test_a_student_cannot_change_the_checks() -> None:
    notebook = small(NAMES[0])
    for cell in notebook.cells:
        if coursework.kind(cell) == "check":
            cell.source = "pass"
    ours = [cell.source for cell in coursework.read(NAMES[0]).cells if coursework.kind(cell) == "check"]
    again = coursework.complete(NAMES[0], notebook)
    assert [cell.source for cell in again.cells if coursework.kind(cell) == "check"] == ours


def test_cells_that_a_student_adds_are_kept() -> None:
    notebook = small(NAMES[0])
    notebook.cells.insert(3, nbformat.v4.new_code_cell("helper = 1"))
    assert coursework.complete(NAMES[0], notebook).cells[3].source == "helper = 1"


def test_a_notebook_with_a_cell_gone_is_refused() -> None:
    notebook = small(NAMES[0])
    gone = notebook.cells.pop()
    with pytest.raises(BookError, match=gone.metadata.nbgrader.grade_id):
        coursework.complete(NAMES[0], notebook)
    notebook = small(NAMES[0])
    notebook.cells.append(notebook.cells[-1])
    with pytest.raises(BookError, match="twice"):
        coursework.complete(NAMES[0], notebook)


def test_bad_names_and_files_give_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="no coursework for"):
        coursework.read("99_nothing")
    with pytest.raises(BookError, match="no solution cell"):
        coursework.with_answers(NAMES[0], {"nothing": "x"})
    assert coursework.main(["mark", NAMES[0], str(tmp_path / "missing.ipynb")]) == 2
    with pytest.raises(MissingData):
        coursework._read(tmp_path / "missing.ipynb")
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    with pytest.raises(BookError, match="cannot be read"):
        coursework._read(broken)


def test_without_nbgrader_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    monkeypatch.setitem(sys.modules, "nbgrader.preprocessors", None)
    with pytest.raises(BookError, match="teach"):
        coursework.student(coursework.read(NAMES[0]))


def test_the_release_is_a_course_folder(tmp_path: Path) -> None:
    coursework.release(tmp_path)
    assert sorted(path.name for path in (tmp_path / "release").iterdir()) == NAMES
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == NAMES
    assert "course_id" in (tmp_path / "nbgrader_config.py").read_text()


@pytest.mark.slow
def test_nbgrader_itself_agrees(tmp_path: Path) -> None:
    """nbgrader's own commands, with its database: full marks for the solution, as ours."""
    coursework.release(tmp_path)
    name = NAMES[0]

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls alembic by name
    environment = os.environ | {"PATH": path}

    def nbgrader(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=tmp_path, text=True,
                              capture_output=True, timeout=180, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    nbgrader("generate_assignment", name, "--force")
    for student, notebook in (("ada", coursework.read(name)), ("bob", small(name))):
        folder = tmp_path / "submitted" / student / name
        folder.mkdir(parents=True)
        (folder / f"{name}.ipynb").write_text(nbformat.writes(notebook))
    nbgrader("autograde", name)
    nbgrader("export", "--to", "grades.csv")
    rows = (tmp_path / "grades.csv").read_text().splitlines()
    columns = rows[0].split(",")
    got = {row.split(",")[columns.index("student_id")]: float(row.split(",")[columns.index("score")])
           for row in rows[1:]}
    assert got == {"ada": 12.0, "bob": 0.0}
