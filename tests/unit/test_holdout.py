"""Three-part splits: nobody in two parts, the choice on validation people, the test seen once."""

import numpy as np
import pandas as pd
import pytest

from helpers import evaluate, holdout
from helpers.errors import BookError


@pytest.fixture
def people():
    return pd.DataFrame({"group": ["control", "patient"] * 30, "site": ["a", "a", "b", "b"] * 15})


@pytest.fixture
def splits(people):
    return evaluate.splits(people, n_splits=5, n_repeats=2)


def features(y, strength, seed=0):
    return np.random.default_rng(seed).standard_normal((len(y), 6)) + strength * np.asarray(y)[:, None]


def test_parts_are_disjoint_and_cover_everybody(splits):
    for split in splits:
        fit, held, test = holdout.parts(split, splits)
        assert (len(fit), len(held), len(test)) == (36, 12, 12)
        assert np.array_equal(np.sort(np.concatenate([fit, held, test])), np.arange(60))


def test_parts_work_on_some_of_the_splits_through_all_of_them(splits):
    fit, held, test = holdout.parts(holdout.first(splits, 2)[1], splits)
    assert not set(held) & set(test) and not set(fit) & set(test)


def test_two_folds_do_not_make_three_parts(people):
    two = evaluate.splits(people, n_splits=2, n_repeats=1)
    with pytest.raises(BookError, match="2 folds do not make three parts"):
        holdout.parts(two[0], two)


def test_test_labels_cannot_change_the_scores(splits):
    y = np.arange(60) % 2
    x = features(y, 0.5)
    fit, held, test = holdout.parts(splits[0], splits)
    changed = y.copy()
    changed[test] = 1 - changed[test]
    a, b = (holdout.probe(x, label, fit, held, test, "binary") for label in (y, changed))
    np.testing.assert_array_equal(a, b)
    moved = x.copy()
    moved[test] += 100
    c = holdout.probe(moved, y, fit, held, test, "binary")
    assert not np.array_equal(a, c)


def test_signal_is_found_and_noise_is_not(splits):
    y = np.arange(60) % 2
    strong = holdout.cross_validate([features(y, 2.0)] * 10, y, splits)
    none = holdout.cross_validate([features(y, 0.0)] * 10, y, splits)
    assert holdout.metric(strong).value > 0.9
    estimate = holdout.metric(none)
    assert estimate.lo < 0.5 < estimate.hi
    both = {"a task": {"strong": strong, "none": none}}
    (sentence,) = holdout.verdicts(both, "strong")
    assert sentence.startswith("a task: strong better than none: +") and "neither" not in sentence
    assert "worse than strong" in holdout.verdicts(both, "none", rivals=["strong"])[0]


def test_two_at_chance_are_said_to_be_there(splits):
    y = np.arange(60) % 2
    a, b = (holdout.cross_validate([features(y, 0.0, seed)] * 10, y, splits) for seed in (0, 1))
    (sentence,) = holdout.verdicts({"t": {"a": a, "b": b}}, "a")
    above = [holdout.metric(x).lo > 0.5 for x in (a, b)]
    assert ("neither is above chance" in sentence) == (not any(above))


def test_holm():
    np.testing.assert_allclose(holdout.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert holdout.holm([0.9, 0.8]).max() == 1


def test_a_constant_model_is_not_below_chance(splits):
    y = np.random.default_rng(0).normal(40, 10, 60)
    mean = evaluate.cross_validate(lambda s: np.full(len(s.test), y[s.train].mean()), None, y, splits)
    assert evaluate.pearson_r(mean).value < -0.05, "pooled, a constant model follows its training mean"
    inside = holdout.by_fold(mean).frame["score"]
    assert (inside == 0).all()


def test_r_within_folds_is_the_mean_of_their_r(splits):
    y = np.random.default_rng(0).normal(40, 10, 60)
    x = y[:, None] + 10 * np.random.default_rng(1).standard_normal((60, 4))
    prediction = holdout.cross_validate([x] * 10, y, splits)
    each = evaluate.by_fold(prediction, "pearson_r")["value"].mean()
    assert holdout.metric(prediction).value == pytest.approx(each)


def test_regression_and_its_chance(splits):
    rng = np.random.default_rng(0)
    age = rng.normal(40, 10, 60)
    x = age[:, None] / 10 + rng.standard_normal((60, 4))
    prediction = holdout.cross_validate([x] * 10, age, splits)
    assert prediction.task == "regression" and holdout.metric(prediction).value > 0.6
    null = holdout.chance([x] * 10, age, splits, n=5)
    assert null.lo < 0 < null.hi < holdout.metric(prediction).value


def test_restricted_predictions_compare_with_those_of_the_same_splits(splits):
    y = np.arange(60) % 2
    whole = holdout.cross_validate([features(y, 1.0)] * 10, y, splits)
    first = holdout.first(splits, 2)
    part = holdout.restrict(whole, first)
    assert len(part) == 24
    other = evaluate.cross_validate(lambda s: np.zeros(len(s.test)), None, y, first)
    assert holdout.difference(part, other).difference.value > 0


def test_some_splits_among_all_give_the_same_scores(splits):
    y = np.arange(60) % 2
    x = features(y, 1.0)
    first = holdout.first(splits, 1)
    alone = holdout.cross_validate([x], y, first, among=splits)
    whole = holdout.restrict(holdout.cross_validate([x] * 10, y, splits), first)
    np.testing.assert_array_equal(alone.frame["score"], whole.frame["score"])


def test_validation_people_of_one_class():
    y = np.array([0, 1] * 10 + [0] * 5)
    with pytest.raises(BookError, match="the 5 validation people are of one class"):
        holdout.probe(features(y, 1.0), y, np.arange(15), np.arange(20, 25), np.arange(15, 20), "binary")


def test_one_array_a_split(splits):
    with pytest.raises(BookError, match="3 arrays of features for 10 splits"):
        holdout.cross_validate([features(np.arange(60) % 2, 1)] * 3, np.arange(60) % 2, splits)


def test_outside_says_nothing_without_both_classes():
    y = np.r_[np.arange(40) % 2, np.zeros(5, int)]
    x = features(y, 2.0)
    assert holdout.outside(x, y, np.arange(40), np.arange(40, 45)) is None
    fit, test = np.arange(30), np.arange(30, 40)
    found = holdout.outside(x, y, fit, test)
    assert holdout.metric(found).value > 0.8
    other = holdout.outside(features(y, 0.0), y, fit, test)
    assert holdout.difference(found, other).difference.value > 0
