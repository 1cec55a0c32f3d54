"""The map in Chromium: pointer, wheel, touch and keyboard, with any names."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.core.text import escape_unprintable
from simclr_cli.engine.nearest import find_neighbors
from simclr_cli.pages.gallery import is_safe_to_link
from simclr_cli.pages.images import pack_sprites
from simclr_cli.pages.map import ImageMap, render_map

SIDE = 6  # images per side of the grid
COUNT = SIDE * SIDE
ROOT = Path("/images of a/folder")
THUMBNAILS = "[...firstLevel.keys()].filter(isThumbnail)"
HOSTILE = [
    b"<script>alert(1)</script>.png", b"</script><script>alert(1)</script>.png", b"<img src=x onerror=alert(1)>.png",
    b"--><script>alert(1)</script>", b"<!-- <script>.png", b"'\"><svg onload=alert(1)>.png", b"&lt;b&gt;.png", b"]]>",
    b"a&amp;b&.png", b"javascript:alert(1)", b"http:/evil.example/x.png", b"..\\..\\x.png", b"a?b#c.png", b"100%41.png",
    b"%2e%2e%2f.png", b"new\nline.png", b"tab\there.png", b"\x1b[31mred.png", b"nul-like \x01\x02.png", b"\xff\xfe.png",
    b"half \xc3.png", b"\xed\xa0\x80 surrogate.png", "right \u202egnp.exe".encode(), "\u2066iso\u2069.png".encode(),
    "line \u2028 and \u2029.png".encode(), "\u200b\ufeff.png".encode(), "\u05e9\u05dc\u05d5\u05dd.png".encode(),
    "\U0001f98a e\u0301.png".encode(), b"{{ 7 * 7 }} ${1} `x`.png", b"constructor", b"image.svg",
]  # fmt: skip


def make_grid(names: Sequence[str] = (), groupings: Mapping[str, Sequence[str]] | None = None) -> tuple[ImageMap, str]:
    """Return images on a grid, each of one color, and their map; neighbors on the grid are nearest neighbors."""
    names = [*names, *(f"{'abc'[i % 3]}/{i:02}.png" for i in range(len(names), COUNT))]
    positions = np.stack(np.divmod(np.arange(COUNT), SIDE), 1).astype(np.float32)
    positions += np.random.default_rng(0).uniform(-0.1, 0.1, positions.shape).astype(np.float32)
    lifted = np.concatenate([positions, np.full((COUNT, 1), 20)], 1).astype(np.float32)
    similarities, neighbors = find_neighbors(lifted / np.linalg.norm(lifted, axis=1, keepdims=True), 8)
    groupings = {"folder": [name.split("/")[0] for name in names]} if groupings is None else groupings
    image_map = ImageMap(ROOT, names, positions, similarities, neighbors, groupings)
    thumbnails = (np.full((40, 64, 3), (5 * i, 255 - 5 * i, 100), np.uint8) for i in range(COUNT))
    return image_map, render_map("A map", "Some images.", image_map, list(pack_sprites(thumbnails, 64)), 64)


@pytest.fixture
def open_map(visit: Callable[..., Any]) -> Callable[..., Any]:
    """`open_map(html, ...)`: visit a map, and wait until it is drawn with its thumbnails."""

    def open_page(html: str, **options: Any) -> Any:
        visited = visit(html, **options)
        visited.page.emulate_media(reduced_motion="reduce")  # animations take one step
        wait(visited, "sheets.size && ![...sheets.values()].includes(null)")
        settle(visited)
        return visited

    return open_page


def wait(visited: Any, condition: str) -> None:
    """Wait for a condition; Playwright's own way is a script in the page, which the policy forbids."""
    for _ in range(500):
        if visited.ask(condition):
            return
        visited.page.wait_for_timeout(10)
    raise AssertionError(condition)


def settle(visited: Any) -> None:
    """Wait until two frames have been drawn."""
    visited.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def find_point(visited: Any, i: int) -> tuple[float, float]:
    x, y = find_points(visited, [i])[0]
    return x, y


