"""Reading of JPEG files: whole ones only, by a decoder that tells of damage; bytes that do not matter are skipped."""

from __future__ import annotations

import contextlib
import os
import re
from typing import IO, Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from simclr_cli.images.convert import Samples, set_upright
from simclr_cli.images.formats import UnusableImage, check_file_size, check_pixels

EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"  # starts of APP segments
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # Huffman or arithmetic coding, baseline or progressive
SEQUENTIAL = {0xC0, 0xC1, 0xC9}
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}  # lossless or hierarchical
SCAN, APP1, APP2 = 0xDA, 0xE1, 0xE2
# What the decoder needs: frames, tables of quantization and coding, restarts, and the kind of color (JFIF, Adobe).
NEEDED = START_OF_FRAME | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
END = b"\xff\xd9"
TRAILER_BYTES = 2**16  # behind the end, read before all the pixels are
MAX_SCANS = 256  # progressive files have about ten; each takes time by the size of the image, not of the file


class Jpeg(NamedTuple):
    """An opened file: the content of the segments in front of its pixels."""

    width: int  # px, as stored
    height: int
    channels: int
    orientation: int  # 1 to 8, of EXIF
    profile: bytes  # ICC; empty if there is none
    tables: bytes  # segments that the decoder needs
    has_one_scan: bool  # that holds all pixels
    has_stray_bytes: bool  # between the segments in front of its pixels
    stream: IO[bytes]  # at the first scan's marker

    @property
    def is_deep(self) -> bool:
        """False: samples have 8 bits."""
        return False

    @property
    def note(self) -> str:
        """Damage outside of the pixels; empty if there is none."""
        start, size = self.stream.tell(), self.stream.seek(0, os.SEEK_END)
        for length in (len(END), TRAILER_BYTES, size):  # most often the end is last; phones add a trailer, or a video
            self.stream.seek(max(start, size - length))
            if END in self.stream.read():
                break
        else:
            return "the end is missing"
        return "bytes outside of the pixels are damaged" if self.has_stray_bytes else ""

    def load(self, min_side: int | None) -> Image.Image | Samples:
        """Decode all pixels, set upright: L, RGB, or CMYK as Pillow has it.

        Args:
            min_side: px; may be scaled while it is decoded, to no less than this on either side.

        Raises:
            UnusableImage: damaged, by the decoder's own warnings.
        """
        data = self.tables + self.stream.read()
        if data.find(END, len(self.tables)) < 0:
            if not self.has_one_scan:
                raise UnusableImage("damaged: its end is missing")
            data += END  # all pixels may be there all the same
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise UnusableImage(f"damaged: more than {MAX_SCANS} scans")
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[self.channels]
        options: dict[str, Any] = {"colorspace": "GRAY" if mode == "L" else mode}
        if min_side is not None:
            options |= {"min_height": min_side, "min_width": min_side, "min_factor": 2}
        try:
            pixels = simplejpeg.decode_jpeg(data, **options)
        except ValueError as error:
            if not _is_padded(data, str(error)):
                raise UnusableImage(f"damaged: {_shorten(str(error))}") from None
            pixels = simplejpeg.decode_jpeg(data, **options, strict=False)
        if mode == "CMYK":  # Adobe's are inverted, and there are no others
            image = Image.frombytes("CMYK", pixels.shape[1::-1], np.invert(pixels).tobytes())
        else:
            image = Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)
        return set_upright(image, self.orientation)


def open_jpeg(stream: IO[bytes]) -> Jpeg:
    """Read the segments in front of the pixels; those that are damaged or foreign are skipped.

    Raises:
        UnusableImage: no frame or no scan, of a kind that is not supported, or too large.
    """
    check_file_size(stream)
    stream.seek(2)
    tables, kind, frame, orientation = [b"\xff\xd8"], 0, b"", 0
    profile: dict[bytes, bytes] = {}
    has_stray_bytes = False
    while True:
        marker, is_after_others = _find_marker(stream)
        has_stray_bytes |= is_after_others
        if marker == SCAN:
            break
        if marker in OTHER_FRAMES:
            raise UnusableImage("unsupported JPEG (lossless or hierarchical)")
        segment = stream.read(max(0, int.from_bytes(stream.read(2)) - 2))
        if marker in NEEDED:
            tables.append(b"\xff%c%b%b" % (marker, (len(segment) + 2).to_bytes(2), segment))
        if marker in START_OF_FRAME:
            kind, frame = marker, segment
        elif marker == APP1:
            orientation = orientation or _read_orientation(segment)
        elif marker == APP2 and segment.startswith(ICC):
            profile[segment[len(ICC) : len(ICC) + 1]] = segment[len(ICC) + 2 :]
    scan = stream.read(3)
    stream.seek(-5, 1)
    if len(frame) < 6 or len(scan) < 3:
        raise UnusableImage("damaged: its header cannot be read")
    if frame[0] != 8:
        raise UnusableImage(f"unsupported JPEG ({frame[0]} bits)")
    height, width, channels = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5]), frame[5]
    if not height:
        raise UnusableImage("unsupported JPEG (its height follows its pixels)")
    check_pixels(width, height)
    if channels not in (1, 3, 4):
        raise UnusableImage(f"unsupported JPEG ({channels} channels)")
    icc = b"".join(part for _, part in sorted(profile.items()))
    has_one_scan = kind in SEQUENTIAL and scan[2] == channels
    return Jpeg(width, height, channels, orientation or 1, icc, b"".join(tables), has_one_scan, has_stray_bytes, stream)


def _find_marker(stream: IO[bytes]) -> tuple[int, bool]:
    """Return the next marker, and whether bytes in front of it were skipped."""
    is_after_others = False
    while byte := stream.read(1):
        if byte == b"\xff":
            while (byte := stream.read(1)) == b"\xff":
                pass
            if byte not in (b"", b"\0"):
                return byte[0], is_after_others
        is_after_others = True
    raise UnusableImage("damaged: it ends before its pixels")


def _read_orientation(segment: bytes) -> int:
    """Return the orientation of EXIF or XMP, 1 to 8, whatever is wrong with other tags; 0 if there is none."""
    if segment.startswith(EXIF):
        return read_orientation(segment)
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', segment) if segment.startswith(XMP) else None
    return int(found[1]) if found else 0


def read_orientation(exif: bytes) -> int:
    """Return the orientation of EXIF, 1 to 8, whatever is wrong with other tags; 0 if there is none."""
    with contextlib.suppress(Exception):  # untrusted bytes
        tags = Image.Exif()
        tags.load(exif)
        value = tags.get(ExifTags.Base.Orientation, 0)
        return value if value in range(1, 9) else 0
    return 0


def _is_padded(data: bytes, warning: str) -> bool:
    """Return whether a warning is only of padding, equal bytes between the pixels and the end, as some cameras write.

    Other surplus bytes show that pixels before them are wrong.
    """
    surplus = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    end = data.find(END, data.find(b"\xff\xda"))
    return surplus is not None and len(set(data[end - int(surplus[1]) : end])) == 1


def _shorten(warning: str) -> str:
    """Return a warning without numbers, so that equal reasons can be counted."""
    text = re.sub(r"^Corrupt JPEG data: |\d+ | before marker 0x\w+| (type )?0x\w+", "", warning)
    return text[:1].lower() + text[1:]
