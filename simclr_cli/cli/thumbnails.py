"""Small pictures in the terminal: two pixels a character, the upper half of a block over its ground."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from simclr_cli.images.decode import Refusal, small
from simclr_cli.images.decoders import apart
from simclr_cli.images.workers import count_workers, each

COLUMNS, ROWS = 16, 8  # characters of a thumbnail; a character is about twice as high as it is wide
UPPER_HALF, LOWER_HALF = "\u2580", "\u2584"


def why_not(terminal: Console) -> str | None:
    """What keeps thumbnails from being shown there, in a few words; None if nothing does."""
    if not terminal.is_terminal:
        return "stdout is no terminal"
    if terminal.no_color:
        return "NO_COLOR is set"
    if terminal.color_system not in ("256", "truecolor"):
        return "the terminal does not have 256 colours (TERM and COLORTERM say which it has)"
    if terminal.options.ascii_only:
        return "the terminal shows ASCII only"
    return None


def thumbnails(paths: Sequence[str]) -> list[Text]:
    """Of each file a picture of COLUMNS x ROWS characters, or a word where it cannot be decoded."""
    with closing(each(thumbnail, map(Path, paths), count_workers())) as made:
        return [Text("not readable\nnow", style="dim") if isinstance(one, Refusal) else one for one in made]


def thumbnail(path: Path) -> Text:
    """One file as a picture, in its own shape and centred.

    Raises:
        Refusal: it cannot be decoded.
    """
    pixels = apart(small, 1)(path, COLUMNS, 8 * COLUMNS)  # (height, width, 3)
    height, width, _ = pixels.shape
    left, top = (COLUMNS - width) // 2, (2 * ROWS - height) // 2

    def colour(x: int, y: int) -> Color | None:
        if 0 <= x - left < width and 0 <= y - top < height:
            return Color.from_rgb(*map(int, pixels[y - top, x - left]))
        return None

    lines = [
        Text.assemble(*(_cell(colour(x, 2 * row), colour(x, 2 * row + 1)) for x in range(COLUMNS)))
        for row in range(ROWS)
    ]
    return Text("\n").join(lines)


def _cell(upper: Color | None, lower: Color | None) -> tuple[str, Style]:
    """One character; the terminal's own ground where the picture does not reach."""
    if upper is None:
        return (LOWER_HALF, Style(color=lower)) if lower is not None else (" ", Style())
    return UPPER_HALF, Style(color=upper, bgcolor=lower)
