"""Training an encoder and a classification head with labels, out of fold.

Two classes. ``inputs`` is a tuple of tensors with one entry a subject; ``prepare(*batch)`` turns a batch of
them into what the encoder reads, and ``augment(*batch)``, if given, does so in training only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from helpers import evaluate, train
from helpers.errors import BookError


class Classifier(nn.Module):
    """Encoder, then blocks of Linear, BatchNorm, LeakyReLU, dropout, then one logit: (B, ...) -> (B,)."""

    def __init__(
        self, encoder: nn.Module, n_features: int, widths: Sequence[int] = (256, 32), dropout: float = 0.3
    ):
        super().__init__()
        self.encoder, layers, d = encoder, [], n_features
        for width in widths:
            layers += [nn.Linear(d, width), nn.BatchNorm1d(width), nn.LeakyReLU(), nn.Dropout(dropout)]
            d = width
        self.head = nn.Sequential(*layers, nn.Linear(d, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)).squeeze(-1)


def fit(
    encoder: nn.Module,
    inputs: tuple[Tensor, ...],
    y: Any,
    rows: np.ndarray,
    *,
    prepare: Callable[..., Tensor],
    n_features: int,
    augment: Callable[..., Tensor] | None = None,
    lr_encoder: float = 1e-4,
    lr_head: float = 1e-3,
    stop_share: float = 0.2,
    patience: int = 5,
    batch_size: int = 16,
    seed: int = 0,
    **options: Any,
) -> Callable[[np.ndarray], np.ndarray]:
    """Train a copy of ``encoder`` and a fresh head on subjects ``rows``; returns ``scores(rows) -> (n,)``.

    A share ``stop_share`` of *these* subjects, balanced over the classes, is kept back to end the training
    at their best AUC; 0 trains for all ``epochs``. ``options`` go to :func:`helpers.train.fit`.
    """
    y, rows = np.asarray(y), np.asarray(rows)
    if len(np.unique(y[rows])) != 2:
        raise BookError(f"finetune: the {len(rows)} training subjects are of one class; it needs both")
    torch.manual_seed(seed)
    model = Classifier(copy.deepcopy(encoder), n_features)

    @torch.no_grad()
    def scores(rows: np.ndarray) -> np.ndarray:
        model.eval()
        device = next(model.parameters()).device
        chunks = torch.as_tensor(rows).split(64)
        return np.concatenate(
            [model(prepare(*(t[i].to(device) for t in inputs))).float().cpu().numpy() for i in chunks]
        )

    stopping: dict[str, Any] = {}
    if stop_share:
        rows, held = train_test_split(rows, test_size=stop_share, stratify=y[rows], random_state=seed)
        stopping = dict(validate=lambda _: roc_auc_score(y[held], scores(held)), patience=patience)
    make = augment or prepare

    def step(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(make(*batch[:-1])), batch[-1])

    train.fit(
        model,
        (*(t[rows] for t in inputs), torch.from_numpy(y[rows]).float()),
        step=step,
        param_groups=[
            dict(params=list(model.encoder.parameters()), lr=lr_encoder),
            dict(params=list(model.head.parameters()), lr=lr_head),
        ],
        **dict(
            batch_size=min(batch_size, len(rows)), weight_decay=1e-2, schedule="constant", drop_last=True,
            log=False, seed=seed,
        ),
        **stopping,
        **options,
    )  # fmt: skip
    return scores


def cross_validate(
    encoders: Sequence[nn.Module],
    inputs: tuple[Tensor, ...],
    y: Any,
    splits: evaluate.Splits,
    *,
    checkpoint: Callable[[str], Path] | None = None,
    name: str = "finetune",
    **options: Any,
) -> evaluate.Predictions:
    """Out-of-fold predictions after training from one starting encoder a fold (see :func:`fit`).

    ``checkpoint`` is a function from a name to a folder, such as ``run.checkpoint``.
    """
    if len(encoders) != len(splits):
        raise BookError(f"finetune: {len(encoders)} encoders for {len(splits)} splits; give one a split")

    def fold_scores(split: evaluate.Split) -> np.ndarray:
        folder = dict(checkpoint=checkpoint(f"{name}-{split.fold}")) if checkpoint else {}
        return fit(encoders[split.fold], inputs, y, split.train, **folder, **options)(split.test)

    return evaluate.cross_validate(fold_scores, None, y, splits)
