"""Training: one ``fit`` for every chapter, from one CPU core to many GPUs, through Accelerate.

The chapter owns the model, its ``step(model, batch) -> loss`` and, where it has one, its EMA. This module
owns the plumbing: device, precision, schedule, clipping, progress, early stopping, checkpoints, DDP.

Two rules make runs repeatable. The order of the data depends on (seed, epoch) alone. The global generators
of Python, numpy and torch are set from (seed, epoch, rank) when an epoch begins, so that a run which was
stopped and resumed draws what an uninterrupted one draws; ``fit`` leaves the generators as it found them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from . import io
from .errors import BookError
from .training.batches import Batches, map_tensors
from .training.checkpoints import Checkpoints
from .training.machine import (
    describe_device,
    differences,
    kept_generators,
    load_weights,
    mix,
    n_parameters,
    pick_device,
    pick_precision,
    save_weights,
    seed_everything,
    set_threads,
    shapes,
)
from .training.progress import History, Log
from .training.settings import Settings, parameter_groups

__all__ = [
    "History",
    "describe_device",
    "fit",
    "load_weights",
    "n_parameters",
    "pick_device",
    "save_weights",
    "seed_everything",
    "set_threads",
]
RESERVED = {"epoch", "lr", "seconds", "validate", "gradient"}


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
    """Train ``model`` in place with AdamW. It ends on its device and in eval mode.

    data           a tensor, a tuple or dict of equally long tensors (indexed directly, so batches have their
                   form), or a map-style Dataset, read by a DataLoader with ``workers`` processes
    step           step(model, batch) -> scalar loss, or a dict of scalars with "loss"; default: model(batch).
                   It gets the bare model, under DDP too (all of step is wrapped), and runs under autocast
    batch_size     examples in one optimiser step, over all processes and the ``accumulate`` pieces of each
    warmup_epochs  linear warm-up, may be a fraction; ``warmup_steps`` wins when given
    clip           bound on the gradient's norm, or on its entries with ``clip_kind="value"``
    after_step     after_step(model, i, n_steps) after step i (from 0) of n_steps, without gradient (EMA)
    validate       validate(model) -> float, higher is better; in eval mode, without gradient, once before
                   training and after each epoch. The best epoch's weights are restored at the end
    patience       stop after so many epochs without a new best
    checkpoint     folder of this fit alone: a file every ``checkpoint_every`` epochs, the last two kept. With
                   ``resume`` go on from the newest whole one (a finished fit is only loaded); without it
                   earlier ones are removed. What is to survive must be a parameter or buffer of ``model``
    param_groups   as for torch optimisers, {"params": ..., "lr": ...}; default: all that require a gradient

    Raises BookError for settings or data that cannot work, for a loss or gradient that is not finite (before
    the weights change), for a checkpoint of another run and for one that cannot be written.
    """
    target = pick_device(device)
    settings = Settings(
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, betas=tuple(betas),
        warmup_epochs=warmup_epochs, warmup_steps=warmup_steps, schedule=schedule, clip=clip,
        clip_kind=clip_kind, accumulate=accumulate, patience=patience, seed=seed, drop_last=drop_last,
        label=label, precision=pick_precision(precision, target),
    )  # fmt: skip
    if checkpoint_every < 1:
        raise BookError(f"checkpoint_every is {checkpoint_every!r}: give a whole number of at least 1")
    if patience is not None and validate is None:
        raise BookError("patience needs validate: give validate(model) -> float, or patience=None")
    batches = Batches(data, batch_size, drop_last, seed, workers)
    with kept_generators():
        seed_everything(seed)
        trainer = _Trainer(model, batches, settings, target, step, after_step, validate, param_groups)
        trainer.log = Log(label, epochs, on=log and trainer.main)
        if checkpoint is not None:
            trainer.files, trainer.every = Checkpoints(checkpoint), checkpoint_every
        return trainer.run(resume)


class _Step(nn.Module):
    """All of ``step`` as one forward pass: autocast and DDP see the whole, ``step`` sees the bare model."""

    def __init__(self, model: nn.Module, step: Callable[[nn.Module, Any], Any] | None) -> None:
        super().__init__()
        self.model = model
        self.call = (lambda model, batch: model(batch)) if step is None else (lambda *both: step(*both))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        out = self.call(self.model, batch)
        out = dict(out) if isinstance(out, Mapping) else {"loss": out}
        loss = out.pop("loss", None)
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
            raise BookError(
                "step must return a single number that depends on trainable weights, as it is or as 'loss'"
            )
        scalars = {}
        for name, value in out.items():
            value = torch.as_tensor(value, device=loss.device)
            if name in RESERVED or value.numel() != 1:
                raise BookError(
                    f"step returned {name!r}, a reserved name or not a single number: rename or reduce it"
                )
            scalars[name] = value.detach().reshape(())
        return {"loss": loss.reshape(()), **scalars}


def _accelerator(device: torch.device, precision: str) -> Any:
    """A fresh Accelerator; its settings live in process-wide singletons that an earlier fit may have set."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    mixed = "bf16" if precision == "bf16" else "no"
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed, kwargs_handlers=[ddp])


