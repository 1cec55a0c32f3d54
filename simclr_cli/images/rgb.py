"""Whatever values a decoded picture has -> 8-bit RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Alpha lies over white; 16-bit greyscale is scaled by its range, any other one from its darkest to its brightest.

    Floats within 0..1 are taken as they are; what is not finite counts as 0.
    """
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        return _grey(image.mode, np.asarray(image).astype(np.float64))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def _grey(mode: str, values: NDArray[np.float64]) -> Image.Image:
    """(H, W) values that need more than 8 bits -> a picture; computed in place, since they take most of the memory."""
    if mode == "F":
        np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and high <= 65535):  # Pillow before 11 opened 16 bits as I
        values /= 65535
    elif mode == "I" or low < 0 or high > 1:  # from darkest to brightest: all that is known of a scale without a range
        values -= low
        values /= (high - low) or 1
    values *= 255
    return Image.fromarray(np.round(values, out=values).astype(np.uint8)).convert("RGB")
