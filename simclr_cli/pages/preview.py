"""The preview of views: as a contact sheet in PNG, and as a page with the reason for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simclr_cli.core.events import Choice
from simclr_cli.core.text import escape_unprintable
from simclr_cli.pages.images import Pixels, as_data_uri, encode_image
from simclr_cli.pages.page import Section, render_page, render_template

BACKGROUND, TEXT, FAINT_TEXT, LINE = "#fbfaf8", "#1d1f23", "#5f6670", "#e2e0da"
# Okabe and Ito's palette, safe for color-blind readers. A crop's frame and the edge of its view share a color.
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
VIEW_SIDE = 128  # px, about: smaller views are enlarged by a whole factor, so that each pixel stays visible
MAX_VIEW_SIDE = 256  # px; larger views are scaled down
PAGE_IMAGE_SIDE = 352  # px; the page shows at most half of it, so that it is sharp on high-resolution screens
MARGIN, GAP, EDGE = 32, 12, 4  # px
TITLE_SIZE, TEXT_SIZE, CAPTION_SIZE = 26, 15, 12  # px of type


@dataclass(frozen=True)
class PreviewRow:
    """An image and its views."""

    name: str
    size: tuple[int, int]  # true height and width, px
    image: Pixels  # at any scale
    crops: NDArray[np.float32]  # (V, 4) top, left, height, width of each view's crop, as fractions of the image
    views: NDArray[np.uint8]  # (V, S, S, 3) RGB

    @property
    def size_text(self) -> str:
        """Its true size as width x height."""
        return f"{self.size[1]} x {self.size[0]} px"


def render_preview(
    title: str, lead: str, notes: Sequence[str], rows: Sequence[PreviewRow], choices: Sequence[Choice]
) -> str:
    """Return the page as HTML: notes, the views of each image, and the settings with their reasons."""
    shown_rows = [
        {
            "name": row.name,
            "size": row.size_text,
            "image": as_data_uri(np.asarray(draw_crops(row, PAGE_IMAGE_SIDE, PAGE_IMAGE_SIDE))),
            "views": [
                # Enlarged by a whole factor, since JPEG would change a small view.
                {"source": as_data_uri(np.asarray(resize_view(view, choose_view_side(len(view))))), "color": color}
                for view, color in zip(row.views, cycle(COLORS), strict=False)
            ],
        }
        for row in rows
    ]
    paragraphs = Markup("\n").join(Markup("<p>{}</p>").format(escape_unprintable(note)) for note in notes)
    return render_page(
        title,
        [
            Section("Notes", body=paragraphs),
            Section(
                "Views",
                "On the left, each image with the crops of its views. A crop and the edge of its view share a color.",
                render_template("preview.html", rows=shown_rows),
            ),
            Section(
                "Settings",
                "Each automatic value with its reason. Options that you set override them.",
                render_template("settings.html", choices=choices, other_settings=[], versions={}),
            ),
        ],
        lead=lead,
    )


def draw_contact_sheet(title: str, lines: Sequence[str], rows: Sequence[PreviewRow]) -> bytes:
    """Return a PNG with a title, text, and a row for each image with its views.

    Args:
        lines: settings and notes; long ones are wrapped.
        rows: at least one, each with the same number of views of the same size.
    """
    views, size = rows[0].views.shape[:2]
    side = choose_view_side(size)
    image_width = round(1.25 * side)
    width = 2 * MARGIN + image_width + views * (GAP + side)
    text = [part for line in lines for part in wrap_text(line, TEXT_SIZE, width - 2 * MARGIN)]
    header_height = MARGIN + TITLE_SIZE + 14 + len(text) * (TEXT_SIZE + 7) + 20
    rows_top = header_height + CAPTION_SIZE + 10
    row_height = side + EDGE + GAP // 2 + 2 * (CAPTION_SIZE + 4) + GAP
    view_lefts = [MARGIN + image_width + GAP + view * (side + GAP) for view in range(views)]
    sheet = Image.new("RGB", (width, rows_top + len(rows) * row_height + MARGIN), BACKGROUND)
    _draw_header(sheet, title, text, header_height)
    for left, heading in zip((MARGIN, *view_lefts), ("image", *(f"view {i + 1}" for i in range(views))), strict=True):
        _draw_caption(sheet, (left, header_height), heading, side, FAINT_TEXT)
    for i, row in enumerate(rows):
        _draw_row(sheet, row, rows_top + i * row_height, view_lefts, image_width, side)
    return encode_image(sheet, "PNG")


def _draw_header(sheet: Image.Image, title: str, text: Sequence[str], height: int) -> None:
    """Draw the title, the lines of text, and a rule below them."""
    draw = ImageDraw.Draw(sheet)
    short_title = shorten_text(title, TITLE_SIZE, sheet.width - 2 * MARGIN)
    draw.text((MARGIN, MARGIN), short_title, TEXT, ImageFont.load_default(TITLE_SIZE))
    for i, line in enumerate(text):
        top = MARGIN + TITLE_SIZE + 14 + i * (TEXT_SIZE + 7)
        draw.text((MARGIN, top), line, FAINT_TEXT, ImageFont.load_default(TEXT_SIZE))
    draw.line((MARGIN, height - 8, sheet.width - MARGIN, height - 8), LINE)


def _draw_row(
    sheet: Image.Image, row: PreviewRow, top: int, view_lefts: Sequence[int], image_width: int, side: int
) -> None:
    """Draw an image with the frames of its crops, its name and size, and its views."""
    draw = ImageDraw.Draw(sheet)
    image = draw_crops(row, image_width, side)
    sheet.paste(image, (MARGIN, top))
    caption_top = top + image.height + GAP // 2
    _draw_caption(sheet, (MARGIN, caption_top), row.name, image_width, TEXT)
    draw.text((MARGIN, caption_top + CAPTION_SIZE + 4), row.size_text, FAINT_TEXT, ImageFont.load_default(CAPTION_SIZE))
    for view, left, color in zip(row.views, view_lefts, cycle(COLORS), strict=False):
        sheet.paste(resize_view(view, side), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline=LINE)  # so that a white view has an edge
        draw.rectangle((left, top + side, left + side - 1, top + side + EDGE - 1), color)


def _draw_caption(sheet: Image.Image, corner: tuple[int, int], text: str, width: int, color: str) -> None:
    short_text = shorten_text(text, CAPTION_SIZE, width)
    ImageDraw.Draw(sheet).text(corner, short_text, color, ImageFont.load_default(CAPTION_SIZE))


def draw_crops(row: PreviewRow, width: int, height: int) -> Image.Image:
    """Return the image scaled to fit width x height px, with a frame around each view's crop in the view's color."""
    scale = min(width / row.size[1], height / row.size[0])
    size = (max(1, round(row.size[1] * scale)), max(1, round(row.size[0] * scale)))
    enlarging = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    image = Image.fromarray(row.image).resize(size, enlarging if scale > 1 else Image.Resampling.LANCZOS)
    draw, line_width = ImageDraw.Draw(image), max(2, height // 88)
    for i in reversed(range(len(row.crops))):  # the first on top
        top, left, crop_height, crop_width = (float(fraction) for fraction in row.crops[i])
        x, y = left * size[0], top * size[1]
        corner = (max(x, x + crop_width * size[0] - 1), max(y, y + crop_height * size[1] - 1))
        draw.rectangle((x, y, *corner), outline=COLORS[i % len(COLORS)], width=line_width)
    return image


def choose_view_side(size: int) -> int:
    """Return the side at which a view of `size` px is shown: a whole multiple, or less if it is large."""
    return min(MAX_VIEW_SIDE, size * max(1, round(VIEW_SIDE / size)))


def resize_view(view: Pixels, side: int) -> Image.Image:
    """Return a view at another size; pixels are repeated to enlarge it, so that it shows what the encoder sees."""
    resampling = Image.Resampling.NEAREST if side >= len(view) else Image.Resampling.LANCZOS
    return Image.fromarray(view).resize((side, side), resampling)


def shorten_text(text: str, type_size: int, width: int) -> str:
    """Return printable text that is at most `width` px wide, with "..." for its middle if it is too long."""
    text, font = escape_unprintable(text), ImageFont.load_default(type_size)
    if font.getlength(text) <= width:
        return text
    length = len(text)
    while length > 1:
        length = min(length - 1, int(length * 0.95) + 1)
        shorter = text[: -(-length // 2)] + "..." + text[len(text) - length // 2 :]
        if font.getlength(shorter) <= width:
            return shorter
    return "..."


def wrap_text(text: str, type_size: int, width: int) -> list[str]:
    """Return lines of at most `width` px, broken between words."""
    font, lines = ImageFont.load_default(type_size), list[str]()
    for word in escape_unprintable(text).split():
        if lines and font.getlength(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(shorten_text(word, type_size, width))
    return lines
