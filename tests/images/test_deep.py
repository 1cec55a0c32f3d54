"""Images of more than 8 bits: as bright as they look elsewhere, on one scale for a folder; and kinds of TIFF."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from simclr_cli.core.errors import MachineError
from simclr_cli.images.cache import decode_images
from simclr_cli.images.decode import decode, decode_evaluation_crop, decode_squashed, read_header
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census

H, W = 24, 36
Y, X = np.mgrid[:H, :W]
GRAY = (X * 7 + Y).astype(np.uint8)[..., None]  # (H, W, 1)
RGB = np.stack([X * 7, Y * 10, (X + Y) * 4], -1).astype(np.uint8)
ALPHA = ((Y * 11) % 256).astype(np.uint8)


def in_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint16]:
    """Scale 0..255 to 0..2^bits - 1."""
    return np.round(values / 255 * (2**bits - 1)).astype(np.uint16)


def png(values: NDArray[Any], color: int, *chunks: bytes, bits: int = 16) -> bytes:
    """Return a PNG without filters, of 4 or 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    stored = values.astype(">u2") if bits == 16 else (values[:, ::2] << 4 | values[:, 1::2]).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(part[:4], part[4:]) for part in chunks) + pixels


def tiff(values: NDArray[Any], **how: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **how)
    return stream.getvalue()


def read(tmp_path: Path, data: bytes, bits: int | None = None) -> NDArray[np.int64]:
    (tmp_path / "a").write_bytes(data)
    pixels = np.asarray(decode(tmp_path / "a", bits=bits))
    header = read_header(tmp_path / "a")
    assert (header.height, header.width) == pixels.shape[:2]
    return pixels.astype(int)


def assert_equal(found: NDArray[Any], expected: NDArray[Any], bound: float = 0) -> None:
    assert np.abs(found - np.broadcast_to(expected, (H, W, 3)).astype(float)).max() <= bound


def over_white(values: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    share = alpha[..., None] / 255
    return values * share + 255 * (1 - share)


def test_no_image_counts_as_damaged_because_a_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MachineError, match="A library is missing or broken"):
        read(tmp_path, tiff(in_bits(RGB, 16), photometric="rgb"))


# Bits that are used


