"""Thumbnails in the terminal: each pixel is half a character, and only where the terminal can show it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from simclr_cli.api import Neighbor, QueryResult, SimilarResult
from simclr_cli.cli.output import Output
from simclr_cli.cli.terminal_images import COLUMNS, ROWS, draw_thumbnails, explain_unsupported

COLORS = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def save(path: Path, width: int, height: int) -> np.ndarray:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def seen(path: Path) -> np.ndarray:
    """Return the pixels that a terminal shows: (2 ROWS, COLUMNS, 3), -1 for its background."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
    grid = np.full((2 * ROWS, COLUMNS, 3), -1)
    for y, line in enumerate(console.render_lines(*draw_thumbnails([str(path)]), pad=False)):
        x = 0
        for text, style, _ in line:
            for character in text:
                ink, ground = (
                    c and tuple(c.get_truecolor()) for c in ((style.color, style.bgcolor) if style else (None, None))
                )
                upper, lower = {" ": (ground, ground), "▀": (ink, ground), "▄": (ground, ink)}[character]
                for half, color in enumerate((upper, lower)):
                    if color is not None:
                        grid[2 * y + half, x] = color
                x += 1
        assert x <= COLUMNS
    return grid


@pytest.mark.parametrize(("width", "height"), [(COLUMNS, 2 * ROWS), (6, 2 * ROWS), (COLUMNS, 5), (COLUMNS, 6), (1, 1)])
def test_every_pixel_is_half_a_character(tmp_path: Path, width: int, height: int) -> None:
    pixels = save(tmp_path / "p.png", width, height)
    left, top = (COLUMNS - width) // 2, (2 * ROWS - height) // 2
    expected = np.full((2 * ROWS, COLUMNS, 3), -1)
    expected[top : top + height, left : left + width] = pixels
    assert np.array_equal(seen(tmp_path / "p.png"), expected)


def test_a_photo_keeps_its_shape_and_color(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (200, 100, 50)).save(tmp_path / "wide.png")
    grid = seen(tmp_path / "wide.png")
    inside = (grid >= 0).all(axis=2)
    assert inside.sum() == COLUMNS * COLUMNS // 2 and inside.any(axis=0).all()
    assert (grid[inside] == (200, 100, 50)).all()


def test_an_undecodable_image_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 9, 9)
    (tmp_path / "b.png").touch()
    first, *others = draw_thumbnails([str(tmp_path / name) for name in ("a.png", "b.png", "c.png")])
    assert "▀" in first.plain and [other.plain for other in others] == ["not readable"] * 2


@pytest.mark.parametrize(
    ("stream", "environment", "reason"),
    [
        (Terminal(), COLORS, None),
        (Terminal(), {"TERM": "xterm-256color"}, None),
        (io.StringIO(), COLORS, "stdout is no terminal"),
        (Terminal(), {**COLORS, "NO_COLOR": "1"}, "NO_COLOR is set"),
        (Terminal(), {"TERM": "dumb"}, "256 colors"),
        (Terminal(), {"TERM": "dumb", "COLORTERM": "truecolor"}, "256 colors"),
        (Terminal(), {"TERM": "linux"}, "256 colors"),
    ],
)
def test_only_where_terminals_show_them(stream: io.StringIO, environment: dict[str, str], reason: str | None) -> None:
    found = explain_unsupported(Console(file=stream, _environ=environment))
    assert found is reason is None or reason in (found or "")


def test_not_on_a_terminal_that_shows_ascii_only() -> None:
    stream = Terminal()
    stream.encoding = "ascii"
    assert explain_unsupported(Console(file=stream, _environ=COLORS)) == "the terminal shows ASCII only"


def test_table_shows_each_row_with_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for name, value in {**COLORS, "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    save(tmp_path / "a.png", 64, 64)
    images = [str(tmp_path / "a.png"), str(tmp_path / "gone.png")]
    for wanted in (True, False):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        output = Output()
        output.thumbnails = wanted
        output.print_table(["rank", "path"], [["1", "a\x1b.png"], ["2", "gone.png"]], images=images)
        shown[wanted] = stream.getvalue()
    assert shown[True].count("▀") == COLUMNS * ROWS and "▀" not in shown[False]
    assert "readable" in shown[True] and r"a\x1b.png" in shown[True] and "\x1b[38;2;" in shown[True]


@pytest.mark.parametrize("arguments", [[], ["--thumbnails"], ["--thumbnails", "--json"]])
def test_command_prints_once_why_there_are_none(
    simclr: Callable[..., Any], images: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    from simclr_cli.commands import similar

    found = tuple(QueryResult(f"{i}.png", (Neighbor(1, "a.png", 0.5, 99.0, 1.0),)) for i in range(3))
    monkeypatch.setattr(similar, "similar", lambda settings, report: SimilarResult("pics", "r", 9, found))
    answer = simclr("similar", images, "--images", images, *arguments)
    assert answer.code == 0 and "▀" not in answer.stdout
    said = "No thumbnails: stdout is no terminal.\n"
    assert answer.stderr == (said if arguments == ["--thumbnails"] else "")
