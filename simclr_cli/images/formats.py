"""Image formats that are read: their signatures, the limit of pixels, and why a file is unusable."""

from __future__ import annotations

import os
import re
import warnings
from typing import IO

from PIL import (  # loading these keeps Pillow from importing the plugins of all its formats
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from simclr_cli.core.hardware import get_total_memory

PILLOW_FORMATS = {
    "PNG": PngImagePlugin, "WEBP": WebPImagePlugin, "AVIF": AvifImagePlugin, "GIF": GifImagePlugin,
    "BMP": BmpImagePlugin, "TIFF": TiffImagePlugin, "PPM": PpmImagePlugin,
}  # fmt: skip
FORMATS = frozenset({"JPEG", *PILLOW_FORMATS})

SIGNATURES = {  # first bytes of each format, those that are not allowed included
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n\x1a\n", "GIF": rb"GIF8[79]a", "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]", "WEBP": rb"RIFF.{4}WEBP", "PPM": rb"P[1-6f]\s",
    "AVIF": rb".{4}ftyp(.{8,})?avi[fs]", "HEIC": rb".{4}ftyp(hei[cx]|hevc|mif1|msf1)",
}  # fmt: skip

DECODING_VERSION = 5  # of whatever changes a decoded pixel, or which files are skipped

CAMERA_RAW = "camera raw is not supported (export it as JPEG or TIFF)"

BYTES_PER_PIXEL = 32  # peak memory of decoding: RGBA from WebP; tests/images/test_bombs.py measures it
MEMORY_SHARE = 1 / 2  # of the machine's memory, for one image
# Two and a half times a 70-megapixel camera; Pillow's own limit for an error.
MAX_PIXELS_ANYWHERE = 178_956_970


def compute_max_pixels() -> int:
    """Return the most pixels that fit in this machine's total memory; larger images count as decompression bombs."""
    return min(MAX_PIXELS_ANYWHERE, int(get_total_memory() * MEMORY_SHARE / BYTES_PER_PIXEL) // 2 * 2)


MAX_PIXELS = compute_max_pixels()
# Pillow warns above this and fails above twice as many, for frames, tiles and resized images too.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Of a file that is read at once: the largest image without compression, in 16 bits with alpha, takes no more.
MAX_FILE_BYTES = 8 * MAX_PIXELS + 2**26

# An UnusableImage carries what matters; Pillow's other warnings (metadata, half of MAX_PIXELS) are noise.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnusableImage(Exception):
    """A file that cannot be used; the message is the reason, in a few words."""

    @property
    def reason(self) -> str:
        return str(self)


class CostlyUnusable(UnusableImage):
    """A file that took a second or more to be found unusable; the census remembers it too, until it changes."""


class TemporarilyUnusable(UnusableImage):
    """A file that may be usable next time although it has not changed; it is not remembered."""


def detect_format(start: bytes) -> str | None:
    """Return the format, allowed or not, claimed by a file's first 32 bytes; None if it is not an image."""
    return next((name for name, signature in SIGNATURES.items() if re.match(signature, start, re.DOTALL)), None)


def check_pixels(width: int, height: int) -> None:
    """Raise UnusableImage if an image has more than MAX_PIXELS, or none."""
    if width * height > MAX_PIXELS:
        raise UnusableImage(f"{width} x {height} pixels: over the limit of {MAX_PIXELS:,}")
    if width <= 0 or height <= 0:
        raise UnusableImage("damaged: it has no pixels")


def check_file_size(stream: IO[bytes], most: int = MAX_FILE_BYTES) -> None:
    """Raise UnusableImage if a file, which may be sparse, is too large: by default, to be read at once."""
    if stream.seek(0, os.SEEK_END) > most:
        raise UnusableImage(f"its file is over the limit of {most / 2**30:.1f} GiB")
