"""The project's own files agree with one another."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def canonical(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement.strip())[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in found.items()}


def direct() -> list[str]:
    extras = PROJECT["optional-dependencies"].values()
    return [*PROJECT["dependencies"], *(requirement for extra in extras for requirement in extra)]


def environment() -> dict[str, str]:
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    listed = next(item["pip"] for item in wanted if isinstance(item, dict))
    return {canonical(item): item.partition("==")[2] for item in listed if not item.startswith("-e")}


def test_constraints_are_exact_and_portable() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_direct_dependencies_are_pinned() -> None:
    missing = [name for name in map(canonical, direct()) if name not in pins()]
    assert missing == []
    for requirement in direct():
        if "==" in requirement:
            assert requirement.partition("==")[2] == pins()[canonical(requirement)]


def test_conda_environment_has_the_same_pins() -> None:
    assert environment() == {name: pins()[name] for name in map(canonical, direct())}


def test_nothing_needs_torchvision() -> None:
    assert not {"torchvision", "timm", "torchaudio"} & set(pins())


def test_importing_the_package_is_light() -> None:
    code = "import sys, helpers; print([m for m in ('torch', 'numpy', 'pandas', 'mne') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_repository_address_is_the_same_everywhere() -> None:
    slug = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    name = slug.split("/")[1]
    files = [*ROOT.glob("*.md"), ROOT / "CITATION.cff", *(ROOT / "book").rglob("*.md"),
             *(ROOT / "notebooks").rglob("*.ipynb")]
    wrong = {}
    for path in files:
        found = set(re.findall(rf"[\w.-]+/{name}\b", path.read_text(encoding="utf-8"))) - {slug}
        if found:
            wrong[path.name] = sorted(found)
    assert wrong == {}


def test_the_environment_badges_name_existing_notebooks() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells)
        for target in re.findall(r"(?:blob|lab/tree)/(?:main/)?(notebooks/[\w./-]+\.ipynb)", text):
            assert (ROOT / target).is_file(), f"{path.name} links to {target}"


def test_pages_of_the_contents_exist() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    missing = [file for file in files if not list(ROOT.glob(f"{file}.*"))]
    assert missing == []


def test_every_citation_has_an_entry_and_every_entry_a_distinct_key() -> None:
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,\s]+),", text, flags=re.M)
    assert len(keys) == len(set(keys))
    missing = {}
    for path in [*(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        cited = re.findall(r"\{cite\}`([^`]+)`", path.read_text(encoding="utf-8"))
        unknown = {key.strip() for group in cited for key in group.split(",")} - set(keys)
        if unknown:
            missing[path.name] = sorted(unknown)
    assert missing == {}


def test_dois_are_written_plainly() -> None:
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for doi in re.findall(r"doi\s*=\s*\{([^}]*)\}", text):
        assert re.fullmatch(r"10\.\d{4,9}/\S+", doi), doi


@pytest.mark.parametrize("profile", ["public", "full", "ci"])
def test_every_chapter_has_a_configuration(profile: str) -> None:
    chapters = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    missing = [name for name in chapters if not (ROOT / "configs" / profile / f"{name}.yml").is_file()]
    assert missing == []


def test_the_book_is_told_not_to_execute_and_not_to_use_the_network() -> None:
    assert CONFIG["execute"]["execute_notebooks"] == "off"
    assert CONFIG["only_build_toc_files"] is True
    assert CONFIG["launch_buttons"]["thebe"] is False
    assert "sphinx-mathjax-offline" in CONFIG["sphinx"]["config"]["extensions"]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # PYTHON and the like given to an outer make must not reach this one
    taken = ("MAKE", "MFLAGS", "PYTHON", "PROFILE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    return subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_make_help_lists_the_targets() -> None:
    done = make(ROOT, "-s", "help")
    targets = "help book test run lab serve lint coursework publish release clean"
    for target in targets.split():
        assert re.search(rf"^  {target} ", done.stdout, flags=re.M), target


@pytest.fixture
def copied_makefile(tmp_path: Path) -> Path:
    """A folder with the Makefile alone."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_make_refuses_an_old_python(copied_makefile: Path) -> None:
    old = copied_makefile / "oldpython"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{pretend}' \"$2\"\n")
    old.chmod(0o755)
    done = make(copied_makefile, "book", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stdout + done.stderr
    assert not (copied_makefile / ".venv").exists()


def test_make_says_when_there_is_no_python(copied_makefile: Path) -> None:
    done = make(copied_makefile, "book", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "Install Python 3.11 or newer" in done.stdout


def test_make_run_asks_for_a_chapter(copied_makefile: Path) -> None:
    stamp = copied_makefile / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    done = make(copied_makefile, "run")
    assert done.returncode != 0
    assert "Say which chapter" in done.stdout


def test_short_public_runs_take_their_parameters_from_a_file(tmp_path: Path) -> None:
    options = runpy.run_path(str(ROOT / ".ci" / "public_run.py"))["options"]
    config = tmp_path / "x.yml"
    config.write_text("epochs: 2\nrate: 0.5\nfast: true\nsizes: [1, 2]\nkind: a b\nnothing: null\n")
    words = options(config)
    assert words[::2] == ["-p"] * 6
    assert words[1::2] == ["epochs=2", "rate=0.5", "fast=true", "sizes=[1, 2]", "kind=a b", "nothing=null"]
    config.write_text("# nothing\n")
    assert options(config) == []
    with pytest.raises(SystemExit, match="is missing"):
        options(tmp_path / "y.yml")
