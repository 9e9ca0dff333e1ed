"""Writing files so that a full disk, a killed process or a second reader never sees half of one.

Each file is written under another name in the same folder, flushed to the disk, and only then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BookError, MissingData

if TYPE_CHECKING:
    import torch

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space, or set BOOK_RUNS or BOOK_DATA to another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or set BOOK_RUNS and BOOK_DATA elsewhere",
    errno.EROFS: "the file system is read-only: set BOOK_RUNS or BOOK_DATA to a folder you may write to",
    errno.EACCES: "permission denied: set BOOK_RUNS or BOOK_DATA to a folder you may write to",
    errno.EPERM: "permission denied: set BOOK_RUNS or BOOK_DATA to a folder you may write to",
    errno.ENOENT: "no file can be made there: choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder: move that file away",
    errno.EEXIST: "a file stands where a folder should be: move that file away",
    errno.EISDIR: "a folder stands where the file should be: move it away",
    errno.ENAMETOOLONG: "the name is too long: use a shorter folder",
}
TEMP_SUFFIX = ".tmp"


def explain(error: OSError, path: Path | str) -> BookError | None:
    """The one-line error for a write that failed for a reason the reader can mend, else None."""
    reason = _REASONS.get(error.errno or 0)
    return BookError(f"cannot write {path}: {reason}") if reason else None


@contextlib.contextmanager
def _explained(path: Path, temp: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        ours = error.filename is None or str(error.filename) in {str(path), str(path.parent), str(temp)}
        told = explain(error, path) if ours else None
        if told is None:
            raise
        raise told from error


def make_folder(folder: Path | str) -> Path:
    """Create a folder and its parents. Raises BookError when that is not allowed."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        told = explain(error, folder)
        if told is None:
            raise
        raise told from error
    return folder


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; if the block ends well it becomes ``path``, else it is removed.

    The temporary name ends in ``.tmp``, so give libraries that add a suffix an open file instead of a name::

        with atomic("features.npz") as temp, open(temp, "wb") as file:
            np.savez(file, x=x)

    Raises BookError, naming the path, when the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    make_folder(path.parent)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        with _explained(path, temp):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            yield temp
            _flush(temp)
            os.replace(temp, path)
            _flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temp.unlink()


def _flush(file: Path) -> None:
    """Ask the system to put the file on the disk."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """The same for a folder's list of names, where the system knows such a thing (not Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it; the file itself is safe
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path | str, content: bytes | str) -> Path:
    """Write bytes, or text as UTF-8 with Unix line ends, whole or not at all."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic(path) as temp, open(temp, "wb") as file:
        file.write(data)
    return Path(path)


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes. Raises MissingData when there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingData(f"no such file: {path}") from error


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON: indented, with sorted keys. NaN and infinity, which JSON lacks, are refused."""
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BookError(f"cannot write {path}: {error}") from error
    return atomic_write(path, text + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON. Raises MissingData without a file, BookError when it is cut short or is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingData(f"no such file: {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BookError(
            f"{path} is damaged or half-written ({error}): delete it and make it again"
        ) from error


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path | str, metadata: Mapping[str, str] | None = None
) -> Path:
    """Save named tensors (say, a ``state_dict``) as safetensors; they are copied, so shared ones are fine."""
    import torch
    from safetensors.torch import save

    copies = {k: torch.as_tensor(v).detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    return atomic_write(path, save(copies, metadata=dict(metadata) if metadata else None))


def load_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Load what ``save_tensors`` wrote, on the CPU. Raises MissingData or, for a damaged file, BookError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise MissingData(f"no such file: {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BookError(
            f"{path} is damaged or not safetensors ({error}): delete it and make it again"
        ) from error
