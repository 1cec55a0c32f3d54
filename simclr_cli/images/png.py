"""Reading of PNG files: pixels whose checksums hold; other chunks are skipped without inflating them."""

from __future__ import annotations

import io
import zlib
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.images.convert import Samples, scale_alpha, set_upright
from simclr_cli.images.formats import UnusableImage, check_file_size, check_pixels
from simclr_cli.images.jpeg import read_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 2**22
GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # types of color
PIXELS, END = b"IDAT", b"IEND"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", PIXELS)  # for the pixels
USED = (*NEEDED, b"iCCP", b"eXIf", b"CgBI")
MAX_CHUNK_BYTES = 2**24  # of chunks other than pixels; longer ones are skipped


class Png(NamedTuple):
    """An opened file: all but its pixels."""

    width: int  # px, as stored
    height: int
    bits: int  # of a sample
    color: int  # type
    chunks: dict[bytes, bytes]
    orientation: int  # 1 to 8, of EXIF
    note: str  # damage outside of the pixels
    stream: IO[bytes]

    @property
    def profile(self) -> bytes:
        """The ICC profile; empty if there is none, or it is damaged."""
        content = self.chunks.get(b"iCCP", b"")
        try:
            return zlib.decompressobj().decompress(content[content.index(b"\0") + 2 :], MAX_PROFILE_BYTES)
        except (ValueError, zlib.error):
            return b""

    @property
    def is_deep(self) -> bool:
        """True if samples have 16 bits."""
        return self.bits == 16

    def load(self, min_side: int | None) -> Image.Image | Samples:
        """Decode all pixels, set upright.

        Raises:
            UnusableImage: a checksum of what matters is wrong, or it is cut.
        """
        del min_side  # cannot be scaled while it is decoded
        self.stream.seek(len(SIGNATURE))
        pixels = [_pack(kind, data) for kind, data in _read_chunks(self.stream, of_pixels=True)[0]]
        image = self._read_samples(pixels) if self.is_deep else _open(self.chunks, pixels)
        return set_upright(image, self.orientation)

    def _read_samples(self, pixels: list[bytes]) -> Samples:
        if self.color == GRAY:
            values = np.asarray(_open(self.chunks, pixels))[:, :, None]
        elif self.color == GRAY_ALPHA:  # four bytes, which RGBA of 8 bits has too
            header = self.chunks[b"IHDR"]
            bytes_ = np.asarray(_open({b"IHDR": header[:8] + bytes([8, RGB_ALPHA]) + header[10:]}, pixels))
            values = bytes_.reshape(self.height, self.width, 2, 2).view(">u2")[..., 0].astype(np.uint16)
        else:
            high, low = (_open(self.chunks, pixels, rawmode) for rawmode in ("16B", "16L"))
            values = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
        return self._split_alpha(values)

    def _split_alpha(self, values: NDArray[np.uint16]) -> Samples:
        if self.color in (GRAY_ALPHA, RGB_ALPHA):
            return Samples(values[:, :, :-1], scale_alpha(values[:, :, -1], values[:, :, :-1]))
        if transparent := self.chunks.get(b"tRNS"):
            color = np.frombuffer(transparent, ">u2", values.shape[2])
            return Samples(values, (values != color).any(axis=2).astype(np.float32))
        return Samples(values)


def open_png(stream: IO[bytes]) -> Png:
    """Read what precedes and follows the pixels.

    Raises:
        UnusableImage: its header is damaged, or it is too large.
    """
    check_file_size(stream)
    stream.seek(len(SIGNATURE))
    found, note = _read_chunks(stream, of_pixels=False)
    chunks = dict(found)
    header = chunks.get(b"IHDR", b"")
    if b"CgBI" in chunks:
        raise UnusableImage("unsupported PNG (changed by Apple for iOS)")
    if len(header) != 13:
        raise UnusableImage("damaged: its header cannot be read")
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    check_pixels(width, height)
    orientation = read_orientation(chunks.get(b"eXIf", b""))
    return Png(width, height, header[8], header[9], chunks, orientation or 1, note, stream)


def _read_chunks(stream: IO[bytes], *, of_pixels: bool) -> tuple[list[tuple[bytes, bytes]], str]:
    """Return the chunks of pixels, or the others that are used, in order; and a note of damage that does not matter.

    Raises:
        UnusableImage: a checksum of one that matters is wrong, or it is cut.
    """
    chunks: list[tuple[bytes, bytes]] = []
    note = ""
    while len(start := stream.read(8)) == 8:
        length, kind = int.from_bytes(start[:4]), start[4:]
        if kind == END:
            return chunks, note
        if (kind == PIXELS) != of_pixels or (length > MAX_CHUNK_BYTES and not of_pixels):
            stream.seek(length + 4, 1)
            continue
        data, checksum = stream.read(length), stream.read(4)
        is_cut = len(data) < length or len(checksum) < 4
        if not is_cut and zlib.crc32(data, zlib.crc32(kind)) == int.from_bytes(checksum):
            chunks += [(kind, data)] if kind in USED else []
        elif kind in NEEDED:
            raise UnusableImage("damaged: it is cut" if is_cut else "damaged: a checksum is wrong")
        else:
            note = "bytes outside of the pixels are damaged"
    return chunks, note or "the end is missing"


def _open(chunks: dict[bytes, bytes], pixels: list[bytes], rawmode: str = "") -> Image.Image:
    """Decode with Pillow from what matters only. `rawmode`: end of Pillow's, which picks one byte of each sample."""
    small = [_pack(kind, chunks[kind]) for kind in (b"IHDR", b"PLTE", b"tRNS") if kind in chunks]
    stream = io.BytesIO(b"".join([SIGNATURE, *small, *pixels, _pack(b"IEND", b"")]))
    image = Image.open(stream, formats=["PNG"])
    if rawmode:
        image.tile = [tile._replace(args=f"{image.mode};{rawmode}") for tile in image.tile]
    image.load()
    if image.mode == "L" and "transparency" in image.info:  # of the values of fewer bits, Pillow scales all but this
        image.info["transparency"] *= 255 // (2 ** chunks[b"IHDR"][8] - 1)
    return image


def _pack(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4)
