"""Mutated small images of every format, decoded: each gives an image or an error, with bounded time and memory."""

from __future__ import annotations

import io
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from simclr_cli.images import decode_pool as decoders
from simclr_cli.images.decode import Header, decode_squashed, read_header
from simclr_cli.images.decode_pool import isolate_batch
from simclr_cli.images.formats import FORMATS, UnusableImage
from simclr_cli.images.threads import map_in_order

pytestmark = pytest.mark.long

SIDE = 8  # of the decoded images
MUTANTS_PER_CALL = 64
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
CRASHED = ("crashed", "killed", "took over", "nonsense")  # in a reason: the decoder ended


def create_valid_images() -> dict[str, list[bytes]]:
    """Return small valid images of every format, of many kinds."""
    y, x = np.mgrid[:40, :40]
    rgb = Image.fromarray(np.dstack([x * 6, y * 6, (x * y) % 256]).astype(np.uint8))
    grayscale, rgba = rgb.convert("L"), rgb.copy()
    rgba.putalpha(grayscale)
    palette = rgb.quantize(16)
    deep = Image.fromarray(np.asarray(grayscale).astype(np.uint16) * 257)
    wide = Image.fromarray(np.asarray(grayscale).astype(np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    more: dict[str, Any] = {"save_all": True, "append_images": [grayscale.convert("P"), palette]}
    kinds: dict[str, list[tuple[Image.Image, dict[str, Any]]]] = {
        "JPEG": [(rgb, {"exif": exif}), (rgb, {"progressive": True, "comment": b"c"}), (rgb.convert("CMYK"), {}),
                 (grayscale, {"restart_marker_blocks": 2}), (rgb, {"icc_profile": bytes(200), "subsampling": 0})],
        "PNG": [(rgb, {"exif": exif}), (rgba, {}), (palette, {"transparency": 3}), (deep, {}),
                (grayscale.convert("1"), {}),
                (rgb, {"icc_profile": bytes(200), "dpi": (72, 72)})],
        "WEBP": [(rgb, {"exif": exif}), (rgba, {"lossless": True}), (rgb, {"save_all": True, "append_images": [rgba]})],
        "GIF": [(palette, {"transparency": 2}), (palette, more), (grayscale, {"interlace": False})],
        "BMP": [(rgb, {}), (palette, {}), (grayscale.convert("1"), {}), (rgba, {})],
        "TIFF": [(rgb, {"exif": exif}), (rgb, {"compression": "tiff_lzw"}), (rgb, {"compression": "jpeg"}),
                 (grayscale.convert("1"), {"compression": "group4"}), (deep, {"compression": "tiff_adobe_deflate"}),
                 (wide, {}), (rgba, {"compression": "packbits", "big_tiff": True}), (palette, {})],
        "PPM": [(rgb, {}), (grayscale, {}), (grayscale.convert("1"), {}), (wide, {})],
    }  # fmt: skip
    if features.check("avif"):
        kinds["AVIF"] = [(rgb, {"speed": 10, "exif": exif}), (rgba, {"speed": 10}), (grayscale, {"speed": 10})]
    encoded: dict[str, list[bytes]] = {}
    for kind, images in kinds.items():
        for image, options in images:
            stream = io.BytesIO()
            image.save(stream, kind, **options)
            encoded.setdefault(kind, []).append(stream.getvalue())
    encoded["PPM"].append(b"P3 3 2 255\n" + b" ".join(str(value * 14).encode() for value in range(18)))
    encoded["BMP"].append(encode_run_lengths())
    return encoded


def encode_run_lengths() -> bytes:
    """Return a BMP of run lengths, which Pillow reads and does not write."""
    rows = b"".join(b"\x08" + bytes([row]) + b"\0\0" for row in range(8)) + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + 40 + 1024
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + bytes(range(256)) * 4 + rows


def mutate(chance: random.Random, valid: bytes, other: bytes) -> bytes:
    """Apply one to four changes, most of them near the start, where headers are."""
    data = bytearray(valid)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        position = int(len(data) * chance.random() ** 2)
        kind = chance.randrange(7)
        if kind == 0:  # a bit
            data[position] ^= 1 << chance.randrange(8)
        elif kind == 1:  # a byte
            data[position] = chance.randrange(256)
        elif kind == 2:  # a number, such as a length, of 1, 2 or 4 bytes of either order
            size = chance.choice((1, 2, 4))
            value = chance.choice(EXTREMES) & (256**size - 1)
            data[position : position + size] = value.to_bytes(size, chance.choice(("little", "big")))
        elif kind == 3:  # truncate
            del data[max(1, position) :]
        elif kind == 4:  # repeat a part
            data[position:position] = data[position : position + chance.randrange(1, 200)] * chance.choice((1, 2, 50))
        elif kind == 5:  # remove a part
            del data[position : position + chance.randrange(1, 50)]
        else:  # append a part of another image
            data[position:] = other[int(len(other) * chance.random()) :]
        if not data:
            return b"\0"
    return bytes(data)


def read_peak_memory(process: int | str) -> float:
    """Return the peak memory of a process, MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
@pytest.mark.filterwarnings("ignore")
def test_every_mutant_gives_an_image_or_an_error(
    tmp_path: Path, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    count, workers = times(2_000, 100_000), 2
    chance = random.Random(0)
    valid_images = create_valid_images()
    assert set(valid_images) == set(FORMATS) - (set() if features.check("avif") else {"AVIF"})
    decoders._end_all()  # so that the memory is of this test
    all_valid = [(kind, data) for kind, images in valid_images.items() for data in images]
    for i, (kind, data) in enumerate(all_valid):
        (tmp_path / str(i)).write_bytes(data)
        header = read_header(tmp_path / str(i))
        assert header.format == kind and decode_squashed(tmp_path / str(i), SIDE).shape == (SIDE, SIDE, 3)
    kinds = sorted(valid_images)
    read_headers, decode_squares = isolate_batch(read_header, workers), isolate_batch(decode_squashed, workers)
    before, test_start, slowest = read_peak_memory("self"), time.monotonic(), 0.0
    outcomes: Counter[str] = Counter()
    crashes: list[str] = []

    def decode(paths: list[Path]) -> list[tuple[Path, Any, Any]]:
        nonlocal slowest
        start = time.monotonic()
        decoded = list(zip(paths, read_headers([(path,) for path in paths]),
                         decode_squares([(path, SIDE) for path in paths]), strict=True))  # fmt: skip
        slowest = max(slowest, time.monotonic() - start)
        return decoded

    for first in range(0, count, 20 * MUTANTS_PER_CALL):
        paths = []
        for i in range(first, min(count, first + 20 * MUTANTS_PER_CALL)):
            kind = kinds[i % len(kinds)]
            data = mutate(chance, chance.choice(valid_images[kind]), chance.choice(chance.choice(all_valid)[1:]))
            paths.append(tmp_path / f"{i % (20 * MUTANTS_PER_CALL)}.jpg")
            paths[-1].write_bytes(data)
        parts = [paths[i : i + MUTANTS_PER_CALL] for i in range(0, len(paths), MUTANTS_PER_CALL)]
        for part in map_in_order(decode, parts, workers):
            assert not isinstance(part, UnusableImage)
            for path, header, pixels in part:
                assert isinstance(header, Header | UnusableImage)
                assert isinstance(pixels, UnusableImage) or (pixels.shape, pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)
                outcomes["skipped" if isinstance(pixels, UnusableImage) else "images"] += 1
                reasons = [result.reason for result in (header, pixels) if isinstance(result, UnusableImage)]
                if any(word in reason for reason in reasons for word in CRASHED):
                    crashes.append(f"{path.read_bytes()[:16]!r}: {reasons}")
    seconds = time.monotonic() - test_start
    children = [read_peak_memory(decoder.process.pid) for decoder in decoders._decoders]
    assert outcomes.total() == count and outcomes["skipped"] > count / 10 and outcomes["images"] > count / 10
    added = read_peak_memory("self") - before
    assert added < 500 and max(children) < 2_000, (added, children)
    figure("fuzz: mutants", count)
    figure("fuzz: images", outcomes["images"])
    figure("fuzz: unusable", outcomes["skipped"])
    figure("fuzz: crashes or hangs of decoders", len(crashes))
    figure("fuzz: the first of them", crashes[:5])
    figure("fuzz: seconds", round(seconds))
    figure("fuzz: slowest 64 mutants, seconds", round(slowest, 1))
    figure("fuzz: peak memory of a decoder, MB", round(max(children)))
    figure("fuzz: memory added to the parent, MB", round(added))
