"""One file -> one upright RGB uint8 image, safely: by content, from an allowlist of formats, whole or not at all."""

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
from PIL import (  # what is not loaded here, Pillow would look for among all the formats that it knows
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

from simclr_cli.core.errors import check_reachable
from simclr_cli.core.hardware import whole_memory

Pixels = NDArray[np.uint8]  # (height, width, 3) RGB

FORMATS = {
    "JPEG": JpegImagePlugin, "PNG": PngImagePlugin, "WEBP": WebPImagePlugin, "AVIF": AvifImagePlugin,
    "GIF": GifImagePlugin, "BMP": BmpImagePlugin, "TIFF": TiffImagePlugin, "PPM": PpmImagePlugin,
}  # fmt: skip

BEGINNINGS = {  # of files of each format, those that are not allowed included
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n\x1a\n", "GIF": rb"GIF8[79]a", "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]", "WEBP": rb"RIFF.{4}WEBP", "PPM": rb"P[1-6fF]\s",
    "AVIF": rb".{4}ftyp(.{8,})?avi[fs]", "HEIC": rb".{4}ftyp(hei[cx]|hevc|mif1|msf1)",
}  # fmt: skip

BYTES_A_PIXEL = 32  # that decoding takes at most while it lasts: RGBA from WebP; tests/images/test_bombs.py measures
MEMORY_SHARE = 1 / 2  # of the machine's memory, that one image may take
# Two and a half times a 70-megapixel camera; Pillow's own limit for an error.
MOST_PIXELS_ANYWHERE = 178_956_970


