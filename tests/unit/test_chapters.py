"""chapters: names, the parameters cell, and definitions without training."""

import dataclasses
import inspect
import pickle
import sys
import traceback

import pytest
import yaml
from nbformat.v4 import new_markdown_cell
from tiny_book import CHAPTER, PARAMETERS, code, make_book, write_notebook

from helpers import chapters, run
from helpers.errors import BookError
from helpers.paths import repo_root


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_book(tmp_path)


# --- files -------------------------------------------------------------------------------------------


def test_names_are_sorted_and_only_chapters(book):
    for name in ("10_late", "01_early", "draft", "3_bad"):
        write_notebook(book, [], name)
    assert chapters.names() == ["01_early", CHAPTER, "10_late"]


@pytest.mark.parametrize("wrong", ["03_tiny.ipynb", "03_tinny", "tiny", "../03_tiny", ""])
def test_unknown_chapter_suggests(book, wrong):
    with pytest.raises(BookError, match=r"unknown chapter .*03_tiny"):
        chapters.path(wrong)


def test_outside_the_book(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "repo_root", lambda: None)
    with pytest.raises(BookError, match="no book here"):
        chapters.names()


def test_a_file_that_is_no_notebook(book):
    chapters.path(CHAPTER).write_text('{"cells": [')
    with pytest.raises(BookError, match=r"notebooks/03_tiny\.ipynb cannot be read"):
        chapters.parameters(CHAPTER)


def test_hash_follows_code_and_not_prose_or_outputs(book):
    before = chapters.notebook_sha256(CHAPTER)
    notebook = chapters.read(CHAPTER)
    notebook.cells[0].source = "# Another title"
    notebook.cells[1].execution_count = 5
    assert chapters.code_sha256(notebook) == before
    notebook.cells[1].source += "\nx = 1"
    assert chapters.code_sha256(notebook) != before


# --- parameters --------------------------------------------------------------------------------------


def test_parameters_are_parsed(book):
    found = chapters.parameters(CHAPTER)
    assert list(found) == ["profile", "seed", "drop_rate", "widths", "kind", "cohort", "verbose"]
    assert found["drop_rate"].default == 0.2
    assert found["drop_rate"].comment == "share of frames dropped, in [0, 0.95]"
    assert (found["drop_rate"].range, found["widths"].range, found["seed"].range) == (
        "[0, 0.95]",
        "(0, 64]",
        "",
    )
    assert found["kind"].choices == ("pearson", "ledoit_wolf")
    assert found["cohort"].optional and found["cohort"].annotation == "str | None"


@pytest.mark.parametrize(
    "name, value, back",
    [
        ("seed", 3, 3),
        ("drop_rate", 0, 0.0),
        ("drop_rate", 0.95, 0.95),
        ("widths", [1, 64], [1, 64]),
        ("widths", (), []),
        ("kind", "ledoit_wolf", "ledoit_wolf"),
        ("cohort", None, None),
        ("cohort", "/data", "/data"),
        ("verbose", True, True),
    ],
)
def test_allowed_values(book, name, value, back):
    checked = chapters.parameters(CHAPTER)[name].check(value)
    assert checked == back and type(checked) is type(back)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("seed", True, "seed: True is bool, not int"),
        ("seed", 1.5, "seed: 1.5 is float, not int"),
        ("seed", 2.0, "write 2"),
        ("seed", None, "seed: None is not allowed"),
        ("drop_rate", "1e-4", r"YAML reads 1e-4 as text: write 0\.0001"),
        ("drop_rate", "1e-7", r"write 1\.0e-07"),
        ("drop_rate", "much", r"'much' is str, not float$"),
        ("drop_rate", True, "True is bool, not float"),
        ("drop_rate", 0.96, r"0\.96 is outside \[0, 0\.95\]"),
        ("drop_rate", float("nan"), "not a finite number"),
        ("widths", 8, r"for one value write \[8\]"),
        ("widths", [8, 0], r"0 is outside \(0, 64\]"),
        ("widths", [8, "16"], "write 16"),
        ("widths", [[8]], "is list, not"),
        ("kind", "person", "not one of pearson, ledoit_wolf; did you mean pearson"),
        ("cohort", 3, 'put it in quotes: "3"'),
        ("verbose", 1, "write true or false"),
        ("verbose", "yes", "'yes' is str, not bool"),
    ],
)
def test_refused_values(book, name, value, words):
    with pytest.raises(BookError, match=words):
        chapters.parameters(CHAPTER)[name].check(value)


