"""The doctor says what is there, what is not, and what to do; it changes nothing."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from helpers import chapters, doctor


def every(report: dict[str, list[doctor.Finding]]) -> list[doctor.Finding]:
    return [finding for findings in report.values() for finding in findings]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with enough memory and no public data."""
    memory = SimpleNamespace(total=16 * 2**30, available=12 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    return tmp_path


def test_a_good_machine_can_run_every_chapter(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = doctor.examine()
    assert [finding.what for finding in report["Chapters"]] == chapters.names()
    assert all(finding.found.startswith("embedded") for finding in report["Chapters"])
    assert doctor.main() == 0
    assert "Every chapter can run at the embedded profile." in capsys.readouterr().out


def test_whatever_is_missed_comes_with_what_to_do(machine: Path) -> None:
    assert [
        finding for finding in every(doctor.examine()) if finding.state == "bad" and not finding.todo
    ] == []
    assert all(finding.todo for finding in doctor.data(machine)), (
        "no data here: each line says how to get it"
    )


def test_it_writes_nothing(machine: Path) -> None:
    doctor.examine()
    assert list(machine.rglob("*")) == []


def test_data_that_are_here_are_found(machine: Path) -> None:
    folder, _, n, _ = doctor.DATA["EEGLAB's recording"]
    (machine / folder).mkdir()
    for k in range(n):
        (machine / folder / f"{k}.fdt").touch()
    found = {finding.what: finding for finding in doctor.data(machine)}
    assert found["EEGLAB's recording"].state == "good"
    assert found["NetSim"].state == "note" and "MB" in found["NetSim"].todo
    assert "EEGLAB" not in doctor.can_run("01_signals", machine, 16, gpu=False).found


def test_every_chapter_names_its_data() -> None:
    assert [name for name in chapters.names() if name not in doctor.NEEDS] == []
    assert {name for names in doctor.NEEDS.values() for name in names} <= set(doctor.DATA)


def test_little_memory(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2 * 2**30, available=2**30))
    assert doctor.memory().state == "bad"
    assert "n_subjects" in doctor.memory().todo
    assert "8 GB" in doctor.can_run("03_brainmass", machine, 4.0, gpu=False).todo
    assert doctor.main() == 1


def test_an_old_and_a_newer_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert doctor.python().state == "bad" and "PYTHON=" in doctor.python().todo
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert doctor.python().state == "note"


def test_packages_against_their_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# pins\nnumpy==0.1\n")
    texts = [str(finding) for finding in doctor.packages(tmp_path)]
    assert "numpy" in texts[1] and "pinned 0.1" in texts[1]

    def version(name: str) -> str:
        if name in ("scipy", "transformers"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = doctor.packages(None)[0]
    assert finding.state == "bad" and finding.found == "missing scipy", "language models are optional"
    assert "language_mode" in doctor.can_run("05_brainec_llm", tmp_path, 16, gpu=False).todo


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    finding = doctor.disk(tmp_path / "not" / "there")
    assert finding.state == "bad" and "BOOK_DATA" in finding.todo


def test_no_browser_and_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.browser().state == "note"
    assert "full" in doctor.can_run("03_brainmass", tmp_path, 64, gpu=True).found


def test_outside_the_repository(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    monkeypatch.setattr("helpers.paths.repo_root", lambda: None)
    assert doctor.examine()["Chapters"][0].what == "repository"
