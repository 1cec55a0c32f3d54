"""What similarities mean, taken from a run's own images when they are indexed, and kept with the index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.encode.embed import embed_views
from simclr_cli.encode.load import ReadyEncoder
from simclr_cli.engine.calibration import LEVELS, Calibration, calibrate
from simclr_cli.images.cache import undecoded
from simclr_cli.images.census import Census
from simclr_cli.store.index import Index

SAMPLED = 2_048  # pictures whose pairs are the random ones: two million
VIEWED = 256  # pictures of which two views are made
CHANGED = 0.1  # share of the pictures by which an index may grow or shrink before all is taken anew


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
    by_name = {picture.name: picture for picture in census.pictures}
    names = [index.name(int(place)) for place in places]
    chosen = ready.info.settings
    sample = Census(census.root, tuple(by_name[name] for name in names if name in by_name), (), 0)
    decoded = undecoded(sample, chosen.image_size, workers)
    draw = torch_generator(chosen.seed, Purpose.SIMILARITY)
    try:
        with torch.inference_mode():
            h = embed_views(ready.encoder, chosen, decoded, np.arange(len(decoded)), draw)
    except InputError as error:  # a picture has gone meanwhile: the next start sees it
        report(Note(f"What two views of a picture are like is not known: {error.what}", warning=True))
        return np.empty((2, 0, index.width), np.float32)
    views: NDArray[np.float32] = torch.nn.functional.normalize(h, dim=-1).cpu().numpy()
    return views
