"""The build: what runs again, what is staged, and what happens when something fails."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tiny_book import CHAPTER, make_book, write_config

from helpers import build, records, run
from helpers.errors import BookError

TOC = "format: jb-book\nroot: book/index\nparts:\n  - chapters:\n      - file: notebooks/03_tiny\n"
CONFIG = """\
title: Tiny
only_build_toc_files: true
execute: {execute_notebooks: "off"}
bibtex_bibfiles: [none.bib]
"""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository, with the working folder in it."""
    root = make_book(tmp_path)
    (root / "_toc.yml").write_text(TOC)
    (root / "_config.yml").write_text(CONFIG)
    (root / "constraints.txt").write_text("torch==1\n")
    (root / "book").mkdir()
    (root / "book" / "index.md").write_text("# Home\n\nHello.\n")
    write_config(root, "{}\n")
    monkeypatch.chdir(root)
    monkeypatch.delenv("BOOK_RUNS", raising=False)
    return root


class FakeRun:
    """Stands for helpers.run: writes what a run would leave, and counts."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.fails = root, 0, ""
        self.stale: list[str] = []

    def __call__(self, chapter: str, profile: str) -> Path:
        self.calls += 1
        if self.fails:
            raise BookError(self.fails)
        folder = run.folder_of(chapter, profile)
        folder.mkdir(parents=True, exist_ok=True)
        source = self.root / "notebooks" / f"{chapter}.ipynb"
        (folder / "notebook.ipynb").write_text(source.read_text())
        (folder / "record.json").write_text(json.dumps({"calls": self.calls}))
        return folder


class FakeRecord:
    def __init__(self, changed: list[str]) -> None:
        self.changed = changed

    def stale(self, *, strict: bool = False) -> list[str]:
        return self.changed


@pytest.fixture
def fake(book: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """The build without kernels and without Sphinx."""
    runner = FakeRun(book)

    def outdated(chapter: str, profile: str) -> list[str]:
        return [] if (run.folder_of(chapter, profile) / "record.json").is_file() else ["not run"]

    def make_html(folder: Path, state: dict[str, str]) -> None:
        html = folder / "html"
        html.mkdir(parents=True, exist_ok=True)
        (html / "index.html").write_text("made")
        (html / ".build.json").write_text(json.dumps(state))

    monkeypatch.setattr(run, "run_chapter", runner)
    monkeypatch.setattr(run, "outdated", outdated)
    monkeypatch.setattr(records, "read", lambda path: FakeRecord(runner.stale))
    monkeypatch.setattr(build, "make_html", make_html)
    return runner


# ---------------------------------------------------------------- what runs again

def test_unchanged_runs_nothing(fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main([]) == 0
    assert build.main([]) == 0
    assert fake.calls == 1
    said = capsys.readouterr().out
    assert "03_tiny: unchanged" in said and "HTML: unchanged" in said
    assert "file://" in said and "Built in" in said


def test_changed_helper_runs_again(fake: FakeRun) -> None:
    build.build()
    fake.stale = ["helpers.train"]
    build.build()
    assert fake.calls == 2


def test_changed_packages_run_again(fake: FakeRun, book: Path) -> None:
    build.build()
    (book / "constraints.txt").write_text("torch==2\n")
    assert build.reasons(book, CHAPTER, "embedded") == ["constraints.txt"]
    build.build()
    assert fake.calls == 2


def test_new_record_of_the_chapter_runs_again(fake: FakeRun, book: Path) -> None:
    build.build()
    folder = book / "runs" / CHAPTER
    folder.mkdir(parents=True)
    (folder / "public.json").write_text("{}")
    assert build.reasons(book, CHAPTER, "embedded") == [f"the record {CHAPTER}/public"]


def test_run_by_hand_is_not_taken_for_the_page(fake: FakeRun, book: Path) -> None:
    build.build()
    fake(CHAPTER, "embedded")
    assert build.reasons(book, CHAPTER, "embedded") == ["run by hand since"]
    fake(CHAPTER, "public")
    assert build.reasons(book, CHAPTER, "public") == []  # a long run is not repeated


def test_damaged_note_runs_again(fake: FakeRun, book: Path) -> None:
    build.build()
    (run.folder_of(CHAPTER, "embedded") / "inputs.json").write_text("{half")
    assert build.reasons(book, CHAPTER, "embedded") == ["run by hand since"]


def test_prose_alone_executes_nothing_but_is_shown(fake: FakeRun, book: Path) -> None:
    build.build()
    path = book / "notebooks" / f"{CHAPTER}.ipynb"
    path.write_text(path.read_text().replace("# Tiny", "# Tiny, with another title"))
    build.build()
    assert fake.calls == 1
    assert "another title" in (book / "_build" / "source" / "notebooks" / f"{CHAPTER}.ipynb").read_text()


# ---------------------------------------------------------------- failing

def test_failing_chapter_is_named_and_the_old_book_is_called_old(
    fake: FakeRun, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.build()
    fake.fails, fake.stale = "failed in cell 4 (Work): ValueError: no", ["notebook"]
    assert build.main([]) == 1
    said = capsys.readouterr().err
    assert f"{CHAPTER}: failed in cell 4 (Work): ValueError: no" in said
    assert "NOT built" in said and "earlier build" in said


@pytest.mark.parametrize(("text", "said"), [
    (TOC.replace("03_tiny", "09_missing"), "notebooks/09_missing.ipynb does not exist"),
    (TOC.replace("book/index", "book/missing"), "book/missing.md does not exist"),
])
def test_missing_page_is_named(fake: FakeRun, book: Path, text: str, said: str) -> None:
    (book / "_toc.yml").write_text(text)
    with pytest.raises(BookError, match=said):
        build.build()
    assert fake.calls == 0


def test_unknown_profile_is_refused(fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--profile", "pubic"]) == 2
    assert "unknown profile 'pubic': choose one of embedded, public, full" in capsys.readouterr().err
    assert fake.calls == 0


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.paths, "repo_root", lambda: None)
    with pytest.raises(BookError, match="inside its repository"):
        build.build()


# ---------------------------------------------------------------- staging

def notebook(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return new_notebook(cells=list(cells))


def test_merge_takes_text_from_the_source_and_outputs_from_the_run() -> None:
    cell = new_code_cell("1 + 1", metadata={"tags": ["hide-input"]})
    source = notebook(new_markdown_cell("new words"), cell)
    done = notebook(new_markdown_cell("old words"), new_code_cell("1 + 1", execution_count=3))
    done.cells[1].outputs = [new_output("stream", text="2")]
    merged = build.merge(source, done)
    assert [cell.source for cell in merged.cells] == ["new words", "1 + 1"]
    assert merged.cells[1].outputs == done.cells[1].outputs
    assert merged.cells[1].metadata["tags"] == ["hide-input"]
    assert source.cells[1].outputs == []


def test_merge_shows_injected_parameters_after_the_parameters() -> None:
    source = notebook(new_code_cell("a: int = 1  # a", metadata={"tags": ["parameters"]}), new_code_cell("a"))
    injected = new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]})
    merged = build.merge(source, notebook(source.cells[0].copy(), injected, source.cells[1].copy()))
    assert [cell.source for cell in merged.cells] == ["a: int = 1  # a", "a = 2", "a"]


def test_merge_refuses_other_code() -> None:
    with pytest.raises(BookError, match="other code"):
        build.merge(notebook(new_code_cell("a")), notebook(new_code_cell("b")))


def test_stage_copies_only_what_changed_and_removes_what_is_gone(tmp_path: Path) -> None:
    assert build.stage({"a.md": b"a", "x/b.md": b"b"}, tmp_path) == 2
    before = (tmp_path / "a.md").stat().st_mtime_ns
    assert build.stage({"a.md": b"a"}, tmp_path) == 0
    assert (tmp_path / "a.md").stat().st_mtime_ns == before
    assert not (tmp_path / "x" / "b.md").exists()


# ---------------------------------------------------------------- with Sphinx

def staged(root: Path, text: str) -> tuple[Path, dict[str, str]]:
    folder = root / "_build"
    files = {
        "_toc.yml": b"format: jb-book\nroot: index\n",
        "_config.yml": CONFIG.encode(),
        "index.md": text.encode(),
        "none.bib": b"",
    }
    build.stage(files, folder / "source")
    return folder, build.state_of(files)


@pytest.mark.slow
def test_warning_fails_and_leaves_the_old_pages(tmp_path: Path) -> None:
    folder, state = staged(tmp_path, "# Home\n\nFirst words.\n")
    build.make_html(folder, state)
    assert build.is_current(folder / "html", state)
    for _ in range(2):  # a second attempt must not pass because the page was read before
        folder, worse = staged(tmp_path, "# Home\n\nSee {ref}`nowhere`.\n")
        with pytest.raises(BookError, match=r"index\.md.*nowhere"):
            build.make_html(folder, worse)
    assert "First words" in (folder / "html" / "index.html").read_text()
    assert build.is_current(folder / "html", state)
    assert not build.is_current(folder / "html", worse)
