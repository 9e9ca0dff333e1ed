"""Cohorts in Zarr: size, writing, random windows, memory from 1,000 to 20,000 subjects, and a training step.

    OMP_NUM_THREADS=1 python benchmarks/store.py [--folder FOLDER] [--subjects 1000 20000] [--step]

Series are those of the book's simulator, tiled with a shift of time (random numbers would not compress as
BOLD does). Each number of subjects is measured in a process of its own; peak memory is the largest resident
size of that process, reading only. ``--step`` measures how many samples a training step of BrainMass takes
from it at the public code's size.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from helpers import records, store
from helpers.data.cohort import Atlas, Provenance

SHAPES = {"R 100, T 200": (100, 200, 160), "R 450, T 490": (450, 490, 160)}
ABOUT = Provenance("tiled", "simulated", "none", "none")


def base(R: int, T: int) -> np.ndarray:
    """32 simulated scans (32, R, T); beyond 100 regions they repeat, shifted in time."""
    from helpers.simulate import bold

    x = bold.cohort(32, n_frames=T, seed=0).bold
    return np.concatenate([np.roll(x, 31 * k, axis=2) for k in range(-(-R // 100))], axis=1)[:, :R]


def write(place: Path, n: int, x: np.ndarray) -> float:
    """Megabytes of series a CPU-second."""
    row = dict(age=30.0, sex="F", site="A", group="control")
    start = time.process_time()
    with store.Writer(place, atlas=Atlas.unnamed(x.shape[1]), provenance=ABOUT) as writer:
        for s in range(n):
            series = np.roll(x[s % len(x)], 7 * (s // len(x)), axis=1)
            writer.add(series, tr=2.0, participant={"participant_id": f"sub-{s:06d}", **row})
    return n * x[0].nbytes / 1e6 / (time.process_time() - start)


def read(place: str, length: int, batches: int = 40, size: int = 32) -> dict[str, float]:
    """Random windows in batches; run in a process of its own."""
    start = time.perf_counter()
    mine = store.Store(place)
    opened = time.perf_counter() - start
    windows, rng = store.Windows(mine, length=length), np.random.default_rng(0)
    draws = [rng.integers(0, len(mine), size).tolist() for _ in range(batches)]
    windows.__getitems__(draws[0])
    start, wall = time.process_time(), time.perf_counter()
    for index in draws:
        windows.__getitems__(index)
    cpu, wall = time.process_time() - start, time.perf_counter() - wall
    return {
        "open s": opened,
        "windows/s": batches * size / wall,
        "windows/CPU-s": batches * size / cpu,
        "MB/s": batches * size * mine.n_regions * length * 4 / 1e6 / wall,
        "peak MB": records._peak_memory_mb(),
    }


def in_memory(n: int, R: int, T: int) -> float:
    """What the same cohort takes as one array, in MB."""
    return n * R * T * 4 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument("--subjects", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--large", type=int, default=500, help="subjects of the larger shape")
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--read", nargs=2, metavar=("PLACE", "LENGTH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        print(json.dumps(read(given.read[0], int(given.read[1]))))
        return
    folder = Path(tempfile.mkdtemp(prefix="store-", dir=given.folder))
    try:
        for (name, (R, T, length)), counts in zip(
            SHAPES.items(), (given.subjects, [given.large]), strict=True
        ):
            x = base(R, T)
            for n in counts:
                place = folder / f"{R}-{n}.zarr"
                rate = write(place, n, x)
                files = [p for p in place.rglob("*") if p.is_file()]
                stored = sum(p.stat().st_size for p in files)
                side = stored - sum(p.stat().st_size for p in files if "bold" in p.parts)
                words = [sys.executable, __file__, "--read", str(place), str(length)]
                found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
                print(
                    f"{name}, {n:,} subjects: {stored / n / 1e3:.1f} kB a subject"
                    f" ({stored / (n * x[0].nbytes):.0%} of float32), tables {side / n:.0f} B a subject,"
                    f" {len(files)} files, written at {rate:.0f} MB per CPU-s; opened in"
                    f" {found['open s']:.2f} s, {found['windows/s']:.0f} windows of {length} frames a second"
                    f" ({found['windows/CPU-s']:.0f} per CPU-s, {found['MB/s']:.0f} MB/s), peak memory"
                    f" {found['peak MB']:.0f} MB (the array alone: {in_memory(n, R, T):.0f} MB)",
                    flush=True,
                )
                shutil.rmtree(place)
        if given.step:
            step_rate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def step_rate() -> None:
    from brainmass_step import BATCH, step
    from machine import cpu_seconds

    from helpers import chapters, train

    train.set_threads(1)
    rate = BATCH / cpu_seconds(step(chapters.load("03_brainmass"), dropout=0.1), 1)
    print(f"BrainMass at the public code's size consumes {rate:.2f} samples per CPU-s")


if __name__ == "__main__":
    main()
