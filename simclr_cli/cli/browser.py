"""A page of ours in the person's browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from simclr_cli.cli.console import Face


def open_page(page: str, face: Face) -> None:
    """Open a file in the default browser, or say that there is none."""
    try:
        opened = webbrowser.open(Path(page).absolute().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        face.say(f"There is no browser to open it with here. Open it yourself: {page}", "yellow")
