"""Many runs at once. A run that is done is not done again; one that fails is told and left out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers import io
from helpers.errors import BookError


@dataclass
class Run:
    """One recording of one subject, and what became of it.

    ``series`` (R, T) is None where ``reason`` says why it is left out. ``quality`` holds the numbers of the
    report, ``coverage`` (R,) the share of each region that was measured.
    """

    name: str
    subject: str
    files: Sequence[Path]
    reason: str = ""
    tr: float = float("nan")
    quality: dict[str, Any] = field(default_factory=dict)
    series: np.ndarray | None = None
    again: bool = False  # taken from an earlier call


def fingerprint(files: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """What a result depends on: the files' names, sizes and times of change, and every setting."""
    stamps = [(str(f.name), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return hashlib.sha256(json.dumps([stamps, settings], sort_keys=True, default=str).encode()).hexdigest()


def one(
    run: Run, do: Callable[[Run, Path], Run], folder: Path, settings: Mapping[str, Any]
) -> tuple[str, bool]:
    """Do one run, or find it done; its result goes to ``folder/NAME.npz``. Returns (name, found).

    Whatever a library raises on a damaged file becomes the run's reason. A disk that refuses ends everything.
    """
    key = fingerprint(run.files, settings)
    found = load(folder, run.name)
    if found is not None and found[1] == key:
        return run.name, True
    try:
        run = do(run, folder / f"{run.name}.png")
    except BookError as error:
        run.reason = str(error)
    except MemoryError:
        raise
    except Exception as error:
        if (
            isinstance(error, OSError)
            and (told := io.explain(error, folder))
            and error.errno in (28, 30, 122)
        ):
            raise told from error
        run.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    about = {
        "key": key, "subject": run.subject, "reason": run.reason, "tr": run.tr, "quality": run.quality,
    }  # fmt: skip
    series = np.empty((0, 0), np.float32) if run.reason or run.series is None else run.series
    with io.atomic(folder / f"{run.name}.npz") as temp, open(temp, "wb") as file:
        np.savez(file, series=series, about=np.array(json.dumps(about, default=float)))
    return run.name, False


def load(folder: Path, name: str, series: bool = False) -> tuple[Run, str] | None:
    """A result and its key, or None when there is none (or half of one)."""
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            x = archive["series"] if series else None
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception:  # a damaged zip file: done again
        return None
    run = Run(name, about["subject"], [], about["reason"], about["tr"], about["quality"], x)
    return run, about["key"]


def all_of(
    runs: Sequence[Run],
    do: Callable[[Run, Path], Run],
    folder: Path,
    settings: Mapping[str, Any],
    jobs: int,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """Every run, ``jobs`` at a time; the results without their series, in the order of ``runs``."""
    from joblib import Parallel, delayed

    io.make_folder(folder)
    tasks = (delayed(one)(run, do, folder, dict(settings)) for run in runs)
    results: list[Run] = []
    known = {}
    for name, again in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
        run, _ = load(folder, name)
        run.again = again
        known[name] = run
        state = "left out: " + run.reason if run.reason else "found done" if again else "done"
        say(f"{len(known)}/{len(runs)} {name}: {state}")
    results = [known[run.name] for run in runs]
    for run, source in zip(results, runs, strict=True):
        run.files = source.files
    return results


def jobs(given: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if given <= 0 else given
