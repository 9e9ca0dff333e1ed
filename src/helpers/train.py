"""Training: one ``fit`` for every chapter, on one CPU core or many GPUs, through Accelerate.

The chapter owns the model, its ``step(model, batch) -> loss`` and, where it has one, its EMA. This module owns the
plumbing: device, precision, schedule, clipping, progress, early stopping, checkpoints and data-parallel training.

Two rules make runs repeatable. The order of the data depends on ``(seed, epoch)`` alone. The global generators of
Python, numpy and torch (CUDA included) are set from ``(seed, epoch, rank)`` when an epoch begins, so a run that was
stopped and resumed draws what an uninterrupted one draws. ``fit`` leaves those generators as it found them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io as _io
import math
import os
import platform
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from . import io
from .errors import BookError

RESERVED = {"epoch", "lr", "seconds", "validate"}


# ---------------------------------------------------------------- small helpers
def seed_everything(seed: int) -> int:
    """Seed Python, numpy and torch (every device). ``seed`` lies in [0, 2**32)."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise BookError(f"seed is {seed!r}: give an integer from 0 to 4294967295")
    random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002  the global generator is what we mean
    torch.manual_seed(int(seed))
    return int(seed)


def pick_device(name: str = "auto") -> torch.device:
    """"auto" takes CUDA, then Apple's MPS, then the CPU. A device that is asked for by name must be there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, ok in there.items() if ok))
    if name not in there:
        raise BookError(f"device {name!r} is unknown: choose auto, cpu, cuda or mps")
    if not there[name]:
        raise BookError(f"device {name!r} is not available on this machine: choose auto or cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """"auto" is bf16 autocast on a GPU that has it, else fp32."""
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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{device.type.upper()} ({name}), {threads} thread{'s' * (threads != 1)}, {precision}"


def set_threads(n: int | None = None) -> int:
    """Set torch's threads to ``n``, by default ``OMP_NUM_THREADS`` or else the cores we may use."""
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
    """Load what ``save_weights`` wrote. Names and shapes must match exactly, else nothing is loaded."""
    found = io.load_tensors(path)
    differ = _differences(_shapes(found), _shapes(model.state_dict()))
    if differ:
        raise BookError(f"{path} does not fit this {type(model).__name__}: {differ}")
    model.load_state_dict(found)
    return model


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int] | str]:
    return {k: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in state.items()}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], most: int = 3) -> str:
    """The first few entries in which a file ("there") differs from what we have ("here"); "" when none does."""
    lines = [f"{k} is missing there" for k in here if k not in there]
    lines += [f"{k} is unknown here" for k in there if k not in here]
    lines += [f"{k} is {there[k]} there, {v} here" for k, v in here.items() if k in there and there[k] != v]
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")


# ---------------------------------------------------------------- what fit returns
@dataclass
class History:
    """What happened: ``frame`` has one row an epoch (epoch from 1, lr, loss, every scalar of ``step``, ``validate``
    when given, seconds spent in training steps). ``best_epoch`` is None without ``validate``; ``stopped`` says
    whether patience ran out; ``steps`` counts optimiser steps; ``notes`` names what deserves a look: ``unused``
    (trainable, but without any gradient in the first epoch), ``not_optimised``, ``validate_before``, ``resumed``."""

    frame: pd.DataFrame
    best_epoch: int | None = None
    stopped: bool = False
    steps: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def steps_per_second(self) -> float:
        return self.steps / max(float(self.frame["seconds"].sum()), 1e-9)

    def __repr__(self) -> str:
        last = self.frame.iloc[-1]
        best = f", best epoch {self.best_epoch}" if self.best_epoch else ""
        return f"History({len(self.frame)} epochs, {self.steps} steps, last loss {last['loss']:.4g}{best})"


