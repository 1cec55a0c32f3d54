"""The paper's linear evaluation: a classifier of a frozen f, trained over crops and flips (section 3, appendix B.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simclr_cli.events import Report, progress
from simclr_cli.images.cache import decode_once
from simclr_cli.images.census import Census
from simclr_cli.images.folder import take_census
from simclr_cli.images.workers import count_workers
from simclr_cli.settings import ProbeSettings
from simclr_cli.verbs.classifier import LINEAR, train_classifier
from simclr_cli.verbs.encoders import ReadyEncoder


def linear_by_protocol(
    ready: ReadyEncoder,
    census: Census,
    names: tuple[str, ...],
    labels: Tensor,
    classes: int,
    settings: ProbeSettings,
    report: Report,
) -> Callable[[Tensor], Tensor]:
    """Train on some pictures of a census, those of `names`, whose classes are labels (N,).

    Returns:
        What gives logits (M, classes) for h (M, D) of the evaluation crop.
    """
    workers = count_workers(settings.workers)
    # All pictures of the folder: given a part of them, the cache would forget the rest.
    whole = take_census(census.root, workers=workers)
    decoded = decode_once(whole, ready.encoder.spec.image_size, workers=workers, progress=progress(report, "decoding"))
    places = {picture.name: row for row, picture in enumerate(decoded.census.pictures)}
    rows = np.array([places[name] for name in names], dtype=np.int64)
    linear = train_classifier(
        ready.encoder, decoded, rows, labels, classes, LINEAR, seed=settings.seed, report=report
    ).cpu()

    def logits(h: Tensor) -> Tensor:
        with torch.inference_mode():
            return cast(Tensor, linear(h))

    return logits
