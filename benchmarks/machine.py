"""What the step benchmarks share: CPU time of a piece of work, and this machine's matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch


def cpu_seconds(work: Callable[[], object], repeats: int, summary: Callable = np.median) -> float:
    """CPU time of ``work()`` in seconds, ``summary`` over repeats, after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(summary(times))


def matmul_rate(repeats: int = 30, summary: Callable = np.median) -> float:
    """GFLOP/s of this machine's fp32 matrix product, one thread."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / cpu_seconds(lambda: a @ a, repeats, summary) / 1e9
