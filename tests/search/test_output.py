"""Results as a gallery, a table or JSON: every name survives, and the size of a page is limited."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import SimilarSettings
from simclr_cli.core.errors import Interrupted, MachineError
from simclr_cli.core.events import Progress, silent
from simclr_cli.core.text import unescape_name
from simclr_cli.search import output as outputs
from simclr_cli.search.output import (
    ResultGroup,
    ResultImage,
    find_common_folder,
    limit_group_size,
    prepare_output,
    write_results,
)


@dataclass(frozen=True)
class Result:
    """A stand-in for a command's result."""

    paths: tuple[str, ...]
    out: str | None = None


class Links(HTMLParser):
    """The linked files and the image sources of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.files: list[bytes] = []
        self.images: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "a" and (link := values["href"] or "").startswith("file://"):
            self.files.append(unquote_to_bytes(link.removeprefix("file://")))
        if tag == "img":
            self.images.append(values["src"] or "")


@pytest.fixture
def many(tmp_path: Path, nasty_names: Callable[[int], list[bytes]]) -> list[str]:
    """Return 500 files with hostile names, all of one small image."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (9, 5), "olive").save(tmp_path / "one.png")
    paths = [os.fsdecode(os.fsencode(folder) + b"/" + name) for name in nasty_names(500)]
    for path in paths:
        os.link(tmp_path / "one.png", path)
    return paths


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., list[str]]:
    """Return `photos(count, side=...)`, which makes images of noise, large as JPEG."""

    def make(count: int, side: int = 8) -> list[str]:
        paths = [tmp_path / f"{i:03}.png" for i in range(count)]
        for i, path in enumerate(paths):
            noise = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        return [str(path) for path in paths]

    return make


def result_images(paths: list[str]) -> tuple[ResultImage, ...]:
    return tuple(ResultImage(path, f"words {i}", {"rank": i, "similarity": -i / 7}) for i, path in enumerate(paths))


def write(out: Path, *groups: ResultGroup, result: Any = Result(()), report: Callable[..., None] = silent) -> str:
    write_results(out, result, "Title", "Lead.", groups, workers=2, report=report)
    return out.read_bytes().decode("utf-8", "surrogateescape")


# Names


def test_csv_holds_every_name(many: list[str], tmp_path: Path) -> None:
    write(
        tmp_path / "out.csv",
        ResultGroup("Most similar to =q.png", result_images(many[:300]), name="=q.png"),
        ResultGroup("far", result_images(many[300:])),
    )
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["group", "path", "rank", "similarity"]
    assert [unescape_name(row[1]) for row in rows] == many
    assert [row[0] for row in rows] == ["./=q.png"] * 300 + ["far"] * 200
    assert [float(row[3]) for row in rows] == [-i / 7 for i in [*range(300), *range(200)]]


def test_json_is_the_result_and_holds_every_name(many: list[str], tmp_path: Path) -> None:
    result = Result(tuple(many), "out.json")
    text = write(tmp_path / "out.json", result=result)
    assert text.isascii() and json.loads(text) == json.loads(json.dumps(dataclasses.asdict(result)))
    assert json.loads(text)["paths"] == many


def test_html_links_to_every_file(many: list[str], tmp_path: Path) -> None:
    html = write(tmp_path / "out.html", ResultGroup("all", result_images(many)))
    html.encode("utf-8")  # no half byte is left
    found = Links(html)
    assert [os.fsdecode(name) for name in found.files] == many
    assert len(found.images) == len(many) and set(map(len, found.images)) == {len(found.images[0])}
    assert "This page shows" not in html and f"below {tmp_path / 'images'}." in html


def test_names_are_links_from_wherever_the_command_runs(
    many: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "images")
    relative = [os.path.basename(path) for path in many]  # noqa: PTH119
    html = write(tmp_path / "out.html", ResultGroup("all", result_images(relative)))
    assert [os.fsdecode(name) for name in Links(html).files] == many
    write(tmp_path / "out.csv", ResultGroup("all", result_images(relative)))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row[1] for row in csv.reader(stream)][1:]
    assert [unescape_name(row) for row in rows] == relative
    assert not [row for row in rows if row.startswith(tuple("=+-@\t\r"))]


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    cells = {"label": "=1+1", "other": "-x", "number": -0.5, "none": None, "plain": "it's"}
    text = write(
        tmp_path / "out.csv",
        ResultGroup("@SUM(A1)", (ResultImage("=1.png", "", cells), ResultImage("b.png", "", {"late": 3}))),
    )
    rows = list(csv.reader(text.splitlines()))
    assert rows == [
        ["group", "path", "label", "other", "number", "none", "plain", "late"],
        ["'@SUM(A1)", "./=1.png", "'=1+1", "'-x", "-0.5", "", "it's", ""],
        ["'@SUM(A1)", "b.png", "", "", "", "", "", "3"],
    ]


