"""Mirrored, rotated and cropped duplicates: proposed by colors, compared block by block with the transform undone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from simclr_cli.engine.nearest import Vectors, find_similar_pairs
from simclr_cli.images.fingerprints import COLOR_SIDE, correlation, standardize
from simclr_cli.images.groups import join_pairs
from simclr_cli.search.local_comparison import SIDE, Match, match_squares
from simclr_cli.search.near_duplicates import ComparedImages, LazyRows, Progress, select_apart

# Chosen on clothing/validation: docs/benchmarks.md.
MIN_ORIENTED_CORRELATION = 0.97  # of the downscaled colors of an image and a mirrored or rotated one
MIN_WINDOW_CORRELATION = 0.9  # of those of a crop and the most similar window of the other image
MIN_ALIGNED_CORRELATION = 0.95  # of the gray levels of the two, once aligned at ALIGNED_SIDES
MAX_UNEXPLAINED = 0.3  # of what two images differ by: it may remain at EXPLAINED_SIDE px once the transform is undone
EXPLAINED_SIDE = 64
MAX_KEPT_AREA = 0.97  # of a crop; more is a near-duplicate, or is none
WINDOW_SIDES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79)  # of a crop, as parts of the image's
WINDOW_PLACES = 5  # at which each is tried, along each side
MIN_WINDOW_SIDE = 0.77  # after the alignment
MAX_ASPECT_ERROR = 0.02  # of a window, since the tried sides are in steps
TOLERANCE = 0.01  # of the place of a window
MAX_STEP = 0.05  # of an alignment, as a part of the window
ALIGNED_SIDES = {32: 6, 64: 4, 128: 3, 256: 2}  # px, and the steps at each
PAIRS_AT_ONCE = 32
PAIRS_PER_JOIN = 2_048
CROPPED, UNCROPPED = "cropped", "uncropped"  # a crop of the best image, or the best image is one of it


def orient(squares: Tensor, orientation: int) -> Tensor:
    """Mirror (..., H, H) squares if `orientation` is odd, then rotate them clockwise by 90 degrees times its half."""
    mirrored = squares.flip(-1) if orientation % 2 else squares
    return mirrored.rot90(-(orientation // 2), (-2, -1))


def describe_orientation(orientation: int) -> str:
    """Return such as "mirrored", for the orientations 1 to 7."""
    rotated = f"rotated by {90 * (orientation // 2)} degrees" if orientation > 1 else ""
    return " and ".join(filter(None, ("mirrored" if orientation % 2 else "", rotated)))


ORIENTATIONS = {describe_orientation(orientation): orientation for orientation in range(8)}  # "": as it is


def describe_in_any_orientation(colors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n, 768) rows of length 1, equal for mirrored and rotated colors.

    Mirroring changes only the signs of an orthonormal cosine transform, a rotation also swaps rows and columns.
    Neither absolute values nor sorting make two rows less similar, so no pair that is similar is missed.
    """
    angles = np.pi / COLOR_SIDE * np.arange(COLOR_SIDE)[:, None] * (np.arange(COLOR_SIDE) + 0.5)
    waves = np.cos(angles) * np.where(np.arange(COLOR_SIDE) == 0, 1, 2**0.5)[:, None] / COLOR_SIDE**0.5
    planes = standardize(colors).reshape(-1, COLOR_SIDE, COLOR_SIDE, 3).transpose(0, 3, 1, 2)
    spectrum = np.abs(waves @ planes @ waves.T)
    turned = spectrum.swapaxes(2, 3)
    is_upper = np.triu(np.ones((COLOR_SIDE, COLOR_SIDE), bool))
    rows = np.where(is_upper, np.maximum(spectrum, turned), np.minimum(spectrum, turned))
    return np.asarray(rows.reshape(len(colors), -1), np.float32)


