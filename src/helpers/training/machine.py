"""Seeds, device, threads, and a model's weights on disk."""

from __future__ import annotations

import contextlib
import os
import platform
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import io
from ..errors import BookError


def seed_everything(seed: int) -> int:
    """Seed Python, numpy and torch (every device). ``seed`` lies in [0, 2**32)."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise BookError(f"seed is {seed!r}: give an integer from 0 to 4294967295")
    random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002  the global generator is meant
    torch.manual_seed(int(seed))
    return int(seed)


def mix(*numbers: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators of Python, numpy and torch (CUDA included) as they were found."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then Apple's MPS, then the CPU. A device stays as it is.

    Raises BookError for an unknown name and for a device that this machine lacks.
    """
    if isinstance(name, torch.device):
        return name
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, ok in there.items() if ok))
    if name not in there:
        raise BookError(f"device {name!r} is unknown: choose auto, cpu, cuda or mps")
    if not there[name]:
        raise BookError(f"device {name!r} is not available on this machine: choose auto or cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` (autocast); ``auto`` is bf16 on a GPU that has it, else fp32."""
    if name not in ("auto", "fp32", "bf16"):
        raise BookError(f"precision {name!r} is unknown: choose auto, fp32 or bf16")
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def describe_device(device: str | torch.device = "auto", precision: str = "auto") -> str:
    """One line: what we compute on, with how many threads, in which precision."""
    device = pick_device(device) if isinstance(device, str) else device
    precision = pick_precision(precision, device)
    if device.type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}, {precision}"
    name, threads = platform.processor() or platform.machine(), torch.get_num_threads()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{device.type.upper()} ({name}), {threads} thread{'s' * (threads != 1)}, {precision}"


def set_threads(n: int | None = None) -> int:
    """Set torch's threads to ``n`` (default: ``OMP_NUM_THREADS``, else the cores we may use); returns it."""
    if n is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        asked = os.environ.get("OMP_NUM_THREADS", "")
        n = int(asked) if asked.isdigit() and int(asked) > 0 else cores
    if not isinstance(n, int) or n < 1:
        raise BookError(f"threads is {n!r}: give a whole number of at least 1")
    torch.set_num_threads(n)
    return n


def n_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of weights, shared ones counted once; with ``trainable`` only those that require a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def save_weights(model: nn.Module, path: Path | str) -> Path:
    """Write every weight and buffer as safetensors."""
    return io.save_tensors(model.state_dict(), path)


def load_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Load what ``save_weights`` wrote. If a name or shape differs: BookError, and nothing changes."""
    found = io.load_tensors(path)
    differ = differences(shapes(found), shapes(model.state_dict()))
    if differ:
        raise BookError(f"{path} does not fit this {type(model).__name__}: {differ}")
    model.load_state_dict(found)
    return model


def shapes(state: Mapping[str, Any]) -> dict[str, list[int] | str]:
    """The shape of every entry of a state_dict (the type's name where it is no tensor)."""
    return {k: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in state.items()}


def differences(there: Mapping[str, Any], here: Mapping[str, Any], most: int = 3) -> str:
    """The first few entries in which a file (``there``) differs from ours (``here``); empty if none does."""
    lines = [f"{k} is missing there" for k in here if k not in there]
    lines += [f"{k} is unknown here" for k in there if k not in here]
    lines += [f"{k} is {there[k]} there, {v} here" for k, v in here.items() if k in there and there[k] != v]
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")
