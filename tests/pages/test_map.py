"""The map in a browser, by hand: pointer, wheel, fingers and keys; whatever the names are."""

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

from simclr_cli.core.text import safe
from simclr_cli.engine.nearest import nearest_others
from simclr_cli.pages.gallery import opens
from simclr_cli.pages.images import sheets
from simclr_cli.pages.map import Mapped, map_page

SIDE = 6  # of the grid of images
COUNT = SIDE * SIDE
ROOT = Path("/images of a/folder")
THUMBNAILS = "[...appears.keys()].filter(asThumbnail)"  # images that are shown as such
HOSTILE = [
    b"<script>alert(1)</script>.png", b"</script><script>alert(1)</script>.png", b"<img src=x onerror=alert(1)>.png",
    b"--><script>alert(1)</script>", b"<!-- <script>.png", b"'\"><svg onload=alert(1)>.png", b"&lt;b&gt;.png", b"]]>",
    b"a&amp;b&.png", b"javascript:alert(1)", b"http:/evil.example/x.png", b"..\\..\\x.png", b"a?b#c.png", b"100%41.png",
    b"%2e%2e%2f.png", b"new\nline.png", b"tab\there.png", b"\x1b[31mred.png", b"nul-like \x01\x02.png", b"\xff\xfe.png",
    b"half \xc3.png", b"\xed\xa0\x80 surrogate.png", "right \u202egnp.exe".encode(), "\u2066iso\u2069.png".encode(),
    "line \u2028 and \u2029.png".encode(), "\u200b\ufeff.png".encode(), "\u05e9\u05dc\u05d5\u05dd.png".encode(),
    "\U0001f98a e\u0301.png".encode(), b"{{ 7 * 7 }} ${1} `x`.png", b"constructor", b"image.svg",
]  # fmt: skip


def grid(names: Sequence[str] = (), groupings: Mapping[str, Sequence[str]] | None = None) -> tuple[Mapped, str]:
    """Images on a grid, each of one color, and the page of them; near in the plane is near by the vectors."""
    names = [*names, *(f"{'abc'[i % 3]}/{i:02}.png" for i in range(len(names), COUNT))]
    places = np.stack(np.divmod(np.arange(COUNT), SIDE), 1).astype(np.float32)
    places += np.random.default_rng(0).uniform(-0.1, 0.1, places.shape).astype(np.float32)
    lifted = np.concatenate([places, np.full((COUNT, 1), 20)], 1).astype(np.float32)
    similarities, near = nearest_others(lifted / np.linalg.norm(lifted, axis=1, keepdims=True), 8)
    chosen = {"folder": [name.split("/")[0] for name in names]} if groupings is None else groupings
    mapped = Mapped(ROOT, names, places, similarities, near, chosen)
    thumbnails = (np.full((40, 64, 3), (5 * i, 255 - 5 * i, 100), np.uint8) for i in range(COUNT))
    return mapped, map_page("A map", "Some images.", mapped, list(sheets(thumbnails, 64)), 64)


@pytest.fixture
def on(visit: Callable[..., Any]) -> Callable[..., Any]:
    """`on(html, ...)`: visit a map, and wait until it is drawn with its thumbnails."""

    def go(html: str, **how: Any) -> Any:
        seen = visit(html, **how)
        seen.page.emulate_media(reduced_motion="reduce")  # it goes where it goes in one step
        wait(seen, "sheets.size && ![...sheets.values()].includes(null)")
        settle(seen)
        return seen

    return go


def wait(seen: Any, truth: str) -> None:
    """Until something is true; playwright's own way would be a script in the page, which its policy forbids."""
    for _ in range(500):
        if seen.ask(truth):
            return
        seen.page.wait_for_timeout(10)
    raise AssertionError(truth)


def settle(seen: Any) -> None:
    """Until two frames have been drawn."""
    seen.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def point(seen: Any, i: int) -> tuple[float, float]:
    x, y = points(seen, [i])[0]
    return x, y


def points(seen: Any, images: Sequence[int]) -> list[list[float]]:
    """Where images are on the screen."""
    places = f"{list(map(int, images))}.map((i) => [acrossTo(i) + box.left, downTo(i) + box.top])"
    return seen.ask(f"((box) => {places})(canvas.getBoundingClientRect())")


def color_at(seen: Any, x: float, y: float) -> list[int]:
    settle(seen)
    box = seen.page.locator("#map").bounding_box()
    seen.ask("window.copy = new OffscreenCanvas(width, height).getContext('2d')")
    seen.ask("copy.drawImage(canvas, 0, 0)")
    return seen.ask(f"[...copy.getImageData({x - box['x']}, {y - box['y']}, 1, 1).data].slice(0, 3)")


