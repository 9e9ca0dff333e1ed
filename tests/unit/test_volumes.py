"""Volumes: the border, choosing, scaling, identity."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers import evaluate, records
from helpers.data.cohort import Provenance
from helpers.data.volumes import Volumes
from helpers.errors import BookError


def parts(S=6, M=3, space=(8, 10)):
    rng = np.random.default_rng(0)
    mask = np.zeros((S, *space), dtype=bool)
    mask[(slice(None), *[slice(2, -2)] * len(space))] = True
    images = rng.uniform(0.5, 3.0, (S, M, *space)).astype(np.float32) * mask[:, None]
    labels = rng.choice([0, 1, 2, 4], (S, *space)) * mask
    people = pd.DataFrame({"participant_id": [f"p{s // 2}" for s in range(S)], "slice": [0, 1] * (S // 2)})
    return {
        "images": images,
        "labels": labels,
        "contrasts": ("FLAIR", "T1w", "T1ce", "T2w")[:M],
        "participants": people,
        "provenance": Provenance("test", "made up", "none", "none"),
        "spacing": (2.0,) * len(space),
    }


@pytest.fixture
def volumes():
    return Volumes.validate(**parts())


def test_what_is_in(volumes):
    assert len(volumes) == 6 and volumes.n_subjects == 3 and volumes.people == ["p0", "p1", "p2"]
    assert volumes.images.dtype == np.float32 and volumes.labels.dtype == np.uint8
    assert volumes.mask.mean() == pytest.approx(4 * 6 / 80) and volumes.available.all()
    assert volumes.space == (8, 10) and "p0" not in repr(volumes)
    np.testing.assert_array_equal(volumes.contrast("T1w"), volumes.images[:, 1])
    three = Volumes.validate(**parts(space=(6, 8, 10)))
    assert three.space == (6, 8, 10) and len(three.spacing) == 3
    assert three.summary().columns[1] == "median cm3"


def test_regions_nest(volumes):
    ET, TC, WT = volumes.targets().swapaxes(0, 1)
    assert (ET <= TC).all() and (TC <= WT).all()
    np.testing.assert_array_equal(ET, volumes.labels == 4)
    np.testing.assert_array_equal(WT, volumes.labels > 0)
    again = np.where(ET, 4, np.where(TC, 1, np.where(WT, 2, 0)))  # the round trip of labels
    np.testing.assert_array_equal(again, volumes.labels)


def test_a_record_counts_people_not_slices(volumes):
    entry = records._describe_data(volumes)
    assert entry["n_subjects"] == 3 and entry["hash"] == volumes.hash and entry["name"] == "test"


def test_the_hash_sees_every_part(volumes):
    def changed(**new):
        return replace(volumes, **new).hash

    images, labels, mask = volumes.images.copy(), volumes.labels.copy(), volumes.mask.copy()
    images[0, 0, 4, 4] += 1e-3
    labels[0, 4, 4] = 4 - labels[0, 4, 4] % 2
    mask[0, 0, 0] = True
    others = volumes.participants.assign(slice=[5, 1, 0, 1, 0, 1])
    hashes = [volumes.hash, changed(images=images), changed(labels=labels), changed(mask=mask)]
    hashes += [changed(participants=others), changed(contrasts=("FLAIR", "T1w", "T2w"))]
    assert len(set(hashes)) == 6 and Volumes.validate(**parts()).hash == volumes.hash


def test_select_takes_all_parts_along(volumes):
    some = replace(volumes, extras={"x": np.arange(6)}).select([4, 1])
    np.testing.assert_array_equal(some.images, volumes.images[[4, 1]])
    np.testing.assert_array_equal(some.labels, volumes.labels[[4, 1]])
    assert some.ids.tolist() == ["p2", "p0"] and some.extras["x"].tolist() == [4, 1]
    assert volumes.select(volumes.ids == "p1").ids.tolist() == ["p1", "p1"]


def test_splits_are_by_person(volumes):
    train, test = volumes.split(2, 1, seed=3)
    assert len(train) == 4 and len(test) == 2 and not set(train.people) & set(test.people)
    assert [v.hash for v in volumes.split(2, 1, seed=3)] == [train.hash, test.hash]
    others, out = volumes.leave_out("p1")
    assert out.people == ["p1"] and others.people == ["p0", "p2"]
    for split in evaluate.splits(volumes.participants, n_splits=3, n_repeats=1, stratify=()):
        assert not set(volumes.ids[split.train]) & set(volumes.ids[split.test])


def test_pick_reorders_contrasts(volumes):
    two = volumes.pick("T1ce", "FLAIR")
    np.testing.assert_array_equal(two.images, volumes.images[:, [2, 0]])
    assert two.contrasts == ("T1ce", "FLAIR")


def test_missing_contrasts_are_nan(volumes):
    missing = np.zeros((6, 3), dtype=bool)
    missing[2:4, 1] = True
    few = volumes.without(missing)
    assert np.isnan(few.images[2:4, 1]).all() and np.isfinite(few.images[:, [0, 2]]).all()
    np.testing.assert_array_equal(few.available, ~missing)
    assert np.isfinite(volumes.images).all(), "the original is left alone"
    np.testing.assert_array_equal(
        volumes.without(np.array([True, False, False])).available[:, 0], np.zeros(6, bool)
    )
    scaled = few.normalise()
    assert np.isnan(scaled.images[2:4, 1]).all() and np.isfinite(scaled.images[:2]).all()
    given = parts()
    given["images"][0, 2] = np.nan
    assert not Volumes.validate(**given).available[0, 2]


def test_zscore_inside_the_brain_per_person(volumes):
    z = volumes.normalise("zscore")
    for person in z.people:
        rows = z.ids == person
        for m in range(3):
            x = z.images[rows, m][z.mask[rows]]
            assert abs(x.mean()) < 1e-5 and abs(x.std() - 1) < 1e-4
    assert (z.images[:, 0][~z.mask] == 0).all() and z.scaling == "zscore"
    alone = volumes.of(["p1"]).normalise("zscore")  # nothing leaks from other people
    np.testing.assert_array_equal(alone.images, z.of(["p1"]).images)


def test_robust_scaling_does_not_mind_an_outlier(volumes):
    images = volumes.images.copy()
    images[0, 0, 4, 4] = 1e4
    r, clean = replace(volumes, images=images).normalise("robust"), volumes.normalise("robust")
    assert r.images[0, 0, 4, 4] == 5 and np.median(np.abs(r.images - clean.images)) < 0.1
    x = clean.images[:2, 1][clean.mask[:2]]
    assert np.percentile(x, 75) - np.percentile(x, 25) == pytest.approx(1.349, rel=1e-3)


def test_unit_scaling(volumes):
    u = volumes.normalise("unit")
    assert u.images.min() == -1 and u.images.max() == 1
    assert (u.images[:, 0][~u.mask] == -1).all()
    assert u.check(divisor=2, low=-1, high=1) is u
    x, y = volumes.images[0, 0][volumes.mask[0]], u.images[0, 0][u.mask[0]]
    assert (np.argsort(x, stable=True) == np.argsort(y, stable=True)).mean() > 0.9


def bad(change):
    given = parts()
    change(given)
    return lambda: Volumes.validate(**given)


def cut_image(g):
    g["images"] = [*g["images"][:5], g["images"][5][:, :-1]]


def label_three(g):
    g["labels"][4, 4, 4] = 3


def nan_pixel(g):
    g["images"][1, 2, 4, 4] = np.nan


def no_contrast(g):
    g["images"][3] = np.nan


def empty_brain(g):
    g["images"][2] = 0


def twice(g):
    g["participants"]["slice"] = 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut_image, "images of row 5 have shape (3, 7, 10), those of row 0 (3, 8, 10)"),
        (lambda g: g.update(labels=g["labels"][:, :-1]), "labels have shape (6, 7, 10)"),
        (label_three, "labels hold 3 in p2 slice 0: allowed are 0, 1, 2, 4"),
        (nan_pixel, "NaN or infinite values in T1ce of p0 slice 1"),
        (no_contrast, "no contrast is available for p1"),
        (empty_brain, "no brain in p1 slice 0"),
        (twice, "p0 slice 0 appears twice"),
        (lambda g: g.update(contrasts=("T1w", "T1w", "T2w")), "give distinct names"),
        (lambda g: g.update(contrasts=("T1w",)), "1 contrasts (T1w) for images with 3"),
        (lambda g: g.update(images=g["images"][0]), "expected (S, M, H, W)"),
        (lambda g: g.update(mask=np.ones((6, 8, 9), bool)), "mask is bool (6, 8, 9)"),
        (lambda g: g.update(available=np.ones((6, 4), bool)), "available is bool (6, 4)"),
        (lambda g: g.update(spacing=(1.0, 0.0)), "positive numbers"),
        (lambda g: g.update(participants=g["participants"].drop(columns="slice")), "lacks the column slice"),
        (lambda g: g.update(participants=g["participants"][:4]), "has 4 rows, images 6"),
    ],
)
def test_bad_data_are_refused(change, says):
    with pytest.raises(BookError) as error:
        bad(change)()
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda v: v.contrast("T9"), "unknown contrast 'T9': choose from FLAIR, T1w, T1ce"),
        (lambda v: v.pick("FLAIR", "FLAIR"), "distinct contrasts"),
        (lambda v: v.select([]), "0 of 6 rows"),
        (lambda v: v.select([9]), "out of bounds"),
        (lambda v: v.select([1, 1]), "twice"),
        (lambda v: v.of(["nobody"]), "unknown participant nobody"),
        (lambda v: v.split(2, 2), "groups of 2, 2 asked of 3"),
        (lambda v: v.leave_out("p0", "p1", "p2"), "nobody is left"),
        (lambda v: v.without(np.zeros(4, bool)), "it takes bool of (3,)"),
        (lambda v: v.without(np.ones(3, bool)), "no contrast is available"),
        (lambda v: v.normalise("minmax"), "not one of zscore, robust, unit"),
        (lambda v: v.normalise().normalise(), "scaled already"),
        (lambda v: v.check(low=-1, high=1), "leaves [-1, 1]"),
        (lambda v: v.check(divisor=16), "8 is not divisible by 16"),
        (lambda v: replace(v, images=np.ones_like(v.images)).normalise(), "one value only"),
    ],
)
def test_bad_questions_are_refused(volumes, call, says):
    with pytest.raises(BookError) as error:
        call(volumes)
    assert says in str(error.value) and "\n" not in str(error.value)
