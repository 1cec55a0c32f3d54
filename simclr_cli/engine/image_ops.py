"""What is done to the images of a batch, each by its own amount (appendix A): crop, blur, colors.

What is linear is a matrix product: resampling a crop (with its flip) and blurring are each one small matrix for the
rows and one for the columns of every image, applied by two batched products.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, without waiting for what it is doing."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def resized_crop(x: Tensor, crop: Tensor, sizes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, resize (bicubic, antialiased) and flip, each image its own: rows @ x @ columns^T.

    Args:
        x: (B, 3, H, W) uint8, or floats in [0, 1].
        crop: (B, 4) top, left, height, width in pixels of the true images; sizes: (B, 2) of those.
        flip: (B,) bool, left to right.

    Returns:
        (B, 3, size, size) in [0, 1]. Where the stored image is the true one (H, W = sizes), equal to torchvision's
        `resized_crop(..., BICUBIC, antialias=True)`: no pixel outside the crop is looked at.
    """
    scale = torch.tensor(x.shape[-2:]) / sizes  # stored pixels per true pixel
    start, length = upload(crop[:, :2] * scale, x.device), upload(crop[:, 2:] * scale, x.device)
    rows = resampling_matrix(start[:, 0], length[:, 0], x.shape[-2], size)
    columns = resampling_matrix(start[:, 1], length[:, 1], x.shape[-1], size, upload(flip, x.device)).transpose(1, 2)
    # Channel by channel: the same matrices for all three would be copied for each.
    out = torch.empty(len(x), 3, size, size, device=x.device)
    for channel, target in zip(x.unbind(1), out.unbind(1), strict=True):
        torch.bmm(rows @ channel.float(), columns, out=target)
    if x.dtype == torch.uint8:
        out.div_(255)
    return out.clamp_(0, 1)  # bicubic overshoots


def resampling_matrix(start: Tensor, length: Tensor, pixels: int, size: int, flip: Tensor | None = None) -> Tensor:
    """(B, size, pixels): row i holds the weights by which output pixel i mixes the `pixels` of one axis.

    Bicubic (a = -0.5) stretched by the scale where it shrinks (antialias), over the pixels whose centers lie in
    [start, start + length), normalized: what Pillow and torch compute. Weights are computed where the cubic reaches,
    two pixels or two of the stretched ones to either side, and laid into zeros.

    Args:
        flip: (B,) bool, from the last output pixel to the first.
    """
    scale = (length / size)[:, None, None]
    place = (torch.arange(size, device=start.device)[:, None] + 0.5).expand(len(start), size, 1)
    if flip is not None:
        place = torch.where(flip[:, None, None], size - place, place)
    centers = start[:, None, None] + place * scale  # (B, size, 1)
    stretch = scale.clamp(min=1)
    taps = min(pixels, math.ceil(4 * max(1.0, pixels / size)) + 1)
    first = (centers - 2 * stretch).floor_().clamp_(0, pixels - taps)
    pixel = first + (torch.arange(taps, device=start.device) + 0.5)  # (B, size, taps), their centers
    weights = _cubic((pixel - centers) / stretch)
    inside = (pixel >= (start - 1e-4)[:, None, None]) & (pixel < (start + length + 1e-4)[:, None, None])
    # A crop thinner than one stored pixel may hold no center: then the nearest pixel serves.
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
    """Blur each image by its own sigma; kernel a tenth of the size and odd (23 at 224), edges reflected.

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
    """(B, 3, S, S) -> (B, 1, S, S), by the eye's weights."""
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
    """Turn the hue by `shift` (1 = the whole circle) through HSV, without ever leaving RGB's shape.

    HSV -> RGB: channel n in (5, 3, 1) is high - chroma * clip(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6, hue in
    sixths of the circle. With t = (n + hue - 2) / 6 that minimum is 2 - 6 |t - round(t)|: no remainder, which is slow.
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
