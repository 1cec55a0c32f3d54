"""Small images in the terminal: two pixels a character, the upper half of a block over its ground."""

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
from simclr_cli.images.thumbnails import each_thumbnail

COLUMNS, ROWS = 16, 8  # characters of a thumbnail; a character is about twice as high as it is wide
UPPER_HALF, LOWER_HALF = "\u2580", "\u2584"


def why_not(terminal: Console) -> str | None:
    """What keeps thumbnails from being shown there, in a few words; None if nothing does."""
    if not terminal.is_terminal:
        return "stdout is no terminal"
    if terminal.no_color:
        return "NO_COLOR is set"
    if terminal.color_system not in ("256", "truecolor"):
        return "the terminal does not have 256 colors (TERM and COLORTERM say which it has)"
    if terminal.options.ascii_only:
        return "the terminal shows ASCII only"
    return None


def thumbnails(paths: Sequence[str]) -> list[Text]:
    """Draw each file with COLUMNS x ROWS characters; a word stands where it cannot be decoded."""
    drawn = each_thumbnail([Path(path) for path in paths], COLUMNS, count_workers(), oversampling=8, make=as_characters)
    return [one or Text("not readable\nnow", style="dim") for one in drawn]


def as_characters(pixels: Pixels) -> Text:
    """Draw an image of at most COLUMNS x 2 ROWS px, in its own shape and centered."""
    height, width, _ = pixels.shape
    left, top = (COLUMNS - width) // 2, (2 * ROWS - height) // 2
    colors: list[list[Color | None]] = [[None] * COLUMNS for _ in range(2 * ROWS)]
    for y, x in np.ndindex(height, width):
        colors[top + y][left + x] = Color.from_rgb(*map(int, pixels[y, x]))
    rows = zip(colors[::2], colors[1::2], strict=True)
    return Text("\n").join(Text.assemble(*map(_cell, upper, lower)) for upper, lower in rows)


def _cell(upper: Color | None, lower: Color | None) -> tuple[str, Style]:
    """One character; the terminal's own ground where the image does not reach."""
    if upper is None:
        return (LOWER_HALF, Style(color=lower)) if lower is not None else (" ", Style())
    return UPPER_HALF, Style(color=upper, bgcolor=lower)
