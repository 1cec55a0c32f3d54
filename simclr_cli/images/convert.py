"""Conversion of decoded pixels to RGB: alpha over white, samples of more than 8 bits, color profiles to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

ROWS_PER_BLOCK = 256  # converted at once, to bound memory
MARKER = 65_535
MAX_ABOVE = 1 / 4  # share of values above the scale of other images; with more, an image is of another instrument
RANGES = {np.dtype(np.int8): (-128, 127), np.dtype(np.uint8): (0, 255)}
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


class Samples(NamedTuple):
    """Samples that do not fit in 8 bits."""

    values: NDArray[Any]  # (H, W, C), gray or RGB: integers, or floats
    alpha: NDArray[Any] | None = None  # (H, W), 0 to 1
    is_premultiplied: bool = False  # by alpha
    white_is_zero: bool = False
    bits: int | None = None  # the range that the file states; None: as many as its values use

    def count_bits(self) -> int:
        """Return how many bits unsigned values of 16 bits use, at least 1; 0 for other values, and a stated range."""
        if self.bits is not None or self.values.dtype != np.uint16:
            return 0
        return _count_bits(self.values)


def _count_bits(values: NDArray[np.uint16]) -> int:
    """Return how many bits values use; 65,535 marks what has no value, or is too bright, where no other is as large."""
    return max(1, int(values.max(initial=0, where=values < MARKER)).bit_length())


def scale_alpha(alpha: NDArray[Any], colors: NDArray[Any]) -> NDArray[np.float32]:
    """Return alpha as 0 to 1; of 16 bits, it uses as few as its colors if it fits in them."""
    most = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
    if alpha.dtype == np.uint16 and alpha.max() < 2 ** _count_bits(colors):
        most = 2 ** _count_bits(colors) - 1
    return alpha.astype(np.float32) / np.float32(most)


def convert_to_rgb(decoded: Image.Image | Samples, profile: bytes = b"", bits: int | None = None) -> Image.Image:
    """Convert to RGB of 8 bits, with alpha over white; the color profile stays with it, but for that of CMYK.

    Unsigned integers are scaled by the bits that they use, floats within 0..1 keep their scale, and other values are
    scaled from darkest to brightest. What is no number is as dark as the darkest.

    Args:
        bits: that unsigned values of 16 bits use in all images; None: in this one. Values above become white, but for
            an image that would be mostly white: it keeps its own scale.
    """
    if isinstance(decoded, Samples):
        image = _scale_to_rgb(decoded, bits)
    elif decoded.mode == "CMYK" and (transform := _create_transform(profile, "CMYK")):
        return _apply(transform, decoded)
    else:
        image = _lay_over_white(decoded).convert("RGB")
    image.info = {"icc_profile": profile} if profile[16:20] in _list_spaces(decoded) else {}
    return image


def _list_spaces(decoded: Image.Image | Samples) -> tuple[bytes, ...]:
    """Return the color spaces of profiles that may belong to an image; others are ignored, as by other programs."""
    if isinstance(decoded, Image.Image) and decoded.mode in ("CMYK", "LAB"):
        return ()
    is_gray = decoded.values.shape[2] == 1 if isinstance(decoded, Samples) else decoded.mode in ("1", "L", "LA", "La")
    return (b"RGB ", b"GRAY") if is_gray else (b"RGB ",)


def _lay_over_white(image: Image.Image) -> Image.Image:
    """Return RGBA over white; an image without alpha as it is."""
    if image.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in image.info:
        return image
    is_unused = image.format == "BMP" and image.getextrema()[-1] == (0, 0)
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image if is_unused else Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def convert_to_srgb(image: Image.Image) -> Image.Image:
    """Convert an RGB image by its embedded color profile, if it has one that is not sRGB already."""
    profile = image.info.get("icc_profile", b"")
    mode = "L" if profile[16:20] == b"GRAY" else "RGB"
    transform = _create_transform(profile, mode) if profile else None
    return _apply(transform, image.convert(mode)) if transform else image


def set_upright(decoded: Image.Image | Samples, orientation: int) -> Image.Image | Samples:
    """Rotate and mirror an image as its EXIF orientation, 1 to 8, says."""
    if isinstance(decoded, Image.Image):
        return decoded.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else decoded
    alpha = None if decoded.alpha is None else _set_array_upright(decoded.alpha, orientation)
    return decoded._replace(values=_set_array_upright(decoded.values, orientation), alpha=alpha)


def _set_array_upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rotate and mirror (H, W) or (H, W, C)."""
    array = array.swapaxes(0, 1) if orientation >= 5 else array
    array = array[::-1] if orientation in (3, 4, 7, 8) else array
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is not done in place
    converted.info = {}
    return converted


@lru_cache(maxsize=16)
def _create_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from a profile to sRGB; None if it changes nothing, does not fit, or is damaged."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _scale_to_rgb(samples: Samples, bits: int | None) -> Image.Image:
    """Scale samples to 0..255, block by block, since floats take much memory."""
    low, high = _find_range(samples, bits)
    height, width, channels = samples.values.shape
    is_scaled = samples.values.dtype == np.uint8 and samples.alpha is None and not samples.white_is_zero
    pixels = samples.values if is_scaled else np.empty((height, width, channels), np.uint8)
    for start in range(0, 0 if is_scaled else height, ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        values = samples.values[rows].astype(np.float64)
        if samples.values.dtype.kind == "f":
            np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
        values = np.clip((values - low) / ((high - low) or 1), 0, 1)
        if samples.white_is_zero:
            values = 1 - values
        if samples.alpha is not None:  # over white
            alpha = samples.alpha[rows][:, :, None]
            values = (values if samples.is_premultiplied else values * alpha) + 1 - alpha
        pixels[rows] = np.round(255 * np.clip(values, 0, 1))
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).convert("RGB")


def _find_range(samples: Samples, bits: int | None) -> tuple[float, float]:
    """Return the values that become black and white."""
    values = samples.values
    if samples.bits is not None:
        return 0, 2**samples.bits - 1
    if values.dtype in RANGES:
        return RANGES[values.dtype]
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f":
        return (0, 1) if low >= 0 and high <= 1 else (low, high)
    if low < 0:
        return low, high
    if values.dtype == np.uint16:
        top = 2 ** (bits or 16) - 1
        is_foreign = np.count_nonzero((values > top) & (values < MARKER)) > MAX_ABOVE * values.size
        return 0, 2 ** _count_bits(values) - 1 if is_foreign or bits is None else top
    return 0, 2 ** max(1, int(high).bit_length()) - 1
