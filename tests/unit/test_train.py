"""helpers.train: what fit promises, each promise tried on a model that trains in milliseconds."""

import errno
import io
import math
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from helpers import train
from helpers.errors import BookError
from helpers.training.batches import Batches

torch.set_num_threads(1)


class Net(nn.Module):
    """Dropout and BatchNorm (randomness and buffers), a frozen EMA copy, as the chapters have."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.online = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
        )
        self.target = nn.Linear(8, 1).requires_grad_(False)

    def forward(self, x):
        return self.online(x)


def make_data(n=40, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return x, x[:, :1] - 0.5 * x[:, 1:2]


def noisy_step(model, batch):
    """Draws from all three global generators."""
    x, y = batch
    x = x + 0.01 * torch.randn(x.shape) + 0.01 * float(np.random.rand()) + 0.01 * random.random()  # noqa: NPY002
    error = model(x) - y
    return {"loss": error.pow(2).mean(), "mae": error.abs().mean()}


def plain_step(model, batch):
    x, y = batch
    return (model(x) - y).pow(2).mean()


def ema(model, i, n_steps):
    for mine, theirs in zip(model.target.parameters(), model.online[-1].parameters(), strict=True):
        mine.lerp_(theirs, 0.1)


def run(model=None, data=None, **kw):
    model = Net() if model is None else model
    settings = dict(
        step=noisy_step, epochs=5, batch_size=16, lr=1e-2, after_step=ema, log=False, device="cpu"
    )
    return model, train.fit(model, make_data() if data is None else data, **{**settings, **kw})


def assert_same(a, b):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def assert_same_history(a, b):
    assert a.frame.drop(columns="seconds").equals(b.frame.drop(columns="seconds"))


def linear():
    torch.manual_seed(0)
    return nn.Linear(6, 1)


# ---------------------------------------------------------------- the mathematics
@pytest.mark.parametrize("clip, kind", [(None, "norm"), (0.05, "norm"), (0.02, "value")])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_equals_a_loop_written_by_hand(clip, kind, schedule):
    x, y = make_data()
    model, history = run(
        linear(), step=plain_step, after_step=None, epochs=4, clip=clip, clip_kind=kind, schedule=schedule,
        warmup_epochs=1, weight_decay=0.1, betas=(0.8, 0.9),
    )  # fmt: skip
    mine = linear()
    optimiser = torch.optim.AdamW(mine.parameters(), lr=1e-2, weight_decay=0.1, betas=(0.8, 0.9))
    plan, i, n_steps, warm = Batches((x, y), 16, False, 0), 0, 12, 3
    for epoch in range(1, 5):
        losses = []
        for [(index, _)] in plan.plan(epoch):
            falling = 0.5 * (1 + math.cos(math.pi * (i - warm) / (n_steps - warm)))
            factor = (i + 1) / warm if i < warm else falling if schedule == "cosine" else 1.0
            optimiser.param_groups[0]["lr"] = 1e-2 * factor
            optimiser.zero_grad()
            loss = plain_step(mine, (x[index], y[index]))
            loss.backward()
            if clip and kind == "norm":
                nn.utils.clip_grad_norm_(mine.parameters(), clip)
            elif clip:
                nn.utils.clip_grad_value_(mine.parameters(), clip)
            optimiser.step()
            losses.append(loss.item() * len(index))
            i += 1
        assert history.frame.loss[epoch - 1] == pytest.approx(sum(losses) / 40, rel=1e-5)
        assert history.frame.lr[epoch - 1] == pytest.approx(1e-2 * factor)
    torch.testing.assert_close(model.weight, mine.weight, rtol=1e-5, atol=1e-7)


def test_the_warm_up_can_be_given_in_steps():
    by_epochs, _ = run(linear(), step=plain_step, after_step=None, warmup_epochs=2)
    by_steps, _ = run(linear(), step=plain_step, after_step=None, warmup_steps=6)
    assert_same(by_epochs, by_steps)


@pytest.mark.parametrize("pieces", [2, 3, 20])
def test_accumulation_does_not_change_the_result(pieces):
    one, a = run(linear(), step=plain_step, after_step=None)
    many, b = run(
        linear(), step=plain_step, after_step=None, accumulate=pieces
    )  # 40 = 16 + 16 + 8: uneven too
    torch.testing.assert_close(many.weight, one.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a.frame.loss, b.frame.loss, rtol=1e-5)


def test_each_group_keeps_its_own_learning_rate():
    model = Net()
    first, last = model.online[0], model.online[-1]
    before = first.weight.clone(), last.weight.clone()
    groups = [{"params": first.parameters(), "lr": 1e-9}, {"params": last.parameters()}]
    run(model, param_groups=groups)
    assert (first.weight - before[0]).abs().max() < 1e-6 < 1e-3 < (last.weight - before[1]).abs().max()


def test_after_step_gets_the_bare_model_and_the_count():
    seen = []
    model, _ = run(after_step=lambda m, i, n: seen.append((m, i, n, torch.is_grad_enabled())), epochs=2)
    assert all(m is model for m, *_ in seen)
    assert [tuple(s[1:]) for s in seen] == [(i, 6, False) for i in range(6)]


def test_the_forms_of_data_give_the_same_result():
    x, y = make_data()
    expected, _ = run(linear(), (x, y), step=plain_step, after_step=None)

    def of_dict(model, batch):
        return plain_step(model, (batch["x"], batch["y"]))

    class Listed(torch.utils.data.Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return x[i], y[i]

    assert_same(expected, run(linear(), {"x": x, "y": y}, step=of_dict, after_step=None)[0])
    assert_same(expected, run(linear(), Listed(), step=plain_step, after_step=None)[0])
    assert_same(expected, run(linear(), (x.numpy(), y.numpy()), step=plain_step, after_step=None)[0])
    alone, _ = run(linear(), x, step=lambda m, b: m(b).pow(2).mean(), after_step=None, epochs=1)
    assert not torch.equal(alone.weight, linear().weight)


def test_bf16_and_fp32_fits_in_one_process():
    seen = []

    def step(model, batch):
        seen.append(model(batch[0]).dtype)
        return plain_step(model, batch)

    for precision in ("bf16", "fp32", "bf16", "auto"):
        run(linear(), step=step, after_step=None, epochs=1, batch_size=40, precision=precision)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]


# ---------------------------------------------------------------- repeatable
def test_a_seed_gives_the_same_bits_and_another_seed_others():
    (a, ha), (b, hb), (c, _) = run(), run(), run(seed=1)
    assert_same(a, b)
    assert_same_history(ha, hb)
    assert not torch.equal(a.online[0].weight, c.online[0].weight)


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch, **kw):
        return torch.cat(
            [i for step in Batches(make_data(), 16, False, seed).plan(epoch, **kw) for i, _ in step]
        )

    torch.manual_seed(3)
    first = order(0, 2)
    torch.manual_seed(4)
    assert torch.equal(first, order(0, 2)) and sorted(first.tolist()) == list(range(40))
    assert not torch.equal(first, order(0, 3)) and not torch.equal(first, order(1, 2))
    shares = [set(order(0, 2, rank=r, world=2).tolist()) for r in (0, 1)]
    assert shares[0] | shares[1] == set(range(40)) and not shares[0] & shares[1]


def test_the_global_generators_are_left_alone():
    def draw():
        return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    model = Net()
    train.seed_everything(5)
    expected = draw()
    train.seed_everything(5)
    run(model, epochs=1)
    assert draw() == expected


# ---------------------------------------------------------------- checkpoints
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {here!r})
import test_train as t
torch_step = t.noisy_step
calls = 0
def step(model, batch):
    global calls
    calls += 1
    if calls == 8:  # the second of the third epoch's three steps
        os.kill(os.getpid(), signal.SIGKILL)
    return torch_step(model, batch)
t.run(step=step, checkpoint={folder!r})
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    expected, history = run()
    folder = tmp_path / "killed"
    script = SCRIPT.format(here=os.path.dirname(__file__), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-000001.pt", "epoch-000002.pt"]
    resumed, again = run(Net(seed=9), checkpoint=folder, resume=True)
    assert again.notes["resumed"] == 2
    assert_same(expected, resumed)
    assert_same_history(history, again)


def interrupted(folder, at=8, **kw):
    """Run until the ``at``-th step raises KeyboardInterrupt."""
    count = iter(range(1, 1000))

    def step(model, batch):
        if next(count) == at:
            raise KeyboardInterrupt
        return noisy_step(model, batch)

    with pytest.raises(KeyboardInterrupt):
        run(step=step, checkpoint=folder, **kw)


def score(model):
    x, y = make_data(20, seed=7)
    return -float(plain_step(model, (x, y)))


def test_an_interrupt_keeps_the_last_checkpoint_and_the_best_weights(tmp_path):
    kw = dict(validate=score, patience=4, epochs=8, lr=0.3)
    expected, history = run(**kw)
    interrupted(tmp_path, at=20, **kw)
    resumed, again = run(Net(seed=9), checkpoint=tmp_path, resume=True, **kw)
    assert_same(expected, resumed)
    assert_same_history(history, again)
    assert (again.best_epoch, again.stopped) == (history.best_epoch, history.stopped)


def test_a_finished_fit_is_loaded_and_not_trained_again(tmp_path):
    model, history = run(checkpoint=tmp_path, validate=score)

    def never(model, batch):
        raise AssertionError("trained again")

    loaded, again = run(Net(seed=9), checkpoint=tmp_path, validate=score, resume=True, step=never)
    assert_same(model, loaded)
    assert again.frame.equals(history.frame)
    assert again.best_epoch == history.best_epoch and again.steps == history.steps
    assert not loaded.training


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, capsys, harm):
    expected, _ = run()
    interrupted(tmp_path)
    newest = tmp_path / "epoch-000002.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[harm])
    resumed, history = run(Net(seed=9), checkpoint=tmp_path, resume=True, log=True)
    said = capsys.readouterr().out
    assert "epoch-000002.pt is damaged: set aside as epoch-000002.pt.corrupt" in said
    assert (tmp_path / "epoch-000002.pt.corrupt").exists() and history.notes["resumed"] == 1
    assert_same(expected, resumed)


def test_with_every_checkpoint_damaged_it_begins_again(tmp_path, capsys):
    expected, _ = run()
    interrupted(tmp_path)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"half")
    resumed, _ = run(checkpoint=tmp_path, resume=True, log=True)
    assert "no checkpoint to resume from: starting at the beginning" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.corrupt"))) == 2
    assert_same(expected, resumed)


def test_two_checkpoints_are_kept_and_plain_torch_reads_them(tmp_path):
    run(checkpoint=tmp_path, lr=np.float64(1e-2), epochs=np.int64(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-000004.pt", "epoch-000005.pt"]
    payload = torch.load(tmp_path / "epoch-000004.pt", weights_only=True)
    assert len(payload["rows"]) == 4 and "online.0.weight" in payload["model"]


def test_a_checkpoint_every_n_epochs(tmp_path):
    run(checkpoint=tmp_path, checkpoint_every=3, epochs=8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-000006.pt", "epoch-000008.pt"]


def test_without_resume_the_folder_is_cleared_of_checkpoints_only(tmp_path):
    run(checkpoint=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run(checkpoint=tmp_path, epochs=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-000001.pt", "notes.txt"]


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(batch_size=8), "batch_size is 16 there, 8 here"),
        (dict(lr=0.5), "lr is 0.01 there, 0.5 here"),
        (dict(data=make_data(44)), "examples is 40 there, 44 here"),
        (dict(data=make_data(40, seed=2)), "data checksum is"),
        (dict(model=linear(), after_step=None), "weight online.0.weight is unknown here"),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path, change, says):
    run(checkpoint=tmp_path, epochs=2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(BookError, match=r"belongs to another run.*") as caught:
        run(**{"epochs": 2, "checkpoint": tmp_path, "resume": True, **change})
    assert says in str(caught.value) and str(tmp_path) in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    expected, _ = run()
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if (tmp_path / "epoch-000002.pt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BookError, match=r"epoch-000003\.pt.*disk is full"):
        run(checkpoint=tmp_path)
    monkeypatch.undo()
    assert calls and sorted(p.name for p in tmp_path.iterdir()) == ["epoch-000001.pt", "epoch-000002.pt"]
    resumed, history = run(Net(seed=9), checkpoint=tmp_path, resume=True)
    assert history.notes["resumed"] == 2
    assert_same(expected, resumed)


# ---------------------------------------------------------------- validation
def test_the_best_weights_come_back_and_patience_stops():
    values, states = iter([0.0, 0.1, 0.5, 0.5, 0.4, 0.3, 0.9]), []

    def judge(model):
        assert not model.training and not torch.is_grad_enabled()
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(values)

    model, history = run(epochs=20, validate=judge, patience=3)
    assert history.stopped and history.best_epoch == 2 and len(history.frame) == 5
    assert history.notes["validate_before"] == 0.0
    assert history.frame.validate.tolist() == [0.1, 0.5, 0.5, 0.4, 0.3]
    assert all(torch.equal(v, states[2][k]) for k, v in model.state_dict().items())
    assert not torch.equal(states[2]["online.0.weight"], states[-1]["online.0.weight"])


def test_validation_does_not_disturb_training():
    quiet, _ = run()

    def loud(model):
        torch.rand(7), np.random.rand(3)  # noqa: NPY002
        return loud.value

    loud.value = 0.0

    def rising(model):
        loud.value += 1
        return loud(model)

    judged, _ = run(validate=rising)
    assert_same(quiet, judged)


# ---------------------------------------------------------------- errors
def test_a_nan_loss_is_named_before_the_weights_change():
    model, states = Net(), []

    def step(model, batch):
        states.append([p.detach().clone() for p in model.parameters()])
        out = noisy_step(model, batch)
        bad = torch.tensor(float("nan") if len(states) == 5 else 0.0)
        return {"loss": out["loss"] + bad, "align": out["loss"], "mask": bad}

    with pytest.raises(
        BookError, match=r"pre stopped in epoch 2, step 2: loss is nan, .*mask is nan"
    ) as caught:
        run(model, step=step, label="pre")
    assert "align" not in str(caught.value)
    assert len(states) == 5
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), states[-1], strict=True))


def test_a_gradient_that_is_not_finite_is_caught():
    model = linear()
    with pytest.raises(BookError, match=r"epoch 1, step 1: gradient norm is (nan|inf)"):
        run(model, step=lambda m, b: (m(b[0]) * 0).abs().sqrt().sum(), after_step=None)
    assert_same(model, linear())


BAD = [
    (dict(data=(torch.zeros(0, 6), torch.zeros(0, 1))), "empty"),
    (dict(data=(torch.zeros(4, 6), torch.zeros(5, 1))), "equally long"),
    (dict(data=iter([])), "map-style Dataset"),
    (dict(batch_size=64, drop_last=True), "batch_size 64 is larger than the 40 examples"),
    (dict(batch_size=0), "batch_size is 0"),
    (dict(epochs=0), "epochs is 0"),
    (dict(epochs=1.5), "epochs is 1.5"),
    (dict(patience=0), "patience is 0"),
    (dict(patience=3), "patience needs validate"),
    (dict(lr=-1.0), "lr is -1.0"),
    (dict(lr=float("nan")), "lr is nan"),
    (dict(clip=0.0), "clip is 0.0"),
    (dict(clip_kind="max"), "clip_kind is 'max'"),
    (dict(schedule="linear"), "schedule is 'linear'"),
    (dict(warmup_epochs=6), "warm-up takes 18 of 15 steps"),
    (dict(checkpoint_every=0, checkpoint="unused"), "checkpoint_every is 0"),
    (dict(device="tpu"), "device 'tpu' is unknown"),
    (dict(precision="fp8"), "precision 'fp8' is unknown"),
    (dict(seed=-1), "seed is -1"),
    (dict(validate=lambda m: float("nan")), "validate returned nan"),
    (dict(validate=lambda m: "good"), "validate returned 'good'"),
    (dict(step=lambda m, b: 1.0), "step must return a single number"),
    (dict(step=lambda m, b: {"mse": m(b[0]).mean()}), "step must return a single number"),
    (dict(step=lambda m, b: m(b[0])), "step must return a single number"),
    (dict(step=lambda m, b: {"loss": m(b[0]).mean(), "epoch": 1}), "step returned 'epoch'"),
    (dict(step=lambda m, b: {"loss": m(b[0]).mean(), "all": m(b[0])}), "step returned 'all'"),
]


@pytest.mark.parametrize("kw, says", BAD, ids=[says for _, says in BAD])
def test_what_cannot_work_is_refused_before_training(kw, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Net()
    with pytest.raises(BookError) as caught:
        run(model, **kw)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert_same_weights(model, Net())
    assert not list(tmp_path.rglob("*.pt"))


def assert_same_weights(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_parameters_that_cannot_be_trained_are_refused():
    frozen = linear().requires_grad_(False)
    with pytest.raises(BookError, match="nothing to train"):
        run(frozen, step=plain_step, after_step=None)
    model = linear()
    with pytest.raises(BookError, match="param_groups holds weight twice"):
        groups = [{"params": [model.weight]}, {"params": [model.bias, model.weight]}]
        run(model, param_groups=groups)
    with pytest.raises(BookError, match=r"shape \(3,\) that is not in the model"):
        run(model, param_groups=[{"params": [nn.Parameter(torch.zeros(3))]}])


# ---------------------------------------------------------------- what is worth a note
def test_frozen_unused_and_left_out_parameters(capsys):
    model = Net()
    model.spare = nn.Linear(2, 2)
    before = model.target.weight.clone()
    chosen = [p for k, p in model.named_parameters() if k != "online.0.bias"]
    _, history = run(model, param_groups=[{"params": chosen}], after_step=None, log=True, label="pre")
    said = capsys.readouterr().out
    assert history.notes["unused"] == ["spare.weight", "spare.bias"]
    assert history.notes["not_optimised"] == ["online.0.bias"]
    assert said.count("no gradient in the first epoch: 2 trainable tensors (spare.weight, spare.bias)") == 1
    assert said.count("not in the optimiser: 1 trainable tensors (online.0.bias)") == 1
    assert torch.equal(model.target.weight, before) and model.target.weight.grad is None


@pytest.mark.parametrize("epochs", [1, 4, 100])
def test_the_log_is_short_and_plain(capsys, epochs):
    run(epochs=epochs, batch_size=40, log=True, label="probe", validate=score)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and "\x1b" not in out and "\r" not in out
    assert min(epochs, 8) <= len(lines) <= 10
    assert lines[0].startswith(f"probe: epoch {'1':>{len(str(epochs))}}/{epochs}  loss ")
    assert f"epoch {epochs}/{epochs}" in lines[-2]
    for word in ("mae", "validate", "lr", " s"):
        assert word in lines[0]
    run(epochs=2, log=False)
    assert capsys.readouterr() == ("", "")


def test_the_history_reads_well():
    _, history = run(validate=score)
    assert list(history.frame) == ["epoch", "lr", "loss", "mae", "validate", "seconds"]
    assert history.frame.epoch.tolist() == [1, 2, 3, 4, 5]
    assert history.steps == 15 and history.steps_per_second == 15 / history.frame.seconds.sum()
    assert "\n" not in repr(history) and "15 steps" in repr(history)


# ---------------------------------------------------------------- small helpers
def test_weights_go_to_disk_and_back(tmp_path):
    model, other = Net(0), Net(1)
    train.save_weights(model, tmp_path / "w.safetensors")
    assert_same(train.load_weights(other, tmp_path / "w.safetensors"), model)


def test_weights_of_another_model_change_nothing(tmp_path):
    train.save_weights(Net(0), tmp_path / "w.safetensors")
    wider = Net(1)
    wider.target = nn.Linear(9, 1)
    wider.extra = nn.Linear(1, 1)
    before = {k: v.clone() for k, v in wider.state_dict().items()}
    with pytest.raises(BookError, match="does not fit this Net") as caught:
        train.load_weights(wider, tmp_path / "w.safetensors")
    for part in ("extra.weight is missing there", "target.weight is [1, 8] there, [1, 9] here"):
        assert part in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in wider.state_dict().items())


def test_devices_threads_and_counts(monkeypatch):
    assert train.pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BookError, match="'cuda' is not available"):
        train.pick_device("cuda")
    assert "\n" not in train.describe_device("cpu") and train.describe_device("cpu").endswith(
        "1 thread, fp32"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert train.set_threads() == 1 == torch.get_num_threads()
    with pytest.raises(BookError, match="threads is 0"):
        train.set_threads(0)
    assert train.n_parameters(nn.Linear(6, 1)) == 7
    assert train.n_parameters(Net(), trainable=True) == train.n_parameters(Net()) - 9


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    run(log=True, label="pre", validate=score)
    assert "5/5" in err.getvalue() and "\r" in err.getvalue()
    assert out.getvalue().count("pre: kept the weights of epoch") == 1
    assert "epoch 1/5" not in out.getvalue()
