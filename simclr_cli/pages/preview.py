"""The page of `simclr preview`: pictures, their views, and why they are made so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from markupsafe import Markup

from simclr_cli.core.events import Choice
from simclr_cli.core.text import safe
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.page import Section, page, render
from simclr_cli.pages.sheet import COLOURS, Row, at_side, boxed, shown_side

SIDE = 352  # px of a picture, shown at half of it at most, so that it is sharp on fine screens


def preview_page(title: str, lead: str, advice: Sequence[str], rows: Sequence[Row], choices: Sequence[Choice]) -> str:
    """HTML: what to notice, the views of each picture as they are, and the settings with their reasons."""
    shown = [
        {
            "name": row.name,
            "size": f"{row.size[1]} x {row.size[0]} px",
            "picture": as_data_uri(np.asarray(boxed(row, SIDE, SIDE))),
            "views": [
                # Enlarged by whole pixels: JPEG would leave no small one as it is.
                {"source": as_data_uri(np.asarray(at_side(view, shown_side(len(view))))), "colour": colour}
                for view, colour in zip(row.views, cycle(COLOURS), strict=False)
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
                "Left, each picture with the crop of each of its views; the edge below a view has its crop's colour.",
                render("preview.html", rows=shown),
            ),
            Section("Settings", "Each automatic choice with its reason; what you type wins.", settings),
        ],
        lead=lead,
    )
