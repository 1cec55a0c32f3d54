"""The page of `simclr map` for many images: how large it is, how soon it is there, and how smoothly it moves.

    python benchmarks/map.py [--counts 10000 100000] [--count FOLDER] [--seconds 4]

Places are drawn around 40 centers, neighbors at random; thumbnails are those of images of the folder, over and over
(without one: noise). The page is opened in headless Chromium without a GPU, 1,280 x 900 px, zoomed in and out and moved
for a while, one step a frame, and once more on the fully zoomed-out map, where all points are in view.

bytes      of the page, and of its thumbnails
make_s     seconds to pack the thumbnails, and for the rest of the page
drawn_s    seconds from opening the file to the first drawing, and until all thumbnails that it shows are there
draw_ms    of the script, a frame
frame_ms   from frame to frame; 16.7 is the most that a screen of 60 Hz shows

Prints one JSON object a count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, spread

from simclr_cli.engine.layout import along_a_curve
from simclr_cli.images.decode import small
from simclr_cli.pages.images import Pixels, sheets, thumbnail_side, thumbnail_step
from simclr_cli.pages.map import NEIGHBORS, Mapped, map_page
from simclr_cli.pages.preview import at_side

CHROMIUM = "/usr/bin/chromium"
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
POOL = 2_000  # different thumbnails
MOVING = """
async ([seconds, closer]) => {
  const deltas = [], began = performance.now();
  let last = began, step = 0;
  const times = [], whole = draw;
  draw = () => {
    const began = performance.now();
    whole();
    times.push(performance.now() - began);
  };
  while (last - began < 1000 * seconds) {
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    deltas.push(now - last);
    last = now;
    if (closer) zoom(Math.floor(step / 60) % 2 ? 1 / 1.05 : 1.05, 500 + (step % 200), 400);
    pan(3 * Math.sin(step / 20), 3 * Math.cos(step / 15));
    step++;
  }
  draw = whole;
  return [deltas.slice(2), times];
}
"""


def pool(folder: Path | None, side: int) -> list[Pixels]:
    """Thumbnails to take turns."""
    if folder is None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (POOL, 8, 8, 3), dtype=np.uint8)
        return [np.asarray(at_side(pixels, side)) for pixels in coarse]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = islice(paths, 0, None, max(1, len(paths) // POOL))
    return [small(path, side, 2 * side) for path in chosen]


def made(count: int, folder: Path | None) -> tuple[str, dict[str, Any]]:
    """A page, and what it cost."""
    rng = np.random.default_rng(0)
    places = (rng.normal(size=(40, 2))[rng.integers(0, 40, count)] + 0.25 * rng.normal(size=(count, 2))).astype("f4")
    places = places[along_a_curve(places)]
    near = rng.integers(0, count, (count, NEIGHBORS))
    similarities = np.sort(rng.random((count, NEIGHBORS)).astype("f4"))[:, ::-1]
    names = [f"folder-{i % 12:02}/{i:08}-{i * 7919 % 99991:05}.jpg" for i in range(count)]
    groupings = {"folder": [name.split("/")[0] for name in names]}
    mapped = Mapped(Path("/images"), names, places, similarities, near, groupings)
    side, step = thumbnail_side(count), thumbnail_step(count)
    images = pool(folder, side)
    began = time.perf_counter()
    packed = list(sheets((images[i % len(images)] for i in range(0, count, step)), side))
    between = time.perf_counter()
    html = map_page("Map", "Many images.", mapped, packed, side, step)
    figures = {
        "thumbnail_px": side,
        "bytes": len(html),
        "thumbnail_bytes": sum(len(sheet.jpeg) for sheet in packed),
        "pack_s": round(between - began, 2),
        "page_s": round(time.perf_counter() - between, 2),
    }
    return html, figures


def looked_at(file: Path, seconds: float) -> dict[str, Any]:
    """The page in a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        page.goto(file.as_uri(), wait_until="commit")
        drawn = until(page, "sheets.size > 0") - began
        there = until(page, "![...sheets.values()].includes(null)") - began
        found = {"drawn_s": round(drawn, 2), "thumbnails_s": round(there, 2)}
        for name, closer in (("all in view", False), ("zooming", True)):
            deltas, draws = page.evaluate(MOVING, [seconds, closer])
            found[name] = {"frame_ms": spread(deltas, 1), "draw_ms": spread(draws, 1)}
        browser.close()
    return found


def until(page: Any, truth: str) -> float:
    """When something is true."""
    while not page.evaluate(f"(() => {{ try {{ return {truth} }} catch {{ return false }} }})()"):
        page.wait_for_timeout(10)
    return time.perf_counter()


def main() -> None:
    """Make, and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--count", type=Path)
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    for count in given.counts:
        html, figures = made(count, given.images)
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "map.html"
            file.write_text(html, encoding="utf-8")
            print(json.dumps({"images": count, **figures, **looked_at(file, given.seconds), **describe_machine()}))


if __name__ == "__main__":
    main()
