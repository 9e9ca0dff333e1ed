"""What a run says while it goes, and what it hands back."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass
class History:
    """What happened in a ``fit``.

    frame       one row an epoch: epoch (from 1), lr, loss, every scalar of ``step``, validate if given,
                and seconds (of training, without validation); scalars are means over the epoch's examples
    best_epoch  the epoch whose weights were kept; None without ``validate``
    stopped     whether ``patience`` ran out
    steps       optimiser steps taken
    notes       unused (trainable tensors without any gradient in epoch 1), not_optimised (left out of
                param_groups), validate_before, resumed
    """

    frame: pd.DataFrame
    best_epoch: int | None = None
    stopped: bool = False
    steps: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def steps_per_second(self) -> float:
        return self.steps / max(float(self.frame["seconds"].sum()), 1e-9)

    def __repr__(self) -> str:
        best = f", best epoch {self.best_epoch}" if self.best_epoch else ""
        last = self.frame["loss"].iloc[-1]
        return f"History({len(self.frame)} epochs, {self.steps} steps, last loss {last:.4g}{best})"


class Log:
    """A bar in a terminal; elsewhere about ten plain lines: the first epoch, the last, some between."""

    def __init__(self, label: str, epochs: int, on: bool, lines: int = 8) -> None:
        self.on, self.label, self.epochs = on, label, epochs
        self.shown = {round(e) for e in np.linspace(1, self.epochs, min(lines, self.epochs))}
        self.bar = None
        if on and sys.stderr.isatty() and sys.stdout.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.epochs, desc=self.label or "training", unit="epoch")

    def say(self, text: str) -> None:
        if not self.on:
            return
        text = f"{self.label}: {text}" if self.label else text
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)

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
        if done and best:
            why = "stopped early, " if stopped else ""
            self.say(f"{why}kept the weights of epoch {best['epoch']} (validate {best['value']:.4g})")
        if done and self.bar is not None:
            self.bar.close()
