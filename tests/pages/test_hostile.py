"""Thirty hostile names on every page: no unexpected element, no script, links only to files and within the page."""

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
from simclr_cli.pages.gallery import GalleryGroup, GalleryImage, render_gallery
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.map import ImageMap, render_map
from simclr_cli.pages.preview import PreviewRow, draw_contact_sheet, render_preview
from simclr_cli.pages.report import ReportContent, SampleNeighbors, SampleViews, Thumbnail, render_report

COUNT = 30
PIXELS = np.zeros((8, 8, 3), np.uint8)
URI = as_data_uri(PIXELS)
RAW = ("\x1b", "\x07", "\x7f", "\x9b", "\u202e", "\u2028", "\u2029", "\ufeff", "\udcff", "\udced")


class ParsedPage(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def make_gallery(names: Sequence[str]) -> str:
    images = tuple(GalleryImage(name, name, Path("/p", name).as_uri(), URI, name) for name in names)
    return render_gallery(names[0], names[1], [GalleryGroup(names[2], names[3], images, len(images), has_sample=True)])


def make_map(names: Sequence[str]) -> str:
    flat = np.zeros((len(names), 2), np.float32)
    nearest = np.zeros((len(names), 1))
    image_map = ImageMap(Path("/p"), list(names), flat, nearest.astype(np.float32), nearest.astype(np.int64),
                     {name: list(names) for name in names[:3]})  # fmt: skip
    return render_map(names[0], names[1], image_map, [], 64)


def make_row(name: str) -> PreviewRow:
    return PreviewRow(name, (8, 8), PIXELS, np.array([[0, 0, 1, 1]], np.float32), PIXELS[None])


def make_preview(names: Sequence[str]) -> str:
    choices = [Choice(name, name, name) for name in names]
    return render_preview(names[0], names[1], list(names), [make_row(name) for name in names], choices)


def make_report(names: Sequence[str]) -> str:
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
    run = ReportContent(
        name=names[0], finished=True, epochs=[], skipped=[(name, name) for name in names],
        config={
            "simclr_version": names[1], "python": names[2], "versions": {names[3]: names[4]},
            "settings": {"epochs": 3, "group_by": names[5], names[6]: names[7]}, "census": {"folder": names[8]},
            "choices": [{"name": name, "value": name, "reason": name} for name in names],
        },
        views=SampleViews(names[9], tuple((image, image, image) for image in images)),
        neighbors=SampleNeighbors(names[10], (tuple(images),)),
        probe=probe, confusion=URI, outcome={"state": names[11], "words": names[12]},
    )  # fmt: skip
    return render_report(run)


PAGES: dict[str, Callable[[Sequence[str]], str]] = {
    "gallery": make_gallery, "map": make_map, "preview": make_preview, "report": make_report,
}  # fmt: skip


@pytest.fixture
def names(nasty_names: Callable[[int], list[bytes]]) -> list[str]:
    return [os.fsdecode(name) for name in nasty_names(COUNT)]


@pytest.mark.parametrize("kind", PAGES)
def test_names_are_text_and_make_no_element(kind: str, names: list[str]) -> None:
    plain, html = ParsedPage(PAGES[kind]([f"{i}.png" for i in range(COUNT)])), PAGES[kind](names)
    html.encode("utf-8")
    assert not [raw for raw in RAW if raw in html]
    hostile = ParsedPage(html)
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    links = [value or "" for name, value in hostile.attributes if name in ("src", "href", "action", "data")]
    assert [
        link for link in links if not link.startswith(("data:image/", "#", "file:///p/")) and link != "data:,"
    ] == []
    assert "<img src=x onerror=alert(1)>.png" in hostile.text or kind == "map"  # which has its names in JSON


@pytest.mark.parametrize("kind", PAGES)
def test_a_browser_logs_nothing(kind: str, names: list[str], visit: Callable[..., Any]) -> None:
    visited = visit(PAGES[kind](names))
    count = "document.querySelectorAll('*').length"
    assert visited.complaints == [] and len(visited.requests) == 1
    assert visited.ask(count) == visit(PAGES[kind]([f"{i}.png" for i in range(COUNT)])).ask(count)


def test_a_contact_sheet_holds_any_name(names: list[str]) -> None:
    with Image.open(io.BytesIO(draw_contact_sheet(names[0], names, [make_row(name) for name in names]))) as sheet:
        assert sheet.format == "PNG" and sheet.info == {}
