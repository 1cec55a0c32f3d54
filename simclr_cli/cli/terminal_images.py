"""Thumbnails in the terminal: two pixels per character, a half block and its background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from simclr_cli.images.decode import Pixels
from simclr_cli.images.threads import count_workers
from simclr_cli.images.thumbnails import make_thumbnails

COLUMNS, ROWS = 16, 8  # characters of a thumbnail, each about twice as high as it is wide
UPPER_HALF, LOWER_HALF = "\u2580", "\u2584"


def explain_unsupported(terminal: Console) -> str | None:
    """Return the reason why a terminal cannot show thumbnails, or None."""
    if not terminal.is_terminal:
        return "stdout is no terminal"
    if terminal.no_color:
        return "NO_COLOR is set"
    if terminal.color_system not in ("256", "truecolor"):
        return "the terminal does not have 256 colors (see TERM and COLORTERM)"
    if terminal.options.ascii_only:
        return "the terminal shows ASCII only"
    return None


def draw_thumbnails(paths: Sequence[str]) -> list[Text]:
    """Draw each image file in COLUMNS x ROWS characters; text replaces an image that cannot be decoded."""
    drawn = make_thumbnails(
        [Path(path) for path in paths], COLUMNS, count_workers(), oversampling=8, convert=draw_characters
    )
    return [thumbnail or Text("not readable", style="dim") for thumbnail in drawn]


def draw_characters(pixels: Pixels) -> Text:
    """Draw an image of at most COLUMNS x 2 ROWS px, centered."""
    height, width, _ = pixels.shape
    left, top = (COLUMNS - width) // 2, (2 * ROWS - height) // 2
    colors: list[list[Color | None]] = [[None] * COLUMNS for _ in range(2 * ROWS)]
    for y, x in np.ndindex(height, width):
        colors[top + y][left + x] = Color.from_rgb(*map(int, pixels[y, x]))
    rows = zip(colors[::2], colors[1::2], strict=True)
    return Text("\n").join(Text.assemble(*map(_format_cell, upper, lower)) for upper, lower in rows)


def _format_cell(upper: Color | None, lower: Color | None) -> tuple[str, Style]:
    """Format one character; outside of the image it has the terminal's background."""
    if upper is None:
        return (LOWER_HALF, Style(color=lower)) if lower is not None else (" ", Style())
    return UPPER_HALF, Style(color=upper, bgcolor=lower)
