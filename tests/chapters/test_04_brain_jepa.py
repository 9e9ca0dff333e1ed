"""The invariants of Brain-JEPA, on the classes of the notebook itself."""

import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from helpers import chapters, data, evaluate, train
from helpers.errors import BookError

R, P, p = 12, 6, 4
SIZE = dict(p=p, D=16, depth=2, n_heads=2, predictor=dict(width=8, depth=2, n_heads=2))


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("04_brain_jepa")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def features(regions=R, m=5):
    return np.random.default_rng(0).standard_normal((regions, m))


def scans(B=4, regions=R, T=P * p):
    return torch.randn(B, regions, T)


def encoder_of(chapter):
    return chapter.Encoder(features=features(), **{k: SIZE[k] for k in ("p", "D", "depth", "n_heads")})


def model_of(chapter, **changes):
    return chapter.BrainJEPA(**(SIZE | dict(features=features()) | changes))


def grids(chapter, n, regions=30, patches=10, seed=0):
    rng = np.random.default_rng(seed)
    return map(np.stack, zip(*(chapter.three_kinds(regions, patches, rng) for _ in range(n)), strict=True))


# -------------------------------------------------------------------------------------------------- time base


def test_resampling_removes_what_striding_folds(chapter):
    t = np.arange(600) * 0.7
    fast, slow = np.sin(2 * np.pi * 0.35 * t), np.sin(2 * np.pi * 0.03 * t)
    inner = slice(15, -15)
    assert chapter.resample(fast, 0.7, 2.1)[inner].std() < 0.05 < fast[::3][inner].std()
    np.testing.assert_allclose(chapter.resample(slow, 0.7, 2.1)[inner], slow[::3][inner], atol=0.05)


def test_resampling_keeps_length_in_seconds_and_the_mean(chapter):
    x = 5 + np.random.default_rng(0).standard_normal((3, 400))
    y = chapter.resample(x, 1.5, 2.0)
    assert y.shape == (3, 300) and np.abs(y.mean(1) - x.mean(1)).max() < 0.1
    assert chapter.resample(x, 2.0, 2.0) is x


def test_robust_scaling_ignores_padding_and_never_divides_by_zero(chapter):
    x = np.random.default_rng(0).standard_normal((4, 3, 30)) * 2 + 1
    x[:, 1] = 7.0
    lengths = np.array([30, 20, 30, 25])
    padded = x.copy()
    for row, n in zip(padded, lengths, strict=True):
        row[:, n:] = 1e6
    centre, spread = chapter.robust_statistics(padded, lengths)
    samples = np.concatenate([row[0, :n] for row, n in zip(x, lengths, strict=True)])
    assert centre[0].item() == pytest.approx(np.median(samples), abs=1e-5)
    assert spread[1].item() == 1.0 and torch.isfinite(spread).all()


def test_clips_are_the_middle_in_evaluation_and_vary_in_training(chapter):
    x, n = torch.arange(40.0).expand(2, 3, 40), torch.tensor([40, 20])
    assert chapter.clip(x, n, 10)[:, 0, 0].tolist() == [15, 5]
    starts = {chapter.clip(x, n, 10, random=True)[1, 0, 0].item() for _ in range(200)}
    assert starts == set(range(11)), "every start must come, the last one too"


# -------------------------------------------------------------------------------------------------- gradients


def diffusion_operator(A):
    q = A.sum(1) ** -0.5
    L = q[:, None] * A * q
    return L / L.sum(1, keepdims=True)


def test_gradients_equal_brainspace(chapter):
    table = np.loadtxt(files("helpers.data") / "brainspace_schaefer400.csv", delimiter=",")
    psi, lam = chapter.diffusion_map(chapter.affinity(data.group_fc(400)), 10)
    r = [abs(np.corrcoef(psi[:, k], table[1:, k])[0, 1]) for k in range(10)]
    assert min(r) >= 0.999
    np.testing.assert_allclose(lam / (1 - lam), table[0], rtol=0.02)


