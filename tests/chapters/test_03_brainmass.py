"""The invariants of BrainMass, on the classes of the notebook itself."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from helpers import chapters, train

WEIGHTS = dict(align=1.0, classify=0.1, reconstruct=2.0)
SIZE = dict(D=20, d_ff=32, d_embed=16, depth=2, n_heads=5, weights=WEIGHTS)


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("03_brainmass")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def scans(B=6, R=20, T=40):
    return torch.randn(B, R, T), torch.full((B,), T)


# ------------------------------------------------------------------------------------------------- pseudo-FC


@pytest.mark.parametrize("kind", ["points", "block", "window"])
@pytest.mark.parametrize("q", [0.0, 0.1, 0.2, 0.55, 0.9])
def test_keeps_exactly_the_promised_frames(chapter, kind, q):
    n = torch.tensor([250, 100, 37])
    keep = chapter.keep_frames(n, 250, drop_rate=q, kind=kind)
    wanted = [m - int(np.floor(round(q * m, 6))) for m in n.tolist()]
    assert keep.sum(-1).tolist() == wanted
    assert not (keep & (torch.arange(250) >= n[:, None])).any(), "a frame after the end of a scan was kept"


def test_a_window_is_contiguous_and_a_block_is_a_hole(chapter):
    n = torch.full((50,), 60)
    window = chapter.keep_frames(n, 60, drop_rate=0.5, kind="window").int()
    block = chapter.keep_frames(n, 60, drop_rate=0.5, kind="block").int()
    assert (window.diff(dim=1) == 1).sum(1).max() <= 1 and (window.diff(dim=1) == -1).sum(1).max() <= 1
    hole = 1 - block
    assert (hole.diff(dim=1) == 1).sum(1).max() <= 1 and hole.sum(1).unique().tolist() == [30]


@pytest.mark.parametrize("q, n", [(0.53, 100), (0.65, 180), (0.78, 150), (0.1, 250)])
def test_rounding_never_costs_a_frame(chapter, q, n):
    keep = chapter.keep_frames(torch.tensor([n]), n, drop_rate=q)
    assert keep.sum().item() == n - round(q * n)  # q * n is a whole number here


def test_two_draws_differ_and_a_seed_repeats_them(chapter):
    n = torch.full((4,), 50)
    a, b = (chapter.keep_frames(n, 50, drop_rate=0.2) for _ in range(2))
    assert (a != b).any(1).all()
    torch.manual_seed(0)
    assert torch.equal(chapter.keep_frames(n, 50, drop_rate=0.2), a)


def test_frames_are_dropped_uniformly(chapter):
    keep = chapter.keep_frames(torch.full((4000,), 20), 20, drop_rate=0.2)
    assert stats.chisquare((~keep).sum(0).numpy()).pvalue > 1e-3


def test_fc_is_symmetric_bounded_with_unit_diagonal(chapter):
    b, n = scans()
    fc = chapter.full_fc(b, n)
    assert torch.allclose(fc, fc.mT, atol=1e-7) and fc.abs().max() <= 1
    assert torch.equal(fc.diagonal(dim1=1, dim2=2), torch.ones(len(b), 20))


def test_nothing_dropped_equals_corrcoef(chapter):
    b, n = scans()
    expected = np.stack([np.corrcoef(x) for x in b.double().numpy()])
    keep = chapter.keep_frames(n, 40, drop_rate=0.0)
    np.testing.assert_allclose(chapter.pseudo_fc(b, keep).numpy(), expected, atol=1e-6)


def test_a_shorter_scan_in_a_batch_equals_itself_alone(chapter):
    b, _ = scans()
    short = chapter.full_fc(b, torch.tensor([40, 30, 25, 40, 40, 40]))[1]
    alone = chapter.full_fc(b[1:2, :, :30], torch.tensor([30]))[0]
    torch.testing.assert_close(short, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 7.3])
def test_a_constant_region_gives_zeros(chapter, level):
    b, n = scans()
    b[2, 3] = level
    fc = chapter.full_fc(b, n)[2]
    assert fc[3, 3] == 1 and fc[3].sum() == 1 and fc[:, 3].sum() == 1


# -------------------------------------------------------------------------------------------------- encoder


def test_layer_equals_torchs(chapter):
    ours = chapter.EncoderLayer(D=20, n_heads=5, d_ff=32, dropout=0.1).eval()
    torchs = nn.TransformerEncoderLayer(20, 5, 32, dropout=0.0, batch_first=True).eval()
    pairs = [
        (torchs.self_attn.in_proj_weight, ours.qkv.weight), (torchs.self_attn.in_proj_bias, ours.qkv.bias),
        (torchs.self_attn.out_proj.weight, ours.out.weight), (torchs.self_attn.out_proj.bias, ours.out.bias),
        (torchs.linear1.weight, ours.up.weight), (torchs.linear1.bias, ours.up.bias),
        (torchs.linear2.weight, ours.down.weight), (torchs.linear2.bias, ours.down.bias),
    ]  # fmt: skip
    with torch.no_grad():
        for theirs, mine in pairs:
            theirs.copy_(mine)
    x = torch.randn(3, 20, 20)
    torch.testing.assert_close(ours(x)[0], torchs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x)[0], ours(x, explicit=True)[0], atol=1e-5, rtol=1e-5)


def test_bare_tokens_are_permutation_equivariant(chapter):
    encoder = chapter.Encoder(D=20, depth=2, n_heads=5, d_ff=32, dropout=0.1).eval()
    x, order = torch.randn(2, 20, 20), torch.randperm(20)
    torch.testing.assert_close(encoder.tokens(x)[:, order], encoder.tokens(x[:, order]), atol=1e-5, rtol=1e-5)


def test_heads_must_divide_regions(chapter):
    with pytest.raises(AssertionError, match="choose a divisor of 20"):
        chapter.EncoderLayer(D=20, n_heads=3, d_ff=32, dropout=0.0)


def test_cheap_dropout_keeps_rate_mean_and_gradient(chapter):
    layer, x = chapter.Dropout(0.1).train(), torch.ones(2000, 501, requires_grad=True)
    out = layer(x)
    dropped = (out == 0).float().mean().item()
    assert abs(dropped - 0.1) < 5 * np.sqrt(0.09 / x.numel()), "rate is off by more than five standard errors"
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    assert torch.equal(layer.eval()(x), x)


def test_published_parameter_counts(chapter):
    counts = {}
    for name, (depth, n_heads, d_ff) in dict(
        small=(8, 5, 1024), base=(16, 10, 2048), large=(32, 20, 4096)
    ).items():
        with torch.device("meta"):
            model = chapter.BrainMass(
                D=100, d_ff=d_ff, d_embed=1024, weights=WEIGHTS, depth=depth, n_heads=n_heads, dropout=0.1
            )
        counts[name] = train.n_parameters(model)
        if name == "base":
            assert train.n_parameters(model.online) == 10_165_800
    assert counts == dict(small=14_411_468, base=25_357_068, large=67_007_372)


# ---------------------------------------------------------------------------------------------------- masking


def test_masks_are_distinct_uniform_and_new_each_time(chapter):
    idx = chapter.pick_regions(3000, 20, 4)
    assert all(len(set(row)) == 4 for row in idx.tolist())
    assert stats.chisquare(torch.bincount(idx.flatten(), minlength=20).numpy()).pvalue > 1e-3
    assert not torch.equal(idx, chapter.pick_regions(3000, 20, 4))


@pytest.mark.parametrize("mask, leaks", [("rows+columns", False), ("rows", True)])
def test_a_hidden_entry_reaches_the_encoder_only_with_rows(chapter, mask, leaks):
    task = chapter.MaskedRegions(D=20, d_ff=32, mask=mask)
    fc, idx = chapter.full_fc(*scans(B=1)), torch.tensor([[3, 7]])
    changed = fc.clone()
    changed[0, 3, 11] = changed[0, 11, 3] = 0.123
    same = torch.equal(task.masked_input(fc, idx), task.masked_input(changed, idx))
    assert same is not leaks


def test_a_rows_own_diagonal_is_no_target(chapter):
    fc, idx = chapter.full_fc(*scans(B=1)), torch.tensor([[3, 7]])
    x, valid = chapter.hidden_rows(fc, idx, mask="rows+columns")
    assert x[0, 0, 3] == 0 and not valid[0, 0, 3] and valid.sum() == 2 * 19
    x, valid = chapter.hidden_rows(fc, idx, mask="rows")
    assert x[0, 0, 3] == 1 and valid.all()


# ----------------------------------------------------------------------------------------------------- losses


def test_losses_and_gradients_equal_a_loop(chapter):
    x = torch.randn(3, 4, 20)
    u, v = (torch.randn(3, 4, 20, requires_grad=True) for _ in range(2))
    fast = chapter.which_region(x, u)[0] + chapter.reconstruct(x, v, torch.ones_like(x, dtype=torch.bool))
    grads = torch.autograd.grad(fast, (u, v))
    slow = 0.0
    for b in range(3):
        for i in range(4):
            scores = torch.stack([x[b, i] @ u[b, j] for j in range(4)])
            slow = slow - torch.log(scores.exp()[i] / scores.exp().sum()) / 12
            slow = slow + (v[b, i] - x[b, i]).square().sum() / (12 * 20)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    for a, b in zip(grads, torch.autograd.grad(slow, (u, v)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_silent_head_scores_ln_k(chapter):
    assert chapter.which_region(torch.randn(5, 10, 20), torch.zeros(5, 10, 20))[0].item() == pytest.approx(
        np.log(10), abs=1e-6
    )


def test_alignment_is_0_2_4(chapter):
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    values = [chapter.align(q, k).item() for q, k in ((a, 2 * a), (a, b), (a, -a))]
    assert values == pytest.approx([0, 2, 4], abs=1e-6)


# ---------------------------------------------------------------- the whole model


def test_every_trainable_tensor_is_optimised_once_and_moves(chapter):
    model, batch = chapter.BrainMass(**SIZE, dropout=0.1), scans()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = chapter.pretrain(model, *batch, epochs=1, warmup_epochs=0, log=False)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    assert wanted <= moved and not any(name.startswith("target.") for name in wanted)
    assert history.notes["unused"] == [] and history.notes["not_optimised"] == []


def test_target_follows_without_gradient(chapter):
    model = chapter.BrainMass(**SIZE, dropout=0.1).train()
    model(*scans())["loss"].backward()
    assert all(p.grad is None for p in model.target.parameters())
    with torch.no_grad():
        for p in model.online.parameters():
            p.add_(torch.randn_like(p))
    old = [p.clone() for p in model.target.parameters()]
    model.target.follow(model.online, 0.996)
    for slow, fast, before in zip(model.target.parameters(), model.online.parameters(), old, strict=True):
        torch.testing.assert_close(slow, 0.996 * before + 0.004 * fast, atol=1e-7, rtol=1e-6)
    for slow, fast in zip(model.target.buffers(), model.online.buffers(), strict=True):
        assert torch.equal(slow, fast)


def test_target_has_no_dropout_and_is_repeatable(chapter):
    model, fc = chapter.BrainMass(**SIZE, dropout=0.5).train(), chapter.full_fc(*scans())
    assert torch.equal(model.target(fc), model.target(fc))
    assert not torch.equal(model.online(fc), model.online(fc)), "the online network should have dropout on"


def test_interrupted_pretraining_gives_the_same_model(chapter, tmp_path):
    data = scans(B=8)

    def fit(folder, stop_at=None, resume=False):
        torch.manual_seed(1)
        model = chapter.BrainMass(**SIZE, dropout=0.1)
        step = chapter.pretrain_step
        calls = 0

        def counted(model, batch):
            nonlocal calls
            calls += 1
            if stop_at and calls > stop_at:
                raise KeyboardInterrupt
            return step(model, batch)

        options = dict(
            step=counted, after_step=lambda m, i, n: m.target.follow(m.online, 0.996), epochs=4, batch_size=4,
            seed=3, log=False,
            checkpoint=tmp_path / folder, resume=resume, drop_last=True,
        )  # fmt: skip
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                train.fit(model, data, **options)
        else:
            train.fit(model, data, **options)
        return model

    whole = fit("whole")
    fit("broken", stop_at=5)
    resumed = fit("broken", resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} differs after an interruption"


def test_features_are_deterministic_and_have_the_right_shape(chapter):
    encoder = chapter.Encoder(D=20, depth=1, n_heads=5, d_ff=32, dropout=0.5)
    first = scans()
    assert chapter.features(encoder, *first).shape == (6, 160)
    np.testing.assert_array_equal(chapter.features(encoder, *first), chapter.features(encoder, *first))


def test_nobody_tested_is_pretrained_on_not_even_by_a_second_scan(chapter):
    ids = np.array(["sub-1", "sub-2", "sub-3", "unlabelled-sub-2", "sub-2"])
    assert chapter.allowed(ids, np.array(["sub-2"])).tolist() == [0, 2, 3]


def test_symmetric_alignment_is_0_4_8(chapter):
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    total = [2 * chapter.align(q, k).item() for q, k in ((a, 2 * a), (a, b), (a, -a))]
    assert total == pytest.approx([0, 4, 8], abs=1e-6)


def test_positions_follow_the_formula(chapter):
    pe = chapter.positions(7, 10)[0]
    assert pe.shape == (7, 10)
    for n, i in ((0, 0), (3, 2), (6, 4)):
        angle = n / 10000 ** (2 * i / 10)
        assert pe[n, 2 * i].item() == pytest.approx(np.sin(angle), abs=1e-6)
        assert pe[n, 2 * i + 1].item() == pytest.approx(np.cos(angle), abs=1e-6)


@pytest.mark.parametrize("off", ["align", "classify", "reconstruct"])
def test_a_zero_weight_switches_its_loss_off(chapter, off):
    model = chapter.BrainMass(**(SIZE | dict(weights=WEIGHTS | {off: 0.0})), dropout=0.0)
    out = model(*scans())
    assert off not in out and torch.isfinite(out["loss"])


def test_two_hundred_regions_and_three_reconstruction_layers(chapter):
    size = SIZE | dict(D=200, rec_layers=3, d_ff=16, depth=1)
    model = chapter.BrainMass(**size, dropout=0.0)
    model(*scans(B=3, R=200, T=30))["loss"].backward()
    assert model.mrm.k == {"cls": 20, "rec": 10}
    assert sum(isinstance(m, nn.Linear) for m in model.mrm.head_rec) == 3


def test_views_stay_in_full_precision_under_autocast(chapter):
    b, n = scans()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = chapter.full_fc(b, n)
    assert inside.dtype == torch.float32 and torch.equal(inside, chapter.full_fc(b, n))
