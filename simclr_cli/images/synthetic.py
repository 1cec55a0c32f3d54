"""Synthetic folder of patterned images for `simclr demo`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

from simclr_cli.core.files import prepare_folder, write_file

Plane = NDArray[np.floating[Any]]  # one number per pixel, shape (height, width)
Mask = NDArray[np.bool_]  # the same shape: True where a pattern is inked

SUPERSAMPLING = 2  # patterns are drawn this many times larger, then averaged down for soft edges
PERIODS = (3.0, 4.3)  # fewest and most repeats of a pattern along an image's shorter side
ODD_EVERY = 8  # one image in this many has an odd shape, mode or format


# A pattern maps coordinates `u` and `v`, in periods, to where there is ink (plaid: to how much).
# Line widths vary between images, so that the share of ink does not reveal the pattern.


def _cell(x: Plane) -> Plane:
    """Return the signed distance of `x` from the center of its unit cell, in [-0.5, 0.5)."""
    return x - np.floor(x) - 0.5


def _stripes(u: Plane, v: Plane, rng: Generator) -> Mask:
    return np.abs(_cell(u)) < rng.uniform(0.15, 0.35)


def _checks(u: Plane, v: Plane, rng: Generator) -> Mask:
    return (_cell(u * 0.75) < 0) ^ (_cell(v * 0.75) < 0)


def _dots(u: Plane, v: Plane, rng: Generator) -> Mask:
    return np.hypot(_cell(u), _cell(v)) < rng.uniform(0.24, 0.36)


def _rings(u: Plane, v: Plane, rng: Generator) -> Mask:
    radius = np.hypot(_cell(u), _cell(v))
    return (np.abs(radius - 0.36) < rng.uniform(0.06, 0.1)) | (radius < 0.14)


def _zigzag(u: Plane, v: Plane, rng: Generator) -> Mask:
    bend = rng.uniform(1.2, 2.0) * np.abs(_cell(u * 0.8))
    return np.abs(_cell(v * 1.2 + bend)) < rng.uniform(0.15, 0.35)


def _bricks(u: Plane, v: Plane, rng: Generator) -> Mask:
    mortar = rng.uniform(0.06, 0.11)
    shift = np.floor(v * 1.3) / 2  # every other course starts half a brick later
    to_side = (0.5 - np.abs(_cell(u * 0.65 + shift))) / 0.65
    to_bed = (0.5 - np.abs(_cell(v * 1.3))) / 1.3
    return np.minimum(to_side, to_bed) < mortar


def _honeycomb(u: Plane, v: Plane, rng: Generator) -> Mask:
    # Hexagon centers form two interleaved grids; a pixel belongs to the nearer one's cell.
    half = math.sqrt(3) / 2
    x, y = np.abs(_cell(u * 1.2)), np.abs(_cell(v * 1.2 / (2 * half))) * (2 * half)
    here = np.maximum(x, x / 2 + y * half)
    other = np.maximum(0.5 - x, (0.5 - x) / 2 + (half - y) * half)
    return np.minimum(here, other) > 0.5 - rng.uniform(0.06, 0.13)


def _scales(u: Plane, v: Plane, rng: Generator) -> Mask:
    # Discs in staggered rows half a period apart; each row lies on top of the one before it.
    row = np.floor(v * 2)
    behind = np.hypot(_cell(u + row / 2), v - row / 2)
    front = np.hypot(_cell(u + (row + 1) / 2), v - (row + 1) / 2)
    return np.where(front < 0.5, front, behind) > 0.5 - rng.uniform(0.08, 0.14)


def _triangles(u: Plane, v: Plane, rng: Generator) -> Mask:
    y = v * (2 / math.sqrt(3))
    return _cell(u - y / 2) + _cell(y) < 0


def _plaid(u: Plane, v: Plane, rng: Generator) -> Plane:
    width = rng.uniform(0.18, 0.32)
    return np.float32(0.5) * (np.abs(_cell(u)) < width) + np.float32(0.5) * (np.abs(_cell(v)) < width)


PATTERNS: dict[str, Callable[[Plane, Plane, Generator], Mask | Plane]] = {
    "bricks": _bricks, "checks": _checks, "dots": _dots, "honeycomb": _honeycomb, "plaid": _plaid,
    "rings": _rings, "scales": _scales, "stripes": _stripes, "triangles": _triangles, "zigzag": _zigzag,
}  # fmt: skip
CLASSES: tuple[str, ...] = tuple(PATTERNS)


# An image is one pattern, rotated, shifted, scaled and bent at random, in two random colors with uneven light.


def _grid(width: int, height: int) -> tuple[Plane, Plane]:
    """Return each pixel's x and y: 0 in the center of the image, its shorter side 1 long."""
    y, x = np.indices((height, width), np.float32)
    return (x + 0.5 - width / 2) / min(width, height), (y + 0.5 - height / 2) / min(width, height)


def _warp(x: Plane, y: Plane, rng: Generator) -> tuple[Plane, Plane]:
    """Bend, rotate, scale and shift the coordinates into periods of the pattern."""
    bend, waves, start = rng.uniform(0, 0.03, 2), rng.uniform(3, 7, 2), rng.uniform(0, 2 * math.pi, 2)
    bent_x = x + float(bend[0]) * np.sin(float(waves[0]) * y + float(start[0]))
    bent_y = y + float(bend[1]) * np.sin(float(waves[1]) * x + float(start[1]))
    periods, angle = rng.uniform(*PERIODS), rng.uniform(0, 2 * math.pi)
    cos, sin = periods * math.cos(angle), periods * math.sin(angle)
    return cos * bent_x - sin * bent_y + rng.uniform(0, 8), sin * bent_x + cos * bent_y + rng.uniform(0, 8)


