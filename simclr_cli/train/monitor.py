"""Looking on while a run trains: health on images kept out of it, and kNN where the folders are classes.

All of it takes under 2 % of the training's time, by counting: a training step is worth 6 views forward for each image
(two views, and a backward pass of twice the forward's cost).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.events import ValidationMetrics
from simclr_cli.core.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.encode.embed import embed_views
from simclr_cli.engine.augment import centre_crop, make_view
from simclr_cli.engine.metrics import (
    alignment,
    effective_rank,
    found_other_view,
    normalized,
    percent,
    similarities,
    uniformity,
)
from simclr_cli.engine.probes import knn_votes
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.labels import stratified

LEAST, MOST = 32, 256  # images that health is measured on
HEALTH_SHARE, KNN_SHARE = 0.0145, 0.005  # of the time of an epoch
KNN_MOST = 1000  # images
KNN_TEST = 0.2  # share of them that is told by the others
NEIGHBORS, TEMPERATURE = 20, 0.07
AT_ONCE = 128  # images


def kept_out(count: int, held_out: int, seed: int) -> NDArray[np.int64]:
    """Rows of `count` images that are kept out of training, sorted: a function of the seed."""
    return np.sort(numpy_generator(seed, Purpose.HELD_OUT).permutation(count)[:held_out])


class Monitor:
    """Measures a model in training, without disturbing it."""

    def __init__(self, decoded: DecodedImages, out: NDArray[np.int64], chosen: ResolvedSettings) -> None:
        """out: rows of `decoded` that are kept out of training; where there are none, some of the others serve."""
        self.decoded, self.chosen = decoded, chosen
        self.held_out = len(out) > 0
        count = len(decoded)
        some = numpy_generator(chosen.seed, Purpose.HEALTH).permutation(count)
        self.rows = out[:MOST] if self.held_out else np.sort(some[: max(LEAST, min(MOST, count // 25))])
        trained = count - len(out)
        self.every = max(1, math.ceil(2 * len(self.rows) / (6 * trained * HEALTH_SHARE)))
        self.labeled = np.sort(some[:KNN_MOST]) if decoded.census.classes else some[:0]
        self.knn_every = max(1, math.ceil(len(self.labeled) / (6 * trained * KNN_SHARE)))

    def look(self, model: SimCLR, epoch: int) -> tuple[ValidationMetrics | None, float | None]:
        """Return ValidationMetrics and kNN accuracy in percent after `epoch` epochs; None for what is not measured."""
        last = epoch == self.chosen.epochs
        health = last or epoch % self.every == 0 or epoch == 1
        knn = len(self.labeled) > 0 and (last or epoch % self.knn_every == 0)
        model.eval()
        try:
            with torch.inference_mode():
                return self.validation(model) if health else None, self.knn(model) if knn else None
        finally:
            model.train()

    def validation(self, model: SimCLR) -> ValidationMetrics | None:
        """By two views of each image, the same ones every time; None if what comes out is not finite.

        Training goes by the loss: looking on must not end it.
        """
        draw = torch_generator(self.chosen.seed, Purpose.HEALTH)
        h = embed_views(model.encoder, self.chosen, self.decoded, self.rows, draw).flatten(0, 1)  # (2N, width)
        z = model.head(h)
        if not (h.isfinite().all() and z.isfinite().all()):
            return None
        (h_a, h_b), (z_a, z_b) = normalized(h), normalized(z)
        positive, negative = similarities(z_a, z_b)
        return ValidationMetrics(
            alignment=alignment(z_a, z_b),
            uniformity=(uniformity(z_a) + uniformity(z_b)) / 2,
            rank_h=effective_rank(h.cpu()),
            rank_z=effective_rank(z.cpu()),
            view_retrieval_accuracy=found_other_view(h_a, h_b),
            positive_similarity=positive,
            negative_similarity=negative,
            images=len(self.rows),
            held_out=self.held_out,
        )

    def knn(self, model: SimCLR) -> float:
        """A sample of the images, a fifth of it told by the classes of the rest."""
        labels = np.unique(self.decoded.census.labels, return_inverse=True)[1][self.labeled]
        sizes = torch.from_numpy(self.decoded.sizes[self.labeled])
        whole = centre_crop(sizes, model.encoder.spec.crop)
        size, parts = self.chosen.image_size, []
        for start in range(0, len(labels), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            pixels = torch.from_numpy(self.decoded.read(self.labeled[part])).to(model.encoder.mean.device)
            parts.append(model.encoder(make_view(pixels, sizes[part], whole[part], size)).float())
        h, truth = torch.cat(parts), torch.from_numpy(labels).to(parts[0].device)
        test = torch.from_numpy(stratified(labels, KNN_TEST, self.chosen.seed)).to(h.device)
        (votes,) = knn_votes(
            h[~test], truth[~test], h[test],
            neighbors=(NEIGHBORS,), temperature=TEMPERATURE, classes=int(truth.max()) + 1,
        )  # fmt: skip
        return percent(votes.argmax(dim=1) == truth[test])
