"""Two processes under the launcher: one is killed, all start again, and the result is that of one process."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import training
from tiny_book import CHAPTER, make_book

from helpers import records

ROOT = Path(__file__).resolve().parents[2]
WORK = f"""\
import os, signal, sys
sys.path.insert(0, {str(Path(training.__file__).parent)!r})
import torch
import training
from helpers import train
torch.set_num_threads(1)
killed = os.path.join(os.environ["BOOK_RUNS"], "killed")
def stop(model, i, n_steps):
    training.follow(model, i, n_steps)
    if verbose and os.environ.get("RANK") == "1" and i == 30 and not os.path.exists(killed):
        open(killed, "w").close()
        os.kill(os.getppid(), signal.SIGKILL)  # the process of this rank, as a machine that is gone
        os.kill(os.getpid(), signal.SIGKILL)
x, y = training.data()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(10, 24), torch.nn.ReLU(), torch.nn.Linear(24, 1))
model.body = torch.nn.ModuleList([model[0]] * 4 + [model[2]])  # where training.follow looks
model.target = torch.nn.Linear(24, 1).requires_grad_(False)
def step(model, batch):
    return (model[2](model[1](model[0](batch[0]))) - batch[1]).pow(2).mean()
history = train.fit(
    model, (x, y), step=step, after_step=stop, epochs=8, batch_size=8, lr=1e-2, device="cpu",
    checkpoint=run.checkpoint("fit"), resume=run.resume,
)
run.log(loss=history.frame["loss"].iloc[-1], resumed=history.notes.get("resumed", 0))
run.log(norm=float(sum(p.double().pow(2).sum() for p in model.parameters())))
"""


def by_one_process(folder: Path, monkeypatch) -> dict[str, float]:
    """The same cell without kernel and launcher; what it logs."""
    logged: dict[str, float] = {}
    monkeypatch.setenv("BOOK_RUNS", str(folder))
    stub = SimpleNamespace(checkpoint=lambda name: folder / name, resume=False, log=logged.update)
    exec(WORK, {"run": stub, "verbose": False})
    return logged


@pytest.mark.slow
def test_one_of_two_processes_is_killed_and_the_result_does_not_change(tmp_path, monkeypatch):
    signal.alarm(240)  # five starts of Python and four kernels; about 40 s on two quiet cores
    make_book(tmp_path, WORK)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "one_node.sh", tmp_path / "scripts")
    monkeypatch.chdir(tmp_path)
    alone = by_one_process(tmp_path / "alone", monkeypatch)

    environment = os.environ | {
        "BOOK_RUNS": str(tmp_path / "two"), "GPUS": "2", "RESTARTS": "1", "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = ["bash", "scripts/one_node.sh", CHAPTER, "-p", "verbose=true"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "two" / "killed").exists()
    folder = tmp_path / "two" / CHAPTER / "embedded"
    two = records.read(folder / "record.json")
    assert two.resumed and two.metrics["resumed"] == 3, "killed in the fourth epoch, three were kept"
    for name in ("loss", "norm"):
        assert two.metrics[name] == pytest.approx(alone[name], rel=1e-4), name
    assert len(re.findall(r"done in", done.stdout)) == 1, "rank 0 alone speaks"
    assert not list(folder.glob("*rank*")) and not (folder / "checkpoints").exists()