def _draw_colors(rng: Generator) -> NDArray[np.float32]:
    """Return the colors of ground and ink, shape (2, 3) in [0, 1]: one dark, one light, in either order.

    Hues are independent of patterns; the brightness differs so that a grayscale image still shows its pattern.
    """
    hue = rng.random((2, 1)) + np.array([0, 1 / 3, 2 / 3])
    pure = 0.5 + 0.5 * np.cos(2 * math.pi * hue)
    tint = 1 - rng.uniform([[0.2], [0.1]], [[0.9], [0.6]]) * (1 - pure)
    dark, light = tint * rng.uniform([[0.1], [0.8]], [[0.55], [1.0]])
    ground, ink = (dark, light) if rng.random() < 0.5 else (light, dark)
    return np.stack([ground, ground + rng.uniform(0.5, 1) * (ink - ground)]).astype(np.float32)


def draw_image(class_name: str, rng: Generator, width: int, height: int) -> Image.Image:
    """Draw one RGB image, `width` x `height` pixels: the class is its pattern, all else is random."""
    u, v = _warp(*_grid(width * SUPERSAMPLING, height * SUPERSAMPLING), rng)
    supersampled = PATTERNS[class_name](u, v, rng).astype(np.float32)
    inked = supersampled.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean((1, 3))[..., None]
    ground, ink = _draw_colors(rng)
    x, y = _grid(width, height)
    light = 1 + rng.uniform(-0.35, 0.35) * x + rng.uniform(-0.35, 0.35) * y
    noise = rng.uniform(0, 0.03) * rng.standard_normal((height, width, 3), np.float32)
    pixels = (ground + inked * (ink - ground)) * light[..., None] + noise
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


# Files are mostly plain PNG and JPEG, and a few of every kind that real folders hold.


class Kind(NamedTuple):
    """Format, mode and shape in which an image is stored."""

    suffix: str
    mode: str = "RGB"
    width: float = 1.0  # as a share of the usual size, as is `height`
    height: float = 1.0
    sideways: bool = False  # stored on its side, with the EXIF orientation that corrects it


PLAIN = (Kind("png"), Kind("jpg"))
ODD = (
    Kind("png", width=1.5, height=0.75),
    Kind("jpg", width=0.75, height=1.5),
    Kind("png", width=0.5, height=0.5),
    Kind("jpg", width=1.5, height=1.5),
    Kind("jpg", width=1.5, height=0.75, sideways=True),
    *(Kind("png", mode) for mode in ("L", "LA", "P", "RGBA", "I;16")),
    Kind("jpg", "CMYK"),
    Kind("gif", "P"),
    *(Kind(suffix) for suffix in ("webp", "avif", "bmp", "tiff", "ppm")),
)


def _choose_kind(class_index: int, i: int) -> Kind:
    """Choose how to store image `i` of a class; classes start at different kinds, so that small folders vary too."""
    if i % ODD_EVERY != ODD_EVERY // 2:
        return PLAIN[i % len(PLAIN)]
    kind = ODD[(2 * class_index + i // ODD_EVERY) % len(ODD)]
    return Kind("webp") if kind.suffix == "avif" and not features.check("avif") else kind


def _convert_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an RGB image to `mode`; its alpha, if any, fades out towards the lower right corner."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)  # 255 becomes 65,535
    if mode == "P":
        return image.quantize(64)
    converted = image.convert(mode)
    if mode.endswith("A"):
        x, y = _grid(*image.size)
        converted.putalpha(Image.fromarray(((1.25 - x - y).clip(0.25, 1) * 255).astype(np.uint8)))
    return converted


def _save(image: Image.Image, path: Path, kind: Kind) -> None:
    stored = _convert_mode(image, kind.mode)
    options: dict[str, Any] = {"compress_level": 1}  # PNG's fastest; other formats ignore it
    if kind.sideways:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # upright after a clockwise rotation by 90 degrees
        stored, options = stored.transpose(Image.Transpose.ROTATE_90), {"exif": exif}
    image_format = Image.registered_extensions()[path.suffix]
    write_file(path, lambda stream: stored.save(stream, image_format, **options))


def draw_images(folder: Path, *, seed: int, count: int = 1600, size: int = 96) -> list[Path]:
    """Write `folder/<class>/<0000>.<suffix>`, most of them `size` pixels a side, and return the paths.

    Every image has its own random numbers, so that a larger count begins with the same images.
    """
    for class_name in CLASSES:
        prepare_folder(folder / class_name)
    paths = []
    for number in range(count):
        i, class_index = divmod(number, len(CLASSES))
        kind = _choose_kind(class_index, i)
        rng = np.random.default_rng([seed, class_index, i])
        image = draw_image(CLASSES[class_index], rng, round(size * kind.width), round(size * kind.height))
        paths.append(folder / CLASSES[class_index] / f"{i:04d}.{kind.suffix}")
        _save(image, paths[-1], kind)
    return paths
