"""Checkpoint files that are whole or not there: ``torch.save`` bytes followed by their SHA-256.

``torch.load(path, weights_only=True)`` reads such a file as it is: the last 32 bytes do not disturb it.
"""

from __future__ import annotations

import hashlib
import io as bytes_io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import io

DIGEST = hashlib.sha256().digest_size


class Checkpoints:
    """The files ``epoch-000012.pt`` of one run, the last ``keep`` of them. Tensors and plain types only."""

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep

    def found(self) -> list[Path]:
        """The checkpoint files, newest first."""
        return sorted(self.folder.glob("epoch-[0-9]*.pt"), reverse=True)

    def clear(self) -> None:
        """Remove the checkpoints of an earlier run, and nothing else in the folder."""
        for pattern in ("epoch-[0-9]*.pt", "epoch-[0-9]*.pt.corrupt", f".epoch-*{io.TEMP_SUFFIX}"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def save(self, epoch: int, payload: dict[str, Any]) -> Path:
        """Write a checkpoint, then drop those too old to keep. BookError when it cannot be written."""
        buffer = bytes_io.BytesIO()
        torch.save(payload, buffer)
        content = buffer.getvalue()
        path = self.folder / f"epoch-{epoch:06d}.pt"
        io.atomic_write(path, content + hashlib.sha256(content).digest())
        for old in self.found()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def load(self, say: Callable[[str], None] = print) -> dict[str, Any] | None:
        """The newest whole checkpoint, on the CPU. A damaged one is renamed ``.corrupt`` and passed over."""
        for path in self.found():
            content = path.read_bytes()
            body, digest = content[:-DIGEST], content[-DIGEST:]
            if hashlib.sha256(body).digest() == digest:
                return torch.load(bytes_io.BytesIO(body), map_location="cpu", weights_only=True)
            path.replace(path.with_name(path.name + ".corrupt"))
            say(f"checkpoint {path.name} is damaged: set aside as {path.name}.corrupt")
        return None
