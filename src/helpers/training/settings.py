"""Settings, learning-rate schedule and parameter groups, checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import BookError


def plain(value: Any) -> Any:
    """A numpy number as Python's own, so that a checkpoint holds plain types."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Settings:
    """The settings that shape a result. A checkpoint is only resumed under the same ones."""

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
    precision: str

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, plain(value))
        whole = {k: getattr(self, k) for k in ("epochs", "batch_size", "accumulate", "patience")}
        for name, value in whole.items():
            if not ((isinstance(value, int) and value >= 1) or (name == "patience" and value is None)):
                raise BookError(f"{name} is {value!r}: give a whole number of at least 1")
        for name, choices in (("schedule", ("cosine", "constant")), ("clip_kind", ("norm", "value"))):
            if getattr(self, name) not in choices:
                raise BookError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(choices)}")
        if not 0 < self.lr < math.inf:
            raise BookError(f"lr is {self.lr!r}: give a positive number")
        if self.clip is not None and not self.clip > 0:
            raise BookError(f"clip is {self.clip!r}: give a positive number, or None")

    def warmup(self, n_steps: int) -> int:
        """Warm-up in steps; BookError when it is longer than the training."""
        warm = (
            self.warmup_steps if self.warmup_steps is not None else self.warmup_epochs * n_steps / self.epochs
        )
        if not 0 <= warm <= n_steps:
            raise BookError(f"the warm-up takes {warm:g} of {n_steps} steps: shorten it or train longer")
        return round(warm)

    def factor(self, i: int, n_steps: int) -> float:
        """Learning rate of step ``i`` (from 0) over its peak: linear warm-up, then constant or cosine."""
        warm = self.warmup(n_steps)
        if i < warm:
            return (i + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (i - warm) / (n_steps - warm)))


def parameter_groups(
    named: dict[str, Tensor], param_groups: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """The optimiser's groups: checked, and without what is frozen."""
    names = {id(p): k for k, p in named.items()}
    groups = (
        [{"params": list(named.values())}]
        if param_groups is None
        else [{k: plain(v) for k, v in g.items()} for g in param_groups]
    )
    seen: set[int] = set()
    for group in groups:
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        group["params"] = [p for p in params if p.requires_grad]
        for p in group["params"]:
            if id(p) not in names:
                raise BookError(
                    f"param_groups holds a tensor of shape {tuple(p.shape)} that is not in the model"
                )
            if id(p) in seen:
                raise BookError(f"param_groups holds {names[id(p)]} twice: list every parameter once")
            seen.add(id(p))
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise BookError("nothing to train: no parameter requires a gradient")
    return groups
