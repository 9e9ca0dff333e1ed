"""Cost of the embedded cohort and of its connectivity, on one thread.

    python benchmarks/simulate.py [N_SUBJECTS]

Prints seconds for the cohort (to be at most 8 for 200 people), milliseconds a subject, and for the FC of
one view of 100 x 200 (to be at most 0.15).
"""

from __future__ import annotations

import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from helpers import connectivity
from helpers.simulate import bold


def best(work, repeats: int = 5) -> float:
    """Shortest wall time of several runs, seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main(n_subjects: int = 200) -> None:
    with threadpool_limits(1):
        started = time.perf_counter()
        cohort = bold.cohort(n_subjects)
        first = time.perf_counter() - started
        again = best(lambda: bold.cohort(n_subjects), 2)
        print(f"{cohort}")
        print(f"cohort: {first:.2f} s the first time, {again:.2f} s after")
        print(f"a subject: {1e3 * again / n_subjects:.2f} ms")
        print(f"one subject alone: {1e3 * best(lambda: bold.subject(7)):.2f} ms")
        views = np.random.default_rng(0).standard_normal((256, 100, 200), dtype=np.float32)
        for name in ("pearson", "ledoit_wolf"):
            seconds = best(lambda name=name: getattr(connectivity, name)(views))
            print(f"{name}, 100 x 200, float32: {1e3 * seconds / len(views):.3f} ms a view")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
