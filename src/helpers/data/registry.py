"""Downloaded files: one address, one hash, verified once, never trusted half-written.

A file is checked against its sha256 when it is first used; size and time of last change are then remembered
in the user's cache folder (never beside the data, which may be read-only), so that later loads are quick. A
file whose hash differs is set aside as ``NAME.corrupt`` and named in the error; it is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pooch

from helpers import io
from helpers.errors import BookError, MissingData
from helpers.paths import data_root

TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte


def _memory(root: Path) -> Path:
    """File that remembers what was verified under a data folder."""
    key = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return Path(pooch.os_cache("hands-on-brain-foundation-models")) / "verified" / f"{key}.json"


def _remembered(memory: Path) -> dict[str, list]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _stamp(path: Path, sha256: str) -> list:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, sha256]


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file to ``NAME.corrupt``; None where the folder is read-only."""
    aside = path.with_name(path.name + ".corrupt")
    try:
        os.replace(path, aside)
    except OSError:
        return None
    return aside


def verify(files: Mapping[Path, str]) -> None:
    """Check files that exist against their sha256, each version of a file once.

    Errors: :class:`BookError` naming the damaged ones, after setting them aside.
    """
    root = data_root()
    memory = _memory(root)
    known = _remembered(memory)
    fresh, damaged = {}, []
    for path, sha256 in files.items():
        try:
            stamp = _stamp(path, sha256)
            if known.get(str(path)) == stamp:
                continue
            good = io.sha256(path) == sha256
        except OSError as error:
            raise BookError(f"cannot read {path}: {error.strerror}: check its permissions") from error
        if good:
            fresh[str(path)] = stamp
        else:
            damaged.append(path)
    if fresh:
        try:
            io.write_json(memory, {**known, **fresh})
        except (BookError, OSError):  # nowhere to remember it: the files are checked again next time
            pass
    if damaged:
        moved = [set_aside(path) for path in damaged]
        names = ", ".join(str(path) for path in damaged[:3]) + (
            f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        )
        advice = (
            "set aside as NAME.corrupt: run again to download them anew"
            if all(moved)
            else "the folder is read-only: delete them, or set BOOK_DATA to a folder you may write to"
        )
        raise BookError(f"damaged (checksum differs), not used: {names}; {advice}")


def missing(path: Path, url: str, error: Exception | str) -> MissingData:
    """The one-paragraph message for data that cannot be had."""
    reason = error if isinstance(error, str) else _reason(error)
    return MissingData(
        f"{path.name} is not on this computer and could not be downloaded ({reason})."
        f" It comes from {url} and would go to {path}. Connect to the network and run again, or put the file"
        " there by hand, or set BOOK_DATA to a folder that holds it."
        " The profile embedded needs no download at all."
    )


def _reason(error: BaseException) -> str:
    """A network error in a few words: its own message is a paragraph of Python."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    return {
        "ConnectTimeout": "no answer",
        "ReadTimeout": "no answer",
        "ConnectionError": "no connection",
        "ProxyError": "no connection",
    }.get(type(error).__name__, type(error).__name__)


def fetch(local: str, url: str, sha256: str, licence: str) -> Path:
    """Path of a file of the data cache, downloaded on first use.

    ``local`` is its path below :func:`helpers.paths.data_root`; ``licence`` is printed when the file is
    downloaded.

    Errors: :class:`MissingData` when it is neither here nor to be downloaded; :class:`BookError` when its
    hash differs.
    """
    path = data_root() / local
    if path.is_file():
        verify({path: sha256})
        return path
    io.make_folder(path.parent)
    print(f"downloading {path.name} from {url} (licence: {licence})")
    logging.getLogger("pooch").setLevel(logging.WARNING)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pooch.HTTPDownloader(progressbar=False, timeout=TIMEOUT)(url, str(temporary), None)
        found = io.sha256(temporary)
        if found != sha256:
            raise BookError(
                f"{url} sent a file with another checksum ({found[:12]}, expected {sha256[:12]}):"
                " nothing was kept; try again"
            )
        os.replace(temporary, path)
    except BookError:
        raise
    except OSError as error:  # requests' errors are OSErrors too
        raise missing(path, url, error) from error
    except ValueError as error:
        raise missing(path, url, "the address is not valid") from error
    finally:
        temporary.unlink(missing_ok=True)
    verify({path: sha256})
    return path
