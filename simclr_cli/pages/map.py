"""The map: a folder's images on a plane to explore, in one HTML file with a script.

The page's policy lets only this script run, by its checksum. File names and labels reach the script as JSON and base64.
The script shows them as text and pixels, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from simclr_cli.core.text import escape_unprintable
from simclr_cli.pages.gallery import is_safe_to_link
from simclr_cli.pages.images import SpriteSheet, count_columns
from simclr_cli.pages.page import render_template

SCRIPTS = ("map_data.js", "map_levels.js", "map_draw.js", "map_panel.js", "map_controls.js")  # joined in this order
NEIGHBORS_PER_IMAGE = 8


@dataclass(frozen=True, eq=False)
class ImageMap:
    """Images and their positions, ordered so that close ones share a sprite sheet."""

    root: Path  # the folder of the images
    names: Sequence[str]  # N relative paths
    positions: NDArray[np.float32]  # (N, 2)
    similarities: NDArray[np.float32]  # (N, K) cosine of each image to its nearest neighbors, descending
    neighbors: NDArray[np.int64]  # (N, K) their indices
    groupings: Mapping[str, Sequence[str]]  # N labels each, by the name of a choice of colors


def render_map(
    title: str, lead: str, image_map: ImageMap, sheets: Sequence[SpriteSheet], side: int, step: int = 1
) -> str:
    """Return the map as HTML.

    Args:
        lead: a sentence or two below the title.
        sheets: thumbnails of every `step`-th image.
        side: of the squares on the sheets, px.
    """
    shapes = [sheet.shapes for sheet in sheets] or [np.empty((0, 2), np.uint8)]
    root = image_map.root.absolute()
    data = {
        "names": [escape_unprintable(name) for name in image_map.names],
        "root": root.as_uri() + "/",
        "links": _quote_links(root, image_map.names),
        "positions": _pack(_scale_positions(image_map.positions), "<f4"),
        "similarities": _pack(image_map.similarities, "<f4"),
        "neighbors": _pack(image_map.neighbors, "<u4"),
        "neighborsPerImage": image_map.neighbors.shape[1],
        "groupings": [_describe_grouping(name, labels) for name, labels in image_map.groupings.items()],
        "shapes": _pack(np.concatenate(shapes), "u1"),
        "side": side,
        "columns": count_columns(side),
        "step": step,
    }
    script = _read_script()
    checksum = hashlib.sha256(script.encode("utf-8")).digest()
    return str(
        render_template(
            "map.html", title=title, lead=lead, data=_to_json(data), script=Markup(script),
            checksum=base64.b64encode(checksum).decode("ascii"),
            sheets=[Markup(sheet.jpeg) for sheet in sheets],
        )
    )  # fmt: skip


def _scale_positions(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return positions in 0 to 1 along the longer side, with the same proportions; y points down, as on a screen."""
    low, high = positions.min(0), positions.max(0)
    scaled: NDArray[np.float32] = (positions - low) / max(float((high - low).max()), 1e-12)
    scaled[:, 1] = scaled[:, 1].max() - scaled[:, 1]
    return scaled


def _quote_links(root: Path, names: Sequence[str]) -> dict[int, str]:
    """Return the percent-encoded path of each image whose name differs from it, by index; every byte is kept.

    The path is empty if a click must not open the file (see `is_safe_to_link`).
    """
    start = len(root.as_uri()) + 1
    links = ((i, (root / name).as_uri()[start:] if is_safe_to_link(name) else "") for i, name in enumerate(names))
    return {i: link for i, link in links if link != names[i]}


def _describe_grouping(name: str, labels: Sequence[str]) -> dict[str, Any]:
    """Return the groups of a grouping, the largest first, and the group of each image."""
    counts = sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    number = {label: i for i, (label, _) in enumerate(counts)}
    groups = np.fromiter((number[label] for label in labels), np.int64, len(labels))
    return {
        "name": name,
        "labels": [escape_unprintable(label) for label, _ in counts],
        "counts": [count for _, count in counts],
        "groups": _pack(groups, "<u4"),
    }


def _pack(values: NDArray[Any], dtype: str) -> str:
    """Return an array as base64 of its bytes."""
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def _to_json(data: Any) -> Markup:
    """Return JSON in ASCII without characters of markup, so that an HTML parser sees only text."""
    text = json.dumps(data, separators=(",", ":"))
    return Markup(text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"}))


def _read_script() -> str:
    folder = files("simclr_cli.pages")
    parts = [(folder / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n' + "\n".join(parts)
