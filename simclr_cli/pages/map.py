"""The page of `simclr map`: the images of a folder as a map to explore, in one file with a script of its own.

The script is the only one that the page's policy lets run, by its checksum. What is a stranger's reaches it as JSON and
as base64, and from there the page as text and as pixels, never as markup.
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

from simclr_cli.core.text import safe
from simclr_cli.pages.gallery import opens
from simclr_cli.pages.images import Sheet, columns
from simclr_cli.pages.page import render

SCRIPTS = ("map_data.js", "map_spread.js", "map_draw.js", "map_panel.js", "map_hands.js")  # in this order, one script
NEIGHBORS = 8  # of each image that are shown


@dataclass(frozen=True, eq=False)
class Mapped:
    """Images and where they lie, in an order in which near ones are near, so that a view needs few sheets."""

    root: Path  # the folder of the images
    names: Sequence[str]  # N relative paths
    places: NDArray[np.float32]  # (N, 2)
    similarities: NDArray[np.float32]  # (N, K) cosine, of each image to its nearest others, falling
    neighbors: NDArray[np.int64]  # (N, K) which these are
    groupings: Mapping[str, Sequence[str]]  # what it can be colored by -> N labels


def map_page(title: str, lead: str, mapped: Mapped, sheets: Sequence[Sheet], side: int, step: int = 1) -> str:
    """HTML of the whole map.

    Args:
        lead: a sentence or two about it.
        sheets: thumbnails of every `step`-th image.
        side: of the squares on the sheets, px.
    """
    shapes = [sheet.shapes for sheet in sheets] or [np.empty((0, 2), np.uint8)]
    content = {
        "names": [safe(name) for name in mapped.names],
        "root": mapped.root.absolute().as_uri() + "/",
        "links": _links(mapped.root.absolute(), mapped.names),
        "places": _packed(_upright(mapped.places), "<f4"),
        "similarities": _packed(mapped.similarities, "<f4"),
        "neighbors": _packed(mapped.neighbors, "<u4"),
        "nearest": mapped.neighbors.shape[1],
        "groupings": [_grouping(name, labels) for name, labels in mapped.groupings.items()],
        "shapes": _packed(np.concatenate(shapes), "u1"),
        "side": side,
        "columns": columns(side),
        "step": step,
    }
    script = _script()
    return str(
        render(
            "map.html", title=title, lead=lead, content=_as_json(content), script=Markup(script),
            checksum=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
            sheets=[Markup(sheet.jpeg) for sheet in sheets],
        )
    )  # fmt: skip


def _upright(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """In 0 to 1 along the longer side, proportions kept; y down, as on a screen."""
    low, high = places.min(0), places.max(0)
    scaled: NDArray[np.float32] = (places - low) / max(float((high - low).max()), 1e-12)
    scaled[:, 1] = scaled[:, 1].max() - scaled[:, 1]
    return scaled


def _links(root: Path, names: Sequence[str]) -> dict[int, str]:
    """The percent-encoded paths of those images whose name is not one already; every byte of a name is kept.

    Empty where a click must not open the file (see `opens`).
    """
    start = len(root.as_uri()) + 1
    quoted = ((i, (root / name).as_uri()[start:] if opens(name) else "") for i, name in enumerate(names))
    return {i: link for i, link in quoted if link != names[i]}


def _grouping(name: str, labels: Sequence[str]) -> dict[str, Any]:
    """Labels, the most frequent first, and which each image has."""
    counts = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    number = {label: i for i, (label, _) in enumerate(counts)}
    which = np.fromiter((number[label] for label in labels), np.int64, len(labels))
    return {
        "name": name,
        "labels": [safe(label) for label, _ in counts],
        "counts": [count for _, count in counts],
        "which": _packed(which, "<u4"),
    }


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode("ascii")


def _as_json(content: Any) -> Markup:
    """JSON that no parser of HTML can take for anything else: ASCII, and no character of markup."""
    text = json.dumps(content, separators=(",", ":"))
    return Markup(text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"}))


def _script() -> str:
    folder = files("simclr_cli.pages")
    parts = [(folder / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n' + "\n".join(parts)
