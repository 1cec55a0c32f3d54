"""Small files that claim much or hold much metadata: skipped or decoded, but never at a high cost."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from simclr_cli.core import hardware as machine
from simclr_cli.images import formats as module
from simclr_cli.images.decode import decode_squashed, read_header
from simclr_cli.images.formats import BYTES_PER_PIXEL, UnusableImage, compute_max_pixels

MANY = 30_000
GIF_COMMENT = b"!\xfe" + (b"\xff" + b"a" * 255) * 10_000 + b"\0"


def saved(format: str, **how: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, format, **how)
    return stream.getvalue()


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = saved("PNG")
    made = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                    for kind, data in chunks)  # fmt: skip
    return whole[:33] + made + whole[33:]


def deflated(megabytes: int) -> bytes:
    """Compress so many megabytes of zeros, with a wrong checksum."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * megabytes + packer.flush()


def tiff_of_directories(count: int) -> bytes:
    one = saved("TIFF")
    first = struct.unpack("<I", one[4:8])[0]
    entries = struct.unpack("<H", one[first : first + 2])[0]
    directory = one[first : first + 2 + 12 * entries]
    places = [len(one) + i * (len(directory) + 4) for i in range(count)]
    rest = b"".join(directory + struct.pack("<I", after) for after in [*places[1:], 0])
    end = first + 2 + 12 * entries
    return one[:end] + struct.pack("<I", places[0]) + one[end + 4 :] + rest


def tiff_of_entries(count: int, values: int) -> bytes:
    """A directory of unknown tags that each claim to have many values."""
    entries = b"".join(struct.pack("<HHII", 40_000 + i % 20_000, 4, values, 8) for i in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4)


def tiff_of_missing_tiles(side: int) -> bytes:
    """A directory of 16 bits with tiles of one pixel, of which two are there."""
    values = {256: side, 257: side, 258: 16, 259: 1, 262: 1, 277: 1, 322: 1, 323: 1, 339: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    entries += struct.pack("<HHIIHHII", 324, 4, 2, 8, 325, 4, 2, 8)
    return b"II*\0" + struct.pack("<IH", 8, 11) + entries + bytes(4)


def gif_of_frames(count: int) -> bytes:
    whole = saved("GIF")
    frame = whole[whole.index(b",", 13) : -1]
    return whole[:-1] + frame * count + b";"


def jpeg_of_segments(count: int, kind: bytes, data: bytes) -> bytes:
    segment = b"\xff" + kind + struct.pack(">H", 2 + len(data)) + data
    whole = saved("JPEG")
    return whole[:2] + segment * count + whole[2:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG text of 1 GB": lambda: png_with((b"zTXt", b"a\0\0" + deflated(1000))),
    "PNG texts of 1 MB each": lambda: png_with(*[(b"zTXt", b"a\0\0" + deflated(1))] * 100),
    "PNG international text": lambda: png_with((b"iTXt", b"a\0\1\0\0\0" + deflated(1000))),
    "PNG profile of 1 GB": lambda: png_with((b"iCCP", b"a\0\0" + deflated(1000))),
    "PNG of many chunks": lambda: png_with(*[(b"tEXt", b"a\0b")] * MANY),
    "PNG pixels behind their end": lambda: png_with((b"IDAT", deflated(1000))),
    "PNG Exif": lambda: png_with((b"eXIf", tiff_of_entries(20_000, 2**28))),
    "TIFF of many images": lambda: tiff_of_directories(MANY),
    "TIFF of many entries": lambda: tiff_of_entries(30_000, 2**31),
    "TIFF of missing tiles": lambda: tiff_of_missing_tiles(13_000),
    "GIF of many images": lambda: gif_of_frames(MANY),
    "GIF comment": lambda: b"GIF89a" + saved("GIF")[6:13] + GIF_COMMENT + saved("GIF")[13:],
    "GIF comment behind": lambda: b"GIF89a" + saved("GIF")[6:-1] + GIF_COMMENT + b";",
    "JPEG segments": lambda: jpeg_of_segments(300, b"\xe5", bytes(65_000)),
    "JPEG Exif": lambda: jpeg_of_segments(60, b"\xe1", b"Exif\0\0" + bytes(65_000)),
    "JPEG profile": lambda: jpeg_of_segments(250, b"\xe2", b"ICC_PROFILE\0\1\xff" + bytes(65_000)),
    "JPEG comments": lambda: jpeg_of_segments(MANY, b"\xfe", b"a"),
    "WebP Exif": lambda: saved("WEBP", exif=b"Exif\0\0" + tiff_of_entries(20_000, 2**28)),
    "BMP palette": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 8, 8, 1, 8, 0, 0, 0, 0, 2**31, 0) + bytes(99)
    ),
    "PPM of long numbers": lambda: b"P6 " + b"9" * 10_000_000 + b" 1 255\n",
    "PPM of comments": lambda: b"P6 #" + b"a" * 1_000_000 + b"\n" + b"#b\n" * 10_000 + b"2 2 255\n" + bytes(12),
}  # fmt: skip

