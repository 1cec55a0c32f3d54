"""Safe decoding of one file to an upright RGB uint8 image: by content, in allowed formats, whole or not at all."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (  # loading these keeps Pillow from importing the plugins of all its formats
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from simclr_cli.core.errors import raise_if_unreachable
from simclr_cli.core.hardware import get_total_memory

Pixels = NDArray[np.uint8]  # (height, width, 3) RGB

FORMATS = {
    "JPEG": JpegImagePlugin, "PNG": PngImagePlugin, "WEBP": WebPImagePlugin, "AVIF": AvifImagePlugin,
    "GIF": GifImagePlugin, "BMP": BmpImagePlugin, "TIFF": TiffImagePlugin, "PPM": PpmImagePlugin,
}  # fmt: skip

SIGNATURES = {  # first bytes of each format, those that are not allowed included
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n\x1a\n", "GIF": rb"GIF8[79]a", "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]", "WEBP": rb"RIFF.{4}WEBP", "PPM": rb"P[1-6fF]\s",
    "AVIF": rb".{4}ftyp(.{8,})?avi[fs]", "HEIC": rb".{4}ftyp(hei[cx]|hevc|mif1|msf1)",
}  # fmt: skip

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

REDUCING_GAP = 2  # images are first reduced quickly to no less than this times the final side: Pillow's own choice

# An UnusableImage carries what matters; Pillow's other warnings (metadata, half of MAX_PIXELS) are noise.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnusableImage(Exception):
    """A file that cannot be used; the message is the reason, in a few words."""

    @property
    def reason(self) -> str:
        return str(self)


class TemporarilyUnusable(UnusableImage):
    """A file that may be usable next time although it has not changed; it is not remembered."""


class Header(NamedTuple):
    """Format and upright size that a file claims before it is decoded."""

    format: str
    height: int
    width: int


def detect_format(start: bytes) -> str | None:
    """Return the format, allowed or not, claimed by a file's first 32 bytes; None if it is not an image."""
    return next((name for name, signature in SIGNATURES.items() if re.match(signature, start, re.DOTALL)), None)


def read_header(path: Path) -> Header:
    """Read format and upright size, without decoding a pixel.

    Raises:
        UnusableImage: no permission to read it, not an image, or more than MAX_PIXELS.
        MachineError: the disk or the network share fails.
    """
    with _translate_errors(path), path.open("rb") as stream:
        image = _open(stream)
        width, height = image.size
        # The base class's method: PNG's own decodes the whole image to find an EXIF chunk behind it.
        is_sideways = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        if is_sideways and image.format != "TIFF":  # Pillow has already swapped the sides of a TIFF
            width, height = height, width
        # MPO is a JPEG with further images behind it.
        return Header("JPEG" if image.format == "MPO" else image.format or "?", height, width)


def decode(path: Path, *, min_side: int | None = None) -> Image.Image:
    """Decode a whole file to its upright RGB image; of an animation, the first frame.

    EXIF orientation is applied, alpha composited over white, 16-bit and float grayscale scaled to 0..255.

    Args:
        min_side: px; a JPEG may be scaled by 1/2, 1/4 or 1/8 while it is decoded, to no less than this on either side.
            That is several times faster, and differs in the last bits from an image scaled afterwards.

    Raises:
        UnusableImage: as read_header, and truncated or corrupt content.
    """
    with _translate_errors(path), path.open("rb") as stream:
        image = _open(stream)
        if image.format == "PNG":  # Pillow decodes past damaged chunks unless their checksums are verified
            image.verify()
            image = _open(stream)
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return convert_to_rgb(image)


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB: alpha over white, 16-bit grayscale by its range, other deep grayscale from darkest to brightest.

    Floats within 0..1 keep their scale; values that are not finite count as 0.
    """
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        return _gray_to_rgb(image.mode, np.asarray(image).astype(np.float64))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _gray_to_rgb(mode: str, values: NDArray[np.float64]) -> Image.Image:
    """Convert (H, W) values of more than 8 bits to RGB, in place, since they take most of the memory."""
    if mode == "F":
        np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and high <= 65535):  # Pillow before 11 opened 16 bits as I
        values /= 65535
    elif mode == "I" or low < 0 or high > 1:  # without a known range, from darkest to brightest
        values -= low
        values /= (high - low) or 1
    values *= 255
    return Image.fromarray(np.round(values, out=values).astype(np.uint8)).convert("RGB")


def decode_squashed(path: Path, side: int) -> Pixels:
    """Decode an image squashed to a square, (side, side, 3), for training; the crop in true coordinates undoes it."""
    image = decode(path, min_side=REDUCING_GAP * side)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    return np.asarray(image)


def decode_evaluation_crop(path: Path, size: int, crop: float) -> Pixels:
    """Decode an image for evaluation, (size, size, 3): short side resized (bicubic), center crop.

    The same pixels as timm's evaluation transform for (size, crop): short side to floor(size / crop), long side
    rounded down, center crop.
    """
    image = decode(path)
    width, height = image.size
    if max(image.size) > 16 * min(image.size):  # a banner of 1 x 9,999 would become huge
        image = ImageOps.fit(image, (min(width, 16 * height), min(height, 16 * width)))
        width, height = image.size
    short = math.floor(size / crop)
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if image.size != scaled:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def decode_thumbnail(path: Path, side: int, min_side: int) -> Pixels:
    """Decode an image to fit a square of `side` px, aspect ratio kept, never enlarged. `min_side`: see decode."""
    image = decode(path, min_side=min_side)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def decode_center_square(path: Path, side: int) -> Pixels:
    """Decode the center square of an image: (side, side, 3)."""
    image = decode(path, min_side=REDUCING_GAP * side)
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def _open(stream: IO[bytes]) -> Image.Image:
    """Open an image by its first bytes.

    By name, Pillow would load other plugins, and map the file: if that were truncated meanwhile, it would crash.
    """
    stream.seek(0)
    start = stream.read(32)
    if not start:
        raise UnusableImage("empty file (0 bytes)")
    claimed_format = detect_format(start)
    if claimed_format is None:
        raise UnusableImage("not an image in a supported format")
    if claimed_format not in FORMATS:
        raise UnusableImage(f"{claimed_format} is not supported (convert it to JPEG or PNG)")
    image = Image.open(stream, formats=[claimed_format])
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImage(f"{image.width} x {image.height} pixels: over the limit of {MAX_PIXELS:,}")
    return image


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on untrusted bytes into an UnusableImage with a short reason.

    Raises:
        UnusableImage: in place of the decoder's error.
        MachineError: the disk or the network share fails.
    """
    try:
        yield
    except UnusableImage:
        raise
    except Image.DecompressionBombError:
        raise UnusableImage(f"claims more than {MAX_PIXELS:,} pixels (a decompression bomb?)") from None
    except UnidentifiedImageError:
        raise UnusableImage("damaged: its header cannot be read") from None
    except PermissionError:
        raise TemporarilyUnusable("no permission to read it") from None
    except FileNotFoundError:
        raise TemporarilyUnusable("missing, or a broken link") from None
    except MemoryError:
        raise TemporarilyUnusable("too large for this machine's memory") from None
    except OSError as error:
        raise_if_unreachable(error, path)
        # Pillow's own messages ("image file is truncated ...") carry no errno; the system's do.
        # The count of missing bytes is dropped, so that equal reasons can be counted.
        message = re.sub(r" \(\d+ bytes? not processed\)", "", str(error))
        raise UnusableImage(error.strerror or f"damaged: {message}") from None
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, EOFError, IndexError ...
        raise UnusableImage(f"damaged: {error or type(error).__name__}") from None
