"""Drawn images that tests of several rooms compare."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_page(seed: int, *, same_lines: int = 0) -> Image.Image:
    """Return a page of a template with a header and 10 lines of text, of which the first ones are the same on all."""
    page = Image.new("RGB", (600, 840), "white")
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 600, 90), fill=(20, 60, 140))
    draw.text((40, 30), "SOME FIRM - INVOICE", fill="white", font=ImageFont.load_default(34))
    for line in range(10):
        letters = np.random.default_rng([line, 0 if line < same_lines else seed]).integers(97, 123, 24)
        draw.text((40, 140 + 50 * line), bytes(letters.astype(np.uint8)).decode(), "black", ImageFont.load_default(24))
    draw.rectangle((0, 760, 600, 840), fill=(20, 60, 140))
    return page


def draw_scene(seed: int, side: int = 400) -> Image.Image:
    """Return an image with structure at all scales, as a photo has."""
    rng, total = np.random.default_rng(seed), np.zeros((side, side, 3))
    for cells in (3, 6, 12, 25, 50, 100, 200, 400):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) - 128) * cells**-0.25
    return Image.fromarray((128 + 0.3 * total).clip(0, 255).astype(np.uint8))


def compress(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")