def most_pixels() -> int:
    """Above so many a file is taken for a bomb: what has room in this machine's memory, free at the moment or not."""
    return min(MOST_PIXELS_ANYWHERE, int(whole_memory() * MEMORY_SHARE / BYTES_A_PIXEL) // 2 * 2)


MAX_PIXELS = most_pixels()
# Pillow warns above this, and refuses above twice as many: frames, tiles and resized images too.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Images are first scaled down in a quick way to no less than this times the side wanted: Pillow's own choice.
SCALED_OVER_STORED = 2

# What matters is a UnusableImage with its reason; what Pillow warns of besides (metadata, half of MAX_PIXELS) is noise.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnusableImage(Exception):
    """A file that is not used, and why, in a few words."""

    @property
    def reason(self) -> str:
        return str(self)


class UnavailableNow(UnusableImage):
    """The same, for what may be otherwise the next time although the file has not changed: it is not remembered."""


class Header(NamedTuple):
    """What an image says of itself before it is decoded; the size as it stands upright."""

    format: str
    height: int
    width: int


def looks_like(start: bytes) -> str | None:
    """The format that a file's first 32 bytes promise, allowed or not; None if they promise no image."""
    return next((name for name, begin in BEGINNINGS.items() if re.match(begin, start, re.DOTALL)), None)


def read_header(path: Path) -> Header:
    """Format and upright size, without decoding a pixel.

    Raises:
        UnusableImage: no right to read, not an image, or more than MAX_PIXELS.
        MachineError: the disk or the share that holds it fails.
    """
    with _refusing(path), path.open("rb") as stream:
        image = _open(stream)
        width, height = image.size
        # The base class's method: PNG's own decodes the whole image to find an EXIF chunk behind it.
        lies_on_its_side = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        if lies_on_its_side and image.format != "TIFF":  # Pillow has already turned the size of a TIFF
            width, height = height, width
        # MPO is a JPEG with further images behind it.
        return Header("JPEG" if image.format == "MPO" else image.format or "?", height, width)


def decode(path: Path, *, at_least: int | None = None) -> Image.Image:
    """A file -> its upright RGB image, entirely decoded.

    With `at_least`, JPEG may be scaled by 1/2, 1/4 or 1/8 while it is decoded, to no less than that on either side, px:
    several times quicker, and a little different in the last bits from an image scaled afterwards.

    EXIF orientation is applied; alpha lies over white; 16-bit and float grayscale are scaled to 0..255; of an
    animation the first frame.

    Raises:
        UnusableImage: as read_header, and truncated or corrupt content.
    """
    with _refusing(path), path.open("rb") as stream:
        image = _open(stream)
        if image.format == "PNG":  # Pillow decodes past damaged chunks: their checksums must be asked for
            image.verify()
            image = _open(stream)
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Alpha lies over white; 16-bit grayscale is scaled by its range, any other one from its darkest to its brightest.

    Floats within 0..1 are taken as they are; what is not finite counts as 0.
    """
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        return _gray(image.mode, np.asarray(image).astype(np.float64))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _gray(mode: str, values: NDArray[np.float64]) -> Image.Image:
    """(H, W) values that need more than 8 bits -> an image; computed in place, since they take most of the memory."""
    if mode == "F":
        np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and high <= 65535):  # Pillow before 11 opened 16 bits as I
        values /= 65535
    elif mode == "I" or low < 0 or high > 1:  # from darkest to brightest: all that is known of a scale without a range
        values -= low
        values /= (high - low) or 1
    values *= 255
    return Image.fromarray(np.round(values, out=values).astype(np.uint8)).convert("RGB")


def squashed(path: Path, side: int) -> Pixels:
    """An image squashed to a square (side, side, 3), for training: the crop, drawn in true coordinates, undoes it."""
    image = decode(path, at_least=SCALED_OVER_STORED * side)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=SCALED_OVER_STORED)
    return np.asarray(image)


def evaluation_crop(path: Path, size: int, crop: float) -> Pixels:
    """An image for evaluation, (size, size, 3): short side resized (bicubic), center crop.

    The same pixels as timm's evaluation transform for (size, crop): short side to floor(size / crop), the long side
    rounded down, the center cut out.
    """
    image = decode(path)
    width, height = image.size
    if max(image.size) > 16 * min(image.size):  # resized by its short side, a banner of 1 x 9,999 would be huge
        image = ImageOps.fit(image, (min(width, 16 * height), min(height, 16 * width)))
        width, height = image.size
    short = math.floor(size / crop)
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if image.size != scaled:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def small(path: Path, side: int, at_least: int) -> Pixels:
    """An image within a square of `side` px, in its own shape; a smaller one stays. `at_least`: see decode."""
    image = decode(path, at_least=at_least)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def middle(path: Path, side: int) -> Pixels:
    """The middle square of an image: (side, side, 3)."""
    image = decode(path, at_least=SCALED_OVER_STORED * side)
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def _open(stream: IO[bytes]) -> Image.Image:
    """Open by content: the first bytes decide, and what to say of it if it cannot be opened.

    Not by name: Pillow loads a plugin by that, and maps the file, so that one cut short meanwhile would crash it.
    """
    stream.seek(0)
    start = stream.read(32)
    if not start:
        raise UnusableImage("empty file (0 bytes)")
    promised = looks_like(start)
    if promised is None:
        raise UnusableImage("not an image in any format known here")
    if promised not in FORMATS:
        raise UnusableImage(f"{promised} is not supported (convert it to JPEG or PNG)")
    image = Image.open(stream, formats=[promised])
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImage(f"{image.width} x {image.height} pixels: over the limit of {MAX_PIXELS:,}")
    return image


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a stranger's bytes into a UnusableImage with a short reason.

    What the system says of the disk or the share is none: a MachineError.
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
        raise UnavailableNow("no right to read it") from None
    except FileNotFoundError:
        raise UnavailableNow("gone, or a broken link") from None
    except MemoryError:
        raise UnavailableNow("too large for this machine's memory") from None
    except OSError as error:
        check_reachable(error, path)
        # Pillow's own messages ("image file is truncated ...") carry no errno; the system's do.
        # Without the count of missing bytes, so that equal reasons can be counted.
        message = re.sub(r" \(\d+ bytes? not processed\)", "", str(error))
        raise UnusableImage(error.strerror or f"damaged: {message}") from None
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, EOFError, IndexError ...
        raise UnusableImage(f"damaged: {error or type(error).__name__}") from None
