"""Two processes under torchrun train as one: same losses, same weights, one log, one set of checkpoints."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file

SCRIPT = """
import json, os, sys
import torch
from torch import nn
from helpers import train

torch.set_num_threads(1)
out = sys.argv[1]
rank = int(os.environ.get("RANK", 0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(rank)  # DDP hands out the main process's weights
        self.body, self.head, self.spare = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(2, 2)
        self.target = nn.Linear(8, 1).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def errors(self, batch):  # a method besides forward, called twice: step sees the bare model
        x, y = batch
        self.seen += len(x)
        return self.head(torch.tanh(self.body(x))) - y


def step(model, batch):
    half = (batch[0] * 0.5, batch[1])
    return {"loss": model.errors(batch).pow(2).mean() + model.errors(half).pow(2).mean(), "one": 1.0}


def ema(model, i, n_steps):
    model.target.weight.lerp_(model.head.weight, 0.1)


g = torch.Generator().manual_seed(0)
x = torch.randn(27, 6, generator=g)  # batches of 8, 8, 8 and 3: uneven, and with 4 pieces one is empty
data = x, x[:, :1]
model, losses = Net(), []
for name, more in (("first", {}), ("again", dict(accumulate=2, clip=0.1))):  # the same model, fitted twice
    h = train.fit(model, data, step=step, epochs=3, batch_size=8, lr=1e-2, after_step=ema, device="cpu",
                  label=name, checkpoint=f"{out}/{name}",
                  validate=lambda m: -float(m.errors(data).pow(2).mean()), **more)
    losses += h.frame.loss.tolist() + h.frame.validate.tolist()
    assert h.notes["unused"] == ["spare.weight", "spare.bias"], h.notes
    resumed = train.fit(Net(), data, step=step, epochs=3, batch_size=8, lr=1e-2, device="cpu", label=name,
                        checkpoint=f"{out}/{name}", resume=True, log=False, **more)
    same = resumed.frame.drop(columns="seconds").equals(h.frame.drop(columns="seconds"))
    assert resumed.notes["resumed"] == 3 and same
train.save_weights(model, f"{out}/rank{rank}.safetensors")
if rank == 0:
    json.dump(losses, open(f"{out}/losses.json", "w"))

x[0] = float("nan")  # one example, so one process; both must stop, and alike
try:
    train.fit(Net(), (x, data[1]), step=step, epochs=1, batch_size=27, device="cpu", log=False)
except ValueError as error:
    open(f"{out}/error{rank}", "w").write(str(error))
"""


def test_two_processes_train_as_one(tmp_path, monkeypatch, capsys):
    script, one, two = tmp_path / "script.py", tmp_path / "one", tmp_path / "two"
    script.write_text(SCRIPT)
    one.mkdir()
    two.mkdir()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", [str(script), str(one)])
    runpy.run_path(str(script))
    said_once = capsys.readouterr().out

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(script), str(two)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr, done.stderr

    def heads(text):  # without losses and times
        return [line.split("  loss")[0].split(" (validate")[0] for line in text.splitlines()]

    assert heads(done.stdout) == heads(said_once) and len(heads(said_once)) == 10
    losses = [json.loads((out / "losses.json").read_text()) for out in (one, two)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    alone, main, other = (load_file(p) for p in (one / "rank0.safetensors", *sorted(two.glob("rank*"))))
    for name in alone:
        assert torch.equal(main[name], other[name]), name
        if name != "seen":  # a count of what a process has seen
            torch.testing.assert_close(main[name], alone[name], rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in (two / "first").iterdir()) == ["epoch-000002.pt", "epoch-000003.pt"]
    for error in (one / "error0", two / "error0", two / "error1"):
        assert error.read_text().startswith("training stopped in epoch 1, step 1: loss is nan")
