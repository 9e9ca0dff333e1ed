"""Cutting training data into batches whose order depends on (seed, epoch) and on nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ..errors import BookError
from .machine import mix


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply ``function`` to every tensor of a batch, keeping the batch's form."""
    if isinstance(batch, Mapping):
        return {k: map_tensors(function, v) for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [map_tensors(function, v) for v in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return function(batch) if isinstance(batch, Tensor) else batch


class Batches:
    """Training data and their batches.

    data        a tensor (or array), a tuple or dict of equally long ones, or a map-style Dataset
    batch_size  examples in one optimiser step, over all processes and accumulated pieces
    workers     processes that read a Dataset; tensors are indexed directly and need none
    """

    def __init__(self, data: Any, batch_size: int, drop_last: bool, seed: int, workers: int = 0) -> None:
        data = data.tensors if isinstance(data, TensorDataset) else data
        self.data, self.batch_size, self.seed, self.workers = data, batch_size, seed, workers
        self.tensors = self._as_tensors(data)
        self.n = self._length()
        if self.n == 0:
            raise BookError("the training data are empty: give at least one example")
        self.steps = self.n // batch_size if drop_last else -(-self.n // batch_size)
        if self.steps == 0:
            raise BookError(
                f"batch_size {batch_size} is larger than the {self.n} examples, and drop_last drops them: "
                "take a smaller batch_size or drop_last=False"
            )

    @staticmethod
    def _as_tensors(data: Any) -> Any:
        """The data as tensors in their own form, or None when they are a Dataset."""
        if isinstance(data, np.ndarray | Tensor):
            return torch.as_tensor(data)
        if isinstance(data, Mapping):
            return {k: torch.as_tensor(v) for k, v in data.items()}
        if isinstance(data, tuple):
            return tuple(torch.as_tensor(v) for v in data)
        if (
            hasattr(data, "__getitem__")
            and hasattr(data, "__len__")
            and not isinstance(data, IterableDataset)
        ):
            return None
        raise BookError(
            f"data is a {type(data).__name__}: give a tensor, a tuple or dict of them, or a map-style Dataset"
        )

    def _parts(self) -> list[Tensor]:
        if isinstance(self.tensors, Tensor):
            return [self.tensors]
        return list(self.tensors.values() if isinstance(self.tensors, Mapping) else self.tensors)

    def _length(self) -> int:
        if self.tensors is None:
            return len(self.data)
        sizes = [tuple(t.shape) for t in self._parts()]
        if not all(sizes) or len({size[0] for size in sizes}) > 1:
            raise BookError(
                f"the data tensors must be equally long along their first axis; their shapes are {sizes}"
            )
        return sizes[0][0] if sizes else 0

    def fingerprint(self) -> dict[str, int]:
        """Number of examples and, for tensors, a CRC-32 of up to 64 spread-out ones (tells folds apart)."""
        if self.tensors is None:
            return {"examples": self.n}
        crc = 0
        for tensor in self._parts():
            rows = torch.linspace(0, self.n - 1, min(self.n, 64)).long().to(tensor.device)
            crc = zlib.crc32(
                tensor.detach()[rows].cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), crc
            )
        return {"examples": self.n, "data checksum": crc}

    def plan(
        self, epoch: int, rank: int = 0, world: int = 1, accumulate: int = 1
    ) -> list[list[tuple[Tensor, float]]]:
        """For each optimiser step, this process's pieces as (indices, weight).

        The weights of a step sum to ``world`` over all pieces of all processes, so that DDP's mean over
        processes is the mean over examples. A process left without an example repeats one at weight 0.
        """
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(mix(self.seed, epoch)))
        steps = []
        for at in range(self.steps):
            whole = order[at * self.batch_size : (at + 1) * self.batch_size]
            mine = whole.tensor_split(accumulate * world)[rank::world]
            steps.append([(p if len(p) else whole[:1], len(p) * world / len(whole)) for p in mine])
        return steps

    def epoch(self, plan: list[list[tuple[Tensor, float]]]) -> Iterator[list[tuple[Any, float]]]:
        """The plan with its indices replaced by batches."""
        if self.tensors is not None:
            for pieces in plan:
                yield [(self._take(index), weight) for index, weight in pieces]
            return
        flat = [index.tolist() for pieces in plan for index, _ in pieces]
        pin = self.workers > 0 and torch.cuda.is_available()
        reader = iter(DataLoader(self.data, batch_sampler=flat, num_workers=self.workers, pin_memory=pin))
        for pieces in plan:
            yield [(next(reader), weight) for _, weight in pieces]

    def _take(self, index: Tensor) -> Any:
        return map_tensors(lambda t: t[index.to(t.device)], self.tensors)
