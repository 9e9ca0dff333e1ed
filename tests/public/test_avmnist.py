"""The recordings and MNIST's digits themselves: needs the files under BOOK_DATA, downloads nothing."""

import os

import numpy as np
import pytest

from helpers.data import avmnist
from helpers.paths import data_root

pytestmark = [
    pytest.mark.public,
    pytest.mark.skipif(
        "BOOK_DATA" not in os.environ
        or not (data_root() / "fsdd" / "9_theo_49.wav").is_file()
        or not (data_root() / "mnist" / "t10k-images-idx3-ubyte.gz").is_file(),
        reason="BOOK_DATA holds no spoken digits or no MNIST",
    ),
]


@pytest.fixture(scope="module")
def pairs():
    return avmnist.load()


def test_sizes_and_pairing(pairs):
    assert len(pairs.train) == 1050 and len(pairs.test) == 450
    table = pairs.table
    assert table["recording"].is_unique and table["image"].is_unique
    first = table[(table["split"] == "train") & (table["digit"] == 3)].iloc[0]
    assert first["recording"] == "3_jackson_15.wav" and first["image"] == 1020
    assert table[table["split"] == "test"].iloc[0]["recording"] == "0_jackson_0.wav"
    assert table.groupby(["split", "speaker"]).size().tolist() == [150] * 3 + [350] * 3


def test_what_the_notes_measured_about_the_published_mfcc(pairs):
    published = pairs.mfcc("published")
    assert int((published[:, :, 3:] == 0).all(axis=(1, 2)).sum()) == 1333
    assert (published == 0).all(axis=1).mean() == pytest.approx(0.865, abs=0.001)
    assert np.isfinite(pairs.mfcc("corrected")).all()


def test_the_same_every_time(pairs):
    assert avmnist.load().hash == pairs.hash and len(pairs.provenance.sha256) == 1502