@dataclass(frozen=True)
class _Settings:
    """The settings that shape a result; a checkpoint is only resumed with the same ones."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    warmup_epochs: float
    warmup_steps: int | None
    schedule: str
    clip: float | None
    clip_kind: str
    accumulate: int
    patience: int | None
    seed: int
    drop_last: bool
    label: str
    precision: str = "fp32"

    def check(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise BookError(f"{name} is {value!r}: give a whole number of at least 1")
        if self.patience is not None and self.patience < 1:
            raise BookError(f"patience is {self.patience}: give at least 1 epoch, or None")
        for name, choices in (("schedule", ("cosine", "constant")), ("clip_kind", ("norm", "value"))):
            if getattr(self, name) not in choices:
                raise BookError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(choices)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BookError(f"lr is {self.lr}: give a positive number")
        if self.clip is not None and not self.clip > 0:
            raise BookError(f"clip is {self.clip}: give a positive number, or None")

    def factor(self, i: int, n_steps: int) -> float:
        """The learning rate of step ``i`` (from 0) over its peak: linear warm-up, then cosine to 0 or constant."""
        warm = self.warmup_steps
        if warm is None:
            warm = round(self.warmup_epochs * n_steps / self.epochs)
        if i < warm:
            return (i + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (i - warm) / max(1, n_steps - warm)))


def fit(
    model: nn.Module,
    data: Any,
    *,
    step: Callable[[nn.Module, Any], Tensor | Mapping[str, Any]] | None = None,
    epochs: int,
    batch_size: int,
    lr: float = 3e-4,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup_epochs: float = 0,
    warmup_steps: int | None = None,
    schedule: Literal["cosine", "constant"] = "cosine",
    clip: float | None = None,
    clip_kind: Literal["norm", "value"] = "norm",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: str = "auto",
    accumulate: int = 1,
    after_step: Callable[[nn.Module, int, int], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    drop_last: bool = False,
    param_groups: Sequence[Mapping[str, Any]] | None = None,
    workers: int = 0,
    log: bool = True,
    label: str = "",
) -> History:
    """Train ``model`` in place with AdamW and return the History. The model ends on its device, in eval mode.

    data             a tensor, tuple or dict of equally long tensors (batches are indexed directly), or a map-style
                     Dataset (read by a DataLoader with ``workers`` processes). Batches keep the form of the data.
    step             ``step(model, batch)`` -> scalar loss, or a dict with "loss" and further scalars to log; by
                     default ``model(batch)``. It gets the bare model, also under DDP (the whole step is wrapped),
                     runs under autocast, and may draw from the global generators.
    batch_size       examples in one optimiser step, over all processes and all ``accumulate`` pieces.
    warmup_epochs    may be a fraction; ``warmup_steps`` wins when given. Then cosine to 0, or constant.
    clip             bound on the gradient's norm, or on each entry with ``clip_kind="value"``.
    after_step       ``after_step(model, i, n_steps)`` after optimiser step i (from 0) of n_steps, without gradient.
    validate         ``validate(model)`` -> float, higher is better; called in eval mode, without gradient, once before
                     training and after every epoch. The best epoch's weights are restored at the end; ``patience``
                     is the number of epochs without a new best after which training stops.
    checkpoint       folder for this fit alone: one file every ``checkpoint_every`` epochs, the last two kept. With
                     ``resume`` training goes on from the newest whole one (a finished fit is just loaded); without,
                     earlier checkpoints in that folder are removed. All state must live inside ``model``.
    param_groups     as for a torch optimiser ({"params": ..., "lr": ...}); by default all that require a gradient.

    Raises BookError for settings or data that cannot work, and, before the weights change, for a loss or gradient
    that is not finite.
    """
    settings = _Settings(
        epochs, batch_size, lr, weight_decay, tuple(betas), warmup_epochs, warmup_steps, schedule, clip, clip_kind,
        accumulate, patience, seed, drop_last, label,
    )  # fmt: skip
    settings.check()
    target = pick_device(device)
    settings = _Settings(**{**asdict(settings), "precision": pick_precision(precision, target)})
    batches = _Batches(data, settings, workers)
    with _kept_generators():
        seed_everything(seed)
        trainer = _Trainer(model, batches, settings, target, step, param_groups)
        trainer.after_step, trainer.validate = after_step, validate
        trainer.files = _Files(checkpoint, trainer.main) if checkpoint is not None else None
        trainer.every, trainer.log = checkpoint_every, _Log(settings, trainer.main and log)
        return trainer.run(resume)


# ---------------------------------------------------------------- randomness and data
def _mix(*numbers: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def _kept_generators() -> Iterator[None]:
    """Put the global generators back afterwards."""
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


def _map(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply ``function`` to every tensor of a batch, keeping its form."""
    if isinstance(batch, Mapping):
        return {k: _map(function, v) for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_map(function, v) for v in batch)
    return function(batch) if isinstance(batch, Tensor) else batch


