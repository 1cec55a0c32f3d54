"""Decoding of one file to an upright RGB image, compared with the numbers that it was drawn from."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import timm.data
from numpy.typing import NDArray
from PIL import Image, features

from simclr_cli.images import formats
from simclr_cli.images.decode import Header, decode, decode_evaluation_crop, decode_squashed, read_header
from simclr_cli.images.formats import UnusableImage, detect_format

H, W = 24, 36
Y, X = np.mgrid[:H, :W]
RGB = np.stack([X * 7, Y * 10, (X + Y) * 4], -1).astype(np.uint8)  # (H, W, 3), with four different corners
GRAY = (X * 7).astype(np.uint8)
ALPHA = ((Y * 11) % 256).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
CMYK = np.stack([X * 7, Y * 10, (X + Y) * 4, Y * 3], -1).astype(np.uint8)
INDEX = ((X // 4 + Y // 4) % 16).astype(np.uint8)  # of a palette of 16
PALETTE = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
PALETTE_ALPHA = (np.arange(16) * 17).astype(np.uint8)
RAMP_16 = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
RAMP_1 = np.linspace(0, 1, H * W).reshape(H, W).astype(np.float32)


def drawn(mode: str, pixels: NDArray[Any]) -> Image.Image:
    return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def palette_image() -> Image.Image:
    image = drawn("P", INDEX)
    image.putpalette(PALETTE.tobytes())
    return image


def grayscale(values: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(values[..., None], 3, axis=2)


def over_white(rgb: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Porter and Duff's "over" on a white ground."""
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def without_ink(cmyk: NDArray[Any]) -> NDArray[Any]:
    """R = 255 (1 - C) (1 - K), and so on."""
    share = 1 - cmyk / 255
    return 255 * share[..., :3] * share[..., 3:]


def gif_of_three() -> tuple[Image.Image, dict[str, Any]]:
    later = [Image.new("P", (W, H), color) for color in (3, 9)]
    for image in later:
        image.putpalette(PALETTE.tobytes())
    return palette_image(), {"save_all": True, "append_images": later, "duration": 50}


