"""Machines that fail, on purpose. Every test is bounded in time; nothing outside its folder is touched."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))  # the small book, the S3 server


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test of this folder may hang: after two minutes it fails."""

    def stop(*args: object) -> None:
        raise TimeoutError("a fault test took longer than 120 s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch) -> None:
    for name in ("BOOK_RUN_DIR", "BOOK_RESUME", "BOOK_RUNS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


class Disk:
    """A small disk of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """A tmpfs of 256 kB; skipped where this process may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        if os.geteuid() == 0 and subprocess.run(words, capture_output=True).returncode == 0:
            try:
                yield Disk(folder)
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    pytest.skip("mounting a small disk needs root")
