"""Visual fingerprint of an image: its perceptual hash, its downscaled colors and its sharpness."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.images.decode import decode

HASH_INPUT_SIDE = 32  # px of the square that is transformed
HASH_SIDE = 8  # lowest frequencies in each direction: 64 bits
COLOR_SIDE = 16  # px of the square whose colors are compared
MIN_DECODED_SIDE = 512  # px, where the sharpness is not needed
MAX_SHARPNESS_SIDE = 1_024  # px of the center whose sharpness is measured, in the image's own pixels


class Fingerprint(NamedTuple):
    """The visual fingerprint of one image."""

    hash: int  # 64 bits
    colors: NDArray[np.uint8]  # (768,) the pixels of a square of 16 px
    sharpness: float  # 0 and more; 0 where it was not measured


def compute_fingerprint(path: Path, with_sharpness: bool = True) -> Fingerprint:
    """Decode a file once and compute its fingerprint; raises UnusableImage as `decode` does.

    Args:
        with_sharpness: decode a large JPEG in full, which takes several times as long.
    """
    image = decode(path, min_side=None if with_sharpness else MIN_DECODED_SIDE)
    return Fingerprint(perceptual_hash(image), downscale_colors(image), sharpness(image) if with_sharpness else 0.0)


def downscale_colors(image: Image.Image) -> NDArray[np.uint8]:
    """Return (768,) the pixels of an image as a square of 16 px."""
    return np.asarray(image.resize((COLOR_SIDE, COLOR_SIDE), Image.Resampling.LANCZOS)).reshape(-1)


def perceptual_hash(image: Image.Image) -> int:
    """Return 64 bits, most of them equal for similar images: low frequencies of a cosine transform over their median.

    Bit for bit that of the library imagehash (`phash`), so that hashes may be compared with those made elsewhere;
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), section 3.2.

    Returns:
        The first row's first bit is the highest.
    """
    grayscale = image.convert("L").resize((HASH_INPUT_SIDE, HASH_INPUT_SIDE), Image.Resampling.LANCZOS)
    waves = _cosine_waves()
    # Rounded, so that rounding errors around zero, as in a blank image, do not set bits.
    spectrum = (waves @ np.asarray(grayscale, np.float64) @ waves.T).round(6)
    bits = spectrum > np.median(spectrum)
    return int(np.packbits(bits.reshape(-1)).view(">u8")[0])


@cache
def _cosine_waves() -> NDArray[np.float64]:
    """Return (HASH_SIDE, HASH_INPUT_SIDE), the first rows of the discrete cosine transform II times 2, unscaled."""
    positions = np.arange(HASH_INPUT_SIDE) + 0.5
    return 2 * np.cos(np.pi / HASH_INPUT_SIDE * np.arange(HASH_SIDE)[:, None] * positions)


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the correlation of downscaled colors, pair by pair, whatever the brightness and the contrast.

    Two things photographed in the same place and pose share their hash up to a few bits; their colors differ.

    Args:
        first, second: (n, 768), `Fingerprint.colors`.

    Returns:
        (n,) from -1 to 1; 0 where one of the two is blank.
    """
    products: NDArray[np.float32] = np.einsum("nd,nd->n", standardize(first), standardize(second))
    return products


def standardize(colors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n, 768) rows of mean 0 and length 1, whose inner products are correlations; zeros for blank ones."""
    centered = colors - colors.mean(axis=1, keepdims=True, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", centered, centered))
    rows: NDArray[np.float32] = centered / np.maximum(lengths, 1e-3)[:, None]
    return rows


def sharpness(image: Image.Image) -> float:
    """Return the energy of the upper half of an image's spatial frequencies over that of the lower half.

    In the image's own pixels: an upscaled or a blurred image has little in its upper half, whatever its size. Over its
    own energy: a brighter version of an image is not sharper.
    """
    gray = np.asarray(image.convert("L"), np.float32)
    (top, height), (left, width) = (
        (max(0, n - MAX_SHARPNESS_SIDE) // 2, min(n, MAX_SHARPNESS_SIDE)) for n in gray.shape
    )
    gray = gray[top : top + height, left : left + width]
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]  # its edges are no detail
    power = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    frequencies = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))  # 1: the highest of a row
    upper, lower = (power[(frequencies > a) & (frequencies <= b)].sum() for a, b in ((0.5, 1), (0.05, 0.5)))
    return float(upper / lower) if lower > 1e-3 else 0.0