@pytest.mark.parametrize("bits", [8, 10, 11, 12, 14, 15, 16])
def test_image_that_uses_fewer_bits_is_as_bright_as_one_of_8(tmp_path: Path, bits: int) -> None:
    gray, rgb = in_bits(GRAY, bits), in_bits(RGB, bits)
    alpha = in_bits(ALPHA, 16)[..., None]
    planes = tiff(np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate")
    for data, expected in [
        (png(gray, 0), GRAY), (png(rgb, 2), RGB), (tiff(gray[..., 0]), GRAY), (tiff(rgb), RGB), (planes, RGB),
        (tiff(gray[..., 0], byteorder=">"), GRAY),
        (png(np.dstack([gray, alpha]), 4), over_white(GRAY, ALPHA)),
        (png(np.dstack([rgb, alpha]), 6), over_white(RGB, ALPHA)),
    ]:  # fmt: skip
        assert_equal(read(tmp_path, data), expected, 1)
        assert read_header(tmp_path / "a").bits == bits


def test_16_bits_are_read_through_filters_and_interlacing(tmp_path: Path) -> None:
    """Pillow writes no RGB of 16 bits, but its filters are the same for all types; LA and RGBA by tifffile's values."""
    noise = np.random.default_rng(0).integers(0, 4096, (H, W), dtype=np.uint16)
    Image.fromarray(noise).save(tmp_path / "a.png")  # filtered
    assert_equal(np.asarray(decode(tmp_path / "a.png")).astype(int), np.round(noise[..., None] / 4095 * 255))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", None])
def test_compression_of_16_bits_makes_no_difference(tmp_path: Path, compression: str | None) -> None:
    Image.fromarray(in_bits(GRAY[..., 0], 12)).save(tmp_path / "a.tif", compression=compression)
    assert_equal(np.asarray(decode(tmp_path / "a.tif")).astype(int), GRAY, 1)


def test_a_stated_range_is_the_scale(tmp_path: Path) -> None:
    values = in_bits(GRAY, 12) // 2
    data = b"P5 %d %d 4095\n" % (W, H) + values.astype(">u2").tobytes()
    assert_equal(read(tmp_path, data), np.round(values / 4095 * 255), 1)
    assert read_header(tmp_path / "a").bits == 0


def test_the_widest_range_states_nothing(tmp_path: Path) -> None:
    """OpenCV and Pillow write it in each PGM and PPM of 16 bits."""
    for kind, values in [(b"P5", GRAY), (b"P6", RGB)]:
        data = b"%b %d %d 65535\n" % (kind, W, H) + in_bits(values, 12).astype(">u2").tobytes()
        assert_equal(read(tmp_path, data), values, 1)
        assert read_header(tmp_path / "a").bits == 12
        (tmp_path / "a").write_bytes(data[:-1])
        with pytest.raises(UnusableImage, match="damaged: it is cut"):
            decode(tmp_path / "a")


def test_marked_pixels_are_white_and_darken_no_other(tmp_path: Path) -> None:
    """Of a depth map they are those without a value; of an X-ray, letters."""
    values = in_bits(GRAY, 12)
    values[:4, :4] = 65535
    expected = GRAY.copy()
    expected[:4, :4] = 255
    for data in (png(values, 0), tiff(values[..., 0])):
        assert_equal(read(tmp_path, data), expected, 1)
        assert read_header(tmp_path / "a").bits == 12


@pytest.mark.parametrize("bits", [8, 12])
def test_alpha_may_use_as_few_bits_as_its_colors(tmp_path: Path, bits: int) -> None:
    for values, color in [(GRAY, 4), (RGB, 6)]:
        whole = in_bits(np.dstack([values, ALPHA]), bits)
        photometric = "rgb" if color == 6 else "minisblack"
        how = {"photometric": photometric, "extrasamples": ["unassalpha"], "planarconfig": "contig"}
        for data in (png(whole, color), tiff(whole, **how)):
            assert_equal(read(tmp_path, data), over_white(values, ALPHA), 2)


def test_folder_has_one_scale(tmp_path: Path) -> None:
    """A dark image stays darker than a bright one."""
    bright, dark = in_bits(GRAY, 12), in_bits(GRAY, 12) // 8
    for name, values in [("bright", bright), ("dark", dark)]:
        (tmp_path / f"{name}.png").write_bytes(png(values, 0))
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    census = take_census(tmp_path, workers=0)
    assert census.bits == 12 and census.summary()["bits"] == 12
    assert [image.bits for image in census.images] == [12, 9, 0]
    for decoded, size in [(decode_images(census, 24, workers=0, progress=lambda *_: None), 36)]:
        pixels = decoded.read(np.arange(3)).transpose(0, 2, 3, 1)
        for row, name in enumerate(["bright.png", "dark.png", "rgb.png"]):
            assert (pixels[row] == decode_squashed(tmp_path / name, size, 12)).all()
    brightness = [decode_evaluation_crop(tmp_path / f"{n}.png", 24, 1, 12).mean() for n in ("bright", "dark")]
    assert brightness[1] == pytest.approx(brightness[0] / 8, abs=1)


def test_cached_pixels_of_another_scale_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "dark.png").write_bytes(png(in_bits(GRAY, 10), 0))
    first = decode_images(take_census(tmp_path, workers=0), 24, workers=0, progress=lambda *_: None)
    before = first.read(np.array([0]))
    (tmp_path / "later.png").write_bytes(png(in_bits(GRAY, 12), 0))
    second = decode_images(take_census(tmp_path, workers=0), 24, workers=0, progress=lambda *_: None)
    assert second.read(np.array([0])).mean() == pytest.approx(before.mean() / 4, abs=1)


