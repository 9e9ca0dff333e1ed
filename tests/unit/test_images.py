"""Image scores against their definitions and against MONAI's SSIM."""

import math

import numpy as np
import pytest
import torch

from helpers import images
from helpers.errors import BookError


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(*shape):
    a = torch.rand(*shape, dtype=torch.float64)
    return a, (a + 0.1 * torch.randn_like(a)).clamp(0, 1)


def test_identical_images():
    a, _ = pair(2, 3, 20, 20)
    assert torch.isinf(images.psnr(a, a, data_range=1)).all() and (images.psnr(a, a, data_range=1) > 0).all()
    torch.testing.assert_close(images.ssim(a, a, data_range=1), torch.ones(2, 3, dtype=torch.float64))
    assert (images.mae(a, a) == 0).all()


def test_psnr_and_mae_equal_their_formulas():
    a, b = pair(4, 12, 15)
    expected = 20 * np.log10(2) - 10 * np.log10(((a - b) ** 2).mean((1, 2)).numpy())
    np.testing.assert_allclose(images.psnr(a, b, data_range=2).numpy(), expected)
    np.testing.assert_allclose(images.mae(a, b).numpy(), (a - b).abs().mean((1, 2)).numpy())


def test_only_masked_pixels_count():
    a, b = pair(3, 2, 16, 16)
    mask = torch.rand(3, 1, 16, 16) < 0.5
    changed = torch.where(mask, b, torch.rand_like(b))
    for score in (images.psnr, images.mae):
        options = {} if score is images.mae else {"data_range": 1}
        torch.testing.assert_close(score(a, b, mask=mask, **options), score(a, changed, mask=mask, **options))
        assert not torch.allclose(score(a, b, **options), score(a, b, mask=mask, **options))


def test_ssim_equals_monai_away_from_the_border():
    from monai.metrics.regression import compute_ssim_and_cs

    a, b = pair(2, 1, 32, 40)
    theirs, _ = compute_ssim_and_cs(
        a, b, 2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5), data_range=1.0, kernel_type="gaussian"
    )
    r = images.RADIUS
    ours = images.ssim_map(a, b, data_range=1.0)[..., r:-r, r:-r]
    torch.testing.assert_close(ours, theirs.to(ours), atol=1e-5, rtol=1e-4)


def test_spectrum_finds_the_frequency_of_a_wave():
    x = torch.arange(32)
    for cycles in (0.1, 0.22, 0.4):
        wave = torch.sin(2 * math.pi * cycles * x).expand(2, 32, 32)
        power = images.spectrum(wave)
        assert power.shape == (2, 16)
        assert abs(power[0].argmax().item() - int(cycles * 32)) <= 1


def test_smoothing_takes_power_from_high_frequencies():
    x = torch.randn(1, 32, 32)
    ratio = images.spectrum(images._blur(x)) / images.spectrum(x)
    assert ratio[0, -1] < 0.01 < ratio[0, 0]


@pytest.mark.parametrize("call, said", [
    (lambda a: images.psnr(a, a[1:], data_range=1), "cannot be compared"),
    (lambda a: images.psnr(a, a, data_range=0), "positive number"),
    (lambda a: images.psnr(a, a, data_range=1, mask=torch.ones(9, 8)), "expected bool"),
    (lambda a: images.psnr(a, a, data_range=1, mask=torch.zeros(9, 8, dtype=torch.bool)), "empty"),
    (lambda a: images.mae(a, a, mask=torch.ones(5, 9, 8, dtype=torch.bool)), "does not fit"),
    (lambda a: images.ssim(a[..., :4], a[..., :4], data_range=1), "larger than"),
    (lambda a: images.spectrum(a, 7), "7 bins"),
])  # fmt: skip
def test_bad_input_is_one_clear_line(call, said):
    with pytest.raises(BookError, match=said) as error:
        call(torch.rand(3, 9, 8))
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------- missing contrasts, baselines, tests