# Prints for each file: seconds, memory, and the results.
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from simclr_cli.images.decode import read_header, decode_squashed
from simclr_cli.images.formats import UnusableImage

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")
    before, began, told = peak(), time.process_time(), []
    for function in (read_header, lambda path: decode_squashed(path, 8)):
        try:
            told.append(str(function(Path(path)) is not None))
        except UnusableImage as unusable:
            told.append(str(unusable))
    print(json.dumps([time.process_time() - began, peak() - before, told]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_no_small_file_takes_long_or_much_memory(tmp_path: Path) -> None:
    paths = []
    for i, make in enumerate(BOMBS.values()):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(make())
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    for name, path, line in zip(BOMBS, paths, done.stdout.splitlines(), strict=True):
        seconds, memory, told = json.loads(line)
        assert path.stat().st_size < 2**25
        assert seconds < 4 and memory < 3 * 2**26, (name, seconds, memory / 2**20, told)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_a_pixel_takes_no_more_memory_than_is_reckoned_with(tmp_path: Path) -> None:
    """The kinds of files that need most memory, each at 1 megapixel."""
    side = 1_000
    grayscale = np.arange(side * side, dtype=np.uint32).reshape(side, side)
    rgba = Image.fromarray(np.dstack([grayscale, grayscale >> 8, grayscale >> 4, grayscale >> 2]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "a.png": (rgba, {"compress_level": 1}), "b.webp": (rgba, {"lossless": True, "method": 0}),
        "c.tif": (Image.fromarray(grayscale.astype(np.int32) - 9), {"exif": exif, "compression": "tiff_lzw"}),
        "d.tif": (Image.fromarray(grayscale.astype(np.float32)), {"exif": exif}),
        "e.jpg": (rgba.convert("RGB"), {"progressive": True, "subsampling": 0, "exif": exif}),
    }  # fmt: skip
    if features.check("avif"):
        kinds["f.avif"] = (rgba, {"speed": 10})
    for name, (image, how) in kinds.items():
        image.save(tmp_path / name, **how)
    paths = [tmp_path / name for name in kinds]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    for name, line in zip(kinds, done.stdout.splitlines(), strict=True):
        _, memory, told = json.loads(line)
        assert told == ["True", "True"]
        assert memory < 1.1 * BYTES_PER_PIXEL * side**2, (name, memory / side**2)


@pytest.mark.parametrize(
    ("memory", "pixels"),
    [(2**30, 2**24), (2**33, 2**27), (2**40, 178_956_970)],
)
def test_pixel_limit_follows_from_the_memory(monkeypatch: pytest.MonkeyPatch, memory: int, pixels: int) -> None:
    monkeypatch.setattr(module, "get_total_memory", lambda: memory)
    assert compute_max_pixels() == pixels


def test_pillow_has_the_same_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == module.MAX_PIXELS == compute_max_pixels()


def test_memory_is_that_of_the_machine_or_of_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP_MEMORY_FILES", ())
    assert machine.get_total_memory() >= machine._get_available_ram()
    (tmp_path / "max").write_text("12345678\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(
        machine, "CGROUP_MEMORY_FILES", ((str(tmp_path / "none"), ""), (str(tmp_path / "max"), ""), ("/nowhere", ""))
    )
    assert machine.get_total_memory() == 12_345_678


@pytest.mark.xdist_group("clock")
def test_a_frame_that_is_larger_than_its_image_is_skipped_at_once(tmp_path: Path) -> None:
    """The screen is small, a later part claims to be huge: Pillow's own check, with our limit."""
    gif = saved("GIF")
    place = gif.index(b",", 13)
    (tmp_path / "a.gif").write_bytes(gif[: place + 5] + struct.pack("<HH", 65_000, 65_000) + gif[place + 9 :])
    began = time.perf_counter()
    for function in (read_header, lambda path: decode_squashed(path, 8)):
        with pytest.raises(UnusableImage, match="pixels"):
            function(tmp_path / "a.gif")
    assert time.perf_counter() - began < 5
