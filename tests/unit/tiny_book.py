"""A book of one small chapter in a temporary folder, for the tests of chapters, records and run."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

CHAPTER = "03_tiny"
IMPORTS = "from typing import Literal\nfrom helpers import records"
PARAMETERS = """\
profile: Literal["embedded", "public", "full"] = "embedded"  # which data
seed: int = 7  # random seed
drop_rate: float = 0.2  # share of frames dropped, in [0, 0.95]
widths: list[int] = [8, 16]  # layer widths, in (0, 64]
kind: Literal["pearson", "ledoit_wolf"] = "pearson"  # estimator
cohort: str | None = None  # folder of your own data
verbose: bool = False  # say more
"""
START = (
    f'run = records.start("{CHAPTER}", profile=profile, seed=seed, parameters=records.parameters(globals()))'
)
FINISH = "run.log(rate=drop_rate)\nrun.finish()"


def code(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def make_book(root: Path, *cells: str | nbformat.NotebookNode, parameters: str = PARAMETERS) -> Path:
    """A repository at ``root`` whose chapter runs ``cells`` between the start of its record and its end."""
    for name in ("_config.yml", "_toc.yml"):
        (root / name).touch()
    begin = [code(IMPORTS), code(parameters, "parameters"), code(START), new_markdown_cell("## Work")]
    middle = [cell if isinstance(cell, nbformat.NotebookNode) else code(cell) for cell in cells]
    write_notebook(root, [new_markdown_cell("# Tiny"), *begin, *middle, code(FINISH)])
    return root


def write_notebook(root: Path, cells: list[nbformat.NotebookNode], name: str = CHAPTER) -> Path:
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    file = root / "notebooks" / f"{name}.ipynb"
    file.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=spec), file)
    return file


def write_config(root: Path, text: str, profile: str = "public") -> Path:
    file = root / "configs" / profile / f"{CHAPTER}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