def closeness(seen: Any) -> float:
    wait(seen, "goal === null")
    return float(seen.ask("view.scale / fitted"))


def quiet(seen: Any) -> bool:
    return (
        not seen.complaints
        and all(request.startswith("file:") for request in seen.requests)
        and len(seen.requests) == 1
    )


def test_a_click_shows_the_image_and_its_true_neighbors(on: Callable[..., Any]) -> None:
    mapped, html = grid()
    seen = on(html)
    page = seen.page
    assert page.locator("#panel").is_hidden()
    page.mouse.click(*point(seen, 14))
    assert page.locator("#name").inner_text() == mapped.names[14]
    shown = page.locator("#nearest .name").all_inner_texts()
    assert shown == [mapped.names[i] for i in mapped.neighbors[14]]
    beside = {i for i in range(COUNT) if max(abs(i // SIDE - 14 // SIDE), abs(i % SIDE - 14 % SIDE)) == 1}
    assert set(mapped.neighbors[14].tolist()) == beside  # in the plane too
    assert page.locator("#nearest b").first.inner_text() == f"{mapped.similarities[14, 0]:.3f}"
    assert page.locator("#file").get_attribute("href") == (ROOT / mapped.names[14]).as_uri()
    page.locator("#nearest button").nth(2).click()
    assert page.locator("#name").inner_text() == mapped.names[mapped.neighbors[14, 2]]
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden() and quiet(seen)


def test_the_pointer_tells_the_name_and_shows_the_image(on: Callable[..., Any]) -> None:
    mapped, html = grid()
    seen = on(html)
    x, y = point(seen, 21)
    seen.page.mouse.move(x, y)
    assert seen.page.locator("#tip .name").inner_text() == mapped.names[21]
    shown = seen.ask("[...document.querySelector('#tip canvas').getContext('2d').getImageData(9, 9, 1, 1).data]")
    assert np.abs(np.array(shown[:3]) - (105, 150, 100)).max() <= 4
    seen.page.mouse.move(x + 40, y + 60)  # between images
    assert seen.page.locator("#tip").is_hidden()


def test_search_counts_dims_the_others_and_goes_from_one_to_the_next(on: Callable[..., Any]) -> None:
    mapped, html = grid(groupings={})
    seen = on(html)
    page = seen.page
    page.fill("#query", "B/")
    wanted = [i for i, name in enumerate(mapped.names) if name.startswith("b/")]
    assert page.locator("#found").inner_text() == f"{len(wanted)} of {COUNT}"
    settle(seen)
    assert seen.ask(THUMBNAILS) == wanted
    for i in [*wanted, wanted[0]]:
        page.press("#query", "Enter")
        assert page.locator("#name").inner_text() == mapped.names[i]
    assert closeness(seen) == pytest.approx(4, rel=0.01)
    page.fill("#query", "nothing is called so")
    page.press("#query", "Enter")
    assert page.locator("#found").inner_text() == f"0 of {COUNT}"
    page.fill("#query", "")
    settle(seen)
    assert len(seen.ask(THUMBNAILS)) == COUNT and page.locator("#color-by").is_hidden()


def test_zoom_by_wheel_buttons_and_keys_keeps_what_is_under_the_pointer(on: Callable[..., Any]) -> None:
    seen = on(grid()[1])
    page = seen.page
    assert closeness(seen) == pytest.approx(1)
    x, y = point(seen, 8)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -200)
    wait(seen, "Math.abs(view.scale / fitted - Math.exp(0.4)) < 0.01")
    assert point(seen, 8) == pytest.approx((x, y), abs=0.5)
    page.click("#in")
    assert closeness(seen) == pytest.approx(1.6 * np.exp(0.4), rel=0.01)
    page.click("#all")
    assert closeness(seen) == pytest.approx(1)
    page.focus("#map")
    page.keyboard.press("+")
    assert closeness(seen) == pytest.approx(1.6)
    before = point(seen, 8)
    page.keyboard.press("ArrowRight")
    assert point(seen, 8) == pytest.approx((before[0] - 90, before[1]), abs=0.5)
    page.keyboard.press("-")
    page.click("#out")
    assert closeness(seen) == pytest.approx(1 / 1.6, rel=0.01)
    page.keyboard.press("0")
    page.mouse.move(x, y)
    for _ in range(10):
        page.mouse.wheel(0, 200)
    wait(seen, "Math.abs(view.scale / fitted - 0.5) < 1e-6")  # and no further
    assert quiet(seen)


def test_dragging_moves_the_map_and_is_no_click(on: Callable[..., Any]) -> None:
    seen = on(grid()[1])
    x, y = point(seen, 14)
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    seen.page.mouse.move(x + 50, y - 30, steps=4)
    seen.page.mouse.up()
    assert point(seen, 14) == pytest.approx((x + 50, y - 30), abs=0.5)
    assert seen.page.locator("#panel").is_hidden()


def test_colors_change_and_the_legend_leaves_what_is_chosen(on: Callable[..., Any]) -> None:
    groups = {"folder": [f"g{i % 3}" for i in range(COUNT)], "cluster": [f"c{min(i, 11)}" for i in range(COUNT)]}
    seen = on(grid(groupings=groups)[1])
    page = seen.page
    page.uncheck("#images")
    color = {name: tuple(bytes.fromhex(value[1:])) for name, value in css_groups("light").items()}
    assert color_at(seen, *point(seen, 4)) == list(color["1"])
    page.locator("#legend button").nth(2).click()
    assert color_at(seen, *point(seen, 4)) == [0xD8, 0xD5, 0xCE] and color_at(seen, *point(seen, 5)) == list(color["2"])
    page.select_option("#color", "cluster")  # the largest first; more than nine share a color
    labels = page.locator("#legend .label").all_inner_texts()
    assert labels == ["c11", "c0", "c1", *(f"c{i}" for i in (10, *range(2, 7))), "3 others"]
    assert color_at(seen, *point(seen, 30)) == list(color["0"])
    assert color_at(seen, *point(seen, 9)) == list(color["other"])
    page.select_option("#color", "")
    assert color_at(seen, *point(seen, 4)) == [0x6B, 0x72, 0x80] and page.locator("#legend button").count() == 0
    page.check("#images")
    assert np.abs(np.array(color_at(seen, *point(seen, 4))) - (20, 235, 100)).max() <= 4
    assert quiet(seen)


def test_no_two_thumbnails_overlap_and_those_shown_stay_when_zooming_in(on: Callable[..., Any]) -> None:
    rng = np.random.default_rng(3)
    count = 900
    places = rng.normal(size=(count, 2)).astype(np.float32)
    near = np.zeros((count, 1), np.int64)
    mapped = Mapped(ROOT, [f"{i}.png" for i in range(count)], places, np.zeros((count, 1), np.float32), near, {})
    flat = (np.full((64, 64, 3), i % 250, np.uint8) for i in range(count))
    seen = on(map_page("t", "l", mapped, list(sheets(flat, 64)), 64))
    before: set[int] = set()
    for _ in range(5):
        shown = seen.ask(THUMBNAILS)
        at = np.array(points(seen, shown))
        apart = np.abs(at[:, None] - at[None]).max(2) + 1e6 * np.eye(len(shown))
        assert apart.min() >= 48 and before <= set(shown)
        before = set(shown)
        seen.page.click("#in")
        closeness(seen)
    assert len(before) > 200


def test_fingers_pinch_and_tap_on_a_phone(on: Callable[..., Any]) -> None:
    mapped, html = grid()
    seen = on(html, width=375)
    assert seen.ask("document.documentElement.scrollWidth") == 375
    hand = seen.page.context.new_cdp_session(seen.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (150, 500), (200, 500))
    touch("touchMove", (125, 500), (225, 500))
    touch("touchEnd")
    assert closeness(seen) == pytest.approx(2, rel=0.05)
    seen.page.click("#all")
    closeness(seen)
    target = point(seen, 20)
    touch("touchStart", target)
    touch("touchEnd")
    assert seen.page.locator("#name").inner_text() == mapped.names[20]
    panel = seen.page.locator("#panel").bounding_box()
    assert (panel["x"], panel["width"]) == (0, 375) and panel["y"] > 300
    assert seen.ask("document.documentElement.scrollWidth") == 375 and quiet(seen)


def test_keys_alone_reach_everything(on: Callable[..., Any]) -> None:
    seen = on(grid()[1], scheme="dark")
    page = seen.page
    assert seen.ask("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(seen.ask("document.activeElement.id || document.activeElement.closest('[id]')?.id"))
    assert reached[:7] == ["query", "color", "images", "map", "in", "out", "all"] and "legend" in reached
    page.focus("#map")
    page.keyboard.press("Enter")
    assert seen.ask("document.activeElement.id") == "name" and page.locator("#panel").is_visible()
    page.keyboard.press("Tab")
    assert seen.ask("document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the nearest one
    assert page.locator("#panel").is_visible() and seen.ask("document.activeElement.id") == "name"
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden() and seen.ask("document.activeElement.id") == "map"


def test_hostile_names_are_text_and_their_files_are_found(on: Callable[..., Any]) -> None:
    names = [os.fsdecode(name) for name in HOSTILE]
    _, html = grid(names, {name: names + ["x"] * (COUNT - len(names)) for name in names[:2]})
    html.encode("utf-8")
    seen = on(html)
    for i, name in enumerate(names):
        seen.page.mouse.click(*point(seen, i))
        assert seen.page.locator("#name").evaluate("(e) => e.textContent") == safe(name)
        link = seen.page.locator("#file")
        if name.endswith(".svg"):  # a browser would take it for a page, which may have a script
            assert link.is_hidden()
        else:
            assert link.evaluate("(e) => e.href") == (ROOT / name).as_uri()
        seen.page.keyboard.press("Escape")
    for name in (names[2], names[19]):
        seen.page.fill("#query", safe(name))
        assert seen.page.locator("#found").inner_text() == f"1 of {COUNT}"
    seen.page.select_option("#color", safe(names[1]))
    assert quiet(seen) and seen.ask("document.scripts.length") == 3  # data, one sheet, and ours


class Scripts(HTMLParser):
    """The scripts of a page as a parser of HTML finds them, and its policy."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[str | None, str]] = []
        self.policy = ""
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((found.get("type"), ""))
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def test_the_policy_lets_one_script_run_and_no_other(on: Callable[..., Any]) -> None:
    names = [os.fsdecode(name) for name in HOSTILE]
    _, html = grid(names)
    found = Scripts(html)
    kinds = [kind for kind, _ in found.scripts]
    assert kinds == ["application/json", "text/plain", None]
    checksum = base64.b64encode(hashlib.sha256(found.scripts[2][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{checksum}'" in found.policy and "default-src 'none'" in found.policy
    assert json.loads(found.scripts[0][1])["names"][: len(names)] == [safe(name) for name in names]
    assert found.scripts[0][1].isascii() and not set("<>&") & set(found.scripts[0][1])
    assert "innerHTML" not in found.scripts[2][1] and "http" not in found.scripts[2][1]
    seen = on(html)
    seen.ask("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert seen.ask("window.ran") is None and len(seen.complaints) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_map_of_one_or_two_images(on: Callable[..., Any], count: int) -> None:
    near = np.arange(count)[::-1].reshape(-1, 1)[:, : count - 1]
    mapped = Mapped(ROOT, ["a", "b"][:count], np.zeros((count, 2), np.float32), near.astype(np.float32), near, {})
    seen = on(map_page("t", "l", mapped, list(sheets([np.zeros((8, 8, 3), np.uint8)] * count, 64)), 64))
    seen.page.mouse.click(*point(seen, 0))
    assert seen.page.locator("#nearest li").count() == count - 1 and quiet(seen)


def css_groups(scheme: str) -> dict[str, str]:
    """The colors of groups by their names: 0 to 8, and other."""
    css = (Path(str(map_page.__code__.co_filename)).parent / "map.css").read_text()
    light, _, dark = css.partition("@media (prefers-color-scheme: dark)")
    return dict(re.findall(r"--group-(\w+): (#\w{6})", light if scheme == "light" else dark))


# Machado, Oliveira and Fernandes 2009, table 1, at full severity; in linear RGB.
EYES = {
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


def oklab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) linear RGB -> (n, 3) OKLab, in which equal distances look alike (Ottosson 2020)."""
    to_cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
              [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.cbrt(np.clip(linear, 0, 1) @ np.array(to_cones).T) @ np.array(to_lab).T


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_colors_of_groups_are_told_apart_by_any_eyes(scheme: str, eyes: str) -> None:
    colors = [bytes.fromhex(value[1:]) for value in css_groups(scheme).values()]
    shown = np.array([list(color) for color in colors]) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    seen = oklab(linear @ EYES[eyes].T)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 9 * np.eye(len(seen))
    assert len(colors) == 10 and apart.min() > 0.1


def test_five_hundred_hostile_names_come_back_from_the_page(nasty_names: Callable[[int], list[bytes]]) -> None:
    raw = nasty_names(500)
    names, places = [os.fsdecode(name) for name in raw], np.random.default_rng(0).random((500, 2)).astype(np.float32)
    mapped = Mapped(
        ROOT, names, places, np.zeros((500, 1), np.float32), np.zeros((500, 1), np.int64), {"folder": names}
    )
    html = map_page("Map", "", mapped, [], 64)
    html.encode("utf-8")
    (kind, data), *others = Scripts(html).scripts
    content = json.loads(data)
    assert kind == "application/json" and len(others) == 1
    assert content["names"] == [safe(name) for name in names]
    assert sorted(content["groupings"][0]["labels"]) == sorted(content["names"])
    for i, name in enumerate(raw):
        link = content["links"].get(str(i), names[i])
        path = unquote_to_bytes(content["root"] + link).removeprefix(b"file://")
        assert path == os.fsencode(ROOT / names[i]) if link else not opens(names[i]), name
