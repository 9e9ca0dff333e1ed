"""Runs that meet each other, a full disk or a folder they may not write to."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_book import CHAPTER, make_book

from helpers import run

HOLD = """
import sys, time
from pathlib import Path
from helpers import run
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with run._locked(folder):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "book"
    root.mkdir()
    monkeypatch.chdir(root)
    return make_book(root, "run.log(rate_too=drop_rate)")


def refused(capfd, code: int) -> str:
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error


def test_the_second_of_two_runs_on_one_folder_is_refused(book, capfd):
    folder = run.folder_of(CHAPTER, "embedded")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        before = sorted(p.name for p in folder.iterdir())
        began = time.monotonic()
        assert run.main([CHAPTER]) == 2
        assert "another run is going on" in refused(capfd, 2) and time.monotonic() - began < 30
        assert sorted(p.name for p in folder.iterdir()) == before
    finally:
        holder.kill()  # the system lets go of the lock, however the process dies
        holder.wait()
    with run._locked(folder):
        pass


def test_a_run_on_a_full_disk_leaves_no_result(book, disk, capfd, monkeypatch):
    monkeypatch.setenv("BOOK_RUNS", str(disk.folder))
    (disk.folder / "filler").write_bytes(b"x" * 200_000)
    disk.remount("size=200k")
    code = run.main([CHAPTER])
    error = refused(capfd, code)
    assert code in (1, 2) and "disk is full" in error, error
    assert not list(disk.folder.rglob("record.json"))


def test_a_run_in_a_read_only_folder_is_refused(book, disk, capfd, monkeypatch):
    monkeypatch.setenv("BOOK_RUNS", str(disk.folder))
    disk.remount("ro")
    assert run.main([CHAPTER]) == 2
    assert "read-only" in refused(capfd, 2) and not list(disk.folder.iterdir())
