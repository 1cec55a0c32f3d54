"""What the eye would compare: an image's perceptual hash, its colors in small, and how sharp it is."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.images.decode import decode

HASHED = 32  # px: the side of the square that is transformed
KEPT = 8  # lowest frequencies a side: 64 bits
SMALL = 16  # px: the side of the square whose colors are compared
# Of near-duplicates. Chosen on photos with known copies among many of one layout: docs/benchmarks.md.
NEAR_DUPLICATE_MAX_BITS = 8  # of the 64 of their perceptual hashes in which they may differ
NEAR_DUPLICATE_MIN_CORRELATION = 0.96  # of their colors in small
COMPARED = 256  # px: the side of the square whose sharpness is told, whatever size the image has


class Look(NamedTuple):
    """One image, to the eye."""

    hash: int  # 64 bits
    small: NDArray[np.uint8]  # (768,) the colors of a square of 16 px
    sharpness: float  # 0 and more


def look(path: Path) -> Look:
    """Decode a file once, and look at it; a UnusableImage is that of `decode`."""
    image = decode(path, at_least=2 * COMPARED)
    return Look(perceptual_hash(image), small_colors(image), sharpness(image))


def are_near_duplicates(
    hashes: NDArray[np.uint64], small: NDArray[np.uint8], i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return (n,) which pairs of images are near-duplicates to the eye: the one definition of it.

    `duplicates` asks for similar embeddings besides; `pretrain --duplicates near` has none yet.

    Args:
        hashes, small: (N,) and (N, 768), see `Look`.
        i, j: (n,) places in these.
    """
    near: NDArray[np.bool_] = np.bitwise_count(hashes[i] ^ hashes[j]) <= NEAR_DUPLICATE_MAX_BITS
    near[near] = correlation(small[i[near]], small[j[near]]) >= NEAR_DUPLICATE_MIN_CORRELATION
    return near


def small_colors(image: Image.Image) -> NDArray[np.uint8]:
    """Return (768,) the colors of an image as a square of 16 px."""
    return np.asarray(image.resize((SMALL, SMALL), Image.Resampling.LANCZOS)).reshape(-1)


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, of which images that look alike share most: a cosine transform's low frequencies over their median.

    Bit for bit that of the library imagehash (`phash`), so that hashes may be compared with those made elsewhere;
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), section 3.2.

    Returns:
        The first row's first bit is the highest.
    """
    grayscale = image.convert("L").resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    waves = _waves()
    # Rounded: what is zero but for the last digits, as in a blank image, must not be bits by chance.
    spectrum = (waves @ np.asarray(grayscale, np.float64) @ waves.T).round(6)
    bits = spectrum > np.median(spectrum)
    return int(np.packbits(bits.reshape(-1)).view(">u8")[0])


@cache
def _waves() -> NDArray[np.float64]:
    """(KEPT, HASHED): the first rows of the discrete cosine transform II, unscaled but for a factor of 2."""
    places = np.arange(HASHED) + 0.5
    return 2 * np.cos(np.pi / HASHED * np.arange(KEPT)[:, None] * places)


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how well colors in small go together, pair by pair, whatever the brightness and the contrast.

    Two things photographed in the same place and pose share their hash up to a few bits; their colors tell them apart.

    Args:
        first, second: (n, 768), `Look.small`.

    Returns:
        (n,) from -1 to 1; 0 where one of them is blank, which has nothing to go by.
    """
    found: NDArray[np.float32] = np.einsum("nd,nd->n", standardized(first), standardized(second))
    return found


def standardized(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n, 768) rows of mean 0 and length 1, whose inner products are correlations; zeros for blank ones."""
    centered = small - small.mean(axis=1, keepdims=True, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", centered, centered))
    found: NDArray[np.float32] = centered / np.maximum(lengths, 1e-3)[:, None]
    return found


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian over that of the grayscale image, all images being looked at in one size.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000): what is less sharp has gentler edges.
    Unlike there, over the image's own variance: a copy made brighter is not sharper.
    """
    grayscale = np.asarray(image.convert("L").resize((COMPARED, COMPARED), Image.Resampling.BILINEAR), np.float32)
    edges = (
        grayscale[:-2, 1:-1]
        + grayscale[2:, 1:-1]
        + grayscale[1:-1, :-2]
        + grayscale[1:-1, 2:]
        - 4 * grayscale[1:-1, 1:-1]
    )
    return float(edges.var() / max(float(grayscale.var()), 1e-6))