def _checksum(state: Any) -> int:
    """CRC-32 of up to 64 evenly spaced entries of every tensor: enough to notice another fold or cohort."""
    crc = 0
    for tensor in state.values() if isinstance(state, Mapping) else state:
        rows = torch.linspace(0, len(tensor) - 1, min(len(tensor), 64)).long()
        part = tensor.detach()[rows.to(tensor.device)].cpu().contiguous().reshape(-1)
        crc = zlib.crc32(part.view(torch.uint8).numpy(), crc)
    return crc


class _Batches:
    """Cuts the data into optimiser steps, and each of those into pieces for every process and accumulation."""

    def __init__(self, data: Any, settings: _Settings, workers: int) -> None:
        if isinstance(data, torch.utils.data.TensorDataset):
            data = data.tensors
        self.settings, self.workers = settings, workers
        self.tensors = self._as_tensors(data)
        self.data = data
        self.n = self._length()
        self.steps = self.n // settings.batch_size if settings.drop_last else -(-self.n // settings.batch_size)
        if self.n == 0:
            raise BookError("the training data are empty: give at least one example")
        if self.steps == 0:
            raise BookError(f"batch_size {settings.batch_size} exceeds the {self.n} examples and drop_last leaves none")

    @staticmethod
    def _as_tensors(data: Any) -> Any:
        """The data as tensors in their own form, or None when they are a Dataset."""
        if isinstance(data, np.ndarray | Tensor):
            return torch.as_tensor(data)
        if isinstance(data, Mapping):
            return {k: torch.as_tensor(v) for k, v in data.items()}
        if isinstance(data, tuple | list) and all(isinstance(v, np.ndarray | Tensor) for v in data):
            return tuple(torch.as_tensor(v) for v in data)
        if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            return None
        raise BookError(f"data is a {type(data).__name__}: give tensors, a tuple or dict of them, or a map-style Dataset")

    def _length(self) -> int:
        if self.tensors is None:
            return len(self.data)
        parts = [self.tensors] if isinstance(self.tensors, Tensor) else self.tensors
        parts = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
        lengths = {len(t) if t.ndim else -1 for t in parts}
        if len(lengths) > 1 or -1 in lengths:
            raise BookError(f"the data tensors are not equally long: shapes {[tuple(t.shape) for t in parts]}")
        return lengths.pop() if lengths else 0

    def fingerprint(self) -> dict[str, int]:
        if self.tensors is None:
            return {"examples": self.n}
        parts = (self.tensors,) if isinstance(self.tensors, Tensor) else self.tensors
        return {"examples": self.n, "data checksum": _checksum(parts)}

    def epoch(self, epoch: int, rank: int, world: int) -> Iterator[list[tuple[Any, float]]]:
        """Each optimiser step as a list of (batch, weight); weights sum to the number of processes over all pieces."""
        s = self.settings
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(_mix(s.seed, epoch)))
        steps = [order[i * s.batch_size : (i + 1) * s.batch_size] for i in range(self.steps)]
        plan = [[(piece if len(piece) else all_[:1], len(piece) / len(all_) * world)
                 for piece in all_.tensor_split(s.accumulate * world)[rank::world]] for all_ in steps]  # fmt: skip
        if self.tensors is not None:
            for pieces in plan:
                yield [(_map(lambda t, at=at: t[at.to(t.device)], self.tensors), weight) for at, weight in pieces]
            return
        flat = [at.tolist() for pieces in plan for at, _ in pieces]
        loader = iter(torch.utils.data.DataLoader(self.data, batch_sampler=flat, num_workers=self.workers))
        for pieces in plan:
            yield [(next(loader), weight) for _, weight in pieces]


# ---------------------------------------------------------------- the loop
class _Step(nn.Module):
    """The whole of ``step`` as one forward pass, so that autocast and DDP see it, and ``step`` sees the bare model."""

    def __init__(self, model: nn.Module, step: Callable[[nn.Module, Any], Any] | None) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, batch: Any) -> dict[str, Any]:
        out = self.model(batch) if self.step is None else self.step(self.model, batch)
        out = dict(out) if isinstance(out, Mapping) else {"loss": out}
        loss = out.get("loss")
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
            raise BookError("step must return one number that depends on trainable weights, or a dict with such a 'loss'")
        for name, value in out.items():
            if name in RESERVED or (value.numel() if isinstance(value, Tensor) else np.size(value)) != 1:
                raise BookError(f"step returned {name!r}, which is reserved or not a single number: rename or reduce it")
            if name != "loss":
                out[name] = torch.as_tensor(value).detach().reshape(())
        return {**out, "loss": loss.reshape(())}