@pytest.mark.parametrize("regions", [100, 400])
def test_gradients_are_eigenvectors_without_the_constant(chapter, regions):
    A = chapter.affinity(data.group_fc(regions))
    psi, lam = chapter.diffusion_map(A, 10)
    error = np.linalg.norm(diffusion_operator(A) @ psi - lam * psi, axis=0) / np.linalg.norm(psi, axis=0)
    assert error.max() < 1e-10
    assert (psi.std(0) > 0.1).all() and lam.max() < 0.5, "the constant eigenvector is still there"
    assert (psi[np.abs(psi).argmax(0), np.arange(10)] > 0).all()


def test_permuting_regions_permutes_gradients(chapter):
    fc = np.corrcoef(np.random.default_rng(0).standard_normal((40, 200)))
    order = np.random.default_rng(1).permutation(40)
    a, _ = chapter.diffusion_map(chapter.affinity(fc, keep=0.3), 5)
    b, _ = chapter.diffusion_map(chapter.affinity(fc[order][:, order], keep=0.3), 5)
    np.testing.assert_allclose(a[order], b, atol=1e-8)


@pytest.mark.parametrize("m", [0, 100])
def test_more_gradients_than_there_are(chapter, m):
    with pytest.raises(BookError, match="gradients of 100 regions"):
        chapter.diffusion_map(chapter.affinity(data.group_fc(100)), m)


def test_gradient_tables_are_matched_by_name(chapter):
    table = pd.DataFrame({"g1": [1.0, 2.0, 3.0]}, index=["c", "a", "b"])
    assert chapter.by_name(["a", "b", "c"], table)[:, 0].tolist() == [2, 3, 1]
    with pytest.raises(BookError, match="no gradient for 1 regions, the first is z"):
        chapter.by_name(["a", "z"], table)


def test_gradients_and_pools_know_nothing_of_test_people(chapter, monkeypatch):
    rng = np.random.default_rng(0)
    fc = np.stack([np.corrcoef(rng.standard_normal((20, 60))) for _ in range(10)])
    here = dict(fc_all=fc, R=20, S=10, extra=None, gradient_source="training", gradients_file=None)
    for name, value in here.items():
        monkeypatch.setattr(chapter, name, value, raising=False)
    test = np.array([1, 4])
    pool = chapter.pool_for(test)
    assert not set(pool) & set(test) and len(pool) == 8
    before = chapter.gradients(pool, m=4)
    fc[test] = np.corrcoef(rng.standard_normal((20, 60)))
    np.testing.assert_array_equal(before, chapter.gradients(pool, m=4))
    fc[pool[0]] = fc[test[0]]
    assert not np.array_equal(before, chapter.gradients(pool, m=4))


# -------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("scale", ["rms", "minmax", "none"])
@pytest.mark.parametrize("regions, patches", [(12, 6), (50, 3), (7, 1)])
def test_positions_split_into_when_and_where(chapter, scale, regions, patches):
    pos = chapter.Positions(features=features(regions), D=16, position_scale=scale)(regions, patches)
    pos = pos.view(regions, patches, 16)
    assert torch.equal(pos[..., :8], pos[:1, :, :8].expand(regions, -1, -1))
    assert torch.equal(pos[..., 8:], pos[:, :1, 8:].expand(-1, patches, -1))


def test_time_code_follows_the_formula(chapter):
    code = chapter.time_code(5, 8)
    for t, k in ((0, 0), (3, 1), (4, 3)):
        angle = t * 10000 ** (-k / 4)
        assert code[t, k].item() == pytest.approx(np.sin(angle), abs=1e-6)
        assert code[t, 4 + k].item() == pytest.approx(np.cos(angle), abs=1e-6)


def test_both_halves_of_a_position_start_equal(chapter):
    tiny = features(100, 30) * 1e-3
    pos = chapter.Positions(features=tiny, D=64)(100, 10).detach()
    assert pos[:, 32:].square().mean().sqrt().item() == pytest.approx(0.5**0.5, rel=1e-3)


def test_regions_without_positions(chapter):
    with pytest.raises(BookError, match="13 regions in the scan, positions for 12"):
        model_of(chapter)(scans(regions=13))


# ------------------------------------------------------------------------------------------------------ masks


