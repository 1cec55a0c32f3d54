"""Reading of TIFF files: of more than 8 bits by tifffile, others by Pillow; of other kinds none."""

from __future__ import annotations

import logging
import math
import sys
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from simclr_cli.core.safe_read import MAX_CHECKSUM_BYTES
from simclr_cli.images.convert import TRANSPOSES, Samples, scale_alpha, set_upright
from simclr_cli.images.formats import CAMERA_RAW, UnusableImage, check_file_size, check_pixels

CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}  # by the tag of color
GRAY_OR_RGB = (0, 1, 2)
COLOR_NAMES = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab"}
SENSOR_DATA = (32803, 34892)  # color filter array, linear raw
TYPE_NAMES = {1: "", 2: "signed ", 3: "float ", 4: "", 5: "complex ", 6: "complex "}
COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}  # that Pillow decompresses
DEFLATE = {8, 32946}
COMPRESSION_NAMES = {34892: "JPEG", 34712: "JPEG 2000", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
INVERSE = TRANSPOSES | {6: TRANSPOSES[8], 8: TRANSPOSES[6]}  # Pillow sets images upright as it loads them
SHARED_ALPHA, ALPHA = 1, 2  # of ExtraSamples: color is multiplied by it, or not


class Tiff(NamedTuple):
    """An opened file: the tags of its first image."""

    width: int  # px, as stored
    height: int
    bits: tuple[int, ...]  # of each sample
    sample_format: int  # 1 unsigned, 2 signed, 3 float
    color: int  # photometric interpretation
    extra: tuple[int, ...]  # samples that are not color
    is_planar: bool
    compression: int
    orientation: int  # 1 to 8
    profile: bytes  # ICC; empty if there is none
    is_reversed: bool  # a BigTIFF whose highest byte comes first
    stream: IO[bytes]

    @property
    def is_deep(self) -> bool:
        """True if samples do not fit in 8 unsigned bits."""
        return max(self.bits) > 8 or self.sample_format not in (1, 4)

    @property
    def note(self) -> str:
        """Empty: no damage outside of the pixels is known."""
        return ""

    def load(self, min_side: int | None) -> Image.Image | Samples:
        """Decode all pixels, set upright.

        Raises:
            UnusableImage: of an unsupported kind.
        """
        del min_side  # cannot be scaled while it is decoded
        is_misread = self.is_reversed or (self.is_planar and (self.is_deep or bool(self.extra)))  # by Pillow
        is_simple = self.color in GRAY_OR_RGB
        is_checked = self.compression in DEFLATE and set(self.bits) == {8}  # by tifffile, which compares checksums
        if self.sample_format not in (1, 2, 3, 4) or (is_misread and not is_simple):
            raise self._unsupported()
        if not is_simple or not (self.is_deep or is_misread or is_checked):
            return self._load_with_pillow()
        samples = self._split_alpha(_narrow(self._read_samples()))
        return set_upright(samples, self.orientation)

    def _split_alpha(self, values: NDArray[Any]) -> Samples:
        channels = CHANNELS[self.color]
        if values.shape[:2] != (self.height, self.width) or values.shape[2] < channels:
            raise self._unsupported()
        alpha = None
        if self.extra[:1] in ((SHARED_ALPHA,), (ALPHA,)) and values.shape[2] > channels:
            alpha = scale_alpha(values[:, :, channels], values[:, :, :channels])
        return Samples(values[:, :, :channels], alpha, self.extra[:1] == (SHARED_ALPHA,), self.color == 0)

    def _read_samples(self) -> NDArray[Any]:
        """Return (H, W, C) samples as stored, by tifffile, or by Pillow where that lacks the compression."""
        from tifffile import TiffFile

        logging.getLogger("tifffile").disabled = True
        self.stream.seek(0)
        try:
            with TiffFile(self.stream) as file:
                page = file.pages[0]
                if not page.is_contiguous and len(page.dataoffsets) < math.prod(page.chunked):  # else filled in
                    raise UnusableImage("damaged: it lacks pixels")
                values: NDArray[Any] = page.asarray(maxworkers=1)
        except (ValueError, RuntimeError, ImportError, KeyError) as error:
            if self.compression == 1 and max(self.bits) % 8 == 0:
                raise UnusableImage("damaged: its pixels cannot be read") from error
            return self._read_samples_with_pillow()
        if len(self.bits) > 1 and self.is_planar:
            return np.moveaxis(values, 0, -1)
        return values if values.ndim == 3 else values[..., None]

    def _read_samples_with_pillow(self) -> NDArray[Any]:
        image = self._load_with_pillow(as_stored=True)
        is_plain = not self.is_planar and self.extra[:1] != (SHARED_ALPHA,)  # which Pillow divides by
        if image.mode in ("RGB", "RGBA") and is_plain:  # the high byte of each sample
            high, low = np.asarray(image), np.asarray(self._load_with_pillow(as_stored=True, low_bytes=True))
            both: NDArray[np.uint16] = high.astype(np.uint16) << 8 | low
            return both
        values = np.asarray(image)[:, :, None]
        if image.mode.startswith("I;16"):
            return values.astype(np.uint16)
        if image.mode in ("I", "F"):
            return values.view(np.uint32) if image.mode == "I" and self.sample_format == 1 else values
        raise self._unsupported()

    def _load_with_pillow(self, *, as_stored: bool = False, low_bytes: bool = False) -> Image.Image:
        """Load with Pillow, set upright or as stored.

        Args:
            low_bytes: take the low byte of samples of 16 bits, in place of the high one.

        Raises:
            UnusableImage: Pillow does not know this kind.
        """
        if self.compression not in COMPRESSIONS:
            raise self._unsupported()
        self.stream.seek(0)
        try:
            image = Image.open(self.stream, formats=["TIFF"])
        except UnidentifiedImageError:
            raise self._unsupported() from None
        if low_bytes:  # decompressed samples have this machine's byte order
            rawmode = "16B" if sys.byteorder == "little" else "16L"
            first: Any = image.tile[0].args
            mode = first[0].partition(";")[0]
            image.tile = [tile._replace(args=(f"{mode};{rawmode}", *first[1:])) for tile in image.tile]
        image.load()
        palette: tuple[int, ...] = cast(Any, image).tag_v2.get(320, (256,))
        if image.mode == "P" and max(palette) < 256:  # of 8 bits, against the specification
            image.putpalette(np.reshape(palette, (3, -1)).T.astype(np.uint8).tobytes())
        return image.transpose(INVERSE[self.orientation]) if as_stored and self.orientation in INVERSE else image

    def _unsupported(self) -> UnusableImage:
        if self.compression not in COMPRESSIONS:
            name = COMPRESSION_NAMES.get(self.compression, f"number {self.compression}")
            return UnusableImage(f"unsupported TIFF ({name} compression)")
        samples = f"{max(self.bits)}-bit {TYPE_NAMES.get(self.sample_format, '')}"
        color = COLOR_NAMES.get(self.color, f"color {self.color}")
        return UnusableImage(f"unsupported TIFF ({samples}{color}, {len(self.bits)} bands)")


def open_tiff(stream: IO[bytes]) -> Tiff:
    """Read the tags of the first image.

    Raises:
        UnusableImage: camera raw, damaged, of more bands than its color and one more, or too large.
    """
    check_file_size(stream, MAX_CHECKSUM_BYTES)  # it may have many images, of which one is read
    stream.seek(0)
    start = stream.read(8)
    is_big = b"+" in start[2:4]
    start += stream.read(8) if is_big else b""
    tags = ImageFileDirectory_v2(b"II+\0" + start[4:] if is_big else start, prefix=start[:2])
    stream.seek(tags.next)
    tags.load(stream)
    if _read(tags, 254, 0) & 1 or 50706 in tags or _read(tags, 262, 1) in SENSOR_DATA or start[8:10] == b"CR":
        raise UnusableImage(CAMERA_RAW)  # the first image is the camera's thumbnail
    width, height, bands = _read(tags, 256, 0), _read(tags, 257, 0), _read(tags, 277, 1)
    if not width or not height:
        raise UnusableImage("damaged: its header cannot be read")
    check_pixels(width, height)
    color = _read(tags, 262, 1)
    tiff = Tiff(
        width,
        height,
        _read_all(tags, 258, (1,)) * (bands if len(_read_all(tags, 258, (1,))) == 1 else 1),
        _read(tags, 339, 1),
        color,
        _read_all(tags, 338, (ALPHA,) if bands == CHANNELS.get(color, bands) + 1 else ()),
        _read(tags, 284, 1) == 2,
        _read(tags, 259, 1),
        _read(tags, 274, 1) if _read(tags, 274, 1) in range(1, 9) else 1,
        bytes(tags.get(34675, b"")),
        start.startswith(b"MM\0+"),
        stream,
    )
    if bands > CHANNELS.get(color, 0) + 1:
        raise tiff._unsupported()
    return tiff


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Return signed and long integers that fit as unsigned ones of 16 bits, which have one scale in a folder."""
    is_candidate = values.dtype.kind in "iu" and values.dtype.itemsize > 1
    return values.astype(np.uint16) if is_candidate and values.min() >= 0 and values.max() < 2**16 else values


def _read(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return _read_all(tags, tag, (default,))[0]


def _read_all(tags: ImageFileDirectory_v2, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    return tuple(int(number) for number in values) or default
