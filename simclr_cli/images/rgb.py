"""Whatever values a decoded picture has -> 8-bit RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Alpha lies over white; 16-bit greyscale is scaled by its range, any other one from its darkest to its brightest.

    Floats within 0..1 are taken as they are; what is not finite counts as 0.
    """
    if image.mode.startswith("I;16"):
        return _scaled(np.asarray(image).astype(np.float64) / 65535)
    if image.mode == "I":  # 32-bit integers; Pillow before 11 also opened 16-bit PNG so
        values = np.asarray(image).astype(np.float64)
        within_16_bit = values.min() >= 0 and values.max() <= 65535
        return _scaled(values / 65535) if within_16_bit else _scaled(_stretched(values))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        within_one = values.min() >= 0 and values.max() <= 1
        return _scaled(values if within_one else _stretched(values))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From darkest to brightest onto 0..1: all that is known of a scale without a range."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _scaled(values: NDArray[np.float64]) -> Image.Image:
    """(H, W) floats in 0..1 -> an RGB picture."""
    return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
