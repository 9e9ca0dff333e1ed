"""Where things are: the repository, the data cache, run folders and committed records.

Nothing here creates a folder. Environment variables move the large ones: ``BOOK_DATA`` (downloads),
``BOOK_CACHE`` (what the book computed and can compute again) and ``BOOK_RUNS`` (outputs of runs).
"""

from __future__ import annotations

import os
from pathlib import Path

_MARKER = "_config.yml"
_CACHE_NAME = "hands-on-brain-foundation-models"


def _is_root(folder: Path) -> bool:
    return (folder / _MARKER).is_file() and (folder / "_toc.yml").is_file()


def repo_root() -> Path | None:
    """Folder of the repository: above the working folder, else above this file; None outside one (Colab)."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if _is_root(folder):
                return folder
    return None


def data_root() -> Path:
    """Cache for downloaded data: ``$BOOK_DATA``, else the user's cache folder (``pooch.os_cache``)."""
    if given := os.environ.get("BOOK_DATA"):
        return Path(given).expanduser().resolve()
    import pooch

    return Path(pooch.os_cache(_CACHE_NAME))


def cache_root() -> Path:
    """What can be computed again: ``$BOOK_CACHE``, else the user's cache folder. Delete it at will."""
    if given := os.environ.get("BOOK_CACHE"):
        return Path(given).expanduser().resolve()
    import pooch

    return Path(pooch.os_cache(_CACHE_NAME))


def runs_root() -> Path:
    """Outputs of runs, never committed: ``$BOOK_RUNS``, else ``_runs`` in the repository or here."""
    if given := os.environ.get("BOOK_RUNS"):
        return Path(given).expanduser().resolve()
    return (repo_root() or Path.cwd()) / "_runs"


def records_root() -> Path:
    """Folder of the committed run records, ``runs`` in the repository (or here, outside one)."""
    return (repo_root() or Path.cwd()) / "runs"
