"""One address everywhere, and the same zip for the same pages."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml

from helpers import chapters, publish
from helpers.errors import BookError, MissingData

ROOT = Path(__file__).resolve().parents[2]
NEW = "jane-doe/brain.book"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Everything in the repository that may name its address."""
    for path in [*publish.files(ROOT), ROOT / "_toc.yml", ROOT / "pyproject.toml"]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def texts(root: Path) -> dict[Path, str]:
    return {path.relative_to(root): path.read_text(encoding="utf-8") for path in publish.files(root)}


def test_the_new_address_is_everywhere_and_the_old_one_nowhere(copy: Path) -> None:
    old, before = publish.address(copy), texts(copy)
    changed = publish.move(copy, NEW)
    after = texts(copy)
    assert publish.address(copy) == NEW
    assert [path for path, text in after.items() if old in text] == []
    for path, text in before.items():
        assert after[path].count(NEW) == text.count(old), path
    assert {path.relative_to(copy) for path in changed} == {p for p, text in before.items() if old in text}


def test_badges_launch_links_and_install_cells_agree(copy: Path) -> None:
    publish.move(copy, NEW)
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    branch = config["repository"]["branch"]
    assert config["repository"]["url"] == f"https://github.com/{NEW}"
    for path in sorted((copy / "notebooks").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells)
        assert re.findall(r"git\+https://github\.com/([\w./-]+)", text) == [NEW], path
        if path.parent.name == "notebooks":
            assert f"research.google.com/github/{NEW}/blob/{branch}/notebooks/{path.name}" in text, path
            assert f"mybinder.org/v2/gh/{NEW}/{branch}" in text, path


def test_going_back_gives_the_same_files(copy: Path) -> None:
    old, before = publish.address(copy), texts(copy)
    publish.move(copy, NEW)
    publish.move(copy, f"https://github.com/{old}.git")
    assert texts(copy) == before
    assert publish.move(copy, old) == []


def test_a_new_address_makes_no_record_old(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    name = chapters.names()[0]
    before = chapters.notebook_sha256(name)
    publish.move(copy, NEW)
    assert chapters.notebook_sha256(name) == before


@pytest.mark.parametrize("wrong", ["", "book", "a/b/c", "a b/c", "https://example.org/a/b", "-a/b", "a/"])
def test_a_wrong_address_changes_nothing(copy: Path, wrong: str) -> None:
    before = texts(copy)
    with pytest.raises(BookError, match="OWNER/NAME"):
        publish.move(copy, wrong)
    assert texts(copy) == before


def test_the_zip_is_the_same_each_time_and_has_its_checksum(copy: Path) -> None:
    with pytest.raises(MissingData, match="make book"):
        publish.release(copy)
    html = copy / "_build" / "html"
    (html / "book").mkdir(parents=True)
    (html / "index.html").write_text("<p>1</p>")
    (html / "book" / "a.html").write_text("<p>2</p>")
    (html / ".build.json").write_text("{}")
    target, digest = publish.release(copy)
    first = target.read_bytes()
    assert hashlib.sha256(first).hexdigest() == digest
    assert target.with_name(target.name + ".sha256").read_text() == f"{digest}  {target.name}\n"
    names = zipfile.ZipFile(target).namelist()
    assert [name.partition("/")[2] for name in names] == ["book/a.html", "index.html"]
    (html / "index.html").touch()
    assert publish.release(copy)[0].read_bytes() == first


def test_the_command_line(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(copy)
    assert publish.main(["address", NEW]) == 0
    assert NEW in capsys.readouterr().out
    assert publish.main(["address", "x"]) == 2
    assert publish.main(["release"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
