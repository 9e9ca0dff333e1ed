"""ABIDE itself: needs the files under BOOK_DATA, downloads nothing."""

from __future__ import annotations

import os

import numpy as np
import pytest

from helpers import connectivity, evaluate
from helpers.data import abide, load_cohort
from helpers.paths import data_root

pytestmark = [
    pytest.mark.public,
    pytest.mark.skipif(
        "BOOK_DATA" not in os.environ
        or not (data_root() / "nilearn" / "ABIDE_pcp" / abide.PHENOTYPES).is_file(),
        reason="BOOK_DATA holds no ABIDE",
    ),
]


@pytest.fixture(scope="module")
def cohort():
    before = os.environ.get("BOOK_DATA")
    made = load_cohort("public")
    assert os.environ.get("BOOK_DATA") == before
    return made


@pytest.fixture(scope="module")
def features(cohort):
    return connectivity.fisher_z(connectivity.upper(connectivity.fc(cohort)))


def test_the_140_in_our_order(cohort):
    assert len(cohort) == 140 and cohort.n_regions == 200
    assert cohort.ids.tolist() == [f"sub-{i:07d}" for i in abide.subjects()["SUB_ID"]]
    counts = cohort.participants.groupby(["site", "group"]).size()
    assert counts.to_dict() == {
        (site, group): n
        for site, n in (("NYU", 30), ("PITT", 10), ("UM_1", 15), ("USM", 15))
        for group in ("control", "patient")
    }
    assert (cohort.n_frames.min(), cohort.n_frames.max()) == (176, 296)
    assert set(cohort.tr[cohort.participants["site"] == "PITT"]) == {1.5} and set(cohort.tr) == {1.5, 2.0}
    assert (cohort.participants["sex"] == "F").sum() == 13
    assert cohort.participants["mean_fd"].between(0, 1).all()


def test_series_are_those_of_the_file(cohort):
    row = abide.subjects().iloc[77]
    folder = data_root() / "nilearn" / "ABIDE_pcp" / "cpac" / "filt_global"
    x = np.loadtxt(folder / f"{row.FILE_ID}_rois_cc200.1D").T
    np.testing.assert_allclose(cohort.series(77), x, rtol=1e-6, atol=1e-6)
    assert cohort.participants.loc[77, "site"] == row.SITE_ID


def test_repairs_count_the_regions_that_do_not_vary(cohort):
    flat = sum((np.ptp(cohort.series(s), axis=1) == 0).sum() for s in range(len(cohort)))
    assert len(cohort.repairs) == flat


def test_a_second_load_computes_no_hash(cohort, monkeypatch):
    def never(path):
        raise AssertionError(f"{path} was hashed again")

    monkeypatch.setattr("helpers.io.sha256", never)
    assert abide.load(8).ids.tolist() == abide.load(8).ids.tolist()


def test_fewer_people_are_balanced(cohort):
    part = abide.load(28)
    assert part.participants.groupby(["site", "group"]).size().tolist() == [6, 6, 2, 2, 3, 3, 3, 3]
    assert set(part.ids) < set(cohort.ids)


def test_coordinates_are_in_the_order_of_the_columns(features):
    """Regions far apart are less connected, mirrored ones strongly: only so if centres and columns match."""
    mean = np.tanh(features.mean(axis=0))
    coords = abide.atlas().coords.astype(float)
    distance = np.linalg.norm(coords[:, None] - coords, axis=-1)
    assert np.corrcoef(mean, connectivity.upper(distance))[0, 1] < -0.3
    mirrored = np.linalg.norm(coords[:, None] * [-1, 1, 1] - coords, axis=-1).argmin(axis=1)
    lateral = np.abs(coords[:, 0]) > 15
    assert connectivity.from_upper(mean, 200)[np.arange(200), mirrored][lateral].mean() > 0.35


def test_statistics_known_from_elsewhere(cohort, features):
    assert 0.33 < connectivity.upper(np.corrcoef(features)).mean() < 0.43
    splits = evaluate.splits(cohort.participants, n_splits=5, n_repeats=4, seed=0)
    model = evaluate.linear_probe("svm", C=1.0)
    group = cohort.participants["group"].to_numpy(str)
    estimate = evaluate.auc(evaluate.cross_validate(model, features, group, splits))
    assert 0.63 < estimate.value < 0.83  # 0.73 +- 0.10 on these 140
