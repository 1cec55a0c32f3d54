"""Pixels -> data: URIs, so that a page holds its own pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
QUALITY = 85  # of JPEG


def as_data_uri(pixels: Pixels, *, only_jpeg: bool = False) -> str:
    """A picture as the `src` of an <img>: JPEG, or PNG where that is no longer, as with flat drawings.

    Args:
        only_jpeg: for photos by the hundred, since PNG takes ten times as long to try.
    """
    image = Image.fromarray(pixels)
    kind, content = "jpeg", encoded(image, "JPEG", quality=QUALITY)
    if not only_jpeg and len(png := encoded(image, "PNG")) <= len(content):
        kind, content = "png", png
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def encoded(image: Image.Image, kind: str, **options: int | str) -> bytes:
    """The content of a file of this kind, by the name that Pillow has for it."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