def test_masks_keep_their_promises_in_500_batches(chapter):
    visible_patch, visible_region = np.zeros(10), np.zeros(30)
    for seed in range(500):
        context, label = grids(chapter, 16, seed=seed)
        assert not (context & (label > 0)).any(), "context and targets overlap"
        assert all((label == k).any((1, 2)).all() for k in (1, 2, 3)), "a kind is missing"
        rows, columns = context.any(2), context.any(1)
        for k, row_seen, column_seen in ((1, False, True), (2, True, False), (3, False, False)):
            hit = label == k
            assert (rows[hit.any(2)] == row_seen).all(), f"kind {k} has the wrong regions"
            assert (columns[hit.any(1)] == column_seen).all(), f"kind {k} has the wrong columns"
        visible_patch += columns.mean(0) / 500
        visible_region += rows.mean(0) / 500
    assert 0.4 < visible_patch.min() and visible_patch.max() < 0.9
    assert visible_region.max() / visible_region.min() < 1.2


def test_packing_loses_and_invents_nothing(chapter):
    context, label = grids(chapter, 8)
    masks = chapter.pack(context, label)
    for b in range(8):
        index = masks.context[b][masks.seen[b]].numpy()
        assert len(set(index)) == len(index) and set(index) == set(np.flatnonzero(context[b]))
        target = masks.target[b][masks.kind[b] > 0].numpy()
        assert len(set(target)) == len(target)
        assert np.array_equal(label[b].ravel()[target], masks.kind[b][masks.kind[b] > 0].numpy())


@pytest.mark.parametrize("mode", ["paper", "public code"])
@pytest.mark.parametrize("patches", [1, 2])
def test_too_few_patches_for_masks(chapter, mode, patches):
    with pytest.raises(BookError, match=f"{patches} patches are too few"):
        chapter.draw_masks(4, 17, patches, mode)


def test_random_masks_have_the_amounts_of_the_default(chapter):
    context, label = chapter.random_tokens(100, 10, np.random.default_rng(0))
    assert context.mean() == pytest.approx(0.27, abs=0.002)
    assert (label > 0).mean() == pytest.approx(0.27, abs=0.002)
    three = [chapter.three_kinds(100, 10, np.random.default_rng(k)) for k in range(300)]
    amounts = [np.mean([(x > 0).mean() for x in group]) for group in zip(*three, strict=True)]
    np.testing.assert_allclose(amounts, 0.27, atol=0.02)


@pytest.mark.parametrize("patches", [3, 5, 9, 20])
def test_masks_for_any_number_of_patches(chapter, patches):
    context, label = grids(chapter, 20, regions=17, patches=patches)
    assert all(c.any() for c in context) and all((x > 0).any() for x in label)


def test_default_shares_are_those_of_the_note(chapter):
    rng = np.random.default_rng(0)
    labels = np.stack([chapter.three_kinds(450, 10, rng)[1] for _ in range(400)])
    share = np.bincount(labels.ravel(), minlength=4)[1:] / (labels > 0).sum()
    np.testing.assert_allclose(share, [0.74, 0.11, 0.15], atol=0.02)


def test_public_generator_hides_the_last_patch_and_loses_two_kinds(chapter):
    rng, only, last = np.random.default_rng(0), 0, 0
    for _ in range(250):
        contexts, targets, n_alpha = chapter.public_lists(16, 60, 10, rng)
        only += min(map(len, targets)) == n_alpha
        last += sum((x % 10 == 9).any() for x in contexts)
    column, region = np.zeros(10), np.zeros(450)
    for _ in range(40):
        masks = chapter.public_masks(16, 450, 10, rng)
        seen = np.zeros((16, 4500), bool)
        np.put_along_axis(seen, masks.context.numpy(), True, 1)
        seen = seen.reshape(16, 450, 10)
        column += seen.any(1).mean(0) / 40
        region += seen.any(2).mean(0) / 40
    np.testing.assert_allclose(column, [0.405, 0.5, 0.495, 1, 1, 1, 1, 0.495, 0.416, 0], atol=0.1)
    tenths = region.reshape(10, 45).mean(1)
    assert tenths[0] > 3 * tenths[-1] and tenths[:4].max() < 0.5
    assert last == 0
    assert abs(only / 250 - (1 - (15 / 16) ** 16)) < 0.08  # 2.6 standard errors


