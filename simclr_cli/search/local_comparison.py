"""Comparison of images block by block, which tells near-duplicates from different pages of one template.

Images are compared as grayscale squares, at several resolutions, the lowest first. In each block, the structure of one
image (what differs from the block's mean) must be found in the other one, up to one gain for the whole image. One
direction is enough: a blurred or smaller copy lacks detail, but adds none. Otherwise all that differs must be lighter,
or all be darker: an overlay, such as a watermark. Text in place of other text is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

SIDE = 256  # px of the squares
# Chosen on drawn receipts, forms and screens and on photos changed by us, and measured on others: docs/benchmarks.md.
MAX_LOST = {64: 0.3, 128: 0.45, 256: 0.6}  # by resolution in px: structure of the worst block that the other lacks
DETAIL_SIDES = (512, 1_024)  # px, of files that may be moved: a number in small print changes nothing at 256 px
MAX_LOST_DETAIL = 0.6
MIN_LOST, MAX_OVER_TYPICAL = 0.2, 3.0  # of the worst block: at most the first, and this many times that of others
MAX_AGAINST, MAX_AGAINST_RATIO = 0.2, 0.03  # of an overlay: energy of the other sign, and its ratio to the overlay's
BLOCK, STRIDE = 8, 4  # px
NOISE = 10.0  # gray levels that recompression may change: weaker structure counts less
PAIRS_AT_ONCE = 64
MAX_SQUARES = 2_560  # kept in memory, of 64 kB: above those of a block of `find_similar_pairs`


class Match(IntEnum):
    """Result of a comparison; all but the first are near-duplicates."""

    DIFFERENT = 0
    SAME = 1
    OVERLAY_ON_FIRST = 2
    OVERLAY_ON_SECOND = 3


@dataclass(frozen=True, eq=False)
class Squares:
    """Grayscale squares of images, decoded when they are compared."""

    decode: Callable[[Sequence[int]], Sequence[NDArray[np.uint8] | None]]  # rows -> (256, 256, 3) each; None: unusable
    sides: NDArray[np.int64]  # (N,) px, the short side of each image
    cached: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def match(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return (n,) the `Match` of each pair of images."""
        matches = np.zeros(len(i), np.int8)
        for start in range(0, len(i), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            matches[part] = match_squares(*self.read_pairs(i[part], j[part]))
        return matches

    def read_pairs(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Return the squares of pairs of images and the sides of the smaller ones, as `match_squares` takes them."""
        rows, places = np.unique(np.stack([i, j]), return_inverse=True)
        squares = torch.from_numpy(self._read(rows.tolist()))
        first, second = torch.from_numpy(places.reshape(2, -1))
        return squares[first], squares[second], np.minimum(self.sides[i], self.sides[j])

    def _read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return (n, 256, 256); NaN for unusable images, which match none."""
        missing = [row for row in rows if row not in self.cached]
        squares = {row: self.cached.pop(row) for row in rows if row in self.cached}
        for row, pixels in zip(missing, self.decode(missing), strict=True):
            if pixels is not None:
                squares[row] = (pixels @ np.array([0.299, 0.587, 0.114], np.float32)).round().astype(np.uint8)
        self.cached.update(squares)  # as the newest
        for row in list(self.cached)[: max(0, len(self.cached) - MAX_SQUARES)]:
            del self.cached[row]
        unusable = np.full((SIDE, SIDE), np.nan, np.float32)
        return np.stack([squares.get(row, unusable) for row in rows]).astype(np.float32)


def match_squares(first: Tensor, second: Tensor, sides: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return (n,) the `Match` of each pair of squares.

    Args:
        first, second: (n, 256, 256) float32, gray levels.
        sides: (n,) px, the short side of the smaller image of a pair: it has no detail above that resolution.
    """
    matches = np.full(len(first), Match.SAME, np.int8)
    for side, max_lost in MAX_LOST.items():
        has_detail = (4 * sides >= 3 * side) | (side == min(MAX_LOST))
        places = np.flatnonzero(has_detail & (matches != Match.DIFFERENT))
        if len(places):
            a, b = (avg_pool2d(squares[places, None], SIDE // side) for squares in (first, second))
            is_same = torch.stack([worst <= max_lost for worst in measure_lost_structure(a, b)]).any(dim=0)
            overlay = torch.where(is_overlay(a, b), _find_richer(a, b), Match.DIFFERENT)
            found = torch.where(is_same, torch.from_numpy(matches[places]), overlay.to(torch.int8))
            matches[places] = found.numpy()
    return matches


def list_detailed_sides(side: int) -> list[int]:
    """Return the resolutions at which the details of images of a short side are compared."""
    return [resolution for resolution in DETAIL_SIDES if 4 * side >= 3 * resolution]


def have_same_details(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Return whether two images that match as squares of 256 px also do so at higher resolutions.

    Args:
        first, second: (side, side, 3), of one of `DETAIL_SIDES`.
    """
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    a, b = (torch.from_numpy(pixels @ weights)[None, None] for pixels in (first, second))
    factors = [len(first) // resolution for resolution in DETAIL_SIDES if resolution <= len(first)]
    lost = (measure_lost_structure(avg_pool2d(a, factor), avg_pool2d(b, factor)) for factor in factors)
    return all(min(float(worst) for worst in both) <= MAX_LOST_DETAIL for both in lost)


def measure_lost_structure(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Measure what part of the structure of a's worst block b lacks, and the other way round.

    Args:
        a, b: (n, 1, side, side), gray levels.

    Returns:
        (n,) each: 0 for the same image, 1 for an independent one. Infinite where the worst block stands out: a copy
        loses detail in many blocks, a page with another number in one field differs in few.
    """
    variance_a, variance_b, covariance = _measure_blocks(a, b)
    worst = []
    for variance in (variance_a, variance_b):
        gain = variance.sum(dim=1) / covariance.sum(dim=1).clamp(min=1e-3)
        lost = (variance - covariance * gain[:, None]) / (variance + NOISE**2)
        structured = lost.masked_fill(variance <= NOISE**2, torch.nan)
        typical = torch.nanquantile(structured, 0.95, dim=1).nan_to_num(0).clamp(min=0)
        most = lost.amax(dim=1)
        worst.append(most.masked_fill(most > MIN_LOST + MAX_OVER_TYPICAL * typical, torch.inf))
    return worst[0], worst[1]


def is_overlay(a: Tensor, b: Tensor) -> Tensor:
    """Return (n,) whether one image is the other one with something laid over it that only lightens, or only darkens.

    Args:
        a, b: (n, 1, side, side), gray levels.
    """
    a, b = (avg_pool2d(image, 3, 1, 1, count_include_pad=False) for image in (a, b))  # less noise
    variance_a, variance_b, covariance = _measure_blocks(a, b)
    scale = torch.minimum(variance_a, variance_b) + NOISE**2
    found = torch.zeros(len(a), dtype=torch.bool)
    for image, base, variance in ((a, b, variance_b), (b, a, variance_a)):
        gain = covariance.sum(dim=1) / variance.sum(dim=1).clamp(min=1e-3)
        rest = image - gain[:, None, None, None] * base
        rest = rest - rest.flatten(1).median(dim=1).values[:, None, None, None]
        energies = (avg_pool2d((sign * rest).clamp(min=0).square(), BLOCK, STRIDE).flatten(1) for sign in (1, -1))
        lighter, darker = ((energy / scale).amax(dim=1) for energy in energies)
        against, overlay = torch.minimum(lighter, darker), torch.maximum(lighter, darker)
        found |= (against <= MAX_AGAINST) & (against <= MAX_AGAINST_RATIO * overlay)
    return found


def _find_richer(a: Tensor, b: Tensor) -> Tensor:
    """Return (n,) the `Match` that says which image has the overlay: the one with a block of more structure."""
    variance_a, variance_b, _ = _measure_blocks(a, b)
    excess = (variance_a - variance_b) / (torch.minimum(variance_a, variance_b) + NOISE**2)
    return torch.where(excess.amax(dim=1) > -excess.amin(dim=1), Match.OVERLAY_ON_FIRST, Match.OVERLAY_ON_SECOND)


def _measure_blocks(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (n, blocks) each: the variance of a, of b, and their covariance."""
    mean_a, mean_b = avg_pool2d(a, BLOCK, STRIDE), avg_pool2d(b, BLOCK, STRIDE)
    variance_a = avg_pool2d(a * a, BLOCK, STRIDE) - mean_a * mean_a
    variance_b = avg_pool2d(b * b, BLOCK, STRIDE) - mean_b * mean_b
    covariance = avg_pool2d(a * b, BLOCK, STRIDE) - mean_a * mean_b
    return variance_a.clamp(min=0).flatten(1), variance_b.clamp(min=0).flatten(1), covariance.flatten(1)
