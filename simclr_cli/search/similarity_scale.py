"""The meaning of a similarity: its place among those of random pairs and of two views of one image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator
from simclr_cli.encode.embed import embed_views
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.nearest import center_rows, compute_mean
from simclr_cli.images.cache import defer_decoding
from simclr_cli.images.census import Census
from simclr_cli.store.index import Index

MAX_RANDOM_IMAGES = 2_048  # all their pairs are the random pairs: two million
MAX_VIEWED_IMAGES = 256  # two views are made of each
MAX_SIZE_CHANGE = 0.1  # share of the images; beyond it the scale is measured again
# Percent of pairs below each stored quantile: finer towards 100, where the nearest neighbors are.
PERCENT_LEVELS = np.concatenate(
    [np.linspace(0, 99, 100)] + [100 - np.linspace(10.0**-n, 10.0 ** -(n + 1), 91)[1:] for n in range(5)] + [[100.0]]
)
TOLERANCE = 1e-6  # of a similarity that is computed again


@dataclass(frozen=True, eq=False)
class SimilarityScale:
    """Quantiles of the similarities of random pairs of images, and of two views of one image."""

    random: NDArray[np.float64]  # (L,) at PERCENT_LEVELS, rising
    views: NDArray[np.float64]  # (L,) at PERCENT_LEVELS, rising
    random_pairs: int
    view_pairs: int
    mean: NDArray[np.float32]  # (D,) that was subtracted from the embeddings before; 0: they were not centered

    def above_random(self, similarity: float) -> float:
        """Return the percent of random pairs that are less similar."""
        return _compute_percent_below(self.random, similarity, self.random_pairs)

    def above_views(self, similarity: float) -> float:
        """Return the percent of pairs of views of one image that are less similar."""
        return _compute_percent_below(self.views, similarity, self.view_pairs)

    def view_quantile(self, percent: float) -> float:
        """Return the similarity that this percent of the pairs of views stay below."""
        return float(np.interp(percent, PERCENT_LEVELS, self.views))


def read_scale(index: Index, *, centered: bool = False) -> SimilarityScale | None:
    """Return a similarity scale stored in an index, or None if it has no valid one.

    Args:
        centered: the scale of cosines after the mean embedding is subtracted, as in a search by image; of an index of
            an earlier version, the scale of cosines as they are.
    """
    stored = index.similarity or {}
    try:
        is_centered = centered and "centered" in stored
        values = stored["centered"] if is_centered else stored
        random, views = (np.array(values[key], dtype=np.float64) for key in ("random", "views"))
        mean = np.array(values["mean"] if is_centered else np.zeros(index.width), np.float32)
        scale = SimilarityScale(random, views, int(stored["random_pairs"]), int(stored["view_pairs"]), mean)
        is_complete = type(stored["images"]) is int and random.shape == views.shape == PERCENT_LEVELS.shape
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    is_valid = is_complete and mean.shape == (index.width,) and bool(np.isfinite(mean).all())
    return scale if is_valid and (np.diff(random) >= 0).all() and (np.diff(views) >= 0).all() else None


def has_scales(index: Index) -> bool:
    """Return whether an index has both scales, or one that serves as both."""
    return None not in (read_scale(index), read_scale(index, centered=True))


def refresh_scale(
    index: Index, census: Census, loaded: LoadedEncoder, *, workers: int, report: Report
) -> Mapping[str, Any]:
    """Return the similarity scales to store in an index: the stored ones if they still fit, else new ones."""
    stored = index.similarity
    if stored and has_scales(index) and abs(len(index) - stored["images"]) <= MAX_SIZE_CHANGE * stored["images"]:
        return stored
    order = create_numpy_generator(loaded.seed, Purpose.SIMILARITY).permutation(len(index))
    sample = index.h.take(np.sort(order[:MAX_RANDOM_IMAGES]))
    first, second = _embed_two_views(loaded, index, census, np.sort(order[:MAX_VIEWED_IMAGES]), workers, report)
    mean = compute_mean(sample)
    plain = measure_scale(sample, first, second, np.zeros_like(mean))
    sample, first, second = (center_rows(rows, mean) for rows in (sample, first, second))
    centered = measure_scale(sample, first, second, mean)
    return {
        "images": len(index),
        "random_pairs": plain.random_pairs,
        "view_pairs": plain.view_pairs,
        "random": plain.random.tolist(),
        "views": plain.views.tolist(),
        "centered": {
            "mean": mean.tolist(),
            "random": centered.random.tolist(),
            "views": centered.views.tolist(),
        },
    }


def measure_scale(
    sample: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    mean: NDArray[np.float32],
) -> SimilarityScale:
    """Measure the similarity scale of some embeddings, rows of length 1.

    Args:
        sample: (R, D) of random images; all their pairs are used.
        first, second: (V, D) of two views of each of V images.
        mean: (D,) that was subtracted from all of them before they were scaled; 0: none.
    """
    similarity = sample @ sample.T
    random = similarity[np.triu_indices(len(sample), 1)]
    views = np.einsum("vd,vd->v", first, second)
    return SimilarityScale(_compute_quantiles(random), _compute_quantiles(views), len(random), len(views), mean)


def _embed_two_views(
    loaded: LoadedEncoder, index: Index, census: Census, places: NDArray[np.int64], workers: int, report: Report
) -> NDArray[np.float32]:
    """Return (2, V, D): h, of length 1, of two views of each image as in training; V is 0 if one is missing."""
    images = {image.name: image for image in census.images}
    names = [index.get_name(int(place)) for place in places]
    shown = tuple(images[name] for name in names if name in images)
    sample = dataclasses.replace(census, images=shown, skipped=(), bits=index.bits)
    decoded = defer_decoding(sample, loaded.encoder.spec.image_size, workers)
    generator = create_torch_generator(loaded.seed, Purpose.SIMILARITY)
    try:
        with torch.inference_mode():
            h = embed_views(loaded.encoder, loaded.view_recipe, decoded, np.arange(len(decoded)), generator)
    except InputError as error:  # the next update notices that an image is missing
        report(Note(f"The similarity of two views of one image was not measured: {error.problem}", warning=True))
        return np.empty((2, 0, index.width), np.float32)
    views: NDArray[np.float32] = torch.nn.functional.normalize(h, dim=-1).cpu().numpy()
    return views


def _compute_quantiles(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the quantiles at PERCENT_LEVELS; of no values 2, above all cosines, so that nothing counts as similar."""
    if not len(values):
        return np.full(len(PERCENT_LEVELS), 2.0)
    return np.quantile(values.astype(np.float64), PERCENT_LEVELS / 100)


def _compute_percent_below(quantiles: NDArray[np.float64], similarity: float, pairs: int) -> float:
    """Return the percent of pairs strictly below: 0 where all are equal to it, and 100 only above all of them.

    Between quantiles the result is at most the share of all pairs but one.
    """
    if similarity > quantiles[-1] + TOLERANCE:
        return 100.0
    above = int(np.searchsorted(quantiles, similarity - TOLERANCE, side="left"))
    if above == 0 or pairs == 0:
        return 0.0
    most = 100 * (pairs - 1) / pairs
    if above == len(quantiles):
        return most
    between = slice(above - 1, above + 1)
    return min(most, float(np.interp(similarity, quantiles[between], PERCENT_LEVELS[between])))