def test_sample_comes_first(photos: Callable[..., list[str]], tmp_path: Path) -> None:
    one, *others = photos(3)
    group = ResultGroup("A", result_images(others), "Lead.", ResultImage(one, "the query", {"rank": 0}))
    rows = list(csv.reader(write(tmp_path / "out.csv", group).splitlines()))
    assert [row[1] for row in rows[1:]] == [one, *others] and rows[1] == ["A", one, "0", ""]
    html = write(tmp_path / "out.html", group)
    assert [os.fsdecode(name) for name in Links(html).files] == [one, *others]
    assert html.count('class="sample"') == 1 and html.index("the query") < html.index("words 0")


# Limits


def test_group_size_limit_is_the_highest_level_that_fits() -> None:
    chance = np.random.default_rng(0)
    for _ in range(200):
        sizes = chance.integers(0, 60, chance.integers(1, 30)).tolist()
        most = int(chance.integers(1, 400))
        fits = [level for level in range(max(sizes) + 1) if sum(min(size, level) for size in sizes) <= most]
        assert limit_group_size(sizes, most) == (
            fits[-1] if sum(sizes) <= most else max(outputs.MIN_IMAGES_PER_GROUP, fits[-1])
        )
    assert limit_group_size([], 5) == 0


def test_a_page_with_too_many_images_shows_some_of_every_group_with_a_note(
    photos: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_IMAGES", 20)
    paths = photos(33)
    html = write(
        tmp_path / "out.html", ResultGroup("A", result_images(paths[:30])), ResultGroup("B", result_images(paths[30:]))
    )
    assert [os.fsdecode(name) for name in Links(html).files] == paths[:17] + paths[30:]
    assert "This page shows 20 of 33 images. For all of them, use an --out that ends in .csv or .json." in html
    assert "the first 17 of 30 images" in html
    html = write(
        tmp_path / "out.html", *(ResultGroup(f"G{i}", result_images(paths[3 * i : 3 * i + 3])) for i in range(11))
    )
    assert [os.fsdecode(name) for name in Links(html).files] == paths[:20]
    assert "This page shows 20 of 33 images in 7 of 11 groups. " in html


def test_the_bytes_of_a_page_are_limited(
    photos: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = photos(12, side=200)
    whole = write(tmp_path / "out.html", ResultGroup("A", result_images(paths)))
    each = max(map(len, Links(whole).images))
    monkeypatch.setattr(outputs, "MAX_THUMBNAIL_BYTES", 5 * each + 100)
    html = write(
        tmp_path / "out.html", ResultGroup("A", result_images(paths[:4])), ResultGroup("B", result_images(paths[4:]))
    )
    assert len(Links(html).images) == 5 and len(html) < 6 * each + 20_000
    assert "This page shows 5 of 12 images. " in html and "the first 1 of 8 images" in html


def test_thumbnails_are_small_and_missing_ones_are_marked(photos: Callable[..., list[str]], tmp_path: Path) -> None:
    large, gone = photos(2, side=700)
    Path(gone).unlink()
    (tmp_path / "empty.png").touch()
    events: list[Any] = []
    group = ResultGroup("A", result_images([large, gone, str(tmp_path / "empty.png")]))
    html = write(tmp_path / "out.html", group, report=events.append)
    assert html.count("cannot be read") == 2 and len(Links(html).images) == 1
    assert [event for event in events if isinstance(event, Progress)] == [
        Progress("making the gallery", done, 3) for done in (1, 2, 3)
    ]


def test_an_empty_result_is_a_page_too(tmp_path: Path) -> None:
    assert "Lead." in write(tmp_path / "out.html")
    assert write(tmp_path / "out.csv") == "group,path\r\n"


def test_an_interruption_leaves_no_file(photos: Callable[..., list[str]], tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise Interrupted("Stopped.", "Again.")

    with pytest.raises(Interrupted):
        write(tmp_path / "out.html", ResultGroup("A", result_images(photos(30))), report=stop)
    assert not (tmp_path / "out.html").exists()


# Paths


def test_find_common_folder() -> None:
    assert find_common_folder(["/a/b/c.png", "/a/b/d/e.png"]) == Path("/a/b")
    assert find_common_folder(["/a/b.png", "/c/d.png"]) is None and find_common_folder([]) is None
    assert find_common_folder(["x/b.png"]) == Path.cwd() / "x"


def test_prepare_output(tmp_path: Path) -> None:
    pages, query = tmp_path / "run" / "pages", (tmp_path,)
    assert prepare_output(SimilarSettings(queries=query), pages, "similar") is None and not pages.exists()
    assert prepare_output(SimilarSettings(queries=query, open=True), pages, "similar") == pages / "similar.html"
    assert pages.is_dir()
    out = tmp_path / "out.HTML"
    assert prepare_output(SimilarSettings(queries=query, open=True, out=out), pages, "similar") == out
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="Cannot write"):
        prepare_output(SimilarSettings(queries=query, open=True), tmp_path / "file" / "pages", "similar")
