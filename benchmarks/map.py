"""The page of `simclr map` for many images: its size, the time to its first drawing, and its frame times.

    python benchmarks/map.py [--counts 10000 100000] [--images FOLDER] [--seconds 4]

Positions are drawn around 40 centers, and neighbors at random. The thumbnails are those of the folder's images,
repeated; without a folder they are noise. The page is opened in headless Chromium without a GPU, 1,280 x 900 px. It is
moved for a while, one step per frame: first with all images in view, then while zooming in and out.

bytes, thumbnail_bytes   of the page, and of its thumbnails
pack_s, page_s           seconds to pack the thumbnails, and to render the rest of the page
drawn_s, thumbnails_s    seconds from opening the file to the first drawing, and to all visible thumbnails
draw_ms                  of the script, per frame
frame_ms                 from frame to frame; a screen of 60 Hz shows one every 16.7 ms

Prints one JSON object per count.
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
from machine import describe_machine, summarize

from simclr_cli.engine.layout import order_along_curve
from simclr_cli.images.decode import decode_thumbnail
from simclr_cli.pages.images import Pixels, choose_thumbnail_side, choose_thumbnail_step, pack_sprites
from simclr_cli.pages.map import NEIGHBORS_PER_IMAGE, ImageMap, render_map
from simclr_cli.pages.preview import resize_view

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_OPTIONS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
DISTINCT_THUMBNAILS = 2_000
MOVE_SCRIPT = """
async ([seconds, isZooming]) => {
  const deltas = [], times = [], start = performance.now(), originalDraw = draw;
  let last = start, step = 0;
  draw = () => {
    const drawStart = performance.now();
    originalDraw();
    times.push(performance.now() - drawStart);
  };
  while (last - start < 1000 * seconds) {
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    deltas.push(now - last);
    last = now;
    if (isZooming) zoom(Math.floor(step / 60) % 2 ? 1 / 1.05 : 1.05, 500 + (step % 200), 400);
    pan(3 * Math.sin(step / 20), 3 * Math.cos(step / 15));
    step++;
  }
  draw = originalDraw;
  return [deltas.slice(2), times];
}
"""


def load_thumbnails(folder: Path | None, side: int) -> list[Pixels]:
    """Return different thumbnails, to be repeated."""
    if folder is None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (DISTINCT_THUMBNAILS, 8, 8, 3), dtype=np.uint8)
        return [np.asarray(resize_view(pixels, side)) for pixels in coarse]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sample = islice(paths, 0, None, max(1, len(paths) // DISTINCT_THUMBNAILS))
    return [decode_thumbnail(path, side, 2 * side) for path in sample]


def create_page(count: int, folder: Path | None) -> tuple[str, dict[str, Any]]:
    """Create a page, and return it with its size and times."""
    rng = np.random.default_rng(0)
    positions = (rng.normal(size=(40, 2))[rng.integers(0, 40, count)] + 0.25 * rng.normal(size=(count, 2))).astype("f4")
    positions = positions[order_along_curve(positions)]
    neighbors = rng.integers(0, count, (count, NEIGHBORS_PER_IMAGE))
    similarities = np.sort(rng.random((count, NEIGHBORS_PER_IMAGE)).astype("f4"))[:, ::-1]
    names = [f"folder-{i % 12:02}/{i:08}-{i * 7919 % 99991:05}.jpg" for i in range(count)]
    groupings = {"folder": [name.split("/")[0] for name in names]}
    image_map = ImageMap(Path("/images"), names, positions, similarities, neighbors, groupings)
    side, step = choose_thumbnail_side(count), choose_thumbnail_step(count)
    images = load_thumbnails(folder, side)
    start = time.perf_counter()
    sheets = list(pack_sprites((images[i % len(images)] for i in range(0, count, step)), side))
    packed_at = time.perf_counter()
    html = render_map("Map", "Many images.", image_map, sheets, side, step)
    figures = {
        "thumbnail_px": side,
        "bytes": len(html),
        "thumbnail_bytes": sum(len(sheet.jpeg) for sheet in sheets),
        "pack_s": round(packed_at - start, 2),
        "page_s": round(time.perf_counter() - packed_at, 2),
    }
    return html, figures


def measure_page(file: Path, seconds: float) -> dict[str, Any]:
    """Measure the page in Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(file.as_uri(), wait_until="commit")
        drawn = wait_until(page, "sheets.size > 0") - start
        complete = wait_until(page, "![...sheets.values()].includes(null)") - start
        figures = {"drawn_s": round(drawn, 2), "thumbnails_s": round(complete, 2)}
        for name, is_zooming in (("all in view", False), ("zooming", True)):
            deltas, draws = page.evaluate(MOVE_SCRIPT, [seconds, is_zooming])
            figures[name] = {"frame_ms": summarize(deltas, 1), "draw_ms": summarize(draws, 1)}
        browser.close()
    return figures


def wait_until(page: Any, condition: str) -> float:
    """Wait for a condition in the page, and return the time."""
    while not page.evaluate(f"(() => {{ try {{ return {condition} }} catch {{ return false }} }})()"):
        page.wait_for_timeout(10)
    return time.perf_counter()


def main() -> None:
    """Create and measure the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    for count in args.counts:
        html, figures = create_page(count, args.images)
        with tempfile.TemporaryDirectory() as work:
            file = Path(work) / "map.html"
            file.write_text(html, encoding="utf-8")
            print(json.dumps({"images": count, **figures, **measure_page(file, args.seconds), **describe_machine()}))


if __name__ == "__main__":
    main()