@cache
def _window_matrices() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (W, 2) start and length of windows along a side, and (W, 16, 16) the matrices that sample them."""
    places = np.linspace(0, 1, WINDOW_PLACES)
    windows = np.array(sorted({(float(place * (1 - side)), side) for side in WINDOW_SIDES for place in places}))
    samples = windows[:, :1] + windows[:, 1:] * (np.arange(COLOR_SIDE) + 0.5) / COLOR_SIDE  # (W, 16)
    distances = np.abs((samples * COLOR_SIDE - 0.5).clip(0, COLOR_SIDE - 1)[:, :, None] - np.arange(COLOR_SIDE))
    return windows.astype(np.float32), (1 - distances).clip(0).astype(np.float32)  # linear interpolation


def find_windows(
    colors: NDArray[np.uint8], others: NDArray[np.uint8], aspects: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the window of an image that is most similar to each of others, as colors of 16 px.

    Args:
        colors: (768,).
        others: (n, 768).
        aspects: (n,) width over height of each of the others, over that of the image.

    Returns:
        (n, 4) left, top, width and height, as parts of the image's sides; and (n,) the correlations.
    """
    spans, matrices = _window_matrices()
    pixels = colors.reshape(COLOR_SIDE, COLOR_SIDE, 3).astype(np.float32)
    axes = [axis.reshape(-1) for axis in np.meshgrid(np.arange(len(spans)), np.arange(len(spans)))]
    windows = np.concatenate([spans[axis] for axis in axes], axis=1)[:, [0, 2, 1, 3]]
    has_aspect = np.abs(np.log(windows[:, 2] / windows[:, 3])[:, None] - np.log(aspects)) <= MAX_ASPECT_ERROR
    tried = has_aspect.any(axis=1)
    if not tried.any():
        return np.ones((len(others), 4), np.float32), np.full(len(others), -1, np.float32)
    across = np.einsum("qbk,jkc->qjbc", matrices, pixels)  # (W, 16, 16, 3)
    sampled = np.einsum("waj,wjbc->wabc", matrices[axes[1][tried]], across[axes[0][tried]], optimize=True)
    correlations = standardize(sampled.reshape(len(sampled), -1)) @ standardize(others).T
    correlations[~has_aspect[tried]] = -1
    best = correlations.argmax(axis=0)
    return windows[tried][best], correlations.max(axis=0)


def crop_squares(squares: Tensor, windows: Tensor) -> Tensor:
    """Return (n, side, side) windows (n, 4) of squares, resampled to the side of the squares."""
    side = squares.shape[-1]
    u = (torch.arange(side) + 0.5) / side
    x, y = (2 * (windows[:, [k]] + windows[:, [k + 2]] * u) - 1 for k in (0, 1))
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
    return grid_sample(squares[:, None], grid, "bicubic", "border", align_corners=False)[:, 0]


