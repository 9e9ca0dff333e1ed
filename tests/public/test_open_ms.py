"""Three patients of the open MS data: needs the files under BOOK_DATA, downloads nothing."""

import os

import numpy as np
import pytest

from helpers.data import open_ms
from helpers.paths import data_root

pytestmark = [
    pytest.mark.public,
    pytest.mark.skipif(
        "BOOK_DATA" not in os.environ
        or not all((data_root() / "open_ms" / p).is_dir() for p in open_ms.patients()),
        reason="BOOK_DATA holds no open MS data",
    ),
]


@pytest.fixture(scope="module")
def volumes():
    return open_ms.load()


def test_slices_with_lesions(volumes):
    assert volumes.images.shape == (71, 4, 96, 96) and volumes.n_subjects == 3
    assert volumes.labels.astype(bool).any(axis=(1, 2)).all() and set(np.unique(volumes.labels)) == {0, 1}
    assert not volumes.labels[~volumes.mask].any() and len(volumes.provenance.sha256) == 15
    train, test = volumes.leave_out("patient19")
    assert set(train.people) == {"patient07", "patient26"} and test.people == ["patient19"]


def test_what_the_contrasts_show(volumes):
    """Lesions are bright on FLAIR and T2 and dark on T1."""
    z = volumes.normalise("robust")
    lesion = z.targets()[:, 0]
    assert np.median(z.contrast("FLAIR")[lesion]) > 0.8 and np.median(z.contrast("T2w")[lesion]) > 0.3
    assert np.median(z.contrast("T1w")[lesion]) < 0
    rows = np.flatnonzero(z.mask[40].any(axis=1))
    assert rows[-1] - rows[0] >= 60  # 2 mm pixels, anterior to posterior
    assert np.abs(z.images).max() <= 5


def test_other_choices():
    every = open_ms.load(1, slices=8, size=112, factor=2, lesions_only=False)
    assert every.images.shape == (8, 4, 112, 112) and every.participants["z"].is_monotonic_increasing
    unit = every.normalise("unit").check(divisor=16, low=-1, high=1)
    assert unit.images.min() == -1


def test_one_file_verified_by_its_git_blob_id():
    row = next(open_ms._table().itertuples())
    known = open_ms._table().query("sha256 != ''").iloc[0]
    path = data_root() / "open_ms" / known["patient"] / open_ms.FILES[known["image"]]
    assert open_ms.git_blob_sha1(path) == known["git_blob_sha1"] and row.patient == "patient01"
