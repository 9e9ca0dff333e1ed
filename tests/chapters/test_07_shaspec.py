"""The invariants of ShaSpec, on the classes of the notebook itself."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from helpers import chapters, segmentation, shaspec, train
from helpers.errors import BookError

WIDTHS = (4, 8, 16)


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("07_shaspec")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def masks(chapter):
    return chapter.all_masks(4)


def net(chapter, **changes):
    torch.manual_seed(1)
    return chapter.ShaSpec(**(dict(widths=WIDTHS) | changes))


def shaped(available, x):
    return available.reshape(*available.shape, *[1] * (x.ndim - 2))


# ---------------------------------------------------------------------------------------------------- masks


def test_all_masks_are_the_fifteen_subsets(masks):
    assert masks.shape == (15, 4) and masks.dtype == torch.bool
    assert len({tuple(m.tolist()) for m in masks}) == 15 and masks.any(1).all()
    assert masks.sum(1).tolist() == [1] * 4 + [2] * 6 + [3] * 4 + [4]


def test_uniform_law_draws_each_mask_equally_often(chapter, masks):
    n = 30_000
    drawn = chapter.draw_masks(n, masks, chapter.mask_law(masks, "uniform"))
    share = (drawn[:, None] == masks).all(-1).float().mean(0)
    assert (share - 1 / 15).abs().max() < 3.5 * math.sqrt(14 / 225 / n), "a mask is off"


def test_the_codes_law(chapter, masks):
    p = chapter.mask_law(masks, "code")
    assert p.sum() == pytest.approx(1)
    wanted = [1 / 16] * 4 + [1 / 24] * 6 + [1 / 16] * 4 + [1 / 4]
    np.testing.assert_allclose(p.numpy(), wanted, rtol=1e-6)


def test_a_constant_law_draws_one_mask_for_ever_and_seeds_repeat(chapter, masks):
    assert (chapter.draw_masks(50, masks, chapter.mask_law(masks, 2)) == masks[2]).all()
    law = chapter.mask_law(masks, "uniform")
    a = chapter.draw_masks(20, masks, law)
    torch.manual_seed(0)
    chapter.draw_masks(50, masks, chapter.mask_law(masks, 2))
    assert torch.equal(chapter.draw_masks(20, masks, law), a)


# ----------------------------------------------------------------------------------- missing is never touched


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("fill", ["mean", "first", "zero"])
def test_nan_in_a_missing_modality_changes_no_bit(chapter, masks, grouped, dims, fill):
    model = net(chapter, grouped=grouped, dims=dims, fill=fill)
    space = (16,) * dims
    x, y = torch.randn(15, 4, *space), torch.rand(15, 3, *space) < 0.2
    results = []
    for poison in (0.0, 1e6, torch.nan, torch.inf):
        model.zero_grad()
        z = torch.where(shaped(masks, x), x, poison)
        out = chapter.objective(model, z, y, masks, alpha=0.1, beta=0.02)
        out["loss"].backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((torch.stack([v.detach() for v in out.values()]), model(z, masks)["logits"], grads))
    for losses, logits, grads in results[1:]:
        assert torch.equal(losses, results[0][0]) and torch.equal(logits, results[0][1])
        assert all(torch.equal(a, b) for a, b in zip(grads, results[0][2], strict=True))


@pytest.mark.parametrize("grouped", [False, True])
def test_the_specific_encoder_of_a_missing_modality_gets_no_gradient(chapter, grouped):
    model, available = net(chapter, grouped=grouped), torch.tensor([[True, False, True, True]] * 3)
    model(torch.randn(3, 4, 16, 16), available)["logits"].square().sum().backward()
    if grouped:
        for p in model.specific.encoder.parameters():
            mine = p.grad.unflatten(0, (4, -1))
            assert (mine[1] == 0).all() and (mine[0] != 0).any()
    else:
        assert all(p.grad is None or (p.grad == 0).all() for p in model.specific[1].parameters())
        assert all((p.grad != 0).any() for p in model.specific[0].parameters())


def test_absent_volumes_are_not_encoded(chapter):
    model, seen = net(chapter), []
    model.shared.register_forward_pre_hook(lambda _, a: seen.append(len(a[0])))
    for encoder in model.specific:
        encoder.register_forward_pre_hook(lambda _, a: seen.append(len(a[0])))
    available = torch.tensor([[True, False, True, False], [True, True, False, False]])
    model(torch.randn(2, 4, 16, 16), available)
    assert seen == [4, 2, 1, 1], "shared sees 4 volumes in one call; T2's encoder is not called"


@pytest.mark.parametrize("kind", ["l1", "mse", "kl", "ce"])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_mask_gives_a_finite_loss_and_gradients_at_initialisation(chapter, masks, kind, grouped):
    model = net(chapter, grouped=grouped)
    for mask in [*masks[:, None], masks]:
        x, y = torch.randn(len(mask), 4, 16, 16), torch.rand(len(mask), 3, 16, 16) < 0.1
        x = torch.where(shaped(mask, x), x, torch.nan)
        model.zero_grad()
        loss = chapter.objective(model, x, y, mask, alpha=1.0, beta=1.0, align=kind)["loss"]
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_early_fusion_rival_never_reads_a_missing_input_either(chapter, masks):
    for planes in (True, False):
        model, x = chapter.EarlyFusion(widths=WIDTHS, planes=planes), torch.randn(15, 4, 16, 16)
        poisoned = torch.where(shaped(masks, x), x, torch.nan)
        assert torch.equal(model(x, masks)["logits"], model(poisoned, masks)["logits"])


# -------------------------------------------------------------------------------------- fusion and generation


def test_a_missing_slot_is_the_mean_of_the_available_ones(chapter, masks):
    model = net(chapter)
    maps, _ = model.encode(torch.randn(15, 4, 16, 16), masks)
    f = model(torch.randn(15, 4, 16, 16), masks)
    r, out = maps[-1], chapter.fill_in(maps[-1], masks)
    for b, mask in enumerate(masks):
        expected = r[b, mask].mean(0)
        for n in (~mask).nonzero()[:, 0]:
            torch.testing.assert_close(out[b, n], expected, rtol=1e-5, atol=1e-6)
        missing = f["fused"][b, ~mask]
        assert (missing == missing[:1]).all(), "missing slots are equal to the last bit"
        assert torch.equal(f["fused"][b, ~mask], f["shared"][b, ~mask])
        if mask.sum() == 1:
            assert torch.equal(missing, f["shared"][b, mask].expand_as(missing))


def test_other_ways_to_fill(chapter):
    r, available = torch.randn(1, 4, 3, 2, 2), torch.tensor([[False, True, False, True]])
    assert torch.equal(chapter.fill_in(r, available, "first")[0, [0, 2]], r[0, [1, 1]])
    assert (chapter.fill_in(r, available, "zero")[0, [0, 2]] == 0).all()
    assert torch.equal(chapter.fill_in(r, available)[0, [1, 3]], r[0, [1, 3]])


def test_permuting_modalities_with_their_encoders_permutes_the_features(chapter, masks):
    model, twin, order = net(chapter), net(chapter), torch.tensor([2, 0, 3, 1])
    twin.specific = nn.ModuleList(model.specific[i] for i in order)
    twin.specific.__class__ = chapter.SpecificEncoders
    x = torch.randn(15, 4, 16, 16)
    a, b = model(x, masks), twin(x[:, order], masks[:, order])
    for name in ("shared", "specific", "fused"):
        torch.testing.assert_close(a[name][:, order], b[name], atol=1e-5, rtol=1e-5)


def test_without_projection_the_fused_feature_is_the_shared_one(chapter, masks):
    model = net(chapter)
    nn.init.zeros_(model.project.weight), nn.init.zeros_(model.project.bias)
    out = model(torch.randn(15, 4, 16, 16), masks)
    assert torch.equal(out["fused"], out["shared"])


def test_masks_in_one_batch_equal_single_samples(chapter, masks):
    model, x = net(chapter), torch.randn(15, 4, 16, 16)
    together = model(x, masks)["logits"]
    alone = torch.cat([model(x[i : i + 1], masks[i : i + 1])["logits"] for i in range(15)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_decoding_a_subset_of_an_encoded_image_equals_encoding_the_subset(chapter, masks):
    for model in (net(chapter).eval(), chapter.EarlyFusion(widths=WIDTHS).eval()):
        x = torch.randn(2, 4, 16, 16)
        with torch.no_grad():
            every = chapter.every_mask(model, x, masks).unflatten(1, (15, 3))
            for i, mask in enumerate(masks):
                one = model(x, mask.expand(2, 4))["logits"]
                torch.testing.assert_close(every[:, i], one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_grouped_encoders_equal_separate_ones(chapter, masks, dims):
    separate = chapter.SpecificEncoders(4, widths=WIDTHS, dims=dims)
    grouped = chapter.GroupedEncoders(4, widths=WIDTHS, dims=dims).copy_from(separate)
    x = torch.randn(15, 4, *(16,) * dims)
    torch.testing.assert_close(separate(x, masks), grouped(x, masks), atol=1e-5, rtol=1e-4)
    assert train.n_parameters(separate) == train.n_parameters(grouped)


def test_tiles_and_whole_images_agree(chapter, masks):
    model = net(chapter).eval()
    x = torch.randn(3, 4, *chapter.patch)
    logits = chapter.logits_of(model, x, masks)
    torch.testing.assert_close(logits, chapter.every_mask(model, x, masks), atol=1e-4, rtol=1e-4)
    larger = torch.randn(1, 4, chapter.patch[0] + 8, chapter.patch[1])
    assert chapter.logits_of(model, larger, masks).shape == (1, 45, *larger.shape[2:])
    predict = chapter.segmenter(model, masks, fit=(x, torch.rand(3, 3, *chapter.patch) < 0.1))
    inside = predict(x)
    assert inside.shape == (15, 3, 3, *chapter.patch) and inside.dtype == torch.bool
    assert torch.equal(predict(x[1:2]), inside[:, 1:2]), "an image is judged by itself"


def test_scores_a_few_people_at_a_time_are_the_scores_of_all(chapter, masks):
    names, x = np.repeat([f"p{i}" for i in range(12)], 2), torch.randn(24, 4, 8, 8)
    y, seen = torch.rand(24, 3, 8, 8) < 0.3, []

    def predict(x):
        seen.append(len(x))
        return torch.stack([x[:, :3] > 0, x[:, 1:] > 0.5])

    dice, far = segmentation.judge(predict, x, y, names, segmentation.dice, segmentation.hausdorff95)
    assert dice.shape == far.shape == (2, 12, 3) and seen == [10, 10, 4]
    np.testing.assert_allclose(dice[1], segmentation.dice(x[:, 1:] > 0.5, y, subjects=names))
    seen.clear()
    segmentation.judge(lambda x: (seen.append(len(x)), x[None, :, :3] > 0)[1:][0], x[..., None], y[..., None],
                       names, segmentation.dice)  # fmt: skip
    assert seen == [2] * 12, "one person's volumes at a time"
    with pytest.raises(BookError, match="do not match"):
        segmentation.judge(predict, x, y, names[1:], segmentation.dice)


def test_a_constant_shared_feature_reaches_the_decoder(chapter, masks):
    model, x = net(chapter).eval(), torch.randn(4, 4, *chapter.patch)
    few = chapter.on_available(model.shared, x, torch.ones(4, 4).bool())[-1]
    constant = few.mean((0, 1), keepdim=True).expand_as(few)
    plain, swapped = (
        chapter.every_mask(model, x, masks[[0, 14]], mix)
        for mix in (None, lambda code: ([*code[0][:-1], constant], code[1]))
    )
    assert plain.shape == swapped.shape and not torch.allclose(plain, swapped)


def test_no_convolution_runs_on_a_single_thin_volume_in_3d(chapter, masks):
    """The slow path of a CPU: batch 1, ungrouped, fewer than 32 channels."""
    model, slow = net(chapter, dims=3, grouped=True), []

    def look(module, inputs):
        if len(inputs[0]) == 1 and module.groups == 1 and module.kernel_size[0] > 1:
            slow.append(module)

    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(look)
    for mask in masks:
        model(torch.randn(2, 4, 8, 8, 8), mask.expand(2, 4))
    assert slow == []


def test_the_embedded_model_is_small(chapter):
    n = train.n_parameters(chapter.ShaSpec(widths=(8, 16, 32, 64)))
    assert 470_000 < n < 480_000


# --------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("kind", ["l1", "mse", "kl"])
def test_alignment_is_zero_for_equal_features_and_without_a_pair(chapter, masks, kind):
    head, r = nn.Linear(8, 4), torch.randn(15, 4, 8, 3, 3)
    assert chapter.alignment_loss(head, r[:, :1].expand_as(r), masks, kind) == 0
    lone = chapter.alignment_loss(head, r[:4].requires_grad_(), masks[:4], kind)
    lone.backward()  # a batch without a pair trains all the same
    assert lone == 0
    assert chapter.alignment_loss(head, r, masks, kind) > 0


def test_alignment_is_the_mean_over_available_pairs(chapter):
    r = torch.randn(2, 4, 8, 3, 3)
    available = torch.tensor([[True, True, False, True], [False, True, True, False]])
    pairs = [(0, 0, 1), (0, 0, 3), (0, 1, 3), (1, 1, 2)]
    by_hand = torch.stack([(r[b, i] - r[b, k]).abs().mean() for b, i, k in pairs]).mean()
    torch.testing.assert_close(chapter.alignment_loss(None, r, available), by_hand)


def test_kl_alignment_sums_both_orders(chapter):
    head, r = nn.Linear(8, 4), torch.randn(1, 2, 8)
    p, q = head(r)[0].softmax(-1)
    by_hand = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    both = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(chapter.alignment_loss(head, r, both, "kl"), by_hand)


def test_a_silent_domain_head_scores_ln_m(chapter, masks):
    head = nn.Linear(8, 4)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    loss = chapter.domain_loss(head, torch.randn(15, 4, 8, 3, 3), masks)
    assert float(loss) == pytest.approx(math.log(4), abs=1e-6)
    uniform = chapter.alignment_loss(head, torch.randn(15, 4, 8), masks, "ce")
    assert float(uniform) == pytest.approx(math.log(4))


@pytest.mark.parametrize("kind", ["l1", "mse", "kl", "ce"])
def test_auxiliary_losses_ignore_the_missing(chapter, masks, kind):
    head, r = nn.Linear(8, 4), torch.randn(15, 4, 8, 3, 3)
    other = torch.where(shaped(masks, r), r, torch.nan)
    assert torch.equal(*(chapter.alignment_loss(head, z, masks, kind) for z in (r, other)))
    assert torch.equal(*(chapter.domain_loss(head, z, masks) for z in (r, other)))


def test_an_empty_region_teaches_the_network_to_predict_nothing(chapter):
    logits = torch.zeros(1, 3, 8, 8, requires_grad=True)
    chapter.dice_loss(logits, torch.zeros(1, 3, 8, 8)).backward()
    assert (logits.grad > 0).all(), "more volume where nothing is must cost more"


# ------------------------------------------------------------------------------------------------- training


def small(chapter, law, **options):
    torch.manual_seed(3)
    x, y, model = torch.randn(8, 4, 16, 16), torch.rand(8, 3, 16, 16) < 0.2, net(chapter)
    options = dict(law=law, steps=3, batch_size=4, alpha=0.1, beta=0.02, log=False) | options
    chapter.train_model(model, x, y, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_same_seed_gives_the_same_weights(chapter, masks):
    law = chapter.mask_law(masks, "uniform")
    assert torch.equal(small(chapter, law), small(chapter, law))
    assert not torch.equal(small(chapter, law), small(chapter, law, seed=1))


def test_dedicated_training_is_training_with_a_constant_mask(chapter, masks, monkeypatch):
    dedicated = small(chapter, chapter.mask_law(masks, 2))
    draw = chapter.draw_masks

    def constant(B, masks, law):
        draw(B, masks, law)  # the generator moves on as it would
        return masks[2].expand(B, -1)

    monkeypatch.setattr(chapter, "draw_masks", constant)
    assert torch.equal(dedicated, small(chapter, chapter.mask_law(masks, "uniform")))


def test_contrasts_that_are_nan_in_the_data_stay_out_of_training(chapter, masks):
    x, y, law = torch.randn(8, 4, 16, 16), torch.rand(8, 3, 16, 16) < 0.2, chapter.mask_law(masks, "uniform")
    x[::2, 1] = torch.nan
    for model in (net(chapter), chapter.EarlyFusion(widths=WIDTHS)):
        chapter.train_model(model, x, y, law=law, steps=2, batch_size=4, alpha=0.1, beta=0.02, log=False)
        assert all(p.isfinite().all() for p in model.parameters())


def test_crops_stay_inside_and_keep_image_and_truth_together():
    x = torch.arange(2 * 12**3).float().reshape(2, 1, 12, 12, 12)
    for _ in range(20):
        y = torch.zeros_like(x).bool()
        y[:, :, 0, 11, 5] = True
        a, b = segmentation.augment(x, torch.cat([y, x > 100], 1), [6, 6, 20])
        assert a.shape == (2, 1, 6, 6, 12) and torch.equal(b[:, 1:], a > 100)


# --------------------------------------------------------------------------------------------------- digits


def test_digits_networks(chapter):
    model = chapter.DigitShaSpec().eval()
    assert train.n_parameters(model) == 137_428  # the notes: 137,588 with a vector for missing sounds
    available = torch.tensor([[True, True], [True, False], [True, False]])
    image, sound = torch.randn(3, 28, 28), torch.randn(3, 20, 20)
    dirty = torch.where(available[:, 1, None, None], sound, torch.nan)
    for net in (model, shaspec.LateFusion().eval()):
        out = net(image, sound, available)["logits"]
        assert out.shape == (3, 10) and torch.equal(out, net(image, dirty, available)["logits"])
    f = model(image, sound, available)["fused"]
    assert torch.equal(f[1, 1], model(image, sound, available)["shared"][1, 0])


def test_smil_sends_a_gradient_through_the_inner_step():
    model, n = shaspec.SMIL(torch.randn(4, 20, 20)), 6
    sound, available = torch.randn(n, 20, 20), torch.tensor([[True, i < 3] for i in range(n)])
    sound[3:] = torch.nan
    loss = shaspec.smil_step(model, (torch.randn(n, 28, 28), sound, available, torch.arange(n)))
    loss.backward()
    assert loss.isfinite() and (model.mixture.weight.grad != 0).any()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_thinned_digits_keep_a_modality_in_every_row(chapter, monkeypatch):
    from helpers.simulate import digits

    pairs = digits.pairs(seed=0)
    for name, value in {"pairs": pairs, "seed": 0}.items():
        monkeypatch.setitem(chapter.who_has.__globals__, name, value)
    have = chapter.who_has(0.2, 0, 0.2)
    assert have.float().mean(0).tolist() == pytest.approx([0.2, 0.2]) and not have.any(1).all()
    assert not torch.equal(have[:, 0], have[:, 1]), "images and sounds are thinned independently"
    assert chapter.who_has(0.05, 0)[:, 0].all()


def test_image_and_report(chapter):
    y = torch.rand(20, 3, 16, 16) < 0.05
    y[:10, 0] = False
    words, label = shaspec.reports(y, 0)
    assert words.shape == (20, 6) and label.tolist() == [False] * 10 + [True] * 10
    for split in (True, False):
        model, image = chapter.ImageAndReport(split=split), torch.randn(20, 16, 16)
        rows = torch.tensor([[False, True]]).expand(20, 2)
        out = model(image, words, rows)["logits"]
        assert torch.equal(out, model(image + 1, words, rows)["logits"])


# ----------------------------------------------------------------------------------------- demonstrations


def test_zero_volumes_explode_and_noise_does_not():
    noise = torch.randn(1, 32, 8, 8)
    zero = [shaspec.largest_gradient(torch.zeros_like(noise), d) for d in (4, 12)]
    assert zero[1] > 1e8 * zero[0] and shaspec.largest_gradient(noise, 12) < 10
    assert shaspec.largest_gradient(torch.zeros_like(noise), 12, nn.Conv2d) < 10


def test_the_pixel_classifier_finds_a_bright_region_and_sees_its_mask_only(masks):
    x = torch.randn(4, 4, 16, 16)
    y = (x[:, :1] > 1).expand(-1, 3, -1, -1)  # bright in the first contrast
    found = shaspec.pixel_baseline(x, y, masks)(x)
    dice = segmentation.dice(found[0], y)
    assert dice.min() > 0.95 and segmentation.dice(found[1], y).max() < 0.6
    other = torch.where(masks[0].view(1, 4, 1, 1), x, 0.0)
    assert torch.equal(found[0], shaspec.pixel_baseline(other, y, masks[:1])(other)[0])
    x[:, :, :4] = 0
    assert not shaspec.pixel_baseline(x, y, masks)(x)[..., :4, :].any(), "nothing outside the brain"


def test_unlike_keeps_the_background_and_flair():
    x = torch.randn(2, 4, 8, 8)
    x[..., :2] = 0
    z = shaspec.unlike(x)
    assert torch.equal(z[:, 0], x[:, 0]) and torch.equal(z[:, 1], -x[:, 1]) and (z[..., :2] == 0).all()
    assert z[:, 2][x[:, 2] != 0].mean().abs() < 1e-5


def test_three_means_takes_the_brightest_cluster_inside_only():
    t1c, inside = np.zeros((6, 6)), np.zeros((6, 6), bool)
    inside[:3] = True
    t1c[0], t1c[1], t1c[5] = 5.0, 1.0, 9.0
    bright = shaspec.split_core(inside, t1c)
    assert bright[0].all() and not bright[1:].any()


def test_published_table_recomputes():
    table = shaspec.table1()
    assert table.shape == (15, 3, 4)
    paper = [[51.02, 59.85, 61.58, 63.08], [69.78, 72.97, 77.45, 77.88], [84.39, 82.94, 85.92, 86.26]]
    np.testing.assert_allclose(table.mean(0), paper, atol=0.006)


def test_pure_tones_fold_in_the_published_mfcc():
    np.testing.assert_allclose(shaspec.aliased(np.array([500.0, 3000.0, 1000.0])), [1500, 1000, 3000], atol=5)


def test_auc_by_person_draws_people():
    label = torch.tensor([0, 1] * 20).bool()
    score, names = label.float() + torch.randn(40), np.repeat(np.arange(8), 5).astype(str)
    e = shaspec.auc_by_person(label, score, names)
    assert e.lo < e.value < e.hi
    assert shaspec.auc_by_person(label, label.float(), names).value == 1


def test_numbers_are_taken_from_this_run_before_the_record():
    class Run:
        chapter, metrics = "07_shaspec", dict(x_a=0.5, x_a_lo=0.4, x_a_hi=0.6, x_b=1.0)

    found = shaspec.recorded_group(Run, "x_")
    assert list(found) == ["a", "b"] and found["a"].lo == 0.4 and found["b"] == 1.0


def test_mcnemar_by_hand():
    a, b = np.array([1, 1, 1, 0, 1], bool), np.array([0, 0, 0, 0, 1], bool)
    assert shaspec.mcnemar(a, b) == (3, 0, pytest.approx(0.25))
    assert shaspec.mcnemar(a, a) == (0, 0, 1)


# ------------------------------------------------------------------------------------------------ bad inputs


def test_bad_inputs_give_one_clear_error_each(chapter):
    model, x = net(chapter), torch.randn(2, 4, 16, 16)
    nobody = torch.tensor([[True] * 4, [False] * 4])
    with pytest.raises(BookError, match="no modality is available in row 1"):
        model(x, nobody)
    with pytest.raises(BookError, match="do not match"):
        model(x, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(BookError, match="give bool"):
        model(x, torch.ones(2, 4))
    with pytest.raises(BookError, match=r"labels \[3\] are outside the set"):
        segmentation.regions(torch.tensor([[[0, 3]]]))
    with pytest.raises(BookError, match="do not match"):
        segmentation.dice(np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 5, 4)))
