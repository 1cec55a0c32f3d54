"""Thumbnails of many pictures on one square sheet, as the Embedding Projector takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from simclr_cli.files import write_file
from simclr_cli.images.decode import Refusal, middle
from simclr_cli.images.decoders import apart
from simclr_cli.images.workers import each

MOST_SIDE = 8_192  # px of the sheet: the projector's limit
MOST_TILE = 64  # px of a thumbnail


def tile_side(count: int) -> int:
    """The side of each of `count` thumbnails, px: as large as the sheet allows, at most MOST_TILE."""
    return max(1, min(MOST_TILE, MOST_SIDE // _across(count)))


def write_sprite(
    target: Path, paths: Sequence[Path], *, workers: int, progress: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write the sheet as PNG: the middle square of every picture, line by line; grey where one cannot be decoded.

    Args:
        progress: is told how many thumbnails of how many are done.

    Raises:
        MachineError: the system refused.
    """
    across, side = _across(len(paths)), tile_side(len(paths))
    sheet = Image.new("RGB", (across * side, across * side), "grey")

    tile = apart(middle, workers)
    for i, made in enumerate(each(lambda path: tile(path, side), paths, workers)):
        if not isinstance(made, Refusal):
            sheet.paste(Image.fromarray(made), (i % across * side, i // across * side))
        progress(i + 1, len(paths))
    write_file(target, lambda stream: sheet.save(stream, "PNG"))


def _across(count: int) -> int:
    """How many thumbnails stand side by side."""
    return math.isqrt(max(count, 1) - 1) + 1