def match_crops(first: Tensor, second: Tensor, windows: Tensor, sides: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (n,) whether the second square shows the same as a window of the first, block by block.

    Args:
        first, second: (n, 256, 256) float32, gray levels.
        windows: (n, 4), within about 3 % of the right ones.
        sides: (n,) px, see `match_squares`.
    """
    rows = torch.arange(len(windows))  # that may still match
    for side, steps in ALIGNED_SIDES.items():
        a, b = (avg_pool2d(squares[rows, None], SIDE // side)[:, 0] for squares in (first, second))
        for _ in range(steps):
            windows = _refine_windows(a, b, windows)
        cropped = crop_squares(a, windows)
        correlations = _correlate(cropped, b)
        lefts_tops, sizes = windows[:, :2], windows[:, 2:]
        is_inside = (lefts_tops.amin(dim=1) > -TOLERANCE) & ((lefts_tops + sizes).amax(dim=1) < 1 + TOLERANCE)
        is_crop = (sizes.amin(dim=1) >= MIN_WINDOW_SIDE) & (sizes.prod(dim=1) <= MAX_KEPT_AREA)
        is_left = (correlations >= MIN_ALIGNED_CORRELATION) & is_inside & is_crop
        if side == EXPLAINED_SIDE:
            is_left &= explains_difference(a, cropped, b)
        rows, windows = rows[is_left], windows[is_left]
    matches = np.zeros(len(first), bool)
    cropped = crop_squares(first[rows], windows)
    matches[rows.numpy()] = match_squares(cropped, second[rows], sides[rows.numpy()]) == Match.SAME
    return matches


def _refine_windows(a: Tensor, b: Tensor, windows: Tensor) -> Tensor:
    """Return the windows (n, 4) of squares a that show squares b, after one step of the Gauss-Newton method."""
    u = (torch.arange(a.shape[-1]) + 0.5) / a.shape[-1]
    cropped = crop_squares(a, windows)
    dy, dx = torch.gradient(cropped, spacing=1 / a.shape[-1], dim=(1, 2))
    jacobian = torch.stack([dx, dy, dx * u, dy * u[:, None]], dim=1).flatten(2)  # (n, 4, pixels)
    jacobian = jacobian - jacobian.mean(dim=2, keepdim=True)
    x, y = _center(cropped), _center(b)
    rest = y * (x.norm(dim=1) / y.norm(dim=1).clamp(min=1e-3))[:, None] - x  # whatever the contrast
    normal = jacobian @ jacobian.mT
    damping = 1e-4 * normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-3)
    step = torch.linalg.solve(normal + damping[:, None, None] * torch.eye(4), jacobian @ rest[:, :, None])[:, :, 0]
    windows = windows + step.clamp(-MAX_STEP, MAX_STEP) * windows[:, [2, 3, 2, 3]]
    return torch.cat([windows[:, :2].clamp(-0.1, 0.5), windows[:, 2:].clamp(0.5, 1.1)], dim=1)


def explains_difference(a: Tensor, undone: Tensor, b: Tensor) -> Tensor:
    """Return (n,) whether b is much more similar to a with the transform undone than to a.

    Else the two are only of one kind, such as two X-rays, which are symmetric.
    """
    return 1 - _correlate(undone, b) <= MAX_UNEXPLAINED * (1 - _correlate(a, b))


def _correlate(a: Tensor, b: Tensor) -> Tensor:
    """Return (n,) the correlation of the gray levels of each pair."""
    x, y = _center(a), _center(b)
    correlations: Tensor = (x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-3)
    return correlations


def _center(images: Tensor) -> Tensor:
    """Return (n, pixels) of mean 0."""
    flat = images.flatten(1)
    return flat - flat.mean(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class TransformedImages:
    """Images among which transformed duplicates are looked for."""

    images: ComparedImages
    aspects: NDArray[np.float64]  # (N,) width over height

    def find_orientations(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) how j is i mirrored or rotated, 1 to 7; 0 if it is not."""
        found = np.zeros(len(i), np.int64)
        pixels = torch.from_numpy(self.images.colors.reshape(-1, COLOR_SIDE, COLOR_SIDE, 3)).permute(0, 3, 1, 2)
        for orientation in range(1, 8):
            colors = orient(pixels[i], orientation).permute(0, 2, 3, 1).flatten(1).numpy()
            is_near = correlation(colors, self.images.colors[j]) >= MIN_ORIENTED_CORRELATION
            for rows in _split(np.flatnonzero(is_near & (found == 0))):
                first, second, sides = self.images.squares.read_pairs(i[rows], j[rows])
                turned = orient(first, orientation)
                a, b, c = (avg_pool2d(x[:, None], SIDE // EXPLAINED_SIDE)[:, 0] for x in (first, turned, second))
                kept = explains_difference(a, b, c).numpy()
                matches = match_squares(turned[kept], second[kept], sides[kept])
                found[rows[kept][matches == Match.SAME]] = orientation
        return found

    def find_crops(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n,) whether j is a crop of i."""
        colors, found = self.images.colors, np.zeros(len(i), bool)
        windows, similar = np.zeros((len(i), 4), np.float32), np.zeros(len(i), np.float32)
        for row in np.unique(i):
            of = np.flatnonzero(i == row)
            windows[of], similar[of] = find_windows(colors[row], colors[j[of]], self.aspects[j[of]] / self.aspects[row])
        is_smaller = windows[:, 2] * windows[:, 3] <= MAX_KEPT_AREA  # pages of one template are most similar in full
        for rows in _split(np.flatnonzero(is_smaller & (similar >= MIN_WINDOW_CORRELATION))):
            first, second, sides = self.images.squares.read_pairs(i[rows], j[rows])
            found[rows] = match_crops(first, second, torch.from_numpy(windows[rows]), sides)
        return found

    def describe(self, best: int, other: int) -> str | None:
        """Return the transform of another image relative to the best one, such as "mirrored"; None: none of ours."""
        i, j = np.array([best]), np.array([other])
        if orientation := self.find_orientations(i, j)[0]:
            return describe_orientation(int(orientation))
        return CROPPED if self.find_crops(i, j)[0] else UNCROPPED if self.find_crops(j, i)[0] else None

    def join(
        self, ids: NDArray[np.int64], places: NDArray[np.int64], embeddings: Vectors, threshold: float,
        progress: Progress,
    ) -> None:  # fmt: skip
        """Join the groups of images and their transformed duplicates.

        Args:
            ids: (N,) the group of each image of an index, changed in place.
            places: (n,) in `ids`, of the images.
            embeddings: (n, D) of the images.
            threshold: the least cosine similarity of an image and a crop of it.
            progress: called with (done, in total).
        """

        def are_turned(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
            return self.find_orientations(i, j) > 0

        def are_cropped(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
            return self.find_crops(i, j) | self.find_crops(j, i)

        colors, count = self.images.colors, len(places)
        rows = LazyRows(lambda part: describe_in_any_orientation(colors[part]), colors.shape)
        turned = 0, find_similar_pairs(rows, MIN_ORIENTED_CORRELATION), are_turned
        cropped = count, find_similar_pairs(embeddings, threshold), are_cropped
        for before, pairs, find in (turned, cropped):
            for i, j, _ in pairs:
                for part in _split(np.arange(len(i)), PAIRS_PER_JOIN):
                    a, b = select_apart(ids, places, i[part], j[part])
                    is_found = find(a, b)
                    join_pairs(ids, places[a[is_found]], places[b[is_found]])
                    progress(before + int(i[part[-1]]), 2 * count)
        progress(2 * count, 2 * count)


def _split(rows: NDArray[np.int64], size: int = PAIRS_AT_ONCE) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
