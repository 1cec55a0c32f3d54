"""Images as data: URIs, read back by Pillow."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from simclr_cli.pages.images import as_data_uri


def open_uri(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert head == f"data:image/{(image.format or '').lower()};base64"
    return image


def test_a_flat_drawing_is_lossless() -> None:
    drawing = np.zeros((40, 30, 3), np.uint8)
    drawing[5:10] = (250, 20, 3)
    image = open_uri(as_data_uri(drawing))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), drawing)


def test_a_photo_is_a_short_jpeg() -> None:
    y, x = np.mgrid[:96, :96]
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    photo = np.clip(np.stack([x, y, (x + y) / 2], 2) * 2 + noise, 0, 255).astype(np.uint8)
    uri = as_data_uri(photo)
    image = open_uri(uri)
    assert image.format == "JPEG" and len(uri) < 96 * 96
    assert np.abs(np.asarray(image).astype(int) - photo).mean() < 6


def test_one_pixel_is_an_image() -> None:
    assert open_uri(as_data_uri(np.full((1, 1, 3), 7, np.uint8))).size == (1, 1)
