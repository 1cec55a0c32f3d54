"""Allowed formats: of all that Pillow knows only those of the list, whatever the files' names."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from simclr_cli.images.decode import decode_squashed, read_header
from simclr_cli.images.formats import FORMATS, UnusableImage

NAMES = ("a.jpg", "a.png", "a")
# First bytes of the formats that Pillow reads and does not write, as its plugins expect them.
STARTS = {
    "BLP": b"BLP2\1\0\0\0" + bytes(1200),
    "CUR": b"\0\0\2\0\1\0" + bytes(16), "DCX": struct.pack("<II", 0x3ADE68B1, 8) + b"\n\5\1\1",
    "FITS": b"SIMPLE  =                    T" + b" " * 50, "FLI": struct.pack("<IHHHHHH", 144, 0xAF12, 1, 8, 8, 8, 3),
    "FTEX": b"FTEX\0\0\1\0", "GBR": struct.pack(">IIII", 28, 2, 8, 8) + struct.pack(">I", 3) + b"GIMP",
    "IMT": b"IMT image\nwidth 8\nheight 8\n\x0c", "IPTC": b"\x1c\1\x5a\0\1\0",
    "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(300),
    "MPEG": b"\0\0\1\xb3\0\x80\x08", "PCD": bytes(2048) + b"PCD_" + bytes(1500), "PIXAR": b"\200\350\0\0" + bytes(600),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3),
    "SUN": struct.pack(">IIIIIIII", 0x59A66A95, 8, 8, 24, 192, 1, 0, 0) + bytes(192),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(80), "XPM": b"/* XPM */\nstatic char *x[] = {\n",
    "XVTHUMB": b"P7 332\n#END\n8 8 255\n",
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60), "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "JXL": b"\xff\x0a" + bytes(64),
    "EPS inside": b"\xc5\xd0\xd3\xc6" + bytes(28), "PDF": b"%PDF-1.7\n", "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
}  # fmt: skip


def written() -> dict[str, bytes]:
    """Return a small image in every other format that Pillow writes."""
    Image.init()
    found = {}
    for kind in sorted(set(Image.SAVE) - set(FORMATS) - {"DIB", "MPO"}):  # a BMP without its head; a JPEG
        for mode in ("RGB", "L", "1", "RGBA"):
            stream = io.BytesIO()
            try:
                Image.new(mode, (64, 64)).save(stream, kind)
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                continue
            found[kind] = stream.getvalue()
            break
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL")
def test_no_other_format_is_let_in_under_any_name(tmp_path: Path) -> None:
    Image.init()  # all plugins are there, as in a process that uses Pillow for other things too
    foreign = STARTS | written()
    known = set(Image.OPEN) - set(FORMATS) - {"DIB", "MPO"}
    stubs = {"BUFR", "GRIB", "HDF5"}  # Pillow has only a stub for these
    assert known - set(foreign) <= stubs
    for kind, data in foreign.items():
        for name in NAMES:
            (tmp_path / name).write_bytes(data)
            for function in (read_header, lambda path: decode_squashed(path, 8)):
                with pytest.raises(UnusableImage) as caught:
                    function(tmp_path / name)
                assert "in a supported format" in caught.value.reason or "not supported" in caught.value.reason, kind


@pytest.mark.parametrize("inner", ["PNG", "JPEG2000", "BMP"])
def test_an_icon_that_holds_an_image_is_not_let_in(tmp_path: Path, inner: str) -> None:
    for kind, options in (("ICO", {"bitmap_format": "bmp"} if inner == "BMP" else {}), ("ICNS", {})):
        Image.new("RGB", (64, 64)).save(tmp_path / "a", kind, **options)
        (tmp_path / "a.png").write_bytes((tmp_path / "a").read_bytes())
        with pytest.raises(UnusableImage):
            decode_squashed(tmp_path / "a.png", 8)


def test_a_format_behind_the_start_of_another_is_damaged(tmp_path: Path) -> None:
    """Only the format of the first bytes is tried, no other one."""
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for start in (b"GIF89a", b"BM", b"II*\0", b"\xff\xd8\xff\xe0", b"RIFF\x10\0\0\0WEBP", b"P6 "):
        (tmp_path / "a.png").write_bytes(start + whole)
        with pytest.raises(UnusableImage, match=r"damaged|truncated"):
            decode_squashed(tmp_path / "a.png", 8)