def complete(N=3, M=4, size=16):
    return torch.rand(N, M, size, size) * 2 - 1, torch.rand(N, 1, size, size) < 0.7


def test_scores_look_at_missing_contrasts_only():
    x, mask = complete()
    missing = torch.tensor([False, True, False, True])
    guess = x.clone()
    guess[:, [1, 3]] += 0.1 * torch.randn(3, 2, 16, 16)
    frame = images.score(guess, x, missing, mask, ["a", "a", "b"], ("P", "Q", "R", "S"))
    assert len(frame) == 6 and set(frame["contrast"]) == {"Q", "S"} and set(frame["mask"]) == {"0101"}
    spoiled = guess.clone()
    spoiled[:, [0, 2]] = 7.0
    again = images.score(spoiled, x, missing, mask, ["a", "a", "b"], ("P", "Q", "R", "S"))
    assert frame.equals(again)


def test_holm_is_the_textbook_example():
    np.testing.assert_allclose(images.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert images.holm([0.9, 0.8]).max() <= 1


def test_compare_gives_sign_and_size():
    import pandas as pd

    base = np.random.default_rng(0).normal(size=20)
    table = pd.DataFrame({"ours": base + 1, "same": base + 1, "worse": base, "better": base + 2})
    found = images.compare(table, "ours")
    assert found.loc["worse", "effect"] == 1 and found.loc["better", "effect"] == -1
    assert found.loc["same", "p"] == 1 and found.loc["worse", "median difference"].value == pytest.approx(1)
    assert (found["p (Holm)"] >= found["p"]).all()


def test_a_pixel_model_finds_a_pixelwise_rule():
    from sklearn.linear_model import LinearRegression

    x, _ = complete(N=6, M=3)
    x[:, 2] = 0.3 * x[:, 0] - 0.5 * x[:, 1]
    missing = torch.tensor([False, False, True])
    model = images.PixelModel(LinearRegression(), x[:4], torch.ones(4, 1, 16, 16, dtype=torch.bool))
    torch.testing.assert_close(model(x[4:], missing), x[4:], atol=1e-5, rtol=0)
    hidden = x[4:].clone()
    hidden[:, 2] = torch.nan
    assert torch.equal(model(hidden, missing), model(x[4:], missing)), "it looked at the missing contrast"


@pytest.mark.parametrize("change, said", [
    (lambda x, v: (x[:, :3], v), "expected bool"),
    (lambda x, v: (x, v.float()), "expected bool"),
    (lambda x, v: (x, v[:2]), "expected bool"),
    (lambda x, v: (x, v & False), "all zeros or all ones"),
    (lambda x, v: (x, v | True), "all zeros or all ones"),
    (lambda x, v: (x[..., :15], v), "divisible by 16"),
    (lambda x, v: (x * 3, v), r"\[-1, 1\]"),
    (lambda x, v: (x[0], v), "expected \\(B, M, H, W\\)"),
])  # fmt: skip
def test_wrong_sets_are_refused_in_one_line(change, said):
    x, _ = complete()
    missing = torch.tensor([[True, False, False, True]]).repeat(3, 1)
    images.check(x, missing)
    with pytest.raises(BookError, match=said) as error:
        images.check(*change(x, missing))
    assert "\n" not in str(error.value)


def test_what_is_missing_may_be_anything():
    x, _ = complete()
    missing = torch.tensor([[True, False, False, False]]).repeat(3, 1)
    x[:, 0] = torch.nan
    images.check(x, missing)


def test_grid_draws_every_slice():
    x, _ = complete()
    outline = [x[0, 0] > 0, None, None]
    figure = images.grid(x, columns=list("PQRS"), names=list("abc"), title="t", outline=outline)
    assert len(figure.axes) == 12 and figure.axes[0].get_title(loc="center") == "P"


def test_intervals_of_the_right_size_cover_what_they_promise():
    sd = torch.rand(4, 2, 30, 30) + 0.5
    error, mask = torch.randn_like(sd) * sd, torch.ones(4, 1, 30, 30, dtype=torch.bool)
    right = images.interval_scores(error, sd, mask, "aabb")
    small = images.interval_scores(error, sd / 4, mask, "aabb")
    constant = images.interval_scores(error, torch.ones_like(sd), mask, "aabb")
    assert list(right.index) == ["a", "b"] and (right["coverage"] - 0.9).abs().max() < 0.03
    assert (small["coverage"] < 0.5).all() and np.allclose(small["rank"], right["rank"])
    assert (right["rank"] > 0.1).all() and (constant["rank"] == 0).all()
    assert (right["score"] < small["score"]).all() and (right["score"] < constant["score"]).all()


def test_texture_of_the_truth_is_one():
    x, _ = complete(size=32)
    torch.testing.assert_close(images.texture(x, x), torch.ones(16))
    assert (images.texture(images._blur(x), x)[-4:] < 0.1).all()


def test_a_pixel_classifier_learns_from_the_learning_slices_only():
    x, _ = complete(N=8, M=2)
    labels = (x[:, 0] > 0.2).numpy().astype(np.uint8)
    labels[-1] = 0
    learn = np.arange(8) < 4
    mask = np.ones(labels.shape, bool)
    dice = images.lesion_dice(x, labels, mask, learn)
    assert dice.shape == (4,) and (dice[:3] > 0.95).all() and np.isnan(dice[3])
    spoiled = labels.copy()
    spoiled[4:7] = 1 - spoiled[4:7]
    assert (images.lesion_dice(x, spoiled, mask, learn)[:3] < 0.2).all()


def test_by_person_keeps_the_order_and_leaves_nan_out():
    values = torch.tensor([[1.0, 3.0], [5.0, 5.0], [torch.nan, torch.nan], [7.0, 9.0]])
    assert images.by_person(values, "baab").tolist() == [5.0, 5.0]
    alone = images.by_person(values, "bacb")
    assert alone[:2].tolist() == [5.0, 5.0] and np.isnan(alone[2])


def test_lesion_contrast_is_the_step_at_the_lesion():
    labels, mask = np.zeros((2, 20, 20), np.uint8), np.zeros((2, 20, 20), bool)
    mask[:, 2:18, 2:18] = True
    labels[0, 5:8, 5:8] = 4
    x = torch.full((2, 3, 20, 20), 0.1)
    x[0, 1, 5:8, 5:8] += 0.5
    x[:, :, ~mask[0]] = -1.0  # the background must not count
    found = images.lesion_contrast(x, labels, mask)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.5, 0.0]))
    assert found[1].isnan().all()


def test_units_stay_together_in_a_split():
    x, _ = complete(N=8, M=2)
    labels = (x[:, 0] > 0.2).numpy().astype(np.uint8)
    mask = np.ones(labels.shape, bool)
    by_slice = images.split_dice(x, labels, mask, np.arange(8), n=2)
    by_person = images.split_dice(x, labels, mask, np.array(list("aabbccdd")), n=2)
    assert by_slice.shape == by_person.shape == (2,) and (by_slice > 0.95).all() and (by_person > 0.95).all()


def test_brain_window_is_zero_at_the_outline():
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    mask[..., 4:28, 4:28] = True
    window = images.brain_window(mask)
    assert (window[~mask] == 0).all() and window[0, 0, 16, 16] > 0.99 and window[0, 0, 4, 16] < 0.2
    flat = torch.where(mask, 0.5, -1.0)
    assert images.detail(flat, window).abs().max() < 0.2 < images.detail(flat, mask * 1.0).abs().max()


def test_grid_frames_one_row():
    x, _ = complete()
    axes = images.grid(x, framed=1).axes
    assert [ax.spines["left"].get_visible() for ax in axes] == [False] * 4 + [True] * 4 + [False] * 4
