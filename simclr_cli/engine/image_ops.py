"""Crop, blur and color operations on a batch, each image by its own amount (appendix A).

Linear operations are matrix products. Resampling a crop (with its flip) and blurring each multiply every image by one
small matrix for its rows and one for its columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device without waiting for the device."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def resized_crop(x: Tensor, crop: Tensor, sizes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, resize (bicubic, antialiased) and flip each image by its own parameters: rows @ x @ columns^T.

    Args:
        x: (B, 3, H, W) uint8, or floats in [0, 1].
        crop: (B, 4) top, left, height, width in pixels of the original images.
        sizes: (B, 2) heights and widths of the original images.
        flip: (B,) bool, left to right.

    Returns:
        (B, 3, size, size) in [0, 1]. For images stored at their original size (H, W = sizes), equal to torchvision's
        `resized_crop(..., BICUBIC, antialias=True)`: no pixel outside the crop is used.
    """
    scale = torch.tensor(x.shape[-2:]) / sizes  # stored pixels per original pixel
    start, length = upload(crop[:, :2] * scale, x.device), upload(crop[:, 2:] * scale, x.device)
    rows = compute_resampling_matrices(start[:, 0], length[:, 0], x.shape[-2], size)
    columns = compute_resampling_matrices(
        start[:, 1], length[:, 1], x.shape[-1], size, upload(flip, x.device)
    ).transpose(1, 2)
    # Channel by channel: one product for all three would copy the matrices for each. Not into slices of one tensor:
    # slower on a CPU, and Apple's GPUs have computed something else (pytorch issue 104832).
    out = torch.stack([rows @ channel.float() @ columns for channel in x.unbind(1)], dim=1)
    if x.dtype == torch.uint8:
        out.div_(255)
    return out.clamp_(0, 1)  # bicubic overshoots


def compute_resampling_matrices(
    start: Tensor, length: Tensor, pixels: int, size: int, flip: Tensor | None = None
) -> Tensor:
    """Compute (B, size, pixels) weights: row i mixes the `pixels` of one axis into output pixel i.

    Bicubic (a = -0.5), stretched by the scale when shrinking (antialias), over the pixels whose centers lie in
    [start, start + length), normalized: as Pillow and torch do. Weights are computed only where the cubic reaches,
    two pixels or two stretched pixels to either side. All others are 0.

    Args:
        start, length: (B,) float, of the crop along this axis, in pixels.
        flip: (B,) bool, reverses the output pixels.
    """
    scale = (length / size)[:, None, None]
    position = (torch.arange(size, device=start.device)[:, None] + 0.5).expand(len(start), size, 1)
    if flip is not None:
        position = torch.where(flip[:, None, None], size - position, position)
    centers = start[:, None, None] + position * scale  # (B, size, 1)
    stretch = scale.clamp(min=1)
    taps = min(pixels, math.ceil(4 * max(1.0, pixels / size)) + 1)
    first = (centers - 2 * stretch).floor_().clamp_(0, pixels - taps)
    pixel = first + (torch.arange(taps, device=start.device) + 0.5)  # (B, size, taps), their centers
    weights = _cubic((pixel - centers) / stretch)
    inside = (pixel >= (start - 1e-4)[:, None, None]) & (pixel < (start + length + 1e-4)[:, None, None])
    # A crop thinner than one stored pixel may contain no center: use the nearest pixel.
    inside |= (pixel - (start + length / 2)[:, None, None]).abs() <= 0.5
    weights.mul_(inside)
    weights = weights / weights.sum(dim=2, keepdim=True)
    matrix = torch.zeros(len(start), size, pixels, device=start.device)
    return matrix.scatter_(2, pixel.long(), weights)


def _cubic(t: Tensor, a: float = -0.5) -> Tensor:
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its own sigma; the kernel is a tenth of the size and odd (23 at 224), edges are reflected.

    Args:
        x: (B, 3, S, S); sigma: (B,) > 0, in pixels.
    """
    size = x.shape[-1]
    radius = max(1, size // 20)
    offset = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (B, 2 radius + 1)
    source = torch.arange(size, device=x.device)[:, None] + offset  # (S, 2 radius + 1)
    source = source.abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # reflected
    matrix = torch.zeros(len(x), size, size, device=x.device)
    matrix.scatter_add_(2, source.expand(len(x), -1, -1), kernel[:, None].expand(-1, size, -1))
    matrix = matrix[:, None]
    return matrix @ x @ matrix.transpose(2, 3)


def to_grayscale(x: Tensor) -> Tensor:
    """Convert (B, 3, S, S) to (B, 1, S, S) luma."""
    red, green, blue = x.chunk(3, dim=1)
    return (GRAY_WEIGHTS[0] * red).add_(green, alpha=GRAY_WEIGHTS[1]).add_(blue, alpha=GRAY_WEIGHTS[2])


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = to_grayscale(x.mean(dim=(2, 3), keepdim=True))
    return torch.lerp(mean, x, factor).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(to_grayscale(x), x, factor).clamp_(0, 1)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue by `shift` (1 = the whole circle) as in HSV, without an HSV image.

    HSV -> RGB: channel n in (5, 3, 1) is high - chroma * clip(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6, hue in
    sixths of the circle. With t = (n + hue - 2) / 6 the minimum is 2 - 6 |t - round(t)|, without a slow remainder.
    """
    red, green, blue = x.chunk(3, dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    two = 2 * chroma
    hue = torch.where(
        high == red,
        green - blue,
        torch.where(high == green, (blue - red).add_(two), (red - green).add_(two, alpha=2)),
    )
    hue.div_(torch.where(chroma == 0, 1, chroma).mul_(6)).add_(shift)  # in circles
    out = torch.empty_like(x)
    for n, channel in zip((5, 3, 1), out.chunk(3, dim=1), strict=True):
        t = torch.add(hue, (n - 2) / 6, out=channel)
        t.sub_(t.round()).abs_().mul_(-6).add_(2).clamp_(0, 1).mul_(chroma)
        torch.sub(high, t, out=channel)
    return out.clamp_(0, 1)


COLOR_OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
