"""Regions, Dice, distances and tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import segmentation
from helpers.errors import BookError

LABELS = torch.tensor([[[0, 1, 2, 4], [2, 2, 0, 4]]])


def test_labels_and_regions_round_trip() -> None:
    masks = segmentation.regions(LABELS)
    assert masks.shape == (1, 3, 2, 4)
    et, tc, wt = masks[0]
    assert (et <= tc).all() and (tc <= wt).all()
    assert torch.equal(segmentation.labels_of(masks).long(), LABELS)


def test_other_tables_of_regions() -> None:
    masks = segmentation.regions(np.array([[[0, 1]]]), {"lesion": (1,)})
    assert masks.tolist() == [[[[False, True]]]]


def test_labels_outside_the_set_are_named() -> None:
    with pytest.raises(BookError, match=r"labels \[3, 7\] are outside the set \[0, 1, 2, 4\]"):
        segmentation.regions(torch.tensor([[[0, 3], [7, 1]]]))
    with pytest.raises(BookError, match="labels_of: expected"):
        segmentation.labels_of(torch.zeros(1, 2, 4, 4))


def images(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows).bool()[:, None, None]  # (N, 1, 1, W)


def test_dice_by_hand() -> None:
    truth, guess = images([1, 1, 0, 0]), images([1, 0, 1, 0])
    assert segmentation.dice(guess, truth).item() == 0.5
    assert segmentation.dice(truth, truth).item() == 1


def test_dice_counts_over_all_slices_of_a_subject() -> None:
    truth, guess = images([1, 1], [1, 1], [1, 0]), images([1, 1], [0, 0], [0, 0])
    score = segmentation.dice(guess, truth, subjects=["b", "b", "a"])
    np.testing.assert_allclose(score[:, 0], [4 / 6, 0])  # order of appearance


@pytest.mark.parametrize(
    "guess, rule, wanted",
    [([0, 0], "score", 1.0), ([1, 0], "score", 0.0), ([0, 0], "nan", np.nan), ([1, 0], "nan", np.nan)],
)
def test_an_empty_truth_follows_the_declared_rule(guess, rule, wanted) -> None:
    score = segmentation.dice(images(guess), images([0, 0]), empty=rule)
    np.testing.assert_equal(score, [[wanted]])


def test_an_empty_prediction_of_something_scores_zero_under_both_rules() -> None:
    for rule in ("score", "nan"):
        assert segmentation.dice(images([0, 0]), images([1, 0]), empty=rule).item() == 0


def test_dice_refuses_what_does_not_match() -> None:
    with pytest.raises(BookError, match="do not match"):
        segmentation.dice(images([0, 1]), images([0, 1, 1]))
    with pytest.raises(BookError, match="2 subject names for 1 images"):
        segmentation.dice(images([0, 1]), images([0, 1]), subjects=["a", "b"])
    with pytest.raises(BookError, match="choose 'score' or 'nan'"):
        segmentation.dice(images([0, 1]), images([0, 1]), empty="zero")


def test_hausdorff_knows_the_spacing_and_counts_only_what_is_defined() -> None:
    truth, guess = torch.zeros(2, 2, 16, 16).bool(), torch.zeros(2, 2, 16, 16).bool()
    truth[0, 0, 4, 4] = guess[0, 0, 4, 7] = True
    truth[1, 0, 4, 4] = True  # nothing was found there
    d = segmentation.hausdorff95(guess, truth, spacing=2.0)
    assert d[0, 0] == pytest.approx(6) and np.isnan(d[0, 1]) and np.isnan(d[1]).all()
    one = segmentation.hausdorff95(guess, truth, spacing=2.0, subjects=["a", "a"])
    assert one.shape == (1, 2) and one[0, 0] == pytest.approx(6)


def test_average_leaves_nan_out_and_says_nothing(recwarn) -> None:
    x = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(segmentation.average(x, 0), [2, np.nan])
    assert segmentation.average(x) == 2 and not recwarn.list


def test_mean_and_paired_difference() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0.4, 0.6, 40)
    e = segmentation.mean(np.append(a, np.nan))
    assert e.value == pytest.approx(a.mean()) and e.lo < e.value < e.hi
    better = segmentation.paired(a + 0.05 + rng.normal(0, 0.01, 40), a)
    assert better.difference.lo > 0.04 and better.p < 1e-6
    assert segmentation.paired(a, a).p == 1
    with pytest.raises(BookError, match="no subject has a score"):
        segmentation.mean(np.array([np.nan]))
    with pytest.raises(BookError, match="do not match"):
        segmentation.paired(a, a[:-1])


@pytest.mark.parametrize("shape, tile", [((20, 20), (8, 8)), ((9, 5), (16, 16)), ((7, 9, 10), (4, 4, 4))])
def test_tiles_give_back_a_constant_and_any_pixelwise_function(shape, tile) -> None:
    x = torch.randn(2, 3, *shape)
    constant = segmentation.sliding_window(lambda t: torch.ones_like(t[:, :1]), x, tile)
    torch.testing.assert_close(constant, torch.ones(2, 1, *shape), rtol=0, atol=1e-6)
    out = segmentation.sliding_window(lambda t: 2 * t + 1, x, tile)
    torch.testing.assert_close(out, 2 * x + 1)


def test_tiles_are_checked() -> None:
    with pytest.raises(BookError, match="a tile of 3 sizes"):
        segmentation.sliding_window(lambda t: t, torch.zeros(1, 1, 8, 8), (4, 4, 4))
    with pytest.raises(BookError, match="overlap is 1"):
        segmentation.sliding_window(lambda t: t, torch.zeros(1, 1, 8, 8), (4, 4), overlap=1)


def test_the_best_cut_is_found_channel_by_channel() -> None:
    truth = torch.rand(4, 2, 16, 16) < 0.3
    logits = truth.float() + torch.tensor([0.0, -2.6]).view(1, 2, 1, 1)  # 1 over 0; -1.6 over -2.6
    assert segmentation.best_cuts(logits, truth).tolist() == [0.0, -2.5]
    parts = [segmentation.cut_counts(a, b) for a, b in zip(logits.split(1), truth.split(1), strict=True)]
    assert segmentation.cuts_from(sum(parts)).tolist() == [0.0, -2.5], "batches add up"
    with pytest.raises(BookError, match="do not match"):
        segmentation.best_cuts(logits, truth[:, :1])
