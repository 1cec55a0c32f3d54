"""What the eye would compare: a picture's perceptual hash, and how sharp it is."""

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
COMPARED = 256  # px: the side of the square whose sharpness is told, whatever size the picture has


class Look(NamedTuple):
    """One picture, to the eye."""

    hash: int  # 64 bits
    sharpness: float  # variance of the Laplacian, 0 and more


def look(path: Path) -> Look:
    """Decode a file once, and look at it.

    Raises:
        Refusal: it cannot be decoded.
    """
    grey = decode(path, at_least=2 * COMPARED).convert("L")
    return Look(perceptual_hash(grey), sharpness(grey))


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, of which pictures that look alike share most: a cosine transform's low frequencies over their median.

    Bit for bit that of the library imagehash (`phash`), so that hashes may be compared with those made elsewhere;
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), section 3.2.

    Returns:
        The first row's first bit is the highest.
    """
    grey = image.convert("L").resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    waves = _waves()
    # Rounded: what is zero but for the last digits, as in a blank picture, must not be bits by chance.
    spectrum = (waves @ np.asarray(grey, np.float64) @ waves.T).round(6)
    bits = spectrum > np.median(spectrum)
    return int(np.packbits(bits.reshape(-1)).view(">u8")[0])


@cache
def _waves() -> NDArray[np.float64]:
    """(KEPT, HASHED): the first rows of the discrete cosine transform II, unscaled but for a factor of 2."""
    places = np.arange(HASHED) + 0.5
    return 2 * np.cos(np.pi / HASHED * np.arange(KEPT)[:, None] * places)


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey picture, all pictures being looked at in one size.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000): what is less sharp has gentler edges.
    """
    grey = np.asarray(image.convert("L").resize((COMPARED, COMPARED), Image.Resampling.BILINEAR), np.float32)
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())
