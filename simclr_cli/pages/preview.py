"""The page of `simclr preview`: pictures, their views, and why they are made so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from simclr_cli.events import Choice
from simclr_cli.pages.page import Section, page, render, text
from simclr_cli.pages.pictures import as_data_uri
from simclr_cli.pages.sheet import COLOURS, Pixels, Row, at_side, boxed, shown_side

WIDTH, HEIGHT = 352, 352  # px of a picture, shown at half of it at most, so that it is sharp on fine screens


def preview_page(title: str, lead: str, advice: Sequence[str], rows: Sequence[Row], choices: Sequence[Choice]) -> str:
    """HTML: what to notice, the views of each picture as they are, and the settings with their reasons."""
    shown = [
        {
            "name": row.name,
            "size": f"{row.size[1]} x {row.size[0]} px",
            "picture": as_data_uri(np.asarray(boxed(row, WIDTH, HEIGHT))),
            "views": [
                {"source": as_data_uri(_as_it_is(view)), "colour": COLOURS[v % len(COLOURS)]}
                for v, view in enumerate(row.views)
            ],
        }
        for row in rows
    ]
    return page(
        title,
        [
            Section(
                "What to notice", body=Markup("\n").join(Markup("<p>{}</p>").format(text(line)) for line in advice)
            ),
            Section(
                "Views",
                "Left, each picture with the crop of each of its views; the edge below a view has its crop's colour.",
                render("preview.html", rows=shown),
            ),
            Section("Settings", "Each automatic choice with its reason; what you type wins.", _table(choices)),
        ],
        lead=lead,
    )


def _as_it_is(view: Pixels) -> Pixels:
    """A view enlarged by whole pixels, of which JPEG would leave no small one as it is."""
    return np.asarray(at_side(view, shown_side(len(view))))


def _table(choices: Sequence[Choice]) -> Markup:
    lines = [
        Markup("<tr><th>{}</th><td>{}</td><td>{}</td></tr>").format(*map(text, (c.name, c.value, c.reason)))
        for c in choices
    ]
    head = Markup("<thead><tr><th>setting</th><th>value</th><th>why</th></tr></thead>")
    return Markup('<div class="scroll"><table>{}<tbody>{}</tbody></table></div>').format(head, Markup("\n").join(lines))