def find_points(visited: Any, images: Sequence[int]) -> list[list[float]]:
    """Return the points of the screen at which images are."""
    screen_points = f"{list(map(int, images))}.map((i) => [toScreenX(i) + box.left, toScreenY(i) + box.top])"
    return visited.ask(f"((box) => {screen_points})(canvas.getBoundingClientRect())")


def read_color(visited: Any, x: float, y: float) -> list[int]:
    settle(visited)
    box = visited.page.locator("#map").bounding_box()
    visited.ask("window.copy = new OffscreenCanvas(width, height).getContext('2d')")
    visited.ask("copy.drawImage(canvas, 0, 0)")
    return visited.ask(f"[...copy.getImageData({x - box['x']}, {y - box['y']}, 1, 1).data].slice(0, 3)")


def read_zoom(visited: Any) -> float:
    wait(visited, "target === null")
    return float(visited.ask("view.scale / fittedScale"))


def is_quiet(visited: Any) -> bool:
    """Return whether the page logged nothing and requested nothing but itself."""
    return (
        not visited.complaints
        and all(request.startswith("file:") for request in visited.requests)
        and len(visited.requests) == 1
    )


def test_a_click_selects_the_image_and_shows_its_neighbors(open_map: Callable[..., Any]) -> None:
    image_map, html = make_grid()
    visited = open_map(html)
    page = visited.page
    assert page.locator("#panel").is_hidden()
    page.mouse.click(*find_point(visited, 14))
    assert page.locator("#name").inner_text() == image_map.names[14]
    shown = page.locator("#nearest .name").all_inner_texts()
    assert shown == [image_map.names[i] for i in image_map.neighbors[14]]
    adjacent = {i for i in range(COUNT) if max(abs(i // SIDE - 14 // SIDE), abs(i % SIDE - 14 % SIDE)) == 1}
    assert set(image_map.neighbors[14].tolist()) == adjacent  # on the grid
    assert page.locator("#nearest b").first.inner_text() == f"{image_map.similarities[14, 0]:.3f}"
    assert page.locator("#file").get_attribute("href") == (ROOT / image_map.names[14]).as_uri()
    page.locator("#nearest button").nth(2).click()
    assert page.locator("#name").inner_text() == image_map.names[image_map.neighbors[14, 2]]
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden() and is_quiet(visited)


def test_the_tooltip_shows_name_and_image(open_map: Callable[..., Any]) -> None:
    image_map, html = make_grid()
    visited = open_map(html)
    x, y = find_point(visited, 21)
    visited.page.mouse.move(x, y)
    assert visited.page.locator("#tip .name").inner_text() == image_map.names[21]
    shown = visited.ask("[...document.querySelector('#tip canvas').getContext('2d').getImageData(9, 9, 1, 1).data]")
    assert np.abs(np.array(shown[:3]) - (105, 150, 100)).max() <= 4
    visited.page.mouse.move(x + 40, y + 60)  # between images
    assert visited.page.locator("#tip").is_hidden()


def test_search_counts_matches_dims_other_images_and_steps_through_matches(open_map: Callable[..., Any]) -> None:
    image_map, html = make_grid(groupings={})
    visited = open_map(html)
    page = visited.page
    page.fill("#query", "B/")
    expected = [i for i, name in enumerate(image_map.names) if name.startswith("b/")]
    assert page.locator("#match-count").inner_text() == f"{len(expected)} of {COUNT}"
    settle(visited)
    assert visited.ask(THUMBNAILS) == expected
    for i in [*expected, expected[0]]:
        page.press("#query", "Enter")
        assert page.locator("#name").inner_text() == image_map.names[i]
    assert read_zoom(visited) == pytest.approx(4, rel=0.01)
    page.fill("#query", "nothing is called so")
    page.press("#query", "Enter")
    assert page.locator("#match-count").inner_text() == f"0 of {COUNT}"
    page.fill("#query", "")
    settle(visited)
    assert len(visited.ask(THUMBNAILS)) == COUNT and page.locator("#color-by").is_hidden()


def test_zoom_by_wheel_buttons_and_keys_keeps_the_point_under_the_pointer(open_map: Callable[..., Any]) -> None:
    visited = open_map(make_grid()[1])
    page = visited.page
    assert read_zoom(visited) == pytest.approx(1)
    x, y = find_point(visited, 8)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -200)
    wait(visited, "Math.abs(view.scale / fittedScale - Math.exp(0.4)) < 0.01")
    assert find_point(visited, 8) == pytest.approx((x, y), abs=0.5)
    page.click("#in")
    assert read_zoom(visited) == pytest.approx(1.6 * np.exp(0.4), rel=0.01)
    page.click("#all")
    assert read_zoom(visited) == pytest.approx(1)
    page.focus("#map")
    page.keyboard.press("+")
    assert read_zoom(visited) == pytest.approx(1.6)
    before = find_point(visited, 8)
    page.keyboard.press("ArrowRight")
    assert find_point(visited, 8) == pytest.approx((before[0] - 90, before[1]), abs=0.5)
    page.keyboard.press("-")
    page.click("#out")
    assert read_zoom(visited) == pytest.approx(1 / 1.6, rel=0.01)
    page.keyboard.press("0")
    page.mouse.move(x, y)
    for _ in range(10):
        page.mouse.wheel(0, 200)
    wait(visited, "Math.abs(view.scale / fittedScale - 0.5) < 1e-6")  # and no further
    assert is_quiet(visited)


def test_dragging_moves_the_map_and_is_no_click(open_map: Callable[..., Any]) -> None:
    visited = open_map(make_grid()[1])
    x, y = find_point(visited, 14)
    visited.page.mouse.move(x, y)
    visited.page.mouse.down()
    visited.page.mouse.move(x + 50, y - 30, steps=4)
    visited.page.mouse.up()
    assert find_point(visited, 14) == pytest.approx((x + 50, y - 30), abs=0.5)
    assert visited.page.locator("#panel").is_hidden()


def test_colors_change_and_the_legend_filters_groups(open_map: Callable[..., Any]) -> None:
    groups = {"folder": [f"g{i % 3}" for i in range(COUNT)], "cluster": [f"c{min(i, 11)}" for i in range(COUNT)]}
    visited = open_map(make_grid(groupings=groups)[1])
    page = visited.page
    page.uncheck("#images")
    color = {name: tuple(bytes.fromhex(value[1:])) for name, value in read_group_colors("light").items()}
    assert read_color(visited, *find_point(visited, 4)) == list(color["1"])
    page.locator("#legend button").nth(2).click()
    assert read_color(visited, *find_point(visited, 4)) == [0xD8, 0xD5, 0xCE] and read_color(
        visited, *find_point(visited, 5)
    ) == list(color["2"])
    page.select_option("#color", "cluster")  # the largest first; more than nine share a color
    labels = page.locator("#legend .label").all_inner_texts()
    assert labels == ["c11", "c0", "c1", *(f"c{i}" for i in (10, *range(2, 7))), "3 others"]
    assert read_color(visited, *find_point(visited, 30)) == list(color["0"])
    assert read_color(visited, *find_point(visited, 9)) == list(color["other"])
    page.select_option("#color", "")
    assert (
        read_color(visited, *find_point(visited, 4)) == [0x6B, 0x72, 0x80]
        and page.locator("#legend button").count() == 0
    )
    page.check("#images")
    assert np.abs(np.array(read_color(visited, *find_point(visited, 4))) - (20, 235, 100)).max() <= 4
    assert is_quiet(visited)


def test_no_two_thumbnails_overlap_and_those_shown_stay_when_zooming_in(open_map: Callable[..., Any]) -> None:
    rng = np.random.default_rng(3)
    count = 900
    positions = rng.normal(size=(count, 2)).astype(np.float32)
    neighbors = np.zeros((count, 1), np.int64)
    image_map = ImageMap(
        ROOT, [f"{i}.png" for i in range(count)], positions, np.zeros((count, 1), np.float32), neighbors, {}
    )
    flat = (np.full((64, 64, 3), i % 250, np.uint8) for i in range(count))
    visited = open_map(render_map("t", "l", image_map, list(pack_sprites(flat, 64)), 64))
    before: set[int] = set()
    for _ in range(5):
        shown = visited.ask(THUMBNAILS)
        at = np.array(find_points(visited, shown))
        apart = np.abs(at[:, None] - at[None]).max(2) + 1e6 * np.eye(len(shown))
        assert apart.min() >= 48 and before <= set(shown)
        before = set(shown)
        visited.page.click("#in")
        read_zoom(visited)
    assert len(before) > 200


def test_fingers_pinch_and_tap_on_a_phone(open_map: Callable[..., Any]) -> None:
    image_map, html = make_grid()
    visited = open_map(html, width=375)
    assert visited.ask("document.documentElement.scrollWidth") == 375
    session = visited.page.context.new_cdp_session(visited.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (150, 500), (200, 500))
    touch("touchMove", (125, 500), (225, 500))
    touch("touchEnd")
    assert read_zoom(visited) == pytest.approx(2, rel=0.05)
    visited.page.click("#all")
    read_zoom(visited)
    target = find_point(visited, 20)
    touch("touchStart", target)
    touch("touchEnd")
    assert visited.page.locator("#name").inner_text() == image_map.names[20]
    panel = visited.page.locator("#panel").bounding_box()
    assert (panel["x"], panel["width"]) == (0, 375) and panel["y"] > 300
    assert visited.ask("document.documentElement.scrollWidth") == 375 and is_quiet(visited)


def test_the_keyboard_reaches_every_control(open_map: Callable[..., Any]) -> None:
    visited = open_map(make_grid()[1], scheme="dark")
    page = visited.page
    assert visited.ask("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(visited.ask("document.activeElement.id || document.activeElement.closest('[id]')?.id"))
    assert reached[:7] == ["query", "color", "images", "map", "in", "out", "all"] and "legend" in reached
    page.focus("#map")
    page.keyboard.press("Enter")
    assert visited.ask("document.activeElement.id") == "name" and page.locator("#panel").is_visible()
    page.keyboard.press("Tab")
    assert visited.ask("document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the nearest neighbor
    assert page.locator("#panel").is_visible() and visited.ask("document.activeElement.id") == "name"
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden() and visited.ask("document.activeElement.id") == "map"


def test_hostile_names_are_text_and_link_to_their_files(open_map: Callable[..., Any]) -> None:
    names = [os.fsdecode(name) for name in HOSTILE]
    _, html = make_grid(names, {name: names + ["x"] * (COUNT - len(names)) for name in names[:2]})
    html.encode("utf-8")
    visited = open_map(html)
    for i, name in enumerate(names):
        visited.page.mouse.click(*find_point(visited, i))
        assert visited.page.locator("#name").evaluate("(e) => e.textContent") == escape_unprintable(name)
        link = visited.page.locator("#file")
        if name.endswith(".svg"):  # a browser would open it as a page, which may have a script
            assert link.is_hidden()
        else:
            assert link.evaluate("(e) => e.href") == (ROOT / name).as_uri()
        visited.page.keyboard.press("Escape")
    for name in (names[2], names[19]):
        visited.page.fill("#query", escape_unprintable(name))
        assert visited.page.locator("#match-count").inner_text() == f"1 of {COUNT}"
    visited.page.select_option("#color", escape_unprintable(names[1]))
    assert is_quiet(visited) and visited.ask("document.scripts.length") == 3  # data, one sheet, and the script


class Scripts(HTMLParser):
    """The scripts of a page as an HTML parser finds them, and its policy."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[str | None, str]] = []
        self.policy = ""
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((attributes.get("type"), ""))
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def test_the_policy_lets_one_script_run_and_no_other(open_map: Callable[..., Any]) -> None:
    names = [os.fsdecode(name) for name in HOSTILE]
    _, html = make_grid(names)
    parsed = Scripts(html)
    kinds = [kind for kind, _ in parsed.scripts]
    assert kinds == ["application/json", "text/plain", None]
    checksum = base64.b64encode(hashlib.sha256(parsed.scripts[2][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{checksum}'" in parsed.policy and "default-src 'none'" in parsed.policy
    assert json.loads(parsed.scripts[0][1])["names"][: len(names)] == [escape_unprintable(name) for name in names]
    assert parsed.scripts[0][1].isascii() and not set("<>&") & set(parsed.scripts[0][1])
    assert "innerHTML" not in parsed.scripts[2][1] and "http" not in parsed.scripts[2][1]
    visited = open_map(html)
    visited.ask(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert visited.ask("window.ran") is None and len(visited.complaints) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_map_of_one_or_two_images(open_map: Callable[..., Any], count: int) -> None:
    neighbors = np.arange(count)[::-1].reshape(-1, 1)[:, : count - 1]
    image_map = ImageMap(
        ROOT, ["a", "b"][:count], np.zeros((count, 2), np.float32), neighbors.astype(np.float32), neighbors, {}
    )
    visited = open_map(
        render_map("t", "l", image_map, list(pack_sprites([np.zeros((8, 8, 3), np.uint8)] * count, 64)), 64)
    )
    visited.page.mouse.click(*find_point(visited, 0))
    assert visited.page.locator("#nearest li").count() == count - 1 and is_quiet(visited)


def read_group_colors(scheme: str) -> dict[str, str]:
    """Return the colors of groups by name: 0 to 8, and other."""
    css = (Path(str(render_map.__code__.co_filename)).parent / "map.css").read_text()
    light, _, dark = css.partition("@media (prefers-color-scheme: dark)")
    return dict(re.findall(r"--group-(\w+): (#\w{6})", light if scheme == "light" else dark))


# Machado, Oliveira and Fernandes 2009, table 1, at full severity; in linear RGB.
COLOR_VISIONS = {
    "all cones": np.eye(3),
    "no L": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no M": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no S": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def to_oklab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert (n, 3) linear RGB to (n, 3) OKLab, in which equal distances look equal (Ottosson 2020)."""
    to_cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
              [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.cbrt(np.clip(linear, 0, 1) @ np.array(to_cones).T) @ np.array(to_lab).T


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("vision", COLOR_VISIONS)
def test_group_colors_differ_for_any_color_vision(scheme: str, vision: str) -> None:
    colors = [bytes.fromhex(value[1:]) for value in read_group_colors(scheme).values()]
    shown = np.array([list(color) for color in colors]) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    lab = to_oklab(linear @ COLOR_VISIONS[vision].T)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 9 * np.eye(len(lab))
    assert len(colors) == 10 and distances.min() > 0.1


def test_five_hundred_hostile_names_are_read_back_from_the_page(nasty_names: Callable[[int], list[bytes]]) -> None:
    raw = nasty_names(500)
    names, positions = [os.fsdecode(name) for name in raw], np.random.default_rng(0).random((500, 2)).astype(np.float32)
    image_map = ImageMap(
        ROOT, names, positions, np.zeros((500, 1), np.float32), np.zeros((500, 1), np.int64), {"folder": names}
    )
    html = render_map("Map", "", image_map, [], 64)
    html.encode("utf-8")
    (kind, data), *others = Scripts(html).scripts
    content = json.loads(data)
    assert kind == "application/json" and len(others) == 1
    assert content["names"] == [escape_unprintable(name) for name in names]
    assert sorted(content["groupings"][0]["labels"]) == sorted(content["names"])
    for i, name in enumerate(raw):
        link = content["links"].get(str(i), names[i])
        path = unquote_to_bytes(content["root"] + link).removeprefix(b"file://")
        assert path == os.fsencode(ROOT / names[i]) if link else not is_safe_to_link(names[i]), name