def _accelerator(device: torch.device, precision: str) -> Any:
    """A fresh Accelerator: its settings live in process-wide singletons, which an earlier fit may have filled."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed, kwargs_handlers=[ddp])


class _Trainer:
    after_step: Callable[[nn.Module, int, int], None] | None
    validate: Callable[[nn.Module], float] | None
    files: _Files | None
    every: int
    log: _Log

    def __init__(self, model, batches, settings, device, step, param_groups) -> None:
        self.model, self.batches, self.settings = model, batches, settings
        self.n_steps = settings.epochs * batches.steps
        self.named = {k: p for k, p in model.named_parameters() if p.requires_grad}
        groups = _groups(self.named, param_groups, settings)
        self.accelerator = _accelerator(device, settings.precision)
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.wrapped = self.accelerator.prepare_model(_Step(model, step))
        fused = self.device.type in ("cpu", "cuda")  # measured on one CPU thread: 3 to 5 times faster
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=fused or None
        )
        self.params = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        chosen = {id(p) for p in self.params}
        self.notes: dict[str, Any] = {"not_optimised": [k for k, p in self.named.items() if id(p) not in chosen]}
        self.idle = dict(self.named)

    # one optimiser step
    def optimise(self, pieces: list[tuple[Any, float]], i: int) -> dict[str, float]:
        for p in self.named.values():
            p.grad = None
        totals: dict[str, Tensor] = {}
        for k, (batch, weight) in enumerate(pieces):
            later = k + 1 < len(pieces) and hasattr(self.wrapped, "no_sync")
            with self.wrapped.no_sync() if later else contextlib.nullcontext():
                out = self.wrapped(_map(lambda t: t.to(self.device, non_blocking=True), batch))
                self.accelerator.backward(out["loss"] if weight == 1 else out["loss"] * weight)
            for name, value in out.items():
                value = value.detach().to(self.device, torch.float32) * (weight / self.world)
                totals[name] = totals[name] + value if name in totals else value
        grads = [p.grad for p in self.params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros((), device=self.device)
        values = torch.stack([*totals.values(), norm.float()])
        if self.world > 1:
            values[:-1] = self.accelerator.reduce(values[:-1].clone(), "sum")
        numbers = dict(zip([*totals, "gradient"], values.tolist(), strict=True))
        self.refuse_nonfinite(numbers, i)
        if self.settings.clip is not None and self.settings.clip_kind == "norm":
            torch.nn.utils.clip_grads_with_norm_(self.params, self.settings.clip, norm)
        elif self.settings.clip is not None:
            torch.nn.utils.clip_grad_value_(self.params, self.settings.clip)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.settings.factor(i, self.n_steps)
        self.optimiser.step()
        return numbers

    def refuse_nonfinite(self, numbers: dict[str, float], i: int) -> None:
        if math.isfinite(numbers["loss"]) and math.isfinite(numbers["gradient"]):
            return
        bad = ", ".join(f"{k} is {v}" for k, v in numbers.items() if not math.isfinite(v))
        epoch, at = divmod(i, self.batches.steps)
        raise BookError(
            f"training{' ' + self.settings.label if self.settings.label else ''} stopped in epoch {epoch + 1}, "
            f"step {at + 1}: {bad}; the weights are those of the step before. Lower lr, set clip, or check the data"
        )

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the data; returns its row of the history: means weighted by the examples in each step."""
        seed_everything(_mix(self.settings.seed, epoch, self.rank, 1))
        self.model.train()
        sums: dict[str, float] = {}
        seen: dict[str, int] = {}
        start = time.perf_counter()
        for at, pieces in enumerate(self.batches.epoch(epoch, self.rank, self.world)):
            i = (epoch - 1) * self.batches.steps + at
            numbers = self.optimise(pieces, i)
            numbers.pop("gradient")
            size = min(self.settings.batch_size, self.batches.n - at * self.settings.batch_size)
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0.0) + size * value
                seen[name] = seen.get(name, 0) + size
            if epoch == 1 and self.idle:
                self.idle = {k: p for k, p in self.idle.items() if p.grad is None}
            if self.after_step is not None:
                with torch.no_grad():
                    self.after_step(self.model, i, self.n_steps)
        if self.world > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        means = {name: sums[name] / seen[name] for name in sums}
        lr = self.optimiser.param_groups[0]["lr"]
        return {"epoch": epoch, "lr": lr, "loss": means.pop("loss"), **means, "seconds": time.perf_counter() - start}

    def score(self) -> float:
        """``validate`` on every process; the main one's value counts for all."""
        self.model.eval()
        with torch.no_grad():
            value = self.validate(self.model)
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise BookError(f"validate returned a {type(value).__name__}: return one number, higher is better") from None
        if self.world > 1:
            shared = torch.tensor([value], device=self.device)
            torch.distributed.broadcast(shared, 0)
            value = shared.item()
        if not math.isfinite(value):
            raise BookError(f"validate returned {value}: return a finite number, higher is better")
        return value

    def run(self, resume: bool) -> History:
        done = self.start(resume)
        while not done:
            epoch = len(self.rows) + 1
            row = self.train_epoch(epoch)
            if self.validate is not None:
                row["validate"] = self.score()
                if not self.best or row["validate"] > self.best["value"]:
                    self.best = {"epoch": epoch, "value": row["validate"], "state": _copy(self.model)}
            self.rows.append({**{k: v for k, v in row.items() if k != "seconds"}, "seconds": row["seconds"]})
            if epoch == 1:
                self.notes["unused"] = list(self.idle)
                self.log.names("no gradient in the first epoch", self.notes["unused"])
            patience = self.settings.patience if self.best else None
            stopped = patience is not None and epoch - self.best["epoch"] >= patience
            done = stopped or epoch == self.settings.epochs
            self.log.epoch(self.rows[-1], done, stopped, self.best)
            if done and self.best:
                self.model.load_state_dict(self.best["state"])
            if self.files and (done or epoch % self.every == 0):
                self.files.save(epoch, self.state(done, stopped))
            self.notes["stopped"] = stopped
        self.model.eval()
        stopped = bool(self.notes.pop("stopped", False))
        steps = len(self.rows) * self.batches.steps
        return History(pd.DataFrame(self.rows), self.best.get("epoch"), stopped, steps, self.notes)

    # start, save, load
    def start(self, resume: bool) -> bool:
        """Load the newest checkpoint, or begin afresh. True when there is nothing left to train."""
        payload = None
        if self.files is not None:
            payload = self.shared(self.files.load(self.log) if resume and self.main else None)
            if not resume:
                self.files.clear()
        if payload is not None:
            return self.load(payload)
        if resume and self.files is not None:
            self.log.say(f"no checkpoint in {self.files.folder.name}: starting from the beginning")
        self.log.names("not in the optimiser", self.notes["not_optimised"])
        if self.validate is not None:
            self.notes["validate_before"] = self.score()
        return False

    def shared(self, payload: dict[str, Any] | None) -> dict[str, Any] | None:
        if self.world > 1:
            box = [payload]
            torch.distributed.broadcast_object_list(box, 0)
            return box[0]
        return payload

    def identity(self) -> dict[str, Any]:
        weights = {f"weight {k}": v for k, v in _shapes(self.model.state_dict()).items()}
        settings = {**asdict(self.settings), "betas": list(self.settings.betas)}
        return {**settings, **self.batches.fingerprint(), **weights}

    def state(self, done: bool, stopped: bool) -> dict[str, Any]:
        best = {k: v for k, v in self.best.items() if not (done and k == "state")}
        return {
            "identity": self.identity(), "done": done, "model": self.model.state_dict(), "rows": self.rows,
            "optimiser": None if done else self.optimiser.state_dict(), "best": best,
            "notes": {**self.notes, "stopped": stopped},
        }  # fmt: skip

    def load(self, payload: dict[str, Any]) -> bool:
        differ = _differences(payload["identity"], self.identity())
        if differ:
            raise BookError(
                f"the checkpoint in {self.files.folder} belongs to another run: {differ}. "
                "Use the same settings, another folder, or resume=False to begin again"
            )
        self.model.load_state_dict(payload["model"])
        if not payload["done"]:
            self.optimiser.load_state_dict(payload["optimiser"])
        self.rows, self.best, self.notes = payload["rows"], payload["best"], payload["notes"]
        how = "finished earlier, loaded" if payload["done"] else "resumed after"
        self.log.say(f"{how} epoch {len(self.rows)} of {self.settings.epochs}")
        self.notes["resumed"] = len(self.rows)
        return payload["done"]


