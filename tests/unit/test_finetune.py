"""Training with labels: it learns, never looks at test labels, leaves the given encoder alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helpers import evaluate, finetune
from helpers.errors import BookError


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = torch.from_numpy(rng.normal(size=(80, 12))).float()
    x[:, 0] += 3.0 * torch.from_numpy(y)
    table = pd.DataFrame(
        {"participant_id": np.arange(80).astype(str), "group": np.where(y, "patient", "control")}
    )
    return x, y, evaluate.splits(table, n_splits=2, n_repeats=1, stratify=("group",))


OPTIONS = dict(prepare=lambda x: x, n_features=8, epochs=12, lr_encoder=1e-2, lr_head=1e-2)


def encoder():
    torch.manual_seed(0)
    return nn.Linear(12, 8)


def test_it_learns_and_repeats(people):
    x, y, splits = people
    first, again = (
        finetune.cross_validate([encoder()] * 2, (x,), y, splits, seed=1, **OPTIONS) for _ in range(2)
    )
    assert evaluate.auc(first).value > 0.8
    assert np.array_equal(first.frame["score"], again.frame["score"])


def test_test_labels_are_never_used(people):
    x, y, splits = people
    split = splits[0]
    changed = y.copy()
    changed[split.test] = 1 - changed[split.test]
    runs = (finetune.fit(encoder(), (x,), labels, split.train, **OPTIONS) for labels in (y, changed))
    a, b = (scores(split.test) for scores in runs)
    assert np.array_equal(a, b)


def test_the_given_encoder_stays_and_augmentation_is_for_training_only(people):
    x, y, splits = people
    start, calls = encoder(), []

    def augment(batch):
        calls.append(len(batch))
        return batch + 0.1

    before = start.weight.clone()
    finetune.fit(start, (x,), y, splits[0].train, augment=augment, **OPTIONS)(splits[0].test)
    assert torch.equal(start.weight, before)
    assert set(calls) == {16}  # training batches only, never the held-out or the test subjects


def test_one_class_is_refused(people):
    x, y, _ = people
    with pytest.raises(BookError, match="one class"):
        finetune.fit(encoder(), (x,), y, np.arange(0, 80, 2), **OPTIONS)
