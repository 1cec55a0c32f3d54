"""Views of images: on a contact sheet as PNG, and as a page with the reason of each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simclr_cli.core.events import Choice
from simclr_cli.core.text import safe
from simclr_cli.pages.images import Pixels, as_data_uri, encoded
from simclr_cli.pages.page import Section, page, render

GROUND, INK, QUIET, LINE = "#fbfaf8", "#1d1f23", "#5f6670", "#e2e0da"
# Okabe and Ito's, told apart by color-blind eyes; a crop's box and its view's edge have the same.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
VIEW_SIDE = 128  # px on the sheet, about: small views are enlarged by whole pixels, so that they show as they are
VIEW_MOST = 256  # px; larger ones are scaled down
MARGIN, GAP, EDGE = 32, 12, 4  # px
TITLE, TEXT, CAPTION = 26, 15, 12  # px of type


@dataclass(frozen=True)
class Row:
    """An image, and views of it."""

    name: str
    size: tuple[int, int]  # true height and width, px
    image: Pixels  # at any scale
    crops: NDArray[np.float32]  # (V, 4) top, left, height, width of each view's crop, as shares of the image
    views: NDArray[np.uint8]  # (V, S, S, 3) RGB


def contact_sheet(title: str, lines: Sequence[str], rows: Sequence[Row]) -> bytes:
    """PNG: a title, some lines of text, and a row for each image with its views.

    Args:
        lines: what the views were made with and what to notice; wrapped.
        rows: at least one, each with as many views of the same size.
    """
    count, size = rows[0].views.shape[:2]
    cell = shown_side(size)
    left = round(1.25 * cell)  # of the image itself
    width = 2 * MARGIN + left + count * (GAP + cell)
    text = [line for long in lines for line in wrapped(long, TEXT, width - 2 * MARGIN)]
    head = MARGIN + TITLE + 14 + len(text) * (TEXT + 7) + 20
    step = cell + EDGE + GAP // 2 + 2 * (CAPTION + 4) + GAP  # from row to row
    sheet = Image.new("RGB", (width, head + CAPTION + 10 + len(rows) * step + MARGIN), GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), elided(title, TITLE, width - 2 * MARGIN), INK, ImageFont.load_default(TITLE))
    for i, line in enumerate(text):
        pen.text((MARGIN, MARGIN + TITLE + 14 + i * (TEXT + 7)), line, QUIET, ImageFont.load_default(TEXT))
    small = ImageFont.load_default(CAPTION)
    pen.line((MARGIN, head - 8, width - MARGIN, head - 8), LINE)
    for column, word in enumerate(("image", *(f"view {i + 1}" for i in range(count)))):
        x = MARGIN + (0 if column == 0 else left + GAP + (column - 1) * (cell + GAP))
        pen.text((x, head), elided(word, CAPTION, cell), QUIET, small)
    for i, row in enumerate(rows):
        top = head + CAPTION + 10 + i * step
        image = boxed(row, left, cell)
        sheet.paste(image, (MARGIN, top))
        below = top + image.height + GAP // 2
        pen.text((MARGIN, below), elided(row.name, CAPTION, left), INK, small)
        pen.text((MARGIN, below + CAPTION + 4), f"{row.size[1]} x {row.size[0]} px", QUIET, small)
        for v, view in enumerate(row.views):
            x = MARGIN + left + GAP + v * (cell + GAP)
            sheet.paste(at_side(view, cell), (x, top))
            pen.rectangle((x - 1, top - 1, x + cell, top + cell), outline=LINE)  # a white view has an edge too
            pen.rectangle((x, top + cell, x + cell - 1, top + cell + EDGE - 1), COLORS[v % len(COLORS)])
    return encoded(sheet, "PNG")


def boxed(row: Row, width: int, height: int) -> Image.Image:
    """The image within width x height px, each view's crop as a frame in the view's color."""
    scale = min(width / row.size[1], height / row.size[0])
    shape = (max(1, round(row.size[1] * scale)), max(1, round(row.size[0] * scale)))
    enlarging = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    image = Image.fromarray(row.image).resize(shape, enlarging if scale > 1 else Image.Resampling.LANCZOS)
    pen, thick = ImageDraw.Draw(image), max(2, height // 88)
    for v in reversed(range(len(row.crops))):  # the first on top
        top, left, high, wide = (float(share) for share in row.crops[v])
        x, y = left * shape[0], top * shape[1]
        corner = (max(x, x + wide * shape[0] - 1), max(y, y + high * shape[1] - 1))
        pen.rectangle((x, y, *corner), outline=COLORS[v % len(COLORS)], width=thick)
    return image


def shown_side(size: int) -> int:
    """The side at which a view of `size` px is shown: a whole multiple, or less where it is large."""
    return min(VIEW_MOST, size * max(1, round(VIEW_SIDE / size)))


def at_side(view: Pixels, side: int) -> Image.Image:
    """A view at the side of its cell: enlarged pixel by pixel, so that it shows what the encoder would see."""
    kind = Image.Resampling.NEAREST if side >= len(view) else Image.Resampling.LANCZOS
    return Image.fromarray(view).resize((side, side), kind)


def elided(text: str, type_size: int, width: int) -> str:
    """Anyone's text, made printable, and its middle left out where it is longer than `width` px."""
    text, font = safe(text), ImageFont.load_default(type_size)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 1:
        keep = min(keep - 1, int(keep * 0.95) + 1)
        shorter = text[: -(-keep // 2)] + "..." + text[len(text) - keep // 2 :]
        if font.getlength(shorter) <= width:
            return shorter
    return "..."


def wrapped(text: str, type_size: int, width: int) -> list[str]:
    """Lines of at most `width` px, broken between words."""
    font, lines = ImageFont.load_default(type_size), list[str]()
    for word in safe(text).split():
        if lines and font.getlength(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(elided(word, type_size, width))
    return lines


SIDE = 352  # px of an image, shown at half of it at most, so that it is sharp on fine screens


def preview_page(title: str, lead: str, advice: Sequence[str], rows: Sequence[Row], choices: Sequence[Choice]) -> str:
    """HTML: what to notice, the views of each image as they are, and the settings with their reasons."""
    shown = [
        {
            "name": row.name,
            "size": f"{row.size[1]} x {row.size[0]} px",
            "image": as_data_uri(np.asarray(boxed(row, SIDE, SIDE))),
            "views": [
                # Enlarged by whole pixels: JPEG would leave no small one as it is.
                {"source": as_data_uri(np.asarray(at_side(view, shown_side(len(view))))), "color": color}
                for view, color in zip(row.views, cycle(COLORS), strict=False)
            ],
        }
        for row in rows
    ]
    advised = Markup("\n").join(Markup("<p>{}</p>").format(safe(line)) for line in advice)
    settings = render("settings.html", choices=choices)
    return page(
        title,
        [
            Section("What to notice", body=advised),
            Section(
                "Views",
                "Left, each image with the crop of each of its views; the edge below a view has its crop's color.",
                render("preview.html", rows=shown),
            ),
            Section("Settings", "Each automatic choice with its reason; what you type wins.", settings),
        ],
        lead=lead,
    )