class _Trainer:
    """One ``fit`` under way."""

    files: Checkpoints | None = None
    every: int = 1
    log: Log

    def __init__(self, model, batches, settings, device, step, after_step, validate, param_groups) -> None:
        self.model, self.batches, self.settings = model, batches, settings
        self.after_step, self.validate = after_step, validate
        self.n_steps = settings.epochs * batches.steps
        settings.warmup(self.n_steps)  # refuses one that is too long
        self.named = {k: p for k, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(self.named, param_groups)
        self.accelerator = _accelerator(device, settings.precision)
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.wrapped = self.accelerator.prepare_model(_Step(model, step))
        fused = self.device.type in ("cpu", "cuda")  # three to five times faster, also on one CPU thread
        decay = settings.weight_decay
        self.optimiser = torch.optim.AdamW(
            groups, settings.lr, settings.betas, weight_decay=decay, fused=fused
        )
        self.params = [p for group in groups for p in group["params"]]
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.stopped = False
        chosen = {id(p) for p in self.params}
        self.notes: dict[str, Any] = {
            "not_optimised": [k for k, p in self.named.items() if id(p) not in chosen]
        }
        self.idle = dict(self.named)

    def run(self, resume: bool) -> History:
        done = self.start(resume)
        while not done:
            epoch = len(self.rows) + 1
            self.rows.append(self.train_epoch(epoch))
            if self.validate is not None:
                self.judge(epoch)
            if epoch == 1:
                self.notes["unused"] = list(self.idle)
                self.log.names("no gradient in the first epoch", self.notes["unused"])
            done = self.stopped or epoch == self.settings.epochs
            if done and self.best:
                self.model.load_state_dict(self.best["state"])
            self.log.epoch(self.rows[-1], done, self.stopped, self.best)
            if self.files and self.main and (done or epoch % self.every == 0):
                self.files.save(epoch, self.state(done))
        self.model.eval()
        steps = len(self.rows) * self.batches.steps
        return History(pd.DataFrame(self.rows), self.best.get("epoch"), self.stopped, steps, self.notes)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the data; returns its row of the history."""
        seed_everything(mix(self.settings.seed, epoch, self.rank, 1))
        self.model.train()
        sums: dict[str, list[float]] = {}
        start = time.perf_counter()
        plan = self.batches.plan(epoch, self.rank, self.world, self.settings.accumulate)
        for at, pieces in enumerate(self.batches.epoch(plan)):
            i = (epoch - 1) * self.batches.steps + at
            size = min(self.batches.batch_size, self.batches.n - at * self.batches.batch_size)
            for name, value in self.optimise(pieces, i).items():
                total = sums.setdefault(name, [0.0, 0])
                total[0], total[1] = total[0] + size * value, total[1] + size
            if epoch == 1 and self.idle:
                self.idle = {k: p for k, p in self.idle.items() if p.grad is None}
            if self.after_step is not None:
                with torch.no_grad():
                    self.after_step(self.model, i, self.n_steps)
        if self.world > 1:  # running statistics differ between processes: all take those of the main one
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        means = {name: total / n for name, (total, n) in sums.items()}
        lr = self.optimiser.param_groups[0]["lr"]
        return {"epoch": epoch, "lr": lr, **means, "seconds": time.perf_counter() - start}

    def optimise(self, pieces: list[tuple[Any, float]], i: int) -> dict[str, float]:
        """Optimiser step ``i``: forward and backward over its pieces, check, clip, update; the scalars."""
        for p in self.named.values():
            p.grad = None
        totals: dict[str, Tensor] = {}
        for k, (batch, weight) in enumerate(pieces):
            more = k + 1 < len(pieces) and self.world > 1
            with self.wrapped.no_sync() if more else contextlib.nullcontext():
                out = self.wrapped(map_tensors(lambda t: t.to(self.device, non_blocking=True), batch))
                self.accelerator.backward(out["loss"] if weight == 1 else out["loss"] * weight)
            for name, value in out.items():
                value = value.detach().float() * (weight / self.world)
                totals[name] = totals[name] + value if name in totals else value
        norm, numbers = self.look(totals, i)
        if self.settings.clip is not None and self.settings.clip_kind == "norm":
            torch.nn.utils.clip_grads_with_norm_(self.params, self.settings.clip, norm)
        elif self.settings.clip is not None:
            torch.nn.utils.clip_grad_value_(self.params, self.settings.clip)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.settings.factor(i, self.n_steps)
        self.optimiser.step()
        return numbers

    def look(self, totals: dict[str, Tensor], i: int) -> tuple[Tensor, dict[str, float]]:
        """The gradient's norm and the scalars of all processes, in one transfer. BookError if not finite."""
        grads = [p.grad for p in self.params if p.grad is not None]
        if not grads:
            raise BookError(
                "the loss gives no gradient to any parameter that is optimised: check step and param_groups"
            )
        norm = torch.nn.utils.get_total_norm(grads)
        values = torch.stack(list(totals.values()))
        if self.world > 1:
            values = self.accelerator.reduce(values, "sum")
        *scalars, length = torch.cat([values, norm.float()[None]]).tolist()
        numbers = dict(zip(totals, scalars, strict=True))
        if not (math.isfinite(numbers["loss"]) and math.isfinite(length)):
            wrong = {k: v for k, v in {**numbers, "gradient norm": length}.items() if not math.isfinite(v)}
            epoch, at = divmod(i, self.batches.steps)
            raise BookError(
                f"{self.settings.label or 'training'} stopped in epoch {epoch + 1}, step {at + 1}: "
                f"{', '.join(f'{k} is {v}' for k, v in wrong.items())}; the weights are those from before "
                "this step. Lower lr, set clip, or check the data"
            )
        return norm, numbers

    def judge(self, epoch: int) -> None:
        """Validate, keep a copy of the best weights, and stop when patience runs out."""
        row = self.rows[-1]
        seconds = row.pop("seconds")
        row.update(validate=self.score(), seconds=seconds)
        if not self.best or row["validate"] > self.best["value"]:
            state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.model.state_dict().items()}
            self.best = {"epoch": epoch, "value": row["validate"], "state": state}
        patience = self.settings.patience
        self.stopped = patience is not None and epoch - self.best["epoch"] >= patience

    def score(self) -> float:
        """``validate`` runs on every process; the main one's number counts for all."""
        self.model.eval()
        with torch.no_grad():
            value = self.validate(self.model)
        try:
            value = self.shared(float(value))
        except (TypeError, ValueError):
            raise BookError(f"validate returned {value!r:.80}: return one number, higher is better") from None
        if not math.isfinite(value):
            raise BookError(f"validate returned {value}: return a finite number, higher is better")
        return value

    def shared(self, value: Any) -> Any:
        """The main process's value, on every process."""
        box = [value]
        if self.world > 1:
            torch.distributed.broadcast_object_list(box, 0)
        return box[0]

    def start(self, resume: bool) -> bool:
        """Go on from the newest checkpoint, or begin afresh. True when nothing is left to train."""
        if self.files and self.main:
            io.make_folder(self.files.folder)
        if self.files and resume:
            payload = self.shared(self.files.load(self.log.say) if self.main else None)
            if payload is not None:
                return self.load(payload)
            self.log.say("no checkpoint to resume from: starting at the beginning")
        self.log.names("not in the optimiser", self.notes["not_optimised"])
        if self.validate is not None:
            self.notes["validate_before"] = self.score()
        if self.files and self.main and not resume:
            self.files.clear()
        return False

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with a run to be resumed by it."""
        weights = {f"weight {k}": v for k, v in shapes(self.model.state_dict()).items()}
        settings = {**asdict(self.settings), "betas": list(self.settings.betas)}
        return {**settings, **self.batches.fingerprint(), **weights}

    def state(self, done: bool) -> dict[str, Any]:
        """The checkpoint. A finished run needs no optimiser and no second copy of its best weights."""
        return {
            "identity": self.identity(),
            "done": done,
            "model": self.model.state_dict(),
            "optimiser": None if done else self.optimiser.state_dict(),
            "best": {k: v for k, v in self.best.items() if not (done and k == "state")},
            "rows": self.rows,
            "stopped": self.stopped,
            "notes": self.notes,
        }

    def load(self, payload: dict[str, Any]) -> bool:
        differ = differences(payload["identity"], self.identity())
        if differ:
            raise BookError(
                f"the checkpoint in {self.files.folder} belongs to another run: {differ}. "
                "Use the same settings, another folder, or resume=False to begin again"
            )
        self.model.load_state_dict(payload["model"])
        if not payload["done"]:
            self.optimiser.load_state_dict(payload["optimiser"])
        self.rows, self.best, self.stopped = payload["rows"], payload["best"], payload["stopped"]
        self.notes = {**payload["notes"], "resumed": len(self.rows)}
        how = "finished earlier, loaded" if payload["done"] else "resumed after"
        self.log.say(f"{how} epoch {len(self.rows)} of {self.settings.epochs}")
        return payload["done"]
