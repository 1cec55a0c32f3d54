"""Safe decoding of one file to an upright RGB uint8 image: by content, in allowed formats, whole or not at all."""

from __future__ import annotations

import contextlib
import math
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from simclr_cli.core.errors import explain_import_error, raise_if_unreachable
from simclr_cli.images.convert import Samples, convert_to_rgb, convert_to_srgb, set_upright
from simclr_cli.images.formats import (
    FORMATS,
    MAX_PIXELS,
    TemporarilyUnusable,
    UnusableImage,
    check_file_size,
    check_pixels,
    detect_format,
)
from simclr_cli.images.jpeg import open_jpeg, read_orientation
from simclr_cli.images.png import open_png
from simclr_cli.images.tiff import open_tiff

Pixels = NDArray[np.uint8]  # (height, width, 3) RGB

REDUCING_GAP = 2  # images are first reduced quickly to no less than this times the final side: Pillow's own choice
STATED_BITS = 16  # of a PGM: Pillow scales it by the range that it states
WIDEST = {("raw", "I;16B"), ("ppm", ("RGB", 65_535))}  # Pillow's decoders of 16 bits and the largest range


class Header(NamedTuple):
    """Format and upright size that a file claims before it is decoded."""

    format: str
    height: int
    width: int
    bits: int = 0  # that samples of 16 bits use, 1 to 16; 0 for other images
    note: str = ""  # damage that its pixels do not have


class Source(Protocol):
    """An opened file, of which nothing is decoded yet."""

    @property
    def width(self) -> int: ...  # px, as stored
    @property
    def height(self) -> int: ...
    @property
    def orientation(self) -> int: ...  # 1 to 8, of EXIF
    @property
    def is_deep(self) -> bool: ...  # samples do not fit in 8 bits
    @property
    def profile(self) -> bytes: ...  # ICC
    @property
    def note(self) -> str: ...  # of damage outside of the pixels; "": none
    def load(self, min_side: int | None) -> Image.Image | Samples: ...  # upright


OPENERS: dict[str, Callable[[IO[bytes]], Source]] = {"JPEG": open_jpeg, "PNG": open_png, "TIFF": open_tiff}


def read_header(path: Path) -> Header:
    """Read format and upright size; only images of 16 bits are decoded, since none states how many bits it uses.

    Raises:
        UnusableImage: no permission to read it, not an image, or more than MAX_PIXELS.
        MachineError: the disk or the network share fails.
    """
    with _translate_errors(path), path.open("rb") as stream:
        format, source = _open(stream)
        size = (source.height, source.width)
        decoded = source.load(None) if source.is_deep else None
        bits = decoded.count_bits() if isinstance(decoded, Samples) else 0
        return Header(format, *(size if source.orientation < 5 else size[::-1]), bits, source.note)


def decode(path: Path, *, min_side: int | None = None, bits: int | None = None) -> Image.Image:
    """Decode a whole file to its upright sRGB image; of an animation, the first frame.

    EXIF orientation and color profile are applied, alpha composited over white, other ranges scaled to 0..255.

    Args:
        min_side: px; a JPEG may be scaled down while it is decoded, to no less than this on either side. That is
            several times faster, and differs in the last bits from an image scaled afterwards.
        bits: see convert_to_rgb.

    Raises:
        UnusableImage: as read_header, and truncated or corrupt content.
    """
    return convert_to_srgb(_decode(path, min_side, bits))


def _decode(path: Path, min_side: int | None, bits: int | None) -> Image.Image:
    """Decode to upright RGB with its color profile, which is applied once the image is smaller."""
    with _translate_errors(path), path.open("rb") as stream:
        _, source = _open(stream)
        return convert_to_rgb(source.load(min_side), source.profile, bits)


def decode_squashed(path: Path, side: int, bits: int | None = None) -> Pixels:
    """Decode an image squashed to a square, (side, side, 3), for training; the crop in true coordinates undoes it."""
    image = _decode(path, REDUCING_GAP * side, bits)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    return np.asarray(convert_to_srgb(image))