def _copy(model: nn.Module) -> dict[str, Any]:
    return {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in model.state_dict().items()}


def _groups(named: dict[str, Tensor], param_groups: Any, settings: _Settings) -> list[dict[str, Any]]:
    """The optimiser's groups: checked, and without what is frozen."""
    names = {id(p): k for k, p in named.items()}
    groups = [{"params": list(named.values())}] if param_groups is None else [dict(g) for g in param_groups]
    seen: set[int] = set()
    for group in groups:
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        group["params"] = [p for p in params if p.requires_grad]
        for p in group["params"]:
            if id(p) not in names:
                raise BookError(f"param_groups holds a tensor of shape {tuple(p.shape)} that is not one of the model's")
            if id(p) in seen:
                raise BookError(f"param_groups holds {names[id(p)]} twice: list every parameter once")
            seen.add(id(p))
    groups = [g for g in groups if g["params"]]
    if not groups:
        raise BookError("nothing to train: no parameter requires a gradient")
    return groups


# ---------------------------------------------------------------- checkpoints and progress
class _Files:
    """The checkpoint files of one fit: ``torch.save`` bytes followed by their SHA-256, written whole or not at all."""

    def __init__(self, folder: Path | str, main: bool) -> None:
        self.folder, self.main = Path(folder), main
        if main:
            io.make_folder(self.folder)

    def found(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("epoch-[0-9]*.pt"), reverse=True)

    def clear(self) -> None:
        for path in [*self.found(), *self.folder.glob("epoch-*.pt.corrupt"), *self.folder.glob(".epoch-*.tmp")]:
            if self.main:
                path.unlink(missing_ok=True)

    def save(self, epoch: int, payload: dict[str, Any]) -> None:
        if not self.main:
            return
        buffer = _io.BytesIO()
        torch.save(payload, buffer)
        content = buffer.getvalue()
        io.atomic_write(self.folder / f"epoch-{epoch:06d}.pt", content + hashlib.sha256(content).digest())
        for old in self.found()[2:]:
            old.unlink(missing_ok=True)

    def load(self, log: _Log) -> dict[str, Any] | None:
        """The newest whole checkpoint. A damaged one is renamed ``.corrupt`` and the one before is tried."""
        for path in self.found():
            content = path.read_bytes()
            if hashlib.sha256(content[:-32]).digest() == content[-32:]:
                return torch.load(_io.BytesIO(content[:-32]), map_location="cpu", weights_only=True)
            path.rename(path.with_name(path.name + ".corrupt"))
            log.say(f"checkpoint {path.name} is damaged: set aside as {path.name}.corrupt")
        return None


