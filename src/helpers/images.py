"""How close an image is to the true one: PSNR, SSIM and mean absolute error, with range and region said.

Images are tensors (..., H, W); the leading axes are kept, so a batch of contrasts (B, M, H, W) gives (B, M).
``data_range`` is the distance between the smallest and the largest possible value. ``mask`` (bool, broadcast
over the leading axes) says which pixels count; without it all of them do, background included, which flatters
every score of a brain.

SSIM follows Wang et al. 2004: a Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03. Borders are reflected.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.errors import BookError

SIGMA, RADIUS, K1, K2 = 1.5, 5, 0.01, 0.03


def _weights(a: Tensor, b: Tensor, mask: Tensor | None, data_range: float | None) -> Tensor:
    """The mask as weights that sum to 1 over each image. BookError for what cannot be compared."""
    if a.shape != b.shape or a.ndim < 2:
        raise BookError(f"images of shape {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if data_range is not None and not data_range > 0:
        raise BookError(f"data_range is {data_range!r}: give a positive number, such as 1 for [0, 1]")
    if mask is None:
        mask = torch.ones(a.shape[-2:], dtype=torch.bool, device=a.device)
    if mask.dtype != torch.bool or mask.shape[-2:] != a.shape[-2:]:
        raise BookError(
            f"mask {tuple(mask.shape)} of {mask.dtype}: expected bool, {tuple(a.shape[-2:])} at the end"
        )
    try:
        mask = mask.expand(a.shape)
    except RuntimeError:
        raise BookError(f"mask {tuple(mask.shape)} does not fit images {tuple(a.shape)}") from None
    count = mask.sum((-1, -2), keepdim=True)
    if (count == 0).any():
        raise BookError("the mask of an image is empty: leave that image out")
    return mask / count.to(a.dtype)


def mae(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of each image, in its own units: (..., H, W) -> (...)."""
    weights = _weights(a, b, mask, None)
    return ((a - b).abs() * weights).sum((-1, -2))


def psnr(a: Tensor, b: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """10 log10(range^2 / MSE) in dB, (..., H, W) -> (...); infinite for identical images."""
    weights = _weights(a, b, mask, data_range)
    mse = ((a - b).square() * weights).sum((-1, -2))
    return 10 * torch.log10(data_range**2 / mse)


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean around each pixel, (N, 1, H, W), borders reflected."""
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(at**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    x = F.pad(x, (RADIUS,) * 4, mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, 1, -1))
    return F.conv2d(x, kernel.view(1, 1, -1, 1))


def ssim_map(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """Structural similarity around each pixel, same shape as the images."""
    _weights(a, b, None, data_range)
    if min(a.shape[-2:]) <= RADIUS:
        raise BookError(f"SSIM needs images larger than {RADIUS} pixels, got {tuple(a.shape[-2:])}")
    x, y = (i.reshape(-1, 1, *a.shape[-2:]) for i in (a, b))
    mx, my, xx, yy, xy = _blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    bottom = (mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2)
    return (top / bottom).reshape(a.shape)


def ssim(a: Tensor, b: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """Mean of :func:`ssim_map` over the pixels that count, (..., H, W) -> (...); 1 for identical images."""
    return (ssim_map(a, b, data_range=data_range) * _weights(a, b, mask, data_range)).sum((-1, -2))


def spectrum(x: Tensor, n_bins: int | None = None) -> Tensor:
    """Power by spatial frequency, (..., H, W) -> (..., n_bins): rings from 0 to the Nyquist frequency.

    A Hann window goes over the image first, so that its borders do not count as edges. Bin i holds the
    frequencies around (i + 0.5) / (2 n_bins) cycles a pixel.
    """
    H, W = x.shape[-2:]
    n_bins = min(H, W) // 2 if n_bins is None else n_bins
    if not 1 <= n_bins <= min(H, W) // 2:
        raise BookError(f"spectrum: {n_bins} bins of an image {H} x {W}; give 1 to {min(H, W) // 2}")
    window = torch.hann_window(H, dtype=x.dtype)[:, None] * torch.hann_window(W, dtype=x.dtype)
    power = torch.fft.fft2((x - x.mean((-1, -2), keepdim=True)) * window.to(x.device)).abs().square()
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None, :])
    ring = (radius * 2 * n_bins).long().to(x.device)  # the Nyquist frequency is 1/2
    inside = F.one_hot(ring.clamp(max=n_bins), n_bins + 1)[..., :n_bins].to(x.dtype)  # corners are left out
    inside = inside / inside.sum((0, 1))
    return torch.einsum("...hw,hwn->...n", power, inside)
