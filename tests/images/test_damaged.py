"""Damage to pixels is found by the decoder's warnings; damage to other bytes costs nothing."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.images.decode import decode, read_header
from simclr_cli.images.formats import UnusableImage

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as simclr_cli.images.formats does

END = b"\xff\xd9"
NO_END, DAMAGED = "the end is missing", "bytes outside of the pixels are damaged"


def draw(height: int = 96, width: int = 128, seed: int = 0) -> Image.Image:
    """Return a picture with detail everywhere, as a photo has it."""
    values = np.random.default_rng(seed).normal(size=(height // 4, width // 4, 3)) * 60 + 128
    small = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encode(format: str, image: Image.Image | None = None, **how: object) -> bytes:
    stream = io.BytesIO()
    (image or draw()).save(stream, format, **how)
    return stream.getvalue()


def read(tmp_path: Path, data: bytes) -> NDArray[np.uint8] | str:
    """Return the pixels of a file with these bytes, or why it is skipped."""
    path = tmp_path / "a"
    path.write_bytes(data)
    try:
        pixels = np.asarray(decode(path))
        header = read_header(path)
    except UnusableImage as unusable:
        return unusable.reason
    assert (header.height, header.width) == pixels.shape[:2]
    return pixels


def assert_whole(tmp_path: Path, data: bytes, format: str, note: str = "") -> None:
    found, expected = read(tmp_path, data), np.asarray(Image.open(io.BytesIO(encode(format))))
    assert not isinstance(found, str), found
    assert (found == expected).all()
    assert read_header(tmp_path / "a").note == note


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + segment(marker, content) + data[2:]


# Pixels are lost


def cut_and_end(data: bytearray, place: int) -> bytes:
    return bytes(data[:place]) + END


def fill_with_zeros(data: bytearray, place: int) -> bytes:
    data[place : place + 512] = bytes(512)
    return bytes(data)


def fill_with_another_file(data: bytearray, place: int) -> bytes:
    data[place : place + 512] = random.Random(place).randbytes(512)
    return bytes(data)


def drop_a_sector(data: bytearray, place: int) -> bytes:
    del data[place : place + 512]
    return bytes(data)


@pytest.mark.parametrize("damage", [cut_and_end, fill_with_zeros, fill_with_another_file, drop_a_sector])
@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_jpeg_is_skipped(tmp_path: Path, damage: Callable[[bytearray, int], bytes], progressive: bool) -> None:
    found = []
    for seed in range(12):
        data = bytearray(encode("JPEG", draw(192, 256, seed), quality=90, progressive=progressive))
        place = random.Random(seed).randrange(data.rindex(b"\xff\xda") + 20, len(data) - 600)
        found.append(read(tmp_path, damage(data, place)))
    reasons = [reason for reason in found if isinstance(reason, str)]
    assert all(reason.startswith("damaged") for reason in reasons)
    assert len(reasons) >= 11  # docs/reliability.md: a few lose their place and find it again


def test_jpeg_cut_between_the_scans_of_its_details_is_skipped(tmp_path: Path) -> None:
    data = encode("JPEG", progressive=True)
    assert data.count(b"\xff\xda") > 2
    assert read(tmp_path, data[: data.rindex(b"\xff\xc4")]) == "damaged: its end is missing"


def test_jpeg_of_many_scans_is_skipped_at_once(tmp_path: Path) -> None:
    """Half a megabyte of empty scans over 100 megapixels took minutes."""
    data = encode("JPEG", Image.new("L", (10_000, 10_000)), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    start = time.monotonic()
    assert read(tmp_path, data[:-2] + last * (500_000 // len(last)) + END) == "damaged: more than 256 scans"
    assert time.monotonic() - start < 10


# Pixels are whole


def test_jpeg_without_its_end_is_used(tmp_path: Path) -> None:
    for cut in (1, 2):
        assert_whole(tmp_path, encode("JPEG")[:-cut], "JPEG", NO_END)


@pytest.mark.parametrize("padding", [b"\0" * 40, b"\xff" * 3, b"\0", b"\x20" * 500])
def test_jpeg_with_padding_before_its_end_is_used(tmp_path: Path, padding: bytes) -> None:
    assert_whole(tmp_path, encode("JPEG")[:-2] + padding + END, "JPEG")


@pytest.mark.parametrize("surplus", [b"after", bytes(3000), END + encode("JPEG", Image.new("RGB", (8, 8)))])
def test_jpeg_with_bytes_behind_it_is_used(tmp_path: Path, surplus: bytes) -> None:
    assert_whole(tmp_path, encode("JPEG") + surplus, "JPEG")


def test_jpeg_with_bytes_between_its_segments_is_used(tmp_path: Path) -> None:
    data = encode("JPEG")
    tables = data.index(b"\xff\xdb")
    assert_whole(tmp_path, data[:tables] + bytes(range(11)) + data[tables:], "JPEG", DAMAGED)


def damaged_exif(orientation: int) -> bytes:
    """EXIF in which a text stands where a number should, and another tag lies behind the end."""
    tags = [(0x0100, 2, 4, b"abc\0"), (0x0112, 3, 1, struct.pack(">HH", orientation, 0)),
            (0x829A, 5, 1, struct.pack(">I", 99_999))]  # fmt: skip
    entries = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in tags)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)


FOREIGN_SEGMENTS = {
    "Photoshop, cut": (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\x40\0" + b"cut"),
    "EXIF, cut": (0xE1, b"Exif\0\0MM\0*\0\0"),
    "EXIF, empty": (0xE1, b"Exif\0\0"),
    "color profile, cut": (0xE2, b"ICC_PROFILE\0"),
    "color profile, nonsense": (0xE2, b"ICC_PROFILE\0\1\1" + b"nonsense" * 40),
    "JFIF, cut": (0xE0, b"JFIF\0"),
    "comment": (0xFE, bytes(60_000)),
    "MPF, nonsense": (0xE2, b"MPF\0" + b"\xff" * 60),
}


@pytest.mark.parametrize("name", FOREIGN_SEGMENTS)
def test_damage_in_what_is_not_pixels_costs_nothing(tmp_path: Path, name: str) -> None:
    assert_whole(tmp_path, with_segment(encode("JPEG"), *FOREIGN_SEGMENTS[name]), "JPEG")


def test_orientation_is_read_whatever_is_wrong_with_other_tags(tmp_path: Path) -> None:
    found = read(tmp_path, with_segment(encode("JPEG"), 0xE1, damaged_exif(6)))
    assert (found == np.rot90(np.asarray(Image.open(io.BytesIO(encode("JPEG")))), -1)).all()


# PNG


def chunk(kind: bytes, data: bytes, *, damage: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damage)


def with_chunk(data: bytes, made: bytes, *, behind_the_pixels: bool = False) -> bytes:
    place = data.index(b"IEND") - 4 if behind_the_pixels else 33
    return data[:place] + made + data[place:]


HARMLESS_CHUNKS = {
    "text of 2 MB": chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(2**21))),
    "many texts": b"".join(chunk(b"tEXt", b"a\0" + b"b" * 2**20) for _ in range(70)),
    "international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**22))),
    "color profile of 4 MB": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**22))),
    "color profile, cut": chunk(b"iCCP", b"p"),
    "checksum of a text": chunk(b"tEXt", b"a\0b", damage=1),
    "checksum of EXIF": chunk(b"eXIf", damaged_exif(6)[6:], damage=1),
    "nonsense in EXIF": chunk(b"eXIf", b"nonsense"),
    "time": chunk(b"tIME", b""),
    "unknown": chunk(b"caBX", bytes(10_000)),
}


@pytest.mark.parametrize("behind_the_pixels", [False, True])
@pytest.mark.parametrize("name", HARMLESS_CHUNKS)
def test_chunks_that_are_not_pixels_cost_nothing(tmp_path: Path, name: str, behind_the_pixels: bool) -> None:
    data = with_chunk(encode("PNG"), HARMLESS_CHUNKS[name], behind_the_pixels=behind_the_pixels)
    assert_whole(tmp_path, data, "PNG", DAMAGED if name.startswith("checksum") else "")


def test_whole_files_of_kinds_that_no_decoder_knows_are_unsupported(tmp_path: Path) -> None:
    data = encode("PNG")
    apple = data[:8] + chunk(b"CgBI", b"P\0 \2") + data[8:]
    assert read(tmp_path, apple) == "unsupported PNG (changed by Apple for iOS)"
    data = encode("JPEG")
    place = data.index(b"\xff\xc0") + 5
    late = data[:place] + bytes(2) + data[place + 2 :]
    assert read(tmp_path, late) == "unsupported JPEG (its height follows its pixels)"


def test_png_without_its_end_is_used(tmp_path: Path) -> None:
    data = encode("PNG")
    for length in (data.index(b"IEND") - 4, data.index(b"IEND") + 2):
        assert_whole(tmp_path, data[:length], "PNG", NO_END)
    assert read(tmp_path, data[: data.index(b"IEND") - 5]) == "damaged: it is cut"


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_wrong_checksum_of_what_makes_the_pixels_is_damage(tmp_path: Path, kind: bytes) -> None:
    image = draw().quantize(16)
    data = bytearray(encode("PNG", image, transparency=3))
    data[data.index(kind) + 5] ^= 1
    assert read(tmp_path, bytes(data)) == "damaged: a checksum is wrong"


@pytest.mark.parametrize("behind_the_pixels", [False, True])
def test_exif_of_a_png_is_followed_wherever_it_is(tmp_path: Path, behind_the_pixels: bool) -> None:
    made = chunk(b"eXIf", damaged_exif(6)[6:])
    found = read(tmp_path, with_chunk(encode("PNG"), made, behind_the_pixels=behind_the_pixels))
    assert (found == np.rot90(np.asarray(draw()), -1)).all()