def test_values_above_the_scale_are_white(tmp_path: Path) -> None:
    values = in_bits(GRAY, 12) + in_bits(GRAY, 12) // 8
    assert 0 < (values > 4095).mean() < 0.25
    assert_equal(read(tmp_path, png(values, 0), bits=12), np.minimum(np.round(values / 4095 * 255), 255))


def test_image_of_an_instrument_of_more_bits_is_not_white(tmp_path: Path) -> None:
    """As a query of a folder, or in the folder of another encoder."""
    values = in_bits(GRAY, 16)
    assert_equal(read(tmp_path, png(values, 0), bits=12), GRAY, 1)
    marked = in_bits(GRAY, 10)
    marked[: H // 2] = 65535  # no values
    found = read(tmp_path, png(marked, 0), bits=12)
    assert np.abs(found[H // 2 :] - GRAY[H // 2 :] / 4).max() <= 1


# Kinds of TIFF and PNG


def test_white_is_zero(tmp_path: Path) -> None:
    for values in (GRAY, in_bits(GRAY, 16), in_bits(GRAY, 12), (GRAY / 255).astype(np.float32)):
        for order in "<>":
            data = tiff(values[..., 0], photometric="miniswhite", byteorder=order)
            assert_equal(read(tmp_path, data), 255 - GRAY.astype(int), 1)


KINDS = {
    "uint32": (GRAY.astype(np.uint32) * 0x01010101, GRAY),
    "uint32 of 20 bits": (np.round(GRAY / 255 * (2**20 - 1)).astype(np.uint32), GRAY),
    "int8": ((GRAY.astype(int) - 128).astype(np.int8), GRAY),
    "int16, all positive": (in_bits(GRAY, 15).astype(np.int16), GRAY),
    "float16": ((GRAY / 255).astype(np.float16), GRAY),
    "float32": ((GRAY / 255).astype(np.float32), GRAY),
    "float64": (GRAY / 255, GRAY),
    "RGB of float32": ((RGB / 255).astype(np.float32), RGB),
    "RGB of float64": (RGB / 255, RGB),
    "RGB of uint32": (RGB.astype(np.uint32) * 0x01010101, RGB),
    "RGB of int8": ((RGB.astype(int) - 128).astype(np.int8), RGB),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", KINDS)
def test_kind_of_tiff_is_read_as_drawn(tmp_path: Path, name: str, order: str) -> None:
    values, expected = KINDS[name]
    color = "rgb" if values.shape[2] == 3 else "minisblack"
    values = values[..., 0] if values.shape[2] == 1 else values
    assert_equal(read(tmp_path, tiff(values, byteorder=order, photometric=color)), expected, 1)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_integers_that_fit_in_16_bits_have_the_scale_of_their_folder(tmp_path: Path, dtype: Any) -> None:
    """Converters of medical images write signed values, Pillow those of 32 bits."""
    data = tiff(in_bits(GRAY, 12)[..., 0].astype(dtype))
    assert_equal(read(tmp_path, data), GRAY, 1)
    assert read_header(tmp_path / "a").bits == 12
    assert_equal(read(tmp_path, data, bits=14), GRAY / 4, 1)


def test_values_of_either_sign_are_scaled_from_darkest_to_brightest(tmp_path: Path) -> None:
    values = GRAY[..., 0].astype(np.int16) * 10 - 1000
    expected = np.round((GRAY - int(GRAY.min())) / (int(GRAY.max()) - int(GRAY.min())) * 255)
    assert_equal(read(tmp_path, tiff(values)), expected, 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_alpha_of_a_deep_tiff_is_laid_over_white(tmp_path: Path, dtype: Any) -> None:
    most = 1 if dtype == np.float32 else 65535
    for values in (GRAY, RGB):
        for kind, color in [("unassalpha", values / 255), ("assocalpha", values / 255 * (ALPHA / 255)[..., None])]:
            whole = np.dstack([color, ALPHA / 255]) * most
            whole = whole.astype(dtype) if most == 1 else np.round(whole).astype(dtype)
            photometric = "rgb" if values.shape[2] == 3 else "minisblack"
            data = tiff(whole, photometric=photometric, extrasamples=[kind], planarconfig="contig")
            assert_equal(read(tmp_path, data), over_white(values, ALPHA), 2)


@pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow reads these from 13.0 on; before, they are unsupported")
def test_gray_of_8_bits_multiplied_by_its_alpha_is_laid_over_white(tmp_path: Path) -> None:
    whole = np.dstack([np.round(GRAY * (ALPHA / 255)[..., None]), ALPHA]).astype(np.uint8)
    data = tiff(whole, photometric="minisblack", extrasamples=["assocalpha"], planarconfig="contig")
    assert_equal(read(tmp_path, data), over_white(GRAY, ALPHA), 2)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bigtiff_is_read_in_either_order_of_bytes(tmp_path: Path, compression: str | None) -> None:
    for order in "<>":
        for values in (GRAY[..., 0], RGB, in_bits(RGB, 16)):
            data = tiff(values, bigtiff=True, byteorder=order, compression=compression)
            expected = GRAY if values.ndim == 2 else RGB
            assert_equal(read(tmp_path, data), expected)
    reason = r"^unsupported TIFF \(8-bit CMYK, 4 bands\)$"
    (tmp_path / "a").write_bytes(tiff(np.zeros((H, W, 4), np.uint8), bigtiff=True, byteorder=">", photometric=5))
    with pytest.raises(UnusableImage, match=reason):
        decode(tmp_path / "a")


def test_a_palette_of_8_bits_is_read_against_the_specification(tmp_path: Path) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint16)
    for factor in (1, 257):
        data = tiff(GRAY[..., 0], photometric="palette", colormap=palette * np.uint16(factor))
        assert_equal(read(tmp_path, data), palette.T[GRAY[..., 0]])


def test_one_damaged_byte_of_a_deflated_tiff_is_noticed(tmp_path: Path) -> None:
    whole = tiff(RGB, compression="zlib", predictor=True)
    assert_equal(read(tmp_path, whole), RGB)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        start, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    for place in range(start + 2, start + length, 11):
        data = bytearray(whole)
        data[place] ^= 0x10
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(UnusableImage, match="damaged"):
            decode(tmp_path / "a")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_of_8_bits_with_alpha_are_laid_over_white(tmp_path: Path, compression: str | None) -> None:
    for values in (GRAY, RGB):
        for kind, color in [("unassalpha", values), ("assocalpha", np.round(values * (ALPHA / 255)[..., None]))]:
            planes = np.moveaxis(np.dstack([color, ALPHA]), 2, 0).astype(np.uint8)
            photometric = "rgb" if values.shape[2] == 3 else "minisblack"
            how = {"photometric": photometric, "extrasamples": [kind], "planarconfig": "separate"}
            assert_equal(read(tmp_path, tiff(planes, compression=compression, **how)), over_white(values, ALPHA), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_set_upright(tmp_path: Path, orientation: int) -> None:
    stored = {1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud,
              5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
              8: lambda a: np.rot90(a, -1)}[orientation]  # fmt: skip
    tag = (274, "H", 1, orientation, False)
    for values in (in_bits(GRAY, 16), in_bits(RGB, 16)):
        turned = np.ascontiguousarray(stored(values))
        turned = turned[..., 0] if turned.shape[2] == 1 else turned
        expected = np.round(values / 65535 * 255)
        assert_equal(read(tmp_path, tiff(turned, extratags=[tag])), expected)
    exif = Image.Exif()
    exif[274] = orientation
    turned = np.ascontiguousarray(stored(in_bits(GRAY, 16)))[..., 0]
    Image.fromarray(turned).save(tmp_path / "lzw.tif", compression="tiff_lzw", exif=exif)
    assert_equal(np.asarray(decode(tmp_path / "lzw.tif")).astype(int), GRAY)


def bands(count: int, dtype: Any = np.uint8) -> bytes:
    return tiff(np.zeros((H, W, count), dtype), photometric="minisblack", planarconfig="contig")


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with another value of a short tag."""
    changed = bytearray(data)
    place = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[place : place + 2])[0]
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == tag:
            changed[entry + 8 : entry + 10] = struct.pack("<H", value)
    return bytes(changed)


UNSUPPORTED = {
    "five bands": bands(5), "four bands of gray": bands(4), "six bands of 16 bits": bands(6, np.uint16),
    "three bands of gray": bands(3), "complex": tiff(np.zeros((H, W), np.complex64)),
    "WebP": with_tag(tiff(RGB), 259, 50001), "JPEG 2000": with_tag(tiff(RGB), 259, 34712),
    "unknown compression": with_tag(tiff(in_bits(GRAY[..., 0], 16)), 259, 60_000),
    "planes of CMYK of 16 bits": tiff(np.zeros((4, H, W), np.uint16), photometric="separated",
                                      planarconfig="separate"),
    "Lab of 16 bits": with_tag(tiff(in_bits(RGB, 16)), 262, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_kinds_are_unsupported_and_not_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tif").write_bytes(UNSUPPORTED[name])
    with pytest.raises(UnusableImage, match=r"^unsupported TIFF \(.+\)$"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.nrw", "a.3fr", "a.tif", "a"])
def test_camera_raw_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(tiff(RGB, subfiletype=1))  # a thumbnail comes first
    Image.fromarray(RGB).save(tmp_path / "other.png")
    census = take_census(tmp_path, workers=0)
    assert [image.name for image in census.images] == ["other.png"]
    assert [(file.name, file.reason[:10]) for file in census.skipped] == [(name, "camera raw")]


def test_transparent_color_of_a_deep_png_is_white(tmp_path: Path) -> None:
    for values, color in [(in_bits(GRAY, 16), 0), (in_bits(RGB, 16), 2)]:
        key = values[3, 5]
        is_key = (values == key).all(axis=2, keepdims=True)
        expected = np.where(is_key, 255, np.round(values / 65535 * 255))
        assert is_key.any()
        assert_equal(read(tmp_path, png(values, color, b"tRNS" + key.astype(">u2").tobytes())), expected)


def test_transparent_color_of_a_png_of_4_bits_is_white(tmp_path: Path) -> None:
    values = in_bits(GRAY, 4)
    for key in (3, 15, 300):
        expected = np.where(values == key, 255, values * 17)
        assert_equal(read(tmp_path, png(values, 0, struct.pack(">4sH", b"tRNS", key), bits=4)), expected)


def test_other_masks_of_a_bmp_are_unsupported_and_not_damaged(tmp_path: Path) -> None:
    masks = struct.pack("<III", 0x3FF00000, 0xFFC00, 0x3FF)
    info = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0) + masks
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + info + bytes(4))
    with pytest.raises(UnusableImage, match=r"^unsupported BMP bitfields layout$"):
        decode(tmp_path / "a.bmp")


def test_bmp_whose_alpha_is_all_zero_has_no_alpha(tmp_path: Path) -> None:
    for alpha, expected in [(np.zeros((H, W), np.uint8), RGB), (ALPHA, over_white(RGB, ALPHA))]:
        rows = np.dstack([RGB[..., ::-1], alpha])[::-1].tobytes()
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        info = struct.pack("<IiiHHIIiiII", 108, W, H, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
        head = b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows), 0, 0, 14 + len(info))
        assert_equal(read(tmp_path, head + info + rows), expected, 2)


# Color profiles


def profile(space: bytes, parts: dict[bytes, bytes]) -> bytes:
    """Return an ICC profile of a color space."""
    white = struct.pack(">iii", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"Test\0" + bytes(78)
    parts = {b"desc": text, b"wtpt": b"XYZ " + bytes(4) + white} | parts
    tags, data, place = b"", b"", 132 + 12 * len(parts)
    for name, part in parts.items():
        part += bytes(-len(part) % 4)
        tags += name + struct.pack(">II", place + len(data), len(part))
        data += part
    body = struct.pack(">I", len(parts)) + tags + data
    kind, connection = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    header = struct.pack(">I4sI4s4s4s12s4s", 128 + len(body), bytes(4), 0x02100000, kind, space, connection,
                         bytes(12), b"acsp")  # fmt: skip
    return header + bytes(28) + white + bytes(48) + body


def gray_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)})


def rgb_profile() -> bytes:
    """Return a profile of RGB whose primaries are swapped, so that any use of it shows."""
    colors = [(14627, 3979, 47161 - 500), (39989, 42000, 4000), (9377, 19500, 2000)]
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)
    xyz = {name: b"XYZ " + bytes(4) + struct.pack(">iii", *color)
           for name, color in zip([b"rXYZ", b"gXYZ", b"bXYZ"], colors, strict=True)}  # fmt: skip
    return profile(b"RGB ", xyz | dict.fromkeys([b"rTRC", b"gTRC", b"bTRC"], curve))


def black_profile() -> bytes:
    """Return a profile of CMYK in which only black ink is visible."""
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    curve = bytes(range(256))
    table = bytes([255, 128, 128, 0, 128, 128]) * 8  # Lab; black ink is the last to change
    return profile(b"CMYK", {b"A2B0": b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + 4 * curve + table + 3 * curve})


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_embedded_profile_is_converted_to_srgb(tmp_path: Path, format: str) -> None:
    image = Image.fromarray(GRAY[..., 0]).resize((W * 4, H * 4))
    how = {"quality": 100} if format == "JPEG" else {}
    image.save(tmp_path / "a", format, icc_profile=gray_profile(1.8), **how)
    share = (np.asarray(image) / 255) ** 1.8
    expected = np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055) * 255  # IEC 61966-2-1
    found = np.asarray(decode(tmp_path / "a"))
    assert np.abs(np.asarray(image) - expected).max() > 15
    assert np.abs(found[..., 1] - expected).max() <= (3 if format == "JPEG" else 2)


def test_srgb_and_damaged_profiles_change_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"nonsense" * 30, srgb[:200], gray_profile(2.0)[:140]):
        Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=profile)
        assert (np.asarray(decode(tmp_path / "a.png")) == RGB).all()


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_profile_of_cmyk_is_converted_to_srgb(tmp_path: Path, format: str) -> None:
    """Cyan, magenta and yellow, which this profile does not show, leave no trace."""
    black = np.where(X < 20, 0, 255).astype(np.uint8)
    image = (
        Image.fromarray(np.dstack([RGB, black]), "CMYK")
        if format == "TIFF"
        else Image.new("CMYK", (W, H), (0, 200, 200, 0))
    )
    image.save(tmp_path / "a", format, icc_profile=black_profile())
    expected = 255 if format == "JPEG" else 255 - black[..., None]
    assert np.abs(np.asarray(decode(tmp_path / "a")).astype(int) - expected).max() <= 2


def test_a_profile_of_another_color_space_changes_nothing(tmp_path: Path) -> None:
    ink = Image.fromarray(np.dstack([RGB, GRAY // 2]), "CMYK")
    for image in (Image.fromarray(RGB), ink):
        for given in (gray_profile(1.8), black_profile() if image.mode == "RGB" else rgb_profile()):
            image.save(tmp_path / "a", "TIFF", icc_profile=given)
            assert (np.asarray(decode(tmp_path / "a")) == np.asarray(image.convert("RGB"))).all()