def test_the_number_suggested_for_yaml_is_one_for_yaml(book):
    drop_rate = chapters.parameters(CHAPTER)["drop_rate"]
    for text in ("1e-4", "3e-9", "1E-1", "2e-12"):
        with pytest.raises(BookError) as told:
            drop_rate.check(text)
        assert yaml.safe_load(str(told.value).rsplit("write ", 1)[1]) == float(text)


@pytest.mark.parametrize(
    "line, words",
    [
        ("x = 3  # no type", r"'x = 3' is not 'name: type"),
        ("x: int  # no value", "is not 'name: type"),
        ("x: int = 2 * 3  # sum", "not a literal"),
        ("x: int = seed  # derived", "not a literal"),
        ("x: int = 3", "say what it is in a comment"),
        ("x: dict = {}  # odd", "type dict is not known"),
        ("x: Literal[1, 'a'] = 1  # mixed", "is not known"),
        ("x: float = 3  # an int", "write its default as a float, 3.0"),
        ("x: int = 3  # small, in [0, 2]", r"default breaks the rules: .*outside \[0, 2\]"),
        ("x: int = 3  # odd, in [4, 2]", "is empty"),
        ("x: str = 'a'  # odd, in [0, 1]", "range is for numbers"),
        ("x: int = None  # nothing", "None is not allowed"),
        ("x: int = 'a'  # text", "is str, not int"),
        ("seed: int = 1  # again", "seed is defined twice"),
        ("import os", "is not 'name: type"),
        ("x: int = = 3", "not Python: line 8"),
    ],
)
def test_a_parameters_cell_that_breaks_the_rules(tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(make_book(tmp_path, parameters=PARAMETERS + line))
    with pytest.raises(BookError, match=words) as told:
        chapters.parameters(CHAPTER)
    assert "notebooks/03_tiny.ipynb" in str(told.value)


def test_a_long_line_that_a_formatter_put_in_brackets():
    steps = chapters.parse("steps: int = (\n    0  # a long story, in [0, 9]\n)\n")["steps"]
    assert (steps.comment, steps.range) == ("a long story, in [0, 9]", "[0, 9]")
    with pytest.raises(BookError, match="comment at the end of its line"):
        chapters.parse("steps: list[int] = [\n    0,  # the first\n]\n")


def test_lists_over_lines_and_hashes_in_text():
    found = chapters.parse(
        "x: list[int] = [\n    1,  # one\n    2,\n]  # numbers\ny: str = 'a # b'  # text, in full"
    )
    assert found["x"].comment == "numbers" and found["x"].default == [1, 2]
    assert found["y"].default == "a # b" and found["y"].comment == "text, in full"


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_parameters_cell(book, count):
    write_notebook(book, [code("x: int = 1  # one", "parameters") for _ in range(count)])
    with pytest.raises(BookError, match=f"{count} cells are tagged 'parameters'"):
        chapters.parameters(CHAPTER)


# --- definitions -------------------------------------------------------------------------------------


@pytest.fixture
def defined(book):
    """A chapter with everything that a loader meets."""
    write_notebook(
        book,
        [
            new_markdown_cell("# T"),
            code("%pip install nothing\nimport math, functools"),
            code("from __future__ import annotations\nfrom typing import TYPE_CHECKING, Literal"),
            code("from dataclasses import dataclass\nif TYPE_CHECKING:\n    import nowhere"),
            code(PARAMETERS, "parameters"),
            code("SIZES = (1, 2)\nRATE: float = 0.5\nlower = 3\nCALLED = math.sqrt(4)"),
            code("half = RATE / 2\nnames = {0: 'a'}", "define"),
            code("@functools.cache\ndef twice(x: Missing = 1):\n    # a comment\n    return 2 * x * RATE"),
            code(
                "@dataclass\nclass Model:\n    size: int = SIZES[1]\n\n"
                "    def fail(self):\n        return self.size / 0"
            ),
            code("raise SystemExit('training')\ndef late():\n    return (9\n        % 5)"),
            code(
                "!ls\nout = !ls\nif True:\n    %matplotlib inline\nprint?\n"
                "def after_magic():\n    return half"
            ),
            code("%%time\ndef timed():\n    return 1"),
            code("%%bash\nif then fi ("),
            code("def hidden():\n    pass", "no-load"),
            code("class Model2(Model):\n    pass"),
        ],
    )
    yield book
    sys.modules.pop(f"helpers_chapter_{CHAPTER}", None)


def test_load_runs_definitions_only(defined):
    module = chapters.load(CHAPTER)
    assert module.__name__ == "helpers_chapter_03_tiny"
    assert (
        module.twice(3) == 3.0 and module.late() == 4 and module.after_magic() == 0.25 and module.timed() == 1
    )
    assert module.drop_rate == 0.2 and module.SIZES == (1, 2) and module.names == {0: "a"}
    assert issubclass(module.Model2, module.Model)
    for absent in ("lower", "CALLED", "hidden", "out", "nowhere"):
        assert not hasattr(module, absent), absent


def test_loaded_classes_are_whole(defined):
    module = chapters.load(CHAPTER)
    assert dataclasses.asdict(module.Model()) == {"size": 2}
    assert pickle.loads(pickle.dumps(module.Model(5))) == module.Model(5)
    assert inspect.getsource(module.Model).startswith("@dataclass\nclass Model:\n    size: int = SIZES[1]")
    assert "# a comment" in inspect.getsource(module.twice.__wrapped__)
    with pytest.raises(ZeroDivisionError) as told:
        module.Model().fail()
    last = traceback.extract_tb(told.tb)[-1]
    assert last.line == "return self.size / 0" and last.filename.startswith("<03_tiny.ipynb")


def test_load_is_kept_until_the_code_changes(defined):
    module = chapters.load(CHAPTER)
    assert chapters.load(CHAPTER) is module
    assert chapters.loaded()[CHAPTER] == chapters.notebook_sha256(CHAPTER)
    write_notebook(defined, [code("def twice(x):\n    return 20 * x")])
    changed = chapters.load(CHAPTER)
    assert changed.twice(1) == 20 and not hasattr(changed, "Model")
    assert inspect.getsource(changed.twice) == "def twice(x):\n    return 20 * x\n"


def test_load_names_the_cell_that_needs_training(defined):
    write_notebook(defined, [new_markdown_cell("x"), code("model = 3"), code("def f(x=model):\n    pass")])
    with pytest.raises(BookError, match=r"cell 3 cannot be loaded: NameError.*makes model 'define'"):
        chapters.load(CHAPTER)
    assert f"helpers_chapter_{CHAPTER}" not in sys.modules


def test_load_names_the_cell_that_is_not_python(defined):
    write_notebook(defined, [code("x = 1"), code("def f(:\n    pass")])
    with pytest.raises(BookError, match=r"cell 2 is not Python: line 1"):
        chapters.load(CHAPTER)


# --- the real book -----------------------------------------------------------------------------------


def configs():
    root = repo_root()
    return sorted(path for profile in ("public", "full") for path in root.glob(f"configs/{profile}/*.yml"))


@pytest.mark.parametrize("file", configs(), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_configuration_fits_its_chapter(file):
    if file.stem not in chapters.names():
        pytest.skip(f"notebooks/{file.stem}.ipynb is not written yet")
    assert run.resolve(file.stem, file.parent.name)["profile"] == file.parent.name


@pytest.mark.parametrize("name", chapters.names())
def test_every_chapter_has_a_good_parameters_cell(name):
    assert {"profile", "seed"} <= set(chapters.parameters(name))
