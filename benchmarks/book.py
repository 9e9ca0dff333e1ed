"""How long `make book` takes in a warm environment: from nothing, again, after touching a notebook.

    python benchmarks/book.py [CHAPTER]

Works on a clone of the last commit in a temporary folder, with this interpreter. Targets, three chapters on
two cores: 360 s, 20 s, and the time of one chapter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from helpers.paths import repo_root


def build(folder: Path) -> tuple[float, list[str]]:
    """Seconds of one build, and the chapters it executed."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "helpers.build"], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    text = done.stdout + done.stderr
    return time.perf_counter() - start, [line for line in text.splitlines() if ": done in " in line]


def touch(notebook: Path) -> None:
    """Change the code of the last cell without changing what it does."""
    content = nbformat.read(notebook, as_version=4)
    content.cells[-1].source += "\npass"
    nbformat.write(content, notebook)


def main() -> None:
    chapter = sys.argv[1] if len(sys.argv) > 1 else "01_signals"
    with tempfile.TemporaryDirectory() as temp:
        clone = Path(temp) / "book"
        subprocess.run(["git", "clone", "--quiet", str(repo_root()), str(clone)], check=True)
        for what in ("from nothing", "nothing changed", f"{chapter} touched"):
            if "touched" in what:
                touch(clone / "notebooks" / f"{chapter}.ipynb")
            seconds, executed = build(clone)
            print(f"{seconds:6.1f} s, {len(executed)} chapters executed: {what}", flush=True)
            for line in executed:
                print("         " + line)


if __name__ == "__main__":
    main()