def decode_evaluation_crop(path: Path, size: int, crop: float, bits: int | None = None) -> Pixels:
    """Decode an image for evaluation, (size, size, 3): short side resized (bicubic), center crop.

    The same pixels as timm's evaluation transform for (size, crop): short side to floor(size / crop), long side
    rounded down, center crop.
    """
    image = _decode(path, None, bits)
    width, height = image.size
    if max(image.size) > 16 * min(image.size):  # a banner of 1 x 9,999 would become huge
        image = ImageOps.fit(image, (min(width, 16 * height), min(height, 16 * width)))
        width, height = image.size
    short = math.floor(size / crop)
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if image.size != scaled:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(convert_to_srgb(image.crop((left, top, left + size, top + size))))


def decode_thumbnail(path: Path, side: int, min_side: int, bits: int | None = None) -> Pixels:
    """Decode an image to fit a square of `side` px, aspect ratio kept, never enlarged. `min_side`: see decode."""
    image = _decode(path, min_side, bits)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(convert_to_srgb(image))


def decode_center_square(path: Path, side: int, bits: int | None = None) -> Pixels:
    """Decode the center square of an image: (side, side, 3)."""
    image = _decode(path, REDUCING_GAP * side, bits)
    return np.asarray(convert_to_srgb(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)))


class _PillowImage(NamedTuple):
    """An image of the formats that need no care of ours."""

    image: ImageFile.ImageFile

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def orientation(self) -> int:
        return read_orientation(self.image.info.get("exif", b"")) or 1

    @property
    def is_deep(self) -> bool:  # a PGM or PPM of the widest range, which programs state whatever they write
        return self.image.format == "PPM" and self.image.tile[0][0::3] in WIDEST

    @property
    def profile(self) -> bytes:
        return self.image.info.get("icc_profile") or b""

    @property
    def note(self) -> str:
        return ""

    def load(self, min_side: int | None) -> Image.Image | Samples:
        if self.is_deep:
            return Samples(self._read_words())
        self.image.load()
        if self.image.mode in ("I", "F"):  # PGM and PFM; the first states its range
            stated = STATED_BITS if self.image.mode == "I" else None
            return Samples(np.asarray(self.image)[:, :, None], bits=stated)
        return set_upright(self.image, self.orientation)

    def _read_words(self) -> NDArray[np.uint16]:
        """Return (H, W, C) as stored: of colors, Pillow gives the high byte."""
        stream: Any = self.image.fp
        stream.seek(self.image.tile[0].offset)
        shape = (self.height, self.width, len(self.image.getbands()))
        data = stream.read(2 * math.prod(shape))
        if len(data) < 2 * math.prod(shape):
            raise UnusableImage("damaged: it is cut")
        return np.frombuffer(data, ">u2").astype(np.uint16).reshape(shape)


def _open(stream: IO[bytes]) -> tuple[str, Source]:
    """Open an image by its first bytes.

    By name, Pillow would load other plugins, and map the file: if that were truncated meanwhile, it would crash.
    """
    start = stream.read(32)
    if not start:
        raise UnusableImage("empty file (0 bytes)")
    claimed_format = detect_format(start)
    if claimed_format is None:
        raise UnusableImage("not an image in a supported format")
    if claimed_format not in FORMATS:
        raise UnusableImage(f"{claimed_format} is not supported (convert it to JPEG or PNG)")
    if claimed_format in OPENERS:
        return claimed_format, OPENERS[claimed_format](stream)
    check_file_size(stream)
    stream.seek(0)
    image = Image.open(stream, formats=[claimed_format])
    check_pixels(*image.size)
    return claimed_format, _PillowImage(image)


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on untrusted bytes into an UnusableImage with a short reason.

    Raises:
        UnusableImage: in place of the decoder's error, and for a pipe or a device, which may never end.
        MachineError: the disk or the network share fails, or a library is missing.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnusableImage("not a regular file")
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
        raise UnusableImage("too large for this machine's memory") from None
    except OSError as error:
        raise_if_unreachable(error, path)
        # Pillow's own messages ("image file is truncated ...") carry no errno; the system's do.
        # The count of missing bytes is dropped, so that equal reasons can be counted.
        message = re.sub(r" \(\d+ bytes? not processed\)", "", str(error))
        reason = re.sub("^Unsupported", "unsupported", message)  # a kind of BMP
        raise UnusableImage(error.strerror or (reason if reason != message else f"damaged: {message}")) from None
    except ImportError as error:
        raise explain_import_error(error) from None
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, EOFError, IndexError ...
        raise UnusableImage(f"damaged: {error or type(error).__name__}") from None
