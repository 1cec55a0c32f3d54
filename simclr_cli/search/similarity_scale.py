"""What a similarity means: its place among those of random pairs and of two views of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.encode.embed import embed_views
from simclr_cli.encode.load import ReadyEncoder
from simclr_cli.images.cache import undecoded
from simclr_cli.images.census import Census
from simclr_cli.store.index import Index

# Percent of pairs below each kept quantile: finer towards 100, where the hits of a search are.
LEVELS = np.concatenate(
    [np.linspace(0, 99, 100)] + [100 - np.linspace(10.0**-n, 10.0 ** -(n + 1), 91)[1:] for n in range(5)] + [[100.0]]
)
ROUNDING = 1e-6  # by which a similarity may differ when it is computed once more


@dataclass(frozen=True, eq=False)
class Calibration:
    """Similarities of random pairs of images, and of two views of one image, by their quantiles."""

    random: NDArray[np.float64]  # (L,) at LEVELS, rising
    views: NDArray[np.float64]  # (L,) at LEVELS, rising
    random_pairs: int
    view_pairs: int

    def above_random(self, similarity: float) -> float:
        """Percent of random pairs that are less similar."""
        return _percent(self.random, similarity, self.random_pairs)

    def above_views(self, similarity: float) -> float:
        """Percent of pairs of views of one image that are less similar."""
        return _percent(self.views, similarity, self.view_pairs)

    def views_at(self, percent: float) -> float:
        """The similarity that so many pairs of views stay below."""
        return float(np.interp(percent, LEVELS, self.views))


def calibrate(sample: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32]) -> Calibration:
    """From rows of length 1.

    Args:
        sample: (R, D) of images drawn at random: all pairs of them are taken.
        first, second: (V, D) of two views of each of V images.
    """
    similarity = sample @ sample.T
    random = similarity[np.triu_indices(len(sample), 1)]
    views = np.einsum("vd,vd->v", first, second)
    return Calibration(_quantiles(random), _quantiles(views), len(random), len(views))


def _quantiles(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """At LEVELS; of nothing: what no similarity reaches, so that nothing is called close for want of pairs."""
    return np.quantile(values.astype(np.float64), LEVELS / 100) if len(values) else np.full(len(LEVELS), 2.0)


def _percent(quantiles: NDArray[np.float64], similarity: float, pairs: int) -> float:
    """Percent of pairs strictly below: 0 where all are equal to it, and 100 only above all of them.

    What lies between quantiles says no more than so many pairs can: at most all but one of them.
    """
    if similarity > quantiles[-1] + ROUNDING:
        return 100.0
    above = int(np.searchsorted(quantiles, similarity - ROUNDING, side="left"))
    if above == 0 or pairs == 0:
        return 0.0
    most = 100 * (pairs - 1) / pairs
    if above == len(quantiles):
        return most
    between = slice(above - 1, above + 1)
    return min(most, float(np.interp(similarity, quantiles[between], LEVELS[between])))


SAMPLED = 2_048  # images whose pairs are the random ones: two million
VIEWED = 256  # images of which two views are made
CHANGED = 0.1  # share of the images by which an index may grow or shrink before all is taken anew


def calibration_of(index: Index) -> Calibration | None:
    """Return what an index says of similarities, or None if it says nothing that could be used."""
    kept = index.similarity or {}
    try:
        random, views = (np.array(kept[key], dtype=np.float64) for key in ("random", "views"))
        found = Calibration(random, views, int(kept["random_pairs"]), int(kept["view_pairs"]))
        whole = type(kept["images"]) is int and random.shape == views.shape == LEVELS.shape
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if whole and (np.diff(random) >= 0).all() and (np.diff(views) >= 0).all() else None


def calibrated(index: Index, census: Census, ready: ReadyEncoder, *, workers: int, report: Report) -> Mapping[str, Any]:
    """Return what an index is to keep of similarities: what it kept, if that is of about these images; else anew."""
    kept = index.similarity
    if kept and calibration_of(index) and abs(len(index) - kept["images"]) <= CHANGED * kept["images"]:
        return kept
    drawn = numpy_generator(ready.info.settings.seed, Purpose.SIMILARITY).permutation(len(index))
    sample = index.h.take(np.sort(drawn[:SAMPLED]))
    taken = calibrate(sample, *_views(ready, index, census, np.sort(drawn[:VIEWED]), workers, report))
    return {
        "images": len(index),
        "random_pairs": taken.random_pairs,
        "view_pairs": taken.view_pairs,
        "random": taken.random.tolist(),
        "views": taken.views.tolist(),
    }


def _views(
    ready: ReadyEncoder, index: Index, census: Census, places: NDArray[np.int64], workers: int, report: Report
) -> NDArray[np.float32]:
    """(2, V, D): h, of length 1, of two views as the run was trained on; none if an image has gone meanwhile."""
    by_name = {image.name: image for image in census.images}
    names = [index.name(int(place)) for place in places]
    chosen = ready.info.settings
    sample = Census(census.root, tuple(by_name[name] for name in names if name in by_name), (), 0)
    decoded = undecoded(sample, chosen.image_size, workers)
    draw = torch_generator(chosen.seed, Purpose.SIMILARITY)
    try:
        with torch.inference_mode():
            h = embed_views(ready.encoder, chosen, decoded, np.arange(len(decoded)), draw)
    except InputError as error:  # an image has gone meanwhile: the next start sees it
        report(Note(f"What two views of an image are like is not known: {error.what}", warning=True))
        return np.empty((2, 0, index.width), np.float32)
    views: NDArray[np.float32] = torch.nn.functional.normalize(h, dim=-1).cpu().numpy()
    return views
