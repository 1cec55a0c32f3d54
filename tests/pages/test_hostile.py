"""Thirty hostile names on every page: no unexpected element, nothing that runs, no link but to files and to itself."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import Accuracy, ClassScore, Confusion, FewLabels, LabelError, ProbeResult, Score
from simclr_cli.core.events import Choice
from simclr_cli.pages.gallery import Found, Part, gallery_page
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.map import Mapped, map_page
from simclr_cli.pages.preview import Row, contact_sheet, preview_page
from simclr_cli.pages.report import NeighborsShown, RunShown, Thumbnail, ViewsShown, report_page

COUNT = 30
PIXELS = np.zeros((8, 8, 3), np.uint8)
URI = as_data_uri(PIXELS)
RAW = ("\x1b", "\x07", "\x7f", "\x9b", "\u202e", "\u2028", "\u2029", "\ufeff", "\udcff", "\udced")


class Seen(HTMLParser):
    """The elements and attributes of a page, and the text that is not a script's."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def gallery(names: Sequence[str]) -> str:
    found = tuple(Found(name, name, Path("/p", name).as_uri(), URI, name) for name in names)
    return gallery_page(names[0], names[1], [Part(names[2], names[3], found, len(found), marked=True)])


def mapped(names: Sequence[str]) -> str:
    flat = np.zeros((len(names), 2), np.float32)
    nearest = np.zeros((len(names), 1))
    content = Mapped(Path("/p"), list(names), flat, nearest.astype(np.float32), nearest.astype(np.int64),
                     {name: list(names) for name in names[:3]})  # fmt: skip
    return map_page(names[0], names[1], content, [], 64)


def row(name: str) -> Row:
    return Row(name, (8, 8), PIXELS, np.array([[0, 0, 1, 1]], np.float32), PIXELS[None])


def preview(names: Sequence[str]) -> str:
    choices = [Choice(name, name, name) for name in names]
    return preview_page(names[0], names[1], list(names), [row(name) for name in names], choices)


def report(names: Sequence[str]) -> str:
    images = [Thumbnail(name, URI, 0.5) for name in names]
    accuracy = Accuracy(50.0, 40.0, 60.0, 50.0, 99.0)
    probe = ProbeResult(
        encoder=names[0], train_images=3, test_images=3, classes=tuple(names), chance=18.2,
        scores=tuple(Score(name, accuracy, accuracy, accuracy) for name in names), split=names[1], knn_temperature=0.07,
        skipped=0, model_checksum=names[2], verdict=names[3],
        per_class=tuple(ClassScore(name, 30, 10, 50.0, None) for name in names),
        confusion=tuple(Confusion(name, names[0], 3) for name in names[1:]),
        label_errors=tuple(LabelError(name, name, name, 0.1) for name in names),
        few_labels=tuple(FewLabels(name, 8, name, 33.0, 4.1, 5) for name in names),
    )  # fmt: skip
    run = RunShown(
        name=names[0], finished=True, rows=[], skipped=[(name, name) for name in names],
        config={
            "simclr_version": names[1], "python": names[2], "versions": {names[3]: names[4]},
            "settings": {"epochs": 3, "group_by": names[5], names[6]: names[7]}, "census": {"folder": names[8]},
            "choices": [{"name": name, "value": name, "reason": name} for name in names],
        },
        views=ViewsShown(names[9], tuple((one, one, one) for one in images)),
        neighbors=NeighborsShown(names[10], (tuple(images),)),
        probe=probe, confusion=URI, outcome={"state": names[11], "words": names[12]},
    )  # fmt: skip
    return report_page(run)


PAGES: dict[str, Callable[[Sequence[str]], str]] = {
    "gallery": gallery, "map": mapped, "preview": preview, "report": report,
}  # fmt: skip


@pytest.fixture
def names(nasty_names: Callable[[int], list[bytes]]) -> list[str]:
    return [os.fsdecode(name) for name in nasty_names(COUNT)]


@pytest.mark.parametrize("kind", PAGES)
def test_names_are_text_and_make_no_element(kind: str, names: list[str]) -> None:
    plain, html = Seen(PAGES[kind]([f"{i}.png" for i in range(COUNT)])), PAGES[kind](names)
    html.encode("utf-8")
    assert not [raw for raw in RAW if raw in html]
    seen = Seen(html)
    assert seen.tags == plain.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in plain.attributes]
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    links = [value or "" for name, value in seen.attributes if name in ("src", "href", "action", "data")]
    assert [
        link for link in links if not link.startswith(("data:image/", "#", "file:///p/")) and link != "data:,"
    ] == []
    assert "<img src=x onerror=alert(1)>.png" in seen.words or kind == "map"  # whose names stand in its JSON


@pytest.mark.parametrize("kind", PAGES)
def test_a_browser_has_nothing_to_say_of_them(kind: str, names: list[str], visit: Callable[..., Any]) -> None:
    visited = visit(PAGES[kind](names))
    count = "document.querySelectorAll('*').length"
    assert visited.complaints == [] and len(visited.requests) == 1
    assert visited.ask(count) == visit(PAGES[kind]([f"{i}.png" for i in range(COUNT)])).ask(count)


def test_a_sheet_is_a_image_whatever_stands_on_it(names: list[str]) -> None:
    with Image.open(io.BytesIO(contact_sheet(names[0], names, [row(name) for name in names]))) as sheet:
        assert sheet.format == "PNG" and sheet.info == {}