# name, image, what to save it with, (H, W, 3) expected, most that a value may differ by
GOLDEN: list[tuple[str, Image.Image, dict[str, Any], NDArray[Any], int]] = [
    ("rgb.jpg", drawn("RGB", RGB), {"quality": 100, "subsampling": 0}, RGB, 6),
    ("grayscale.jpg", drawn("L", GRAY), {"quality": 100}, grayscale(GRAY), 4),
    ("cmyk.jpg", drawn("CMYK", CMYK), {"quality": 100, "subsampling": 0}, without_ink(CMYK), 8),
    ("progressive.jpg", drawn("RGB", RGB), {"quality": 100, "subsampling": 0, "progressive": True}, RGB, 6),
    ("grayscale.png", drawn("L", GRAY), {}, grayscale(GRAY), 0),
    ("rgb.png", drawn("RGB", RGB), {}, RGB, 0),
    ("palette.png", palette_image(), {}, PALETTE[INDEX], 0),
    ("palette-hole.png", palette_image(), {"transparency": 3},
     np.where((INDEX == 3)[..., None], 255, PALETTE[INDEX]), 0),
    ("palette-alpha.png", palette_image(), {"transparency": PALETTE_ALPHA.tobytes()},
     over_white(PALETTE[INDEX], PALETTE_ALPHA[INDEX]), 2),
    ("rgba.png", drawn("RGBA", np.dstack([RGB, ALPHA])), {}, over_white(RGB, ALPHA), 2),
    ("la.png", drawn("LA", np.dstack([GRAY, ALPHA])), {}, over_white(grayscale(GRAY), ALPHA), 2),
    ("key.png", drawn("RGB", PALETTE[INDEX]), {"transparency": tuple(PALETTE[5].tolist())},
     np.where((INDEX == 5)[..., None], 255, PALETTE[INDEX]), 0),
    ("bits.png", drawn("L", (INDEX % 2) * 255).convert("1"), {}, grayscale((INDEX % 2) * 255), 0),
    ("gray16.png", Image.fromarray(RAMP_16), {}, grayscale(RAMP_16 / 257), 1),
    ("rgb.webp", drawn("RGB", RGB), {"lossless": True}, RGB, 0),
    ("rgba.webp", drawn("RGBA", np.dstack([RGB, ALPHA])), {"lossless": True, "exact": True},
     over_white(RGB, ALPHA), 2),
    ("animated.gif", *gif_of_three(), PALETTE[INDEX], 0),
    ("hole.gif", palette_image(), {"transparency": 3}, np.where((INDEX == 3)[..., None], 255, PALETTE[INDEX]), 0),
    ("rgb.bmp", drawn("RGB", RGB), {}, RGB, 0),
    ("grayscale.bmp", drawn("L", GRAY), {}, grayscale(GRAY), 0),
    ("palette.bmp", palette_image(), {}, PALETTE[INDEX], 0),
    ("rgb.tif", drawn("RGB", RGB), {}, RGB, 0),
    ("lzw.tif", drawn("RGB", RGB), {"compression": "tiff_lzw"}, RGB, 0),
    ("rgba.tif", drawn("RGBA", np.dstack([RGB, ALPHA])), {}, over_white(RGB, ALPHA), 2),
    ("cmyk.tif", drawn("CMYK", CMYK), {}, without_ink(CMYK), 2),
    ("gray16.tif", Image.fromarray(RAMP_16), {}, grayscale(RAMP_16 / 257), 1),
    ("int32-as-16.tif", Image.fromarray(RAMP_16.astype(np.int32)), {}, grayscale(RAMP_16 / 257), 1),
    ("int32.tif", Image.fromarray(RAMP_16.astype(np.int32) * 1000 - 70_000), {}, grayscale(RAMP_1 * 255), 1),
    ("float-0-1.tif", Image.fromarray(RAMP_1 / 2), {}, grayscale(RAMP_1 * 127.5), 1),
    ("float-any.tif", Image.fromarray(RAMP_1 * 3000 - 1000), {}, grayscale(RAMP_1 * 255), 1),
    ("float-flat.tif", Image.fromarray(np.full((H, W), 7e9, np.float32)), {}, np.zeros((H, W, 3)), 0),
    ("rgb.ppm", drawn("RGB", RGB), {}, RGB, 0),
    ("grayscale.pgm", drawn("L", GRAY), {}, grayscale(GRAY), 0),
    ("gray16.pgm", Image.fromarray(RAMP_16.astype(np.int32)), {}, grayscale(RAMP_16 / 257), 1),
    ("bits.pbm", drawn("L", (INDEX % 2) * 255).convert("1"), {}, grayscale((INDEX % 2) * 255), 0),
    ("float.pfm", Image.fromarray(RAMP_1), {}, grayscale(RAMP_1 * 255), 1),
]  # fmt: skip
if features.check("avif"):
    GOLDEN.append(("rgb.avif", drawn("RGB", RGB), {"quality": 100, "subsampling": "4:4:4"}, RGB, 4))


@pytest.mark.parametrize(("name", "image", "how", "expected", "bound"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_golden_set_comes_back_as_drawn(
    tmp_path: Path, name: str, image: Image.Image, how: dict[str, Any], expected: NDArray[Any], bound: int
) -> None:
    image.save(tmp_path / name, **how)
    assert read_header(tmp_path / name)[1:3] == (H, W)
    decoded = decode(tmp_path / name)
    assert (decoded.mode, decoded.size) == ("RGB", (W, H))
    assert np.abs(np.asarray(decoded).astype(float) - expected).max() <= bound


@pytest.mark.parametrize("least", [0, 273])
def test_holes_of_a_float_image_are_as_dark_as_its_darkest(tmp_path: Path, least: float) -> None:
    """A temperature map without a value somewhere keeps its contrast."""
    values = RAMP_1 + least
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "holes.tif")
    decoded = np.asarray(decode(tmp_path / "holes.tif")).astype(int)
    assert decoded[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(decoded - grayscale(RAMP_1 * 255))[1:].max() <= 2


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.jpg", "JPEG"), ("a.png", "PNG"), ("a.webp", "WEBP"), ("a.gif", "GIF"), ("a.bmp", "BMP"), ("a.tif", "TIFF"),
     ("a.ppm", "PPM")],
)  # fmt: skip
def test_header_names_the_format(tmp_path: Path, name: str, format: str) -> None:
    drawn("RGB", RGB).save(tmp_path / name)
    assert read_header(tmp_path / name) == Header(format, H, W)


