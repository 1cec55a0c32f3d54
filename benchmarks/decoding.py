"""Building the cache against Pillow's full decode and resize of every image, on one core.

    python benchmarks/decoding.py PHOTOS [--image-size 64] [--rounds 5]

PHOTOS is a folder of small photos (about 400 px). The larger ones are mosaics of them at their own resolution, saved
as JPEG of quality 90: full of detail, which is the hard case for a decoder that skips detail. Both arms return the same
squares. The cache also finds unusable images, and writes squares and index to the disk (with fsync). Both run in turn,
round by round, with a new cache each time. Prints one JSON object: images/s of both, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe_machine, summarize
from PIL import Image

from simclr_cli.images.cache import decode_images, stored_side
from simclr_cli.images.census import Census
from simclr_cli.images.scan import take_census

KINDS = {"400 px": (None, 160), "3 MP": ((2048, 1536), 30), "12 MP": ((4000, 3000), 12)}  # size, count


def make_images(photos: list[Path], size: tuple[int, int] | None, count: int, folder: Path) -> None:
    """Copy photos, or make mosaics of them."""
    folder.mkdir()
    rng = random.Random(0)
    for i in range(count):
        if size is None:
            shutil.copy(photos[i], folder)
            continue
        mosaic = Image.new("RGB", size)
        y = 0
        while y < size[1]:
            x, height = 0, 0
            while x < size[0]:
                with Image.open(rng.choice(photos)) as tile:
                    mosaic.paste(tile, (x, y))
                    x, height = x + tile.width, max(height, tile.height)
            y += min(height, 400)
        mosaic.save(folder / f"{i}.jpg", quality=90)


def decode_with_pillow(census: Census, side: int) -> list[np.ndarray]:
    """Decode and resize every image with plain Pillow."""
    squares = []
    for image in census.images:
        with Image.open(census.path(image)) as image:
            squares.append(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)))
    return squares


def main() -> None:
    """Measure every kind and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures = {}
    for kind, (size, count) in KINDS.items():
        rates: dict[str, list[float]] = {"cache": [], "plain": []}
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "images"
            make_images(sorted(args.photos.rglob("*.jpg"))[:600], size, count, folder)
            os.environ["SIMCLR_CACHE"] = f"{work}/cache"
            census = take_census(folder)
            side = stored_side(census, args.image_size)
            for _ in range(args.rounds):
                start = time.perf_counter()
                squares = decode_with_pillow(census, side)
                rates["plain"].append(count / (time.perf_counter() - start))
                shutil.rmtree(f"{work}/cache")
                start = time.perf_counter()
                decoded = decode_images(census, args.image_size, workers=1, progress=lambda *_: None)
                rates["cache"].append(count / (time.perf_counter() - start))
            cached = decoded.read(np.arange(count)).transpose(0, 2, 3, 1).astype(float)
        ratios = [ours / theirs for ours, theirs in zip(rates["cache"], rates["plain"], strict=True)]
        figures[kind] = {
            "images_per_second": {name: summarize(values, 1) for name, values in rates.items()},
            "cache_over_plain": summarize(ratios),
            "mean_difference_of_255": round(float(np.abs(cached - np.stack(squares)).mean()), 2),
        }
    print(json.dumps({"image_size": args.image_size, **figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
