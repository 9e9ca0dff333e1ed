"""One small training that uses all that a checkpoint has to keep, for the tests of kills and full disks."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from helpers import io, train

EPOCHS = 24


class Net(nn.Module):
    """Dropout (draws), running statistics, and a target that follows by EMA."""

    def __init__(self, seed: int = 0, width: int = 24) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Linear(10, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1)
        )
        self.target = nn.Linear(width, 1).requires_grad_(False)


def step(model: Net, batch: tuple) -> torch.Tensor:
    x, y = batch
    return (model.body(x + 0.1 * torch.randn_like(x)) - y).pow(2).mean()


def follow(model: Net, i: int, n_steps: int) -> None:
    model.target.weight.lerp_(model.body[4].weight, 0.05)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    return x, x[:, :1] * x[:, 1:2]


def fit(folder: Path | None, *, resume: bool = False, seed: int = 0, **more):
    """(model, history): the same in every process, however often it was stopped."""
    model = Net(seed, more.pop("width", 24))
    x, y = data()
    options = dict(epochs=EPOCHS, batch_size=8, lr=1e-2, device="cpu", log=False) | more
    history = train.fit(
        model, (x, y), step=step, after_step=follow, checkpoint=folder, resume=resume,
        validate=lambda m: -float((m.body(x) - y).pow(2).mean()), **options,
    )  # fmt: skip
    return model, history


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def killed_at_random(folder: Path, kills: int, seed: int) -> None:
    """Train in forked children that are killed after a random time, until one of them comes to the end.

    Prints how many were killed, and in how many of those moments a checkpoint was being written.
    """
    torch.set_num_threads(1)
    train._accelerator(torch.device("cpu"), "fp32")  # what a child would spend seconds on: imports
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight], fused=True).step()
    draw, done, writing, round_ = random.Random(seed), 0, 0, 0
    while done < kills:
        here = folder / str(round_)
        while True:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    begun = any(here.glob("epoch-*.pt"))  # then its own weights must not matter
                    model, _ = fit(here, resume=True, seed=5 if begun else 0)
                    io.save_tensors(model.state_dict(), folder / f"{round_}.safetensors")
                    code = 0
                finally:
                    os._exit(code)
            deadline = time.monotonic() + draw.uniform(0.02, 0.3)
            ended = 0
            while time.monotonic() < deadline and not ended:
                ended, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.001)
            if not ended:
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                done += 1
                writing += any(here.glob(".epoch-*.tmp"))
                continue
            assert os.waitstatus_to_exitcode(status) == 0, "the training itself failed"
            break
        round_ += 1
    print(round_, done, writing)


if __name__ == "__main__":
    killed_at_random(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