def test_jpeg_with_further_images_behind_it_is_a_jpeg(tmp_path: Path) -> None:
    drawn("RGB", RGB).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (W, H), "red")], quality=100
    )
    assert read_header(tmp_path / "a.jpg") == Header("JPEG", H, W)
    assert np.asarray(decode(tmp_path / "a.jpg"))[-1, 0, 0] < 30  # the first image, not the red one


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    drawn("RGB", RGB).save(tmp_path / "really-png.jpg", "PNG")
    assert read_header(tmp_path / "really-png.jpg").format == "PNG"
    assert (np.asarray(decode(tmp_path / "really-png.jpg")) == RGB).all()


# Upright image as a camera stores it, by EXIF orientation (EXIF 2.3, tag 0x0112).
STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}
ROTATED_FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}, "tif": {},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}  # fmt: skip


def rotated(path: Path, orientation: int, **how: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn("RGB", np.ascontiguousarray(STORED[orientation](RGB))).save(path, exif=exif, **how)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ROTATED_FORMATS)
def test_every_orientation_is_set_upright(tmp_path: Path, format: str, orientation: int) -> None:
    if format == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = rotated(tmp_path / f"a.{format}", orientation, **ROTATED_FORMATS[format])
    assert np.abs(np.asarray(decode(path)).astype(int) - RGB).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ROTATED_FORMATS)
def test_header_gives_the_upright_size(tmp_path: Path, format: str, orientation: int) -> None:
    if format == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    header = read_header(rotated(tmp_path / f"a.{format}", orientation, **ROTATED_FORMATS[format]))
    assert (header.height, header.width) == (H, W)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm"])
def test_header_decodes_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    drawn("RGB", RGB).save(tmp_path / name)

    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    monkeypatch.setattr("simplejpeg.decode_jpeg", fail)
    assert read_header(tmp_path / name)[1:] == (H, W, 0, "")


# Scaled while it is decoded


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Return (height, width, 3), smooth, of all brightnesses, with different corners."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.sin(9 * x + 4 * y) * np.cos(7 * y - 3 * x)
    return (np.stack([200 * x + 30, 128 + 100 * waves, 180 * y + 20 * x + 10], -1)).round().astype(np.uint8)


def distance(one: Any, other: Any) -> float:
    """Return the mean difference of all values, of 255."""
    assert np.shape(one) == np.shape(other)
    return float(np.abs(np.asarray(one).astype(float) - np.asarray(other)).mean())