def test_public_masks_are_cut_and_the_kinds_named_by_geometry(chapter):
    masks = chapter.public_masks(16, 60, 10, np.random.default_rng(0))
    assert masks.seen.all() and (masks.kind > 0).all()
    whole = chapter.public_masks(16, 60, 10, np.random.default_rng(0), cut=False)
    assert whole.target.shape[1] > masks.target.shape[1]


@pytest.mark.parametrize("mode", ["paper", "public code", "random", "multi-block"])
def test_every_mode_trains(chapter, mode):
    out = model_of(chapter, masks=dict(mode=mode))(scans(T=10 * p))
    out["loss"].backward()
    assert torch.isfinite(out["loss"])


# --------------------------------------------------------------------------------------------------- networks


def test_fused_attention_equals_the_softmax(chapter):
    block, x = chapter.Block(D=48, n_heads=3, number=1), torch.randn(2, 200, 48)
    torch.testing.assert_close(block(x), chapter.explicit(block, x), atol=1e-5, rtol=1e-5)


def test_trimming_changes_nothing(chapter):
    encoder, x = encoder_of(chapter), scans()
    patches, query = encoder.patches(x), torch.randint(0, R * P, (4, 9))
    torch.testing.assert_close(
        encoder(patches, query=query), chapter.take(encoder(patches), query), atol=1e-6, rtol=1e-5
    )


def test_padding_changes_no_real_token(chapter):
    encoder = encoder_of(chapter)
    patches, index = encoder.patches(scans()), torch.arange(20).expand(4, -1)
    padded = torch.cat([index, torch.zeros(4, 7, dtype=torch.long)], 1)
    real = torch.arange(27).expand(4, -1) < 20
    torch.testing.assert_close(
        encoder(patches, padded, real)[:, :20], encoder(patches, index), atol=1e-5, rtol=1e-5
    )


def test_padding_of_a_batch_does_not_change_its_loss(chapter):
    model, x = model_of(chapter), scans()
    masks = chapter.pack(*grids(chapter, 4, R, P))
    together = model(x, masks)["loss"]
    apart = []
    for b in range(4):
        keep, hit = masks.seen[b], masks.kind[b] > 0
        one = masks.context[b][keep], keep[keep], masks.target[b][hit], masks.kind[b][hit]
        apart.append(model(x[b : b + 1], chapter.Masks(*(t[None] for t in one)))["loss"])
    torch.testing.assert_close(together, torch.stack(apart).mean(), atol=1e-6, rtol=1e-5)


