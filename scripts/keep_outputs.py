"""Put the text outputs of the last embedded run into the cells tagged nbval-check-output; clear the others.

    python scripts/keep_outputs.py CHAPTER...
"""

from __future__ import annotations

import sys

import nbformat

from helpers import chapters
from helpers.build import merge
from helpers.errors import BookError
from helpers.io import atomic_write
from helpers.run import folder_of


def keep(chapter: str) -> int:
    """Rewrite the notebook; returns how many cells carry an output. BookError if the run is stale."""
    path, ran = chapters.path(chapter), folder_of(chapter, "embedded") / "notebook.ipynb"
    if not ran.is_file():
        raise BookError(f"{chapter} has no embedded run: python -m helpers.run {chapter}")
    source = nbformat.read(path, as_version=4)
    kept = 0
    for cell, done in zip(source.cells, merge(source, nbformat.read(ran, as_version=4)).cells, strict=True):
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        if "nbval-check-output" in cell.metadata.get("tags", []):
            cell.outputs = [output for output in done.outputs if "image/png" not in output.get("data", {})]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
            cell.execution_count = 1  # nbval takes a cell without a number for one that never ran
            kept += 1
    atomic_write(path, nbformat.writes(source) + "\n")
    return kept


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            print(f"{name}: {keep(name)} cells keep their output")
    except BookError as error:
        sys.exit(str(error))
