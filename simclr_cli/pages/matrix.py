"""A confusion matrix as a picture: a row for each class, its held-out pictures spread over what they were taken for."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simclr_cli.results import Confusion
from simclr_cli.wording import safe

PAPER, INK, FAINT = (255, 255, 255), (30, 34, 40), (120, 126, 134)
RIGHT, WRONG = (22, 98, 170), (190, 62, 24)  # of a cell that holds its whole row
MOST_NAMED = 60  # classes; with more, their names could not be read
WRITTEN_FROM = 28  # px of a cell from which on its count is written into it
NAME_LENGTH = 22
MARGIN = 14  # px


def confusion_png(classes: Sequence[str], cells: Sequence[Confusion]) -> bytes:
    """The matrix as PNG: blue on the diagonal, red beside it, the darker the larger the share of the row."""
    number = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for cell in cells:
        counts[number[cell.label], number[cell.predicted]] = cell.count
    cell_side = max(4, min(46, 1100 // len(classes)))
    font = ImageFont.load_default(size=max(9, min(14, cell_side * 0.36)))
    names = [_short(name) for name in classes] if len(classes) <= MOST_NAMED else [""] * len(classes)
    beside = int(max(font.getlength(name) for name in names)) + 2 * MARGIN
    side = cell_side * len(classes)
    image = Image.new("RGB", (beside + side + MARGIN, beside + side + 3 * MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    top = 2 * MARGIN + 8
    words = "rows: the true class; columns: what its pictures were taken for"
    draw.text((beside, MARGIN - 4), words, fill=FAINT, font=ImageFont.load_default(13))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(counts.shape):
        corner = (beside + column * cell_side, top + row * cell_side)
        colour = _blend(RIGHT if row == column else WRONG, float(shares[row, column]))
        draw.rectangle((*corner, corner[0] + cell_side - 2, corner[1] + cell_side - 2), fill=colour)
        if counts[row, column] and cell_side >= WRITTEN_FROM:
            light = shares[row, column] > 0.5
            centre = (corner[0] + cell_side / 2 - 1, corner[1] + cell_side / 2 - 1)
            draw.text(centre, str(counts[row, column]), fill=PAPER if light else INK, font=font, anchor="mm")
    for i, name in enumerate(names):
        middle = int((i + 0.5) * cell_side)
        draw.text((beside - MARGIN / 2, top + middle - 1), name, fill=INK, font=font, anchor="rm")
        image.paste(_upright(name, font), (beside + middle - 9, top + side + 4))
    return _as_png(image)


def _short(name: str) -> str:
    name = safe(name)
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _upright(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """A name that reads from bottom to top."""
    strip = Image.new("RGB", (int(font.getlength(name)) + 4, 18), PAPER)
    ImageDraw.Draw(strip).text((strip.width - 2, 9), name, fill=INK, font=font, anchor="rm")
    return strip.rotate(90, expand=True)


def _blend(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
    """From a very light grey, where the share is 0, to the colour, where it is 1."""
    depth = 0.0 if share == 0 else 0.12 + 0.88 * share
    ground: NDArray[np.float64] = np.array((243, 244, 246), dtype=np.float64)
    return tuple(int(value) for value in ground + depth * (np.array(colour) - ground))


def _as_png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