def test_patch_projection_equals_a_convolution(chapter):
    layer, x = chapter.linear(16, 24), torch.randn(2, 5, 48)
    conv = F.conv2d(x[:, None], layer.weight[:, None, None], layer.bias, stride=(1, 16))
    ours = layer(chapter.patchify(x, 16))
    torch.testing.assert_close(ours, conv.permute(0, 2, 3, 1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "D, n_heads, encoder, predictor", [(384, 6, 21_306_816, 11_813_568), (768, 12, 85_080_960, 12_108_864)]
)
def test_published_parameter_counts(chapter, D, n_heads, encoder, predictor):
    shared = dict(features=np.zeros((450, 30)), D=D, n_heads=n_heads, position_scale="none")
    with torch.device("meta"):
        net = chapter.Encoder(p=16, depth=12, **shared)
        head = chapter.Predictor(width=384, depth=6, out=D, **shared)
    assert train.n_parameters(net) == encoder
    assert train.n_parameters(head) + 450 * 10 * 192 == predictor  # plus the frozen time table


def test_any_number_of_regions_and_frames(chapter):
    for regions, T in ((5, 5 * p), (31, 9 * p + 3)):
        model = model_of(chapter, features=features(regions))
        assert torch.isfinite(model(scans(2, regions, T))["loss"])


def test_depth_scaling_of_the_start(chapter):
    first, last = (chapter.Block(D=64, n_heads=2, number=n) for n in (1, 8))
    ratio = (first.out.weight.std() / last.out.weight.std()).item()
    assert ratio == pytest.approx(8**0.5, rel=0.05)


# ------------------------------------------------------------------------------------------- target and loss


def test_targets_are_normalised_and_have_no_gradient(chapter):
    model = model_of(chapter)
    s = model.targets(model.encoder.patches(scans()), torch.arange(R * P).expand(4, -1))
    assert s.mean(-1).abs().max() < 1e-5 and (s.var(-1, unbiased=False) - 1).abs().max() < 1e-3
    assert not s.requires_grad
    model(scans())["loss"].backward()
    assert all(q.grad is None for q in model.target.parameters())


@pytest.mark.parametrize("distance", ["l2", "smooth_l1"])
def test_loss_is_zero_at_the_target_and_weights_agree_for_equal_kinds(chapter, distance):
    s, kind = torch.randn(3, 6, 8), torch.tensor([[1, 1, 2, 2, 3, 3]]).expand(3, -1)
    assert chapter.jepa_loss(s, s, kind, distance=distance)[0] == 0
    guess = torch.randn(3, 6, 8)
    a, b = (chapter.jepa_loss(guess, s, kind, distance=distance, per_kind=k)[0] for k in (True, False))
    torch.testing.assert_close(a, b)


def test_loss_by_kind_is_the_mean_of_means(chapter):
    guess, s = torch.zeros(1, 4, 2), torch.tensor([[[1.0, 1], [1, 1], [2, 2], [3, 3]]])
    loss, parts = chapter.jepa_loss(guess, s, torch.tensor([[1, 1, 2, 3]]), distance="l2")
    assert loss.item() == pytest.approx((1 + 4 + 9) / 3)
    assert {k: v.item() for k, v in parts.items()} == pytest.approx(dict(alpha=1, beta=4, gamma=9))


@pytest.mark.parametrize("distance, cost", [("l2", 1.0), ("smooth_l1", 0.425)])
def test_silence_costs_what_the_note_says(chapter, distance, cost):
    s = F.layer_norm(torch.randn(4, 200, 256), (256,))
    kind = torch.randint(1, 4, (4, 200))
    loss = chapter.jepa_loss(torch.zeros_like(s), s, kind, distance=distance)[0]
    assert loss.item() == pytest.approx(cost, abs=0.01)


def test_position_r2_knows_the_two_extremes(chapter):
    index = torch.arange(50).expand(40, -1)
    real = torch.ones_like(index, dtype=torch.bool)
    where = torch.randn(50, 8)
    fixed = chapter.position_only(where[index], index, real)
    assert fixed["position_r2"].item() == pytest.approx(1, abs=1e-5)
    noise = chapter.position_only(torch.randn(40, 50, 8), index, real)
    assert abs(noise["position_r2"].item()) < 0.03 and noise["blind"].item() == pytest.approx(1, abs=0.05)
    mixed = chapter.position_only(2 * where[index] + torch.randn(40, 50, 8), index, real)
    assert mixed["position_r2"].item() == pytest.approx(0.8, abs=0.05)
    assert mixed["blind"].item() == pytest.approx(1, abs=0.05)


# ------------------------------------------------------------------------------------- schedules and training


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_ema_ends_at_exactly_one(chapter, accumulate):
    seen, x = [], scans(16)
    model = model_of(chapter)

    def follow(model, i, n):
        seen.append(chapter.momentum_at(i, n, 0.996))

    train.fit(model, x, epochs=2, batch_size=8, accumulate=accumulate, after_step=follow, log=False)
    assert len(seen) == 4 and seen[-1] == 1.0 and seen[0] == pytest.approx(0.997)


def test_decay_and_layer_scales(chapter):
    assert chapter.decay_at(-1, 100) == pytest.approx(0.04)
    assert chapter.decay_at(99, 100) == pytest.approx(0.4)
    scales = chapter.layer_scales(12)
    assert len(scales) == 14 and scales[-1] == 1 and scales[0] == pytest.approx(0.75**13)
    assert [scales[1 + j] for j in range(12)] == pytest.approx([0.75 ** (12 - j) for j in range(12)])


def test_rate_is_that_of_fit(chapter):
    settings = train.Settings(
        epochs=5, batch_size=1, lr=1.0, weight_decay=0, betas=(0.9, 0.9), warmup_epochs=1, warmup_steps=None,
        schedule="cosine", clip=None, clip_kind="norm", accumulate=1, patience=None, seed=0, drop_last=False,
        label="", precision="fp32",
    )  # fmt: skip
    for i in range(20):
        assert chapter.rate_at(i, 20, 1.0, 4) == pytest.approx(settings.factor(i, 20))


def test_accumulation_gives_the_gradient_of_the_whole_batch(chapter):
    model, x = model_of(chapter), scans(16)
    masks = chapter.pack(*grids(chapter, 16, R, P))
    model(x, masks)["loss"].backward()
    whole = [q.grad.clone() for q in model.parameters() if q.grad is not None]
    model.zero_grad()
    for piece in torch.arange(16).split(2):
        part = chapter.Masks(*(t[piece] for t in masks))
        (model(x[piece], part)["loss"] / 8).backward()
    for a, b in zip(whole, [q.grad for q in model.parameters() if q.grad is not None], strict=True):
        assert (a - b).norm() <= 2e-6 * a.norm().clamp_min(1e-3)


def test_every_trainable_tensor_is_optimised_once_and_moves(chapter):
    model = model_of(chapter)
    before = {name: q.detach().clone() for name, q in model.named_parameters()}
    n = torch.full((8,), P * p)
    history = chapter.pretrain(model, scans(8), n, T=P * p, steps=3, batch_size=8)
    moved = {name for name, q in model.named_parameters() if not torch.equal(q, before[name])}
    wanted = {name for name, q in model.named_parameters() if q.requires_grad}
    assert wanted <= moved and not any(name.startswith("target.") for name in wanted)
    assert history.notes["unused"] == [] and history.notes["not_optimised"] == []
    assert any(name.startswith("target.") for name in moved), "the target encoder does not follow"


def test_interrupted_pretraining_gives_the_same_model(chapter, tmp_path):
    x, n = scans(8), torch.full((8,), P * p)

    def run(folder, stop=False, resume=False):
        torch.manual_seed(1)
        model = model_of(chapter)
        if stop:
            forward, calls = model.forward, []

            def broken(*args):
                calls.append(1)
                if len(calls) > 5:
                    raise KeyboardInterrupt
                return forward(*args)

            model.forward = broken
        options = dict(T=P * p - 2, epochs=4, batch_size=4, warmup_epochs=1, log=False)
        chapter.pretrain(model, x, n, resume=resume, checkpoint=tmp_path / folder, **options)
        return model.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", stop=True)
    for (name, a), b in zip(whole.items(), run("broken", resume=True).values(), strict=True):
        assert torch.equal(a, b), f"{name} differs after an interruption"


def test_layer_decay_reaches_every_parameter_once(chapter):
    encoder = encoder_of(chapter)
    reader = chapter.Reader(encoder)
    groups = reader.groups(1.0)
    listed = [id(q) for group in groups for q in group["params"]]
    assert sorted(listed) == sorted(id(q) for q in reader.parameters())
    assert [g["lr"] for g in groups] == pytest.approx([0.75**3, 0.75**2, 0.75, 1.0])
    assert reader(scans()).shape == (4, 3)


# ------------------------------------------------------------------------------------------------- evaluation


def test_features_are_deterministic(chapter):
    encoder = encoder_of(chapter)
    x, n = scans(5, T=40), torch.tensor([40, 30, 40, 35, 24])
    a, b = (chapter.features(encoder, x, n, T=P * p) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (5, 16)


def test_attention_received_is_that_of_the_explicit_matrix(chapter):
    encoder, x = encoder_of(chapter), scans(2)
    tokens = encoder.blocks[0](encoder.start(encoder.patches(x)))
    block = encoder.blocks[1]
    q, k, _ = block.split(block.qkv(block.norm1(tokens)), 3)
    A = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1).mean((0, 1, 2)).view(R, P).sum(1)
    received = chapter.attention_received(encoder, x, piece=7)
    np.testing.assert_allclose(received, (A * R).detach().numpy(), rtol=1e-4)


def test_an_encoder_trained_on_noise_probes_at_chance(chapter):
    model, x, n = model_of(chapter), scans(60), torch.full((60,), P * p)
    chapter.pretrain(model, x, n, T=P * p, steps=8, batch_size=16)
    people = pd.DataFrame({"group": ["control", "patient"] * 30, "site": "a"})
    splits = evaluate.splits(people, n_splits=5, n_repeats=1)
    z = chapter.features(model.target, x, n, T=P * p)
    probe = evaluate.linear_probe("svm")
    interval = evaluate.auc(evaluate.cross_validate(probe, z, np.arange(60) % 2, splits))
    assert interval.lo < 0.5 < interval.hi


# ------------------------------------------------------------------------------------------------- bad inputs


def test_too_few_frames_for_a_patch(chapter):
    with pytest.raises(BookError, match="3 frames are fewer than one patch of 4"):
        model_of(chapter)(scans(T=3))


def test_clip_longer_than_a_scan(chapter):
    with pytest.raises(BookError, match="a scan has 20 frames, the clip 30"):
        chapter.clip(scans(T=40), torch.tensor([40, 20, 40, 40]), 30)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_no_numbers(chapter, bad):
    x = scans()
    x[1, 2, 3] = bad
    with pytest.raises(BookError, match="NaN or infinite values"):
        model_of(chapter)(x)


def test_heads_must_divide_the_width(chapter):
    with pytest.raises(BookError, match="choose a divisor"):
        chapter.Block(D=16, n_heads=3, number=1)


def test_width_must_split_into_four(chapter):
    with pytest.raises(BookError, match="no multiple of 4"):
        chapter.Positions(features=features(), D=50)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scaling", ["zscore", "robust"])
def test_a_scan_with_a_value_that_is_no_number_is_named(chapter, bad, scaling):
    cohort = data.load_cohort("embedded", n_subjects=20, seed=0)
    cohort = cohort.select(np.arange(20) < 3)
    cohort.bold.setflags(write=True)
    cohort.bold[1, 4, 7] = bad
    with pytest.raises(BookError, match=f"{cohort.ids[1]}.*{re.escape(str(cohort.atlas.labels[4]))}"):
        chapter.prepare(cohort, tr=2.0, scaling=scaling)


def test_a_flat_region_becomes_zero_and_the_rest_is_scaled(chapter):
    x = np.random.default_rng(0).normal(1000, 5, (3, 50))
    x[1] = 1000.0
    y = chapter.one_scan(x, "sub-1", list("abc"), ratio=(2.0, 2.0), scaling="zscore")
    assert (y[1] == 0).all() and y[[0, 2]].std(1) == pytest.approx([1, 1])


def test_gradients_file_with_too_few_columns(chapter, monkeypatch, tmp_path):
    atlas = data.load_cohort("embedded", n_subjects=20, seed=0).atlas
    table = pd.DataFrame(np.ones((len(atlas.labels), 3)), index=atlas.labels)
    table.to_csv(tmp_path / "g.csv")
    monkeypatch.setattr(chapter, "atlas", atlas, raising=False)
    monkeypatch.setattr(chapter, "gradients_file", str(tmp_path / "g.csv"), raising=False)
    assert chapter.gradients(None, m=3).shape == (len(atlas.labels), 3)
    with pytest.raises(BookError, match="give 4 columns"):
        chapter.gradients(None, m=4)


def test_scaling_statistics_come_from_the_pool_only(chapter, monkeypatch):
    x, n = torch.randn(6, R, 40), torch.full((6,), 40)
    here = dict(scans=x, n_frames=n, scaling="robust", device="cpu", CONFIG={}, PREDICTOR=SIZE["predictor"])
    here["region_features"] = lambda *a, **k: features()
    for name, value in here.items():
        monkeypatch.setattr(chapter, name, value, raising=False)
    size = {k: SIZE[k] for k in ("p", "D", "depth", "n_heads")}
    before = chapter.build(np.arange(4), 0, **size).target.spread.clone()
    x[4:] *= 100
    assert torch.equal(before, chapter.build(np.arange(4), 0, **size).target.spread)


def test_external_people_are_never_in_the_pool(chapter, monkeypatch):
    role = np.repeat(["labelled", "extra", "external"], [6, 5, 4])
    here = dict(role=role, everybody=np.flatnonzero(role == "extra"), S=6, extra=object())
    for name, value in here.items():
        monkeypatch.setattr(chapter, name, value, raising=False)
    assert chapter.pool_for(np.array([0])).tolist() == [6, 7, 8, 9, 10]
    monkeypatch.setattr(chapter, "extra", None, raising=False)
    assert chapter.pool_for(np.array([0, 3])).tolist() == [1, 2, 4, 5]
