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
    ratio = images.spectrum(images._blur(x[None])[0]) / images.spectrum(x)
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
