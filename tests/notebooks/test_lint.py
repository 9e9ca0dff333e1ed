"""Every chapter keeps the rules, and every rule notices a notebook that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from .rules import CODE_CELLS, RULES, code

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def chapter(request: pytest.FixtureRequest) -> NotebookNode:
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


@pytest.mark.parametrize("name", RULES)
def test_chapter_keeps_the_rule(chapter: NotebookNode, name: str) -> None:
    assert RULES[name](chapter) == []


def test_every_chapter_of_the_contents_exists() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    named = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    named = [file for file in named if file.startswith("notebooks/")]
    assert named == [f"notebooks/{path.stem}" for path in NOTEBOOKS]


# ---------------------------------------------------------------- the rules themselves

def good() -> NotebookNode:
    """A small notebook that keeps every rule."""
    sentence = "This sentence has exactly eight words in it. "
    cells = [
        new_markdown_cell("# Title\n\n" + sentence * 300),
        new_code_cell("import sys\nif 'google.colab' in sys.modules:\n    %pip install helpers",
                      metadata={"tags": ["hide-cell"]}),
        new_markdown_cell("## Parameters"),
        new_code_cell("seed: int = 0  # random seed", metadata={"tags": ["parameters"]}),
        new_code_cell("run = records.start('x', seed=seed)"),
        new_markdown_cell("See {cite}`key`.\n\n$$a = b$$ (eq-one)\n\nAs {eq}`eq-one` says."),
        new_code_cell("fig, ax = plt.subplots()", metadata={"mystnb": {
            "image": {"alt": "A line that rises to the right."},
            "figure": {"caption": "A line. Simulated data, embedded.", "name": "fig-line"}}}),
    ]
    while len([cell for cell in cells if cell.cell_type == "code"]) < CODE_CELLS[0] - 1:
        cells += [new_markdown_cell("## Next"), new_code_cell("x = 1")]
    cells += [new_markdown_cell("## Provenance"), new_code_cell("run.finish()")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def set_code(text: str, tags: list[str] | None = None, where: int = 4) -> Callable[[NotebookNode], None]:
    """A change: put this code into a code cell."""
    def change(notebook: NotebookNode) -> None:
        cell = code(notebook)[where][1]
        cell.source = text
        cell.metadata = {"tags": tags} if tags else {}
    return change


def set_prose(text: str) -> Callable[[NotebookNode], None]:
    """A change: add this prose."""
    def change(notebook: NotebookNode) -> None:
        notebook.cells.insert(8, new_markdown_cell(text))
    return change


def change_metadata(path: tuple[str, ...], value: object) -> Callable[[NotebookNode], None]:
    """A change: another value in the description of the figure."""
    def change(notebook: NotebookNode) -> None:
        node = code(notebook)[3][1].metadata["mystnb"]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    return change


def same_ids(notebook: NotebookNode) -> None:
    notebook.cells[1]["id"] = notebook.cells[0]["id"]


def no_ids(notebook: NotebookNode) -> None:
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        cell.pop("id", None)


def other_kernel(notebook: NotebookNode) -> None:
    notebook.metadata.kernelspec["name"] = "my-env"


def an_output(notebook: NotebookNode) -> None:
    code(notebook)[4][1].outputs = [new_output("stream", text="0.73")]


def no_output(notebook: NotebookNode) -> None:
    code(notebook)[4][1].metadata = {"tags": ["nbval-check-output"]}


def never_ran(notebook: NotebookNode) -> None:
    no_output(notebook)
    an_output(notebook)


def a_picture(notebook: NotebookNode) -> None:
    cell = code(notebook)[4][1]
    cell.metadata = {"tags": ["nbval-check-output"]}
    cell.outputs = [new_output("display_data", data={"image/png": "aaaa"})]


def few_cells(notebook: NotebookNode) -> None:
    notebook.cells = notebook.cells[:10]


def many_cells(notebook: NotebookNode) -> None:
    for _ in range(40):
        notebook.cells += [new_markdown_cell("## x"), new_code_cell("x = 1")]


def little_prose(notebook: NotebookNode) -> None:
    notebook.cells[0].source = "# Title"


def much_prose(notebook: NotebookNode) -> None:
    notebook.cells[0].source = "# Title\n\n" + "word " * 5000


def long_median(notebook: NotebookNode) -> None:
    for _, cell in code(notebook)[4:-1]:
        cell.source = "x = 1\n" * 9


def three_in_a_row(notebook: NotebookNode) -> None:
    notebook.cells[5:5] = [new_code_cell("x = 1"), new_code_cell("x = 1")]


def two_figures_of_one_name(notebook: NotebookNode) -> None:
    code(notebook)[5][1].metadata = code(notebook)[3][1].metadata


def visible_install(notebook: NotebookNode) -> None:
    code(notebook)[0][1].metadata = {}


BROKEN = {
    "valid": [same_ids, no_ids],
    "python_kernel": [other_kernel],
    "one_parameters_cell": [
        set_code("a: int = 1  # a", ["parameters"]), set_code("seed = 0  # x", ["parameters"], where=1),
        set_code("seed: int = 0", ["parameters"], where=1), set_code("seed: int = 0  # x", None, where=1)],
    "outputs_only_where_checked": [an_output, no_output, never_ran, a_picture],
    "install_cell_is_hidden": [visible_install, set_code("import sys", ["hide-cell"], where=0)],
    "number_of_code_cells": [few_cells, many_cells],
    "short_cells": [set_code("x = 1\n" * 41), long_median],
    "prose_between_code": [three_in_a_row],
    "amount_of_prose": [little_prose, much_prose],
    "one_title": [set_prose("# Another title"), set_prose("#### Deep")],
    "only_common_markdown": [
        set_prose("```{note}\nx\n```"), set_prose(":::{note}\nx\n:::"), set_prose("See {ref}`x`."),
        set_prose("(my-label)=\n## x"), set_prose("\\begin{equation}x\\end{equation}")],
    "equations_are_referred_to_by_label": [set_prose("See {eq}`eq-nowhere`.")],
    "pictures_in_prose": [
        set_prose("![alt](https://example.org/x.png)"), set_prose("![](x.png)"),
        set_prose("<img src='x.png'>")],
    "no_typed_results": [set_prose("The AUC is 0.73."), set_prose("It has an accuracy of 72.5 %.")],
    "figures_are_described": [
        set_code("plt.subplots()"), two_figures_of_one_name, change_metadata(("image", "alt"), "x"),
        change_metadata(("figure", "caption"), ""), change_metadata(("figure", "name"), "Figure 1")],
    "no_absolute_paths": [
        set_code("open('/home/me/x')"), set_prose("It is in /root/x."), set_code("p = '~/x'")],
    "no_blanket_filters": [
        set_code("import warnings\nwarnings.filterwarnings('ignore')"), set_code("simplefilter('ignore')")],
    "no_star_imports": [set_code("from torch import *")],
    "code_parses": [set_code("x = = 1")],
    "no_pickles": [
        set_code("torch.load('x')"), set_code("pickle.load(f)"),
        set_code("np.load('x', allow_pickle=True)")],
    "ends_with_provenance": [set_code("pass", where=2), set_code("pass", where=-1)],
}


def test_a_good_notebook_keeps_every_rule() -> None:
    notebook = good()
    assert {name: said for name, check in RULES.items() if (said := check(notebook))} == {}


def test_every_rule_is_tried() -> None:
    assert set(BROKEN) == set(RULES)


@pytest.mark.parametrize(
    ("name", "change"),
    [pytest.param(name, change, id=f"{name}-{i}")
     for name, changes in BROKEN.items() for i, change in enumerate(changes)],
)
def test_rule_notices(name: str, change: Callable[[NotebookNode], None]) -> None:
    notebook = good()
    change(notebook)
    assert RULES[name](notebook)


@pytest.mark.parametrize("text", [
    "The paper reports an accuracy of 72.75 %.",
    "Chance is an AUC of 0.5 in expectation.",
    "An AUC of `0.73` is computed below.",
    "We drop 20 % of the frames.",
    "Each AUC has a 95 % interval.",
    "| AUC | 0.73 |\n|---|---|",
])
def test_numbers_that_may_be_typed(text: str) -> None:
    notebook = good()
    set_prose(text)(notebook)
    assert RULES["no_typed_results"](notebook) == []


def test_filters_that_name_a_warning_are_allowed() -> None:
    notebook = good()
    set_code("warnings.filterwarnings('ignore', message='x', category=UserWarning)")(notebook)
    assert RULES["no_blanket_filters"](notebook) == []
