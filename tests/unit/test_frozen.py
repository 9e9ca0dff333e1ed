"""Frozen features: leakage, shapes, errors, and monitors that see a collapse."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import evaluate, frozen
from helpers.errors import BookError


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    table = pd.DataFrame(
        dict(
            participant_id=[f"sub-{i:02d}" for i in range(60)],
            group=np.where(y, "patient", "control"),
            site=np.repeat(["A", "B", "C"], 20),
        )
    )
    x = rng.normal(size=(60, 30)).astype(np.float32)
    x[:, 0] += 4.0 * y
    return table, x, y, evaluate.splits(table, n_splits=3, n_repeats=1, seed=0)


def test_each_fold_uses_its_own_features(people):
    _, x, y, splits = people
    noise = np.random.default_rng(1).normal(size=x.shape)
    good = evaluate.auc(frozen.cross_validate([x] * 3, y, splits))
    assert good.value > 0.85
    mixed = frozen.cross_validate([x, noise, noise], y, splits)
    by_fold = evaluate.by_fold(mixed).set_index("fold")["value"]
    assert by_fold[0] > 0.8 and by_fold[[1, 2]].mean() < by_fold[0] - 0.1


def test_few_shot_has_a_row_a_k_and_rises(people):
    _, x, y, splits = people
    out = frozen.few_shot([x] * 3, y, splits, [1, 10], draws=6)
    assert out.shape == (2, 6) and out[1].mean() > out[0].mean()
    assert np.array_equal(out, frozen.few_shot([x] * 3, y, splits, [1, 10], draws=6))


def test_unseen_site_uses_no_label_of_the_own_site(people):
    table, x, y, splits = people
    site = table["site"].to_numpy(str)
    aucs = frozen.unseen_site([x] * 3, y, site, splits)
    flipped = np.where(site == "A", 1 - y, y)  # other labels at A: its scores stay, so its AUC turns over
    changed = frozen.unseen_site([x] * 3, flipped, site, splits)
    assert list(aucs.index) == ["A", "B", "C"] and aucs.min() > 0.8
    assert changed["A"] == pytest.approx(1 - aucs["A"])


def test_unseen_site_compares_within_a_fold_only(people):
    table, x, y, splits = people
    site = table["site"].to_numpy(str)
    shifted = [x + 100.0 * fold for fold in range(3)]  # scores of the folds on different scales
    pd.testing.assert_series_equal(
        frozen.unseen_site(shifted, y, site, splits), frozen.unseen_site([x] * 3, y, site, splits), atol=0.02
    )


def test_pattern_points_at_the_signal(people):
    _, x, y, _ = people
    assert np.abs(frozen.activation_pattern(x, y)).argmax() == 0


def test_monitors_see_collapse():
    torch.manual_seed(0)
    z = torch.randn(64, 16)
    assert frozen.effective_rank(z) > 12 and frozen.spread(z) == pytest.approx(1, abs=0.1)
    flat = torch.ones(64, 16) + 1e-4 * torch.randn(64, 1)
    assert frozen.effective_rank(flat) < 1.5 and frozen.spread(flat) < 1e-3


def test_errors_say_what_to_give(people):
    table, x, y, splits = people
    with pytest.raises(BookError, match="2 arrays of features for 3 folds"):
        frozen.cross_validate([x, x], y, splits)
    with pytest.raises(BookError, match="give splits"):
        frozen.few_shot([x] * 6, y, evaluate.splits(table, n_splits=3, n_repeats=2), [1])
    with pytest.raises(BookError, match="two sites or more"):
        frozen.unseen_site([x] * 3, y, np.repeat("A", 60), splits)
