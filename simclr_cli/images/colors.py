"""Colors of a folder's images, by the pixels of a sample: whether they are gray, or have two colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_cli.images.census import Census
from simclr_cli.images.decode import Pixels
from simclr_cli.images.thumbnails import make_thumbnails

SAMPLED_IMAGES, SIDE = 24, 256  # px
MAX_GRAY_RANGE = 3  # of 255, between the channels of a gray image: JPEG rounds
SAME_COLOR, OTHER_COLOR = 24, 96  # of 255, in the channel of the largest difference
SOFT_EDGE = 0.25  # of the way from one color to the other: strokes of a few pixels hardly reach their color
MIN_TWO_COLOR_PIXELS, MIN_SECOND_COLOR = 0.85, 0.01  # shares
MIN_TWO_COLOR_IMAGES = 0.9  # share of the sample


@dataclass(frozen=True)
class Colors:
    """The colors of a folder's images."""

    sampled: int = 0  # images; 0: unknown
    are_gray: bool = False  # all sampled ones
    have_two: bool = False  # most of them: characters, line drawings, masks


UNKNOWN_COLORS = Colors()


def sample_colors(census: Census, workers: int) -> Colors:
    """Decode a few images, evenly spaced in the census, and describe their colors."""
    places = np.linspace(0, len(census.images) - 1, min(SAMPLED_IMAGES, len(census.images))).round().astype(int)
    paths = [census.path(census.images[place]) for place in places.tolist()]
    return describe_colors([pixels for pixels in make_thumbnails(paths, SIDE, workers) if pixels is not None])


def describe_colors(images: Sequence[Pixels]) -> Colors:
    """Describe the colors of (H, W, 3) uint8 images of any size."""
    if not images:
        return UNKNOWN_COLORS
    two = np.mean([has_two_colors(pixels) for pixels in images])
    return Colors(len(images), all(map(is_gray, images)), bool(two >= MIN_TWO_COLOR_IMAGES))


def is_gray(pixels: Pixels) -> bool:
    """Return whether (H, W, 3) uint8 pixels are without color."""
    wide = pixels.astype(np.int16)
    return int((wide.max(axis=2) - wide.min(axis=2)).max()) <= MAX_GRAY_RANGE


def has_two_colors(pixels: Pixels) -> bool:
    """Return whether nearly all of (H, W, 3) uint8 pixels have, or nearly, one of two colors that differ clearly."""
    values = pixels.reshape(-1, 3).astype(np.int16)
    first = _find_commonest(values)
    distances = np.abs(values - first).max(axis=1)
    second = np.median(values[distances >= np.quantile(distances, 1 - MIN_SECOND_COLOR)], axis=0)
    line = second - first
    if np.abs(line).max() < OTHER_COLOR:
        return False
    place = (values - first) @ line / (line @ line)  # 0: the first color, 1: the second
    is_mixed = np.abs(values - first - place[:, None] * line).max(axis=1) <= SAME_COLOR
    is_pure = (place <= SOFT_EDGE) | (place >= 1 - SOFT_EDGE)
    return float((is_mixed & is_pure).mean()) >= MIN_TWO_COLOR_PIXELS


def _find_commonest(values: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the median of the most frequent of 4,096 equal cubes of colors (M, 3)."""
    cubes = (values >> 4) @ np.array([256, 16, 1], np.int16)
    median: NDArray[np.float64] = np.median(values[cubes == np.bincount(cubes).argmax()], axis=0)
    return median.astype(np.int16)
