"""Training that is killed, runs out of disk, or finds its checkpoints damaged ends with the same weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training
from safetensors.torch import load_file

from helpers import io, store, train
from helpers.errors import BookError
from helpers.simulate import bold

KILLS = 24


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and "Traceback" not in text and len(text) < 500, text
    return text


def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path):
    script = Path(training.__file__)
    words = [sys.executable, str(script), str(tmp_path), str(KILLS), "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    rounds, kills, _ = map(int, done.stdout.split())
    assert kills >= KILLS >= 20
    expected, _ = training.fit(None)
    for k in range(rounds):
        found = load_file(tmp_path / f"{k}.safetensors")
        for name, value in expected.state_dict().items():
            assert torch.equal(found[name], value), f"round {k}: {name}"
        names = sorted(p.name for p in (tmp_path / str(k)).glob("epoch-*"))
        assert names == [f"epoch-{e:06d}.pt" for e in (training.EPOCHS - 1, training.EPOCHS)]


def test_a_full_disk_is_told_and_training_goes_on_when_there_is_room(disk):
    folder = disk.folder / "checkpoints"
    expected, history = training.fit(None, width=600)
    with pytest.raises(BookError, match="the disk is full") as caught:
        training.fit(folder, width=600)
    assert "epoch-" in one_line(caught.value)
    kept = sorted(p.name for p in folder.iterdir())
    assert kept and all(name.endswith(".pt") for name in kept), "no half-written file is left"
    disk.remount("size=8m")
    model, again = training.fit(folder, width=600, resume=True, seed=9)
    assert again.notes["resumed"] >= 1 and training.same(model, expected)
    assert again.frame.drop(columns="seconds").equals(history.frame.drop(columns="seconds"))


def test_a_read_only_folder_is_told_and_nothing_is_lost(disk):
    disk.remount("size=8m")
    folder = disk.folder / "checkpoints"
    training.fit(folder, epochs=2)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    disk.remount("ro")
    for resume in (False, True):
        with pytest.raises((BookError, OSError)) as caught:
            training.fit(folder, epochs=2 + resume, resume=resume)
        one_line(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    cohort = bold.cohort(4, n_frames=30, seed=0)
    with pytest.raises(BookError, match="Read-only"):
        cohort.save(disk.folder / "plain")
    with pytest.raises(BookError, match="read-only"):
        store.write(cohort, disk.folder / "mine.zarr")
    with pytest.raises(BookError, match="read-only"):
        io.write_json(disk.folder / "x.json", {})


def test_a_store_on_a_full_disk_leaves_nothing(disk):
    cohort = bold.cohort(60, n_frames=200, seed=0)
    with pytest.raises(BookError, match="the disk is full") as caught:
        store.write(cohort, disk.folder / "mine.zarr")
    assert "mine.zarr" in one_line(caught.value) and not list(disk.folder.iterdir())


@pytest.mark.parametrize("harm", ["half", "flipped", "empty"])
def test_a_corrupt_newest_checkpoint_is_passed_over_and_told(tmp_path, capsys, harm):
    expected, _ = training.fit(None, epochs=6)
    count = iter(range(1000))

    def stop(model, batch):
        if next(count) == 36:  # in the fifth epoch
            raise KeyboardInterrupt
        return training.step(model, batch)

    with pytest.raises(KeyboardInterrupt):
        model = training.Net()
        train.fit(
            model, training.data(), step=stop, after_step=training.follow, checkpoint=tmp_path, epochs=6,
            batch_size=8, lr=1e-2, device="cpu", log=False,
            validate=lambda m: -float((m.body(training.data()[0]) - training.data()[1]).pow(2).mean()),
        )  # fmt: skip
    newest = sorted(tmp_path.glob("epoch-*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 4
    newest.write_bytes({"half": content[: len(content) // 2], "flipped": content, "empty": b""}[harm])
    model, history = training.fit(tmp_path, epochs=6, resume=True, seed=3, log=True)
    assert f"{newest.name} is damaged: set aside" in capsys.readouterr().out
    assert history.notes["resumed"] == 3 and training.same(model, expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_truncated_during_training(tmp_path, workers):
    mine = store.write(bold.cohort(24, n_frames=60, seed=0), tmp_path / "mine.zarr", shard_bytes=150_000)
    windows = store.Windows(mine, length=40)
    shards = sorted(p for p in (tmp_path / "mine.zarr" / "bold" / "c").rglob("*") if p.is_file())
    assert len(shards) > 2
    shards[1].write_bytes(shards[1].read_bytes()[:-2000])
    model = torch.nn.Linear(100, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BookError, match=r"mine\.zarr cannot be read at subject") as caught:
        train.fit(
            model, windows, step=lambda m, b: m(b[0].mean(-1)).pow(2).mean(), epochs=1, batch_size=24,
            device="cpu", log=False, workers=workers,
        )  # fmt: skip
    assert "copy or write the store again" in one_line(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_data_that_changed_between_two_runs_are_refused(tmp_path):
    cohort = bold.cohort(6, n_frames=40, seed=0)
    first = store.write(cohort, tmp_path / "a.zarr").hash
    other = store.write(bold.cohort(6, n_frames=40, seed=1), tmp_path / "b.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "gone.zarr")
    (tmp_path / "b.zarr").rename(tmp_path / "a.zarr")
    with pytest.raises(BookError, match="has changed") as caught:
        store.Store(tmp_path / "a.zarr", expect=first)
    assert other.hash in one_line(caught.value)
    training.fit(tmp_path / "checkpoints", epochs=1)
    x, y = training.data()
    with pytest.raises(BookError, match="data checksum"):
        train.fit(
            training.Net(), (x + 1, y), step=training.step, after_step=training.follow, epochs=1,
            batch_size=8, lr=1e-2, device="cpu", log=False, checkpoint=tmp_path / "checkpoints", resume=True,
            validate=lambda m: float(np.float64(0)),
        )  # fmt: skip
