"""io: a write happens whole or not at all, and says why not."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from helpers import io
from helpers.errors import BookError, MissingData


def test_atomic_write_makes_folders_and_leaves_no_temporary_file(tmp_path):
    file = io.atomic_write(tmp_path / "a" / "b.txt", "ä\n")
    assert file.read_bytes() == "ä\n".encode()
    assert os.listdir(file.parent) == ["b.txt"]


def test_an_exception_keeps_the_old_file_and_removes_the_new(tmp_path):
    file = io.atomic_write(tmp_path / "x", "old")
    with pytest.raises(RuntimeError, match="mine"), io.atomic(file) as temp:
        temp.write_text("half")
        raise RuntimeError("mine")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_killed_process_keeps_the_old_file(tmp_path):
    file = io.atomic_write(tmp_path / "weights.pt", "old")
    script = f"""
        import os, signal
        from helpers import io
        with io.atomic({str(file)!r}) as temp:
            temp.write_text("half of the ne")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    left = [path for path in tmp_path.iterdir() if path != file]
    assert len(left) == 1 and left[0].suffix == io.TEMP_SUFFIX, "a left-over must not look like a checkpoint"
    assert list(tmp_path.glob("*.pt")) == [file]


def test_np_savez_through_an_open_file(tmp_path):
    with io.atomic(tmp_path / "x.npz") as temp, open(temp, "wb") as file:
        np.savez(file, x=np.arange(3))
    assert np.load(tmp_path / "x.npz")["x"].tolist() == [0, 1, 2]


def test_full_disk_is_told_in_one_line_and_keeps_the_old_file(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    file = io.atomic_write(tmp_path / "x", "old")
    with pytest.raises(BookError, match=r"cannot write .*x: the disk is full.*BOOK_RUNS") as told:
        with io.atomic(file) as temp:
            temp.write_text("half")
            with open("/dev/full", "w") as full:
                full.write("rest")
    assert "\n" not in str(told.value)
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_full_disk_when_flushing(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(28, "No space left on device")

    file = io.atomic_write(tmp_path / "x", "old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BookError, match="disk is full"):
        io.atomic_write(file, "new")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("number, words", [(30, "read-only"), (13, "permission denied"), (122, "quota")])
def test_reasons_for_a_refused_write(tmp_path, monkeypatch, number, words):
    def replace(source, target):
        raise OSError(number, os.strerror(number), str(source))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(BookError, match=words):
        io.atomic_write(tmp_path / "x", "new")
    assert os.listdir(tmp_path) == []


def test_another_file_s_error_is_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError), io.atomic(tmp_path / "x"):
        open(tmp_path / "other")


def test_a_file_in_place_of_a_folder_and_the_other_way_round(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(BookError, match="a file"):
        io.atomic_write(tmp_path / "file" / "x", "")
    with pytest.raises(BookError, match="a file stands where a folder should be"):
        io.make_folder(tmp_path / "file")
    with pytest.raises(BookError, match="a folder stands"):
        io.atomic_write(tmp_path / "folder", "")


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert io.sha256(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")
    with pytest.raises(MissingData, match="no such file"):
        io.sha256(tmp_path / "y")


def test_json_refuses_nan_and_half_a_file(tmp_path):
    file = io.write_json(tmp_path / "x.json", {"b": 1, "a": [0.5, None]})
    assert io.read_json(file) == {"a": [0.5, None], "b": 1}
    with pytest.raises(BookError, match=r"x\.json"):
        io.write_json(file, {"a": float("nan")})
    file.write_text(file.read_text()[:10])
    with pytest.raises(BookError, match=r"x\.json is damaged or half-written"):
        io.read_json(file)
    with pytest.raises(MissingData):
        io.read_json(tmp_path / "none.json")


def test_tensors_come_back_equal_even_when_they_share_memory(tmp_path):
    weight = torch.randn(3, 4)
    kept = {"a": weight, "b": weight, "t": weight.T, "half": weight.bfloat16(), "array": np.ones(2)}
    back = io.load_tensors(io.save_tensors(kept, tmp_path / "w.safetensors", {"chapter": "03"}))
    assert set(back) == set(kept)
    for name, value in kept.items():
        torch.testing.assert_close(back[name], torch.as_tensor(value), rtol=0, atol=0)


def test_damaged_tensors_are_refused(tmp_path):
    file = io.save_tensors({"a": torch.ones(100)}, tmp_path / "w.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BookError, match=r"w\.safetensors is damaged"):
        io.load_tensors(file)
    with pytest.raises(MissingData):
        io.load_tensors(tmp_path / "none.safetensors")
