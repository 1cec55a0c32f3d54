"""The confusion matrix as an image: a row per true class, a column per predicted class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simclr_cli.api import Confusion
from simclr_cli.core.text import escape_unprintable
from simclr_cli.pages.images import encode_image

BACKGROUND, TEXT, FAINT_TEXT = (255, 255, 255), (30, 34, 40), (120, 126, 134)
CORRECT, WRONG = (22, 98, 170), (190, 62, 24)  # of a cell that holds its whole row
EMPTY = (243, 244, 246)  # of an empty cell
MAX_NAMED_CLASSES = 60  # with more, their names could not be read
MIN_CELL_WITH_COUNT = 28  # px; smaller cells have no room for a number
MAX_NAME_LENGTH = 22
MARGIN = 14  # px
TITLE = "rows: true class; columns: predicted class"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_confusion_matrix(classes: Sequence[str], cells: Sequence[Confusion]) -> bytes:
    """Return the matrix as PNG: blue on the diagonal, red elsewhere, darker for larger shares of the row."""
    counts = _count_matrix(classes, cells)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell_side = max(4, min(46, 1100 // len(classes)))
    font = ImageFont.load_default(size=max(9, min(14, cell_side * 0.36)))
    names = [_shorten_name(name) for name in classes] if len(classes) <= MAX_NAMED_CLASSES else [""] * len(classes)
    left, top = int(max(font.getlength(name) for name in names)) + 2 * MARGIN, 2 * MARGIN + 8
    side = cell_side * len(classes)
    image = Image.new("RGB", (left + side + MARGIN, left + side + 3 * MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((left, MARGIN - 4), TITLE, fill=FAINT_TEXT, font=ImageFont.load_default(13))
    image.paste(Image.fromarray(_color_cells(shares, cell_side)), (left, top))
    if cell_side >= MIN_CELL_WITH_COUNT:
        for row, column in np.argwhere(counts):
            center = (left + (column + 0.5) * cell_side - 1, top + (row + 0.5) * cell_side - 1)
            color = BACKGROUND if shares[row, column] > 0.5 else TEXT
            draw.text(center, str(counts[row, column]), fill=color, font=font, anchor="mm")
    for i, name in enumerate(names):
        middle = int((i + 0.5) * cell_side)
        draw.text((left - MARGIN / 2, top + middle - 1), name, fill=TEXT, font=font, anchor="rm")
        image.paste(_draw_upward(name, font), (left + middle - 9, top + side + 4))
    return encode_image(image, "PNG")


def _count_matrix(classes: Sequence[str], cells: Sequence[Confusion]) -> NDArray[np.int64]:
    """Return the (C, C) counts of images by true class and predicted class."""
    index = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for cell in cells:
        counts[index[cell.label], index[cell.predicted]] = cell.count
    return counts


def _shorten_name(name: str) -> str:
    name = escape_unprintable(name)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _draw_upward(name: str, font: Font) -> Image.Image:
    """Draw a name that reads from bottom to top."""
    strip = Image.new("RGB", (int(font.getlength(name)) + 4, 18), BACKGROUND)
    ImageDraw.Draw(strip).text((strip.width - 2, 9), name, fill=TEXT, font=font, anchor="rm")
    return strip.rotate(90, expand=True)


def _color_cells(shares: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """Return (C * side, C * side, 3) pixels, from light gray where a share is 0 to the full color where it is 1."""
    full_color = np.where(np.eye(len(shares), dtype=bool)[:, :, None], CORRECT, WRONG)
    opacity = np.where(shares == 0, 0.0, 0.12 + 0.88 * shares)[:, :, None]
    colors = (np.array(EMPTY) + opacity * (full_color - np.array(EMPTY))).astype(np.uint8)
    cells: NDArray[np.uint8] = colors.repeat(side, axis=0).repeat(side, axis=1)
    for gap in (side - 1, *([side - 2] if side > 8 else [])):
        cells[gap::side], cells[:, gap::side] = BACKGROUND[0], BACKGROUND[0]
    return cells
