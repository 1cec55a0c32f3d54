"""A confusion matrix as an image: a row for each class, its held-out images spread over the classes predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simclr_cli.api import Confusion
from simclr_cli.core.text import safe
from simclr_cli.pages.images import encoded

PAPER, INK, FAINT = (255, 255, 255), (30, 34, 40), (120, 126, 134)
RIGHT, WRONG = (22, 98, 170), (190, 62, 24)  # of a cell that holds its whole row
NOTHING = (243, 244, 246)  # of an empty one
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
    words = "rows: the true class; columns: what its images were taken for"
    draw.text((beside, MARGIN - 4), words, fill=FAINT, font=ImageFont.load_default(13))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image.paste(Image.fromarray(_cells(shares, cell_side)), (beside, top))
    if cell_side >= WRITTEN_FROM:
        for row, column in np.argwhere(counts):
            center = (beside + (column + 0.5) * cell_side - 1, top + (row + 0.5) * cell_side - 1)
            ink = PAPER if shares[row, column] > 0.5 else INK
            draw.text(center, str(counts[row, column]), fill=ink, font=font, anchor="mm")
    for i, name in enumerate(names):
        middle = int((i + 0.5) * cell_side)
        draw.text((beside - MARGIN / 2, top + middle - 1), name, fill=INK, font=font, anchor="rm")
        image.paste(_upright(name, font), (beside + middle - 9, top + side + 4))
    return encoded(image, "PNG")


def _short(name: str) -> str:
    name = safe(name)
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _upright(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """A name that reads from bottom to top."""
    strip = Image.new("RGB", (int(font.getlength(name)) + 4, 18), PAPER)
    ImageDraw.Draw(strip).text((strip.width - 2, 9), name, fill=INK, font=font, anchor="rm")
    return strip.rotate(90, expand=True)


def _cells(shares: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """(C * side, C * side, 3): very light gray where a share is 0, the whole color where it is 1, white between."""
    full = np.where(np.eye(len(shares), dtype=bool)[:, :, None], RIGHT, WRONG)
    depth = np.where(shares == 0, 0.0, 0.12 + 0.88 * shares)[:, :, None]
    colors = (np.array(NOTHING) + depth * (full - np.array(NOTHING))).astype(np.uint8)
    cells: NDArray[np.uint8] = colors.repeat(side, axis=0).repeat(side, axis=1)
    for gap in (side - 1, *([side - 2] if side > 8 else [])):
        cells[gap::side], cells[:, gap::side] = PAPER[0], PAPER[0]
    return cells