class _Log:
    """A bar in a terminal; elsewhere about ten plain lines a run: the first epoch, the last, and some between."""

    def __init__(self, settings: _Settings, on: bool, lines: int = 8) -> None:
        self.on, self.label, self.epochs = on, settings.label, settings.epochs
        self.shown = {round(e) for e in np.linspace(1, self.epochs, min(lines, self.epochs))}
        self.bar = None
        if on and sys.stderr.isatty() and sys.stdout.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.epochs, desc=self.label or "training", unit="epoch")

    def say(self, text: str) -> None:
        if self.on:
            text = f"{self.label}: {text}" if self.label else text
            self.bar.write(text) if self.bar is not None else print(text, flush=True)

    def names(self, what: str, names: list[str]) -> None:
        if names:
            more = ", ..." if len(names) > 4 else ""
            self.say(f"{what}: {len(names)} trainable tensors ({', '.join(names[:4])}{more})")

    def epoch(self, row: dict[str, float], done: bool, stopped: bool, best: dict[str, Any]) -> None:
        numbers = {k: v for k, v in row.items() if k not in ("epoch", "lr", "seconds")}
        text = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        text += f"  lr {row['lr']:.2g}  {row['seconds']:.2g} s"
        if self.bar is not None:
            self.bar.update(row["epoch"] - self.bar.n)
            self.bar.set_postfix_str(text)
        elif done or row["epoch"] in self.shown:
            self.say(f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  {text}")
        if done and self.bar is not None:
            self.bar.close()
        if done and best:
            why = "stopped early, " if stopped else ""
            self.say(f"{why}kept the weights of epoch {best['epoch']} (validate {best['value']:.4g})")
