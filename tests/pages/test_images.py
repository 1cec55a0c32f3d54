"""Images as data: URIs, read back by Pillow."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from simclr_cli.pages.images import as_data_uri


def opened(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert head == f"data:image/{(image.format or '').lower()};base64"
    return image


def test_a_flat_drawing_comes_back_as_it_is() -> None:
    drawn = np.zeros((40, 30, 3), np.uint8)
    drawn[5:10] = (250, 20, 3)
    image = opened(as_data_uri(drawn))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), drawn)


def test_a_photograph_comes_back_nearly_and_short() -> None:
    y, x = np.mgrid[:96, :96]
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    photo = np.clip(np.stack([x, y, (x + y) / 2], 2) * 2 + noise, 0, 255).astype(np.uint8)
    uri = as_data_uri(photo)
    image = opened(uri)
    assert image.format == "JPEG" and len(uri) < 96 * 96
    assert np.abs(np.asarray(image).astype(int) - photo).mean() < 6


def test_one_pixel_is_a_image() -> None:
    assert opened(as_data_uri(np.full((1, 1, 3), 7, np.uint8))).size == (1, 1)