def scaled_size(height: int, width: int, min_side: int) -> tuple[int, int]:
    """Return the least width and height of libjpeg's, of those up to half the size, that are at least that long."""
    for eighths in (1, 2, 3, 4):
        size = -(-width * eighths // 8), -(-height * eighths // 8)
        if min(size) >= min_side:
            return size
    return width, height


@pytest.mark.parametrize(("height", "width"), [(600, 900), (900, 600), (603, 1_001), (600, 600)])
def test_scaled_image_is_no_smaller_than_asked_and_close_to_the_whole(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.jpg"
    drawn("RGB", photo(height, width)).save(path, quality=90)
    whole = decode(path)
    for min_side in (1, 75, 76, 100, 149, 150, 151, 299, 300, 301, 302, 600, 5_000):
        scaled = decode(path, min_side=min_side)
        assert scaled.mode == "RGB" and scaled.size == scaled_size(height, width, min_side)
        assert min(scaled.size) >= min(min_side, height, width)
        expected = whole.resize(scaled.size, Image.Resampling.BOX)
        assert distance(scaled, expected) <= (0 if scaled.size == whole.size else 1.2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("min_side", [30, 100])
def test_scaled_image_is_set_upright(tmp_path: Path, orientation: int, min_side: int) -> None:
    upright = photo(400, 640)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = drawn("RGB", np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    scaled = decode(tmp_path / "a.jpg", min_side=min_side)
    assert scaled.size == scaled_size(400, 640, min_side) != (640, 400)
    assert distance(scaled, drawn("RGB", upright).resize(scaled.size, Image.Resampling.BOX)) < 1
    if min_side == 30:
        expected = drawn("RGB", upright).resize((40, 40), Image.Resampling.BICUBIC)
        assert distance(decode_squashed(tmp_path / "a.jpg", 40), expected) < 1.5


KINDS_OF_JPEG: dict[str, Callable[[NDArray[np.uint8]], tuple[Image.Image, dict[str, Any]]]] = {
    "color": lambda rgb: (drawn("RGB", rgb), {}),
    "full color": lambda rgb: (drawn("RGB", rgb), {"subsampling": 0}),
    "progressive": lambda rgb: (drawn("RGB", rgb), {"progressive": True}),
    "grayscale": lambda rgb: (drawn("RGB", rgb).convert("L"), {}),
    "cmyk": lambda rgb: (drawn("RGB", rgb).convert("CMYK"), {}),
    "further images behind it": lambda rgb: (
        drawn("RGB", rgb), {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (9, 9), "red")]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_JPEG)
@pytest.mark.parametrize("min_side", [20, 60, 120])
def test_scaled_jpeg_of_any_kind_is_close_to_the_whole(tmp_path: Path, kind: str, min_side: int) -> None:
    image, how = KINDS_OF_JPEG[kind](photo(300, 440))
    image.save(tmp_path / "a.jpg", quality=95, **how)
    whole, scaled = decode(tmp_path / "a.jpg"), decode(tmp_path / "a.jpg", min_side=min_side)
    assert scaled.size == scaled_size(300, 440, min_side) != (440, 300) and scaled.mode == "RGB"
    assert distance(scaled, whole.resize(scaled.size, Image.Resampling.BOX)) < 1.5
    assert read_header(tmp_path / "a.jpg") == Header("JPEG", 300, 440)


@pytest.mark.parametrize(("name", "image", "how", "expected", "bound"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_no_other_format_is_scaled(
    tmp_path: Path, name: str, image: Image.Image, how: dict[str, Any], expected: NDArray[Any], bound: int
) -> None:
    image.save(tmp_path / name, **how)
    scaled = decode(tmp_path / name, min_side=2)
    if name.endswith(".jpg"):
        assert scaled.size == scaled_size(H, W, 2)
    else:
        assert (np.asarray(scaled) == np.asarray(decode(tmp_path / name))).all()


def test_content_decides_what_is_scaled_and_not_the_name(tmp_path: Path) -> None:
    drawn("RGB", photo(300, 440)).save(tmp_path / "really-png.jpg", "PNG")
    drawn("RGB", photo(300, 440)).save(tmp_path / "really-jpeg.png", "JPEG")
    assert decode(tmp_path / "really-png.jpg", min_side=10).size == (440, 300)
    assert decode(tmp_path / "really-jpeg.png", min_side=10).size == (55, 38)


# Skipped files


def skipped(path: Path, function: Callable[[Path], object] = decode) -> str:
    with pytest.raises(UnusableImage) as caught:
        function(path)
    return caught.value.reason


def test_empty_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert skipped(tmp_path / "a.jpg") == skipped(tmp_path / "a.jpg", read_header) == "empty file (0 bytes)"


def test_text_named_jpg_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("I am no image.")
    assert "not an image" in skipped(tmp_path / "a.jpg")


def test_heic_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert "HEIC is not supported" in skipped(tmp_path / "a.jpg")


def test_missing_file_and_folder_are_skipped(tmp_path: Path) -> None:
    assert "missing" in skipped(tmp_path / "a.jpg")
    assert skipped(tmp_path) == "not a regular file"


def test_file_without_permission_to_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn("RGB", RGB).save(tmp_path / "a.png")

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert skipped(tmp_path / "a.png") == skipped(tmp_path / "a.png", read_header) == "no permission to read it"


def test_too_little_memory_is_a_reason_to_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn("RGB", RGB).save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert "memory" in skipped(tmp_path / "a.png")


def encoded(format: str, pixels: NDArray[Any] = NOISE, **how: Any) -> bytes:
    stream = io.BytesIO()
    drawn("RGB", pixels).save(stream, format, **how)
    return stream.getvalue()


TRUNCATED: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("format", "how"), TRUNCATED)
def test_truncated_file_is_skipped_wherever_it_is_cut(tmp_path: Path, format: str, how: dict[str, Any]) -> None:
    data = encoded(format, **how)
    path = tmp_path / "cut"
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        path.write_bytes(data[: int(len(data) * share)])
        assert skipped(path), share


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("min_side", [1, 3, 6, 12, 24])  # by 1/8, 1/8, 1/4, 1/2, not at all
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_skipped_however_it_is_scaled(tmp_path: Path, progressive: bool, min_side: int) -> None:
    data = encoded("JPEG", progressive=progressive)
    path = tmp_path / "cut"
    for length in (*(int(len(data) * share) for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)),):
        path.write_bytes(data[:length])
        assert skipped(path, lambda path: decode(path, min_side=min_side)), length
        assert skipped(path, lambda path: decode_squashed(path, min_side)), length
    path.write_bytes(data)
    decode(path, min_side=min_side)


@pytest.mark.parametrize("format", ["BMP", "PPM"])
def test_file_without_its_last_byte_is_skipped(tmp_path: Path, format: str) -> None:
    (tmp_path / "cut").write_bytes(encoded(format)[:-1])
    assert "truncated" in skipped(tmp_path / "cut")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_reasons_of_truncated_files_can_be_counted(tmp_path: Path) -> None:
    data = encoded("JPEG")
    reasons = set()
    for cut in range(len(data) // 2, len(data), 40):
        (tmp_path / "cut").write_bytes(data[:cut])
        reasons.add(skipped(tmp_path / "cut"))
    assert len(reasons) == 1  # or the summary has a line for every file


@pytest.mark.parametrize("pixels", [pytest.param(NOISE, id="noise"), pytest.param(RGB, id="gradient")])
def test_flipped_bit_in_a_png_is_skipped(tmp_path: Path, pixels: NDArray[Any]) -> None:
    data = encoded("PNG", pixels)
    begin, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    for place in np.linspace(begin, end - 1, 60).astype(int):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        (tmp_path / "a.png").write_bytes(damaged)
        assert "damaged" in skipped(tmp_path / "a.png"), place - begin


def test_damage_does_not_print(tmp_path: Path) -> None:
    """Pillow warns of damage before it fails: that would be a line on stderr for every such file."""
    data = encoded("TIFF", compression="tiff_lzw")
    for cut in (100, len(data) // 2, len(data) - 6):
        (tmp_path / f"{cut}.tif").write_bytes(data[:cut])
    code = f"""
from pathlib import Path
from simclr_cli.images.decode import decode
from simclr_cli.images.formats import UnusableImage
for path in Path({str(tmp_path)!r}).iterdir():
    try:
        decode(path)
    except UnusableImage:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(format: str, side: int) -> bytes:
    """A tiny file whose header claims side x side pixels."""
    if format == "PNG":
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(999))) + png_chunk(b"IEND", b"")
    if format == "GIF":
        frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00;"
        return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + frame
    if format == "GIF frame":  # the screen is small, the frame is not
        return claiming("GIF", side)[:6] + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + claiming("GIF", side)[13:]
    if format == "BMP":
        info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + info + bytes(100)
    if format == "TIFF":
        tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
                (278, 4, side), (279, 4, 100)]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    if format == "JPEG":
        data = bytearray(encoded("JPEG"))
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", side, side)
        return bytes(data)
    return f"P6 {side} {side} 255\n".encode() + bytes(100)


@pytest.mark.xdist_group("clock")
@pytest.mark.parametrize("format", ["PNG", "GIF", "GIF frame", "BMP", "TIFF", "JPEG", "PPM"])
@pytest.mark.parametrize("function", [read_header, decode])
def test_decompression_bomb_is_skipped_at_once(tmp_path: Path, function: Callable[[Path], object], format: str) -> None:
    (tmp_path / "bomb").write_bytes(claiming(format, 50_000))
    seconds = []
    for _ in range(3):  # the best of three: the machine is shared
        begin = time.perf_counter()
        assert "pixels" in skipped(tmp_path / "bomb", function)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.1


def test_limit_of_pixels_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn("RGB", RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(formats, "MAX_PIXELS", H * W)
    assert decode(tmp_path / "a.png").size == (W, H)
    monkeypatch.setattr(formats, "MAX_PIXELS", H * W - 1)
    assert skipped(tmp_path / "a.png") == f"{W} x {H} pixels: over the limit of {H * W - 1}"


@pytest.mark.parametrize(
    ("start", "format"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"RIFF\x10\0\0\0WEBP", "WEBP"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypheix\0\0\0\0", "HEIC"),
        (b"P1\n", "PPM"),
        (b"P6 3", "PPM"),
        (b"Pf\n", "PPM"),
        (b"", None),
        (b"B", None),
        (b"\x89PNG\n\x1a\n", None),
        (b"RIFF\x10\0\0\0WAVE", None),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41", None),
        (b"P6abc", None),
        (b"P9\n", None),
        (b"%PDF-1.7", None),
        (b"<svg xmlns", None),
        (b"id,label\n", None),
    ],
)
def test_first_bytes_promise_a_format(start: bytes, format: str | None) -> None:
    assert detect_format(start) == format


# Sizes that commands need


def test_squashed_fills_the_square_with_all_of_the_image(tmp_path: Path) -> None:
    drawn("RGB", RGB).save(tmp_path / "a.png")
    pixels = decode_squashed(tmp_path / "a.png", 12)
    assert (pixels.shape, pixels.dtype) == ((12, 12, 3), np.uint8)
    assert (pixels == np.asarray(drawn("RGB", RGB).resize((12, 12), Image.Resampling.BICUBIC))).all()
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert np.abs(pixels[corner].astype(int) - RGB[corner]).max() < 25


def test_squashed_leaves_a_square_of_that_side_unchanged(tmp_path: Path) -> None:
    drawn("RGB", NOISE[:, :H].copy()).save(tmp_path / "a.png")
    assert (decode_squashed(tmp_path / "a.png", H) == NOISE[:, :H]).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize(("height", "width"), [(600, 900), (1_201, 407), (90, 1_700), (100, 100)])
def test_squashed_is_close_to_all_pixels_resized(tmp_path: Path, name: str, height: int, width: int) -> None:
    """Images that are reduced quickly first, and images that are not."""
    drawn("RGB", photo(height, width)).save(tmp_path / name, **({"quality": 95} if name == "a.jpg" else {}))
    whole = decode(tmp_path / name)
    for side in (12, 37, 96, 150, 500):
        pixels = decode_squashed(tmp_path / name, side)
        assert (pixels.shape, pixels.dtype) == ((side, side, 3), np.uint8)
        expected = np.asarray(whole.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        assert distance(pixels, expected) < 1
        assert np.abs(pixels - expected).max() < 16


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_squashed_keeps_the_finest_detail_that_it_can_hold(tmp_path: Path, name: str) -> None:
    """On noise, the difference from all pixels resized is a small part of the signal."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 960, 3), dtype=np.uint8)
    drawn("RGB", noise).save(tmp_path / name, **({"quality": 100, "subsampling": 0} if name == "a.jpg" else {}))
    whole = decode(tmp_path / name)
    for side in (60, 97, 130):
        expected = np.asarray(whole.resize((side, side), Image.Resampling.BICUBIC)).astype(float)
        assert distance(decode_squashed(tmp_path / name, side), expected) < expected.std() / 3


SHAPES = [
    (1, 1), (1, 2), (2, 1), (1, 16), (16, 1), (3, 48), (48, 3), (5, 7), (7, 5), (31, 33), (32, 32), (33, 31), (36, 36),
    (37, 36), (63, 65), (64, 1000), (1000, 64), (73, 73), (201, 299), (300, 200), (224, 224), (256, 256), (257, 255),
    (100, 1599),
]  # fmt: skip


@pytest.mark.parametrize(("size", "crop"), [(32, 1.0), (32, 0.875), (64, 0.875), (64, 0.95), (224, 0.875)])
def test_evaluation_crop_is_timms_bit_for_bit(tmp_path: Path, size: int, crop: float) -> None:
    transform = timm.data.create_transform(
        input_size=(3, size, size), interpolation="bicubic", crop_pct=crop, mean=(0, 0, 0), std=(1, 1, 1),
        is_training=False,
    )  # fmt: skip
    rng = np.random.default_rng(2)
    for height, width in SHAPES:
        image = drawn("RGB", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / "a.png", compress_level=1)
        expected = (transform(image) * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
        ours = decode_evaluation_crop(tmp_path / "a.png", size, crop)
        assert (ours.shape, ours.dtype) == ((size, size, 3), np.uint8)
        assert (ours == expected).all(), (height, width)


@pytest.mark.parametrize(("size", "crop"), [(32, 1.0), (64, 0.875), (224, 0.875)])
@pytest.mark.parametrize(("height", "width"), [(600, 900), (1_201, 807)])
def test_evaluation_crop_of_a_large_jpeg_is_timms_bit_for_bit(
    tmp_path: Path, height: int, width: int, size: int, crop: float
) -> None:
    """Never scaled while it is decoded: what is exported must see the same pixels in timm."""
    transform = timm.data.create_transform(
        input_size=(3, size, size), interpolation="bicubic", crop_pct=crop, mean=(0, 0, 0), std=(1, 1, 1),
        is_training=False,
    )  # fmt: skip
    drawn("RGB", photo(height, width)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = (transform(image.convert("RGB")) * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
    assert (decode_evaluation_crop(tmp_path / "a.jpg", size, crop) == expected).all()


def test_evaluation_crop_asks_for_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn("RGB", photo(300, 440)).save(tmp_path / "a.jpg")

    asked = []

    def spy(data: bytes, **options: Any) -> NDArray[Any]:
        asked.append("min_height" in options)
        return decode_jpeg(data, **options)

    decode_jpeg = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    decode_evaluation_crop(tmp_path / "a.jpg", 32, 0.875)
    decode(tmp_path / "a.jpg")
    decode_squashed(tmp_path / "a.jpg", 32)
    assert asked == [False, False, True]


@pytest.mark.parametrize(("height", "width"), [(1, 9999), (9999, 1), (2, 20_000)])
def test_extreme_banner_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    Image.new("RGB", (width, height), (10, 200, 30)).save(tmp_path / "a.png")
    made: list[int] = []
    resize = Image.Image.resize

    def spy(image: Image.Image, size: tuple[int, int], *rest: Any, **more: Any) -> Image.Image:
        made.append(size[0] * size[1])
        return resize(image, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", spy)
    assert (decode_evaluation_crop(tmp_path / "a.png", 224, 0.875) == (10, 200, 30)).all()
    assert max(made) <= 16 * 256 * 256


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are those of POSIX")
def test_a_pipe_is_unusable_at_once(tmp_path: Path) -> None:
    """A report opens an image of its run by name, and a query may be anything."""
    os.mkfifo(tmp_path / "confusion.png")
    for read in (read_header, decode):
        with pytest.raises(UnusableImage, match="not a regular file"):
            read(tmp_path / "confusion.png")
