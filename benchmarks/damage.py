"""Damaged JPEG files that are refused: by simclr, and by Pillow alone.

    python benchmarks/damage.py PHOTOS [--rounds 4]

Each photo of the folder is damaged at a random place of its pixels, in each of six ways in turn. Undamaged photos
must be accepted. Prints one JSON object: the percent refused by both arms for each kind.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

from machine import describe_machine
from PIL import Image

from simclr_cli.images.decode import decode
from simclr_cli.images.formats import UnusableImage

SECTOR = 512
END = b"\xff\xd9"


def fill(data: bytearray, place: int, content: bytes) -> bytes:
    """Overwrite bytes."""
    data[place : place + len(content)] = content
    return bytes(data)


def damage(kind: str, data: bytearray, rng: random.Random) -> bytes:
    """Return the file with one fault at a random place after the start of its last scan."""
    place = rng.randrange(data.rindex(b"\xff\xda") + 20, len(data) - SECTOR - 100)
    if kind == "cut":
        return bytes(data[:place])
    if kind == "cut and ended":
        return bytes(data[:place]) + END
    if kind == "sector of zeros":
        return fill(data, place, bytes(SECTOR))
    if kind == "sector of another file":
        return fill(data, place, rng.randbytes(SECTOR))
    if kind == "sector missing":
        return bytes(data[:place] + data[place + SECTOR :])
    return fill(data, place, bytes([data[place] ^ 1 << rng.randrange(8)]))  # one bit


KINDS = ("cut", "cut and ended", "sector of zeros", "sector of another file", "sector missing", "one bit")


def is_refused_by_simclr(path: Path) -> bool:
    """Return whether simclr skips a file."""
    try:
        decode(path)
    except UnusableImage:
        return True
    return False


def is_refused_by_pillow(path: Path) -> bool:
    """Return whether Pillow raises an error for a file."""
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return True
    return False


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    photos = sorted(path for path in arguments.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    rng = random.Random(0)
    refused: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jpg")
        for kind in KINDS * arguments.rounds:
            for photo in photos:
                path.write_bytes(damage(kind, bytearray(photo.read_bytes()), rng))
                refused[kind, "simclr"] += is_refused_by_simclr(path)
                refused[kind, "pillow"] += is_refused_by_pillow(path)
    count = len(photos) * arguments.rounds
    percent = {
        kind: {arm: round(100 * refused[kind, arm] / count, 1) for arm in ("simclr", "pillow")} for kind in KINDS
    }
    undamaged = sum(map(is_refused_by_simclr, photos))
    result = {"photos": len(photos), "files of each kind": count, "refused, %": percent, "undamaged refused": undamaged}
    print(json.dumps({"machine": describe_machine(), **result}, indent=1))


if __name__ == "__main__":
    main()
