"""Metrics measured while a run trains: without labels on held-out images, and kNN accuracy.

All of it takes under 2 % of the training's time. On a CPU by counting, so that a resumed run measures the same epochs:
a training step costs 6 forward views per image (two views, and a backward pass of twice the forward's cost). On other
devices by the clock, since an epoch may take less time there than what surrounds a forward pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.events import ValidationMetrics
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator
from simclr_cli.encode.embed import compute_in_parts, embed_views
from simclr_cli.engine.augment import create_center_crop, create_view_recipe, make_view
from simclr_cli.engine.metrics import (
    alignment,
    chance_of_retrieval,
    compute_percentage,
    effective_rank,
    mean_similarities,
    normalize_views,
    retrieve_views,
    uniformity,
    view_retrieval_accuracy,
)
from simclr_cli.engine.probes import knn_votes
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.labels import split_stratified
from simclr_cli.train.outcome import Scores
from simclr_cli.train.time_budget import TimeBudget

MIN_IMAGES, MAX_IMAGES = 32, 256  # that the metrics without labels are measured on
VALIDATION_SHARE, KNN_SHARE = 0.0145, 0.005  # of the time of an epoch, by counting
VALIDATION_TIME_SHARE = 0.0075  # by the clock; kNN has KNN_SHARE, and the loop 0.005 for rows of metrics
MAX_TIMED_EPOCHS = 50  # that are measured by the clock
MAX_KNN_IMAGES = 1000
KNN_TEST_SHARE = 0.2  # of them
NEIGHBORS, TEMPERATURE = 20, 0.07
AGREEMENT_NEIGHBORS = 10
IMAGES_PER_BATCH = 128


def draw_held_out(count: int, held_out: int, seed: int) -> NDArray[np.int64]:
    """Draw `held_out` of `count` images; return their rows, sorted: a function of the seed."""
    return np.sort(create_numpy_generator(seed, Purpose.HELD_OUT).permutation(count)[:held_out])


class Monitor:
    """Measures of a model in training, taken without disturbing it."""

    def __init__(
        self,
        images: DecodedImages,
        held_out: NDArray[np.int64],
        settings: ResolvedSettings,
        targets: Tensor | None = None,
    ) -> None:
        """Choose images and epochs to measure.

        Args:
            held_out: rows of `images`; if empty, training images are measured.
            targets: (N, width) embeddings of `images` that are distilled.
        """
        self.images, self.settings, self.targets = images, settings, targets
        self.has_held_out = len(held_out) > 0
        count = len(images)
        order = create_numpy_generator(settings.seed, Purpose.VALIDATION).permutation(count)
        sample = np.sort(order[: max(MIN_IMAGES, min(MAX_IMAGES, count // 25))])
        self.rows = held_out[:MAX_IMAGES] if self.has_held_out else sample
        # Once at each end of the training, more are measured: their gain has a narrower interval.
        self.judged_rows = self.rows if self.has_held_out else np.sort(order[:MAX_IMAGES])
        trained = count - len(held_out)
        is_timed = torch.device(settings.device).type != "cpu"
        fewest = math.ceil(settings.epochs / MAX_TIMED_EPOCHS) if is_timed else 1
        self.every = max(fewest, math.ceil(2 * len(self.rows) / (6 * trained * VALIDATION_SHARE)))
        self.validation_budget = TimeBudget(VALIDATION_TIME_SHARE if is_timed else 1)
        self.neighbors = None if targets is None else find_neighbors(targets[self.rows])
        has_label = np.array([label is not None for label in images.census.labels], dtype=bool)
        self.labeled_rows = np.sort(order[has_label[order]][:MAX_KNN_IMAGES])
        self.knn_every = max(fewest, math.ceil(len(self.labeled_rows) / (6 * trained * KNN_SHARE)))
        self.knn_budget = TimeBudget(KNN_SHARE if is_timed else 1)

    def measure(self, model: SimCLR, epoch: int) -> tuple[ValidationMetrics | None, float | None]:
        """Measure metrics without labels and kNN accuracy after `epoch` epochs; None for what is not measured then."""
        is_last = epoch == self.settings.epochs
        measures_validation = is_last or epoch == 1 or (epoch % self.every == 0 and self.validation_budget.allows())
        measures_knn = len(self.labeled_rows) > 0 and (
            is_last or (epoch % self.knn_every == 0 and self.knn_budget.allows())
        )
        validation, knn = None, None
        model.eval()
        try:
            with torch.inference_mode():
                if measures_validation:
                    with self.validation_budget.spend():
                        validation = self.measure_validation(model)
                if measures_knn:
                    with self.knn_budget.spend():
                        knn = self.measure_knn_accuracy(model)
        finally:
            model.train()
        return validation, knn

    def measure_validation(self, model: SimCLR) -> ValidationMetrics | None:
        """Measure by two views of each image, the same ones every time; None if the model's output is not finite.

        Then the training fails by its loss, not by its monitor.
        """
        h = self.embed_views(model, self.rows)
        z = h if self.neighbors is not None else model.head(h)  # distillation trains no head
        if not (h.isfinite().all() and z.isfinite().all()):
            return None
        (h_a, h_b), (z_a, z_b) = normalize_views(h), normalize_views(z)
        positive, negative = mean_similarities(z_a, z_b)
        return ValidationMetrics(
            alignment=alignment(z_a, z_b),
            uniformity=(uniformity(z_a) + uniformity(z_b)) / 2,
            rank_h=effective_rank(h.cpu()),
            rank_z=effective_rank(z.cpu()),
            view_retrieval_accuracy=view_retrieval_accuracy(h_a, h_b),
            positive_similarity=positive,
            negative_similarity=negative,
            images=len(self.rows),
            held_out=self.has_held_out,
            agreement=None
            if self.neighbors is None
            else self.measure_agreement(self.embed_crops(model, self.rows), self.neighbors),
        )

    def score(self, model: SimCLR) -> Scores:
        """Score each judged image by the model as it is, to compare the end of a training with its start."""
        with torch.inference_mode():
            is_found = retrieve_views(*normalize_views(self.embed_views(model.eval(), self.judged_rows)))
            scores = Scores(is_found.cpu().double().view(2, -1).mean(dim=0), chance_of_retrieval(len(self.judged_rows)))
            if not len(self.labeled_rows):
                return scores
            is_right, chance = self.classify(model)
            return dataclasses.replace(scores, knn=is_right.double(), knn_chance=chance)

    def embed_views(self, model: SimCLR, rows: NDArray[np.int64]) -> Tensor:
        """Compute (2N, width) h of two views of each image, the same ones every time."""
        draw = create_torch_generator(self.settings.seed, Purpose.VALIDATION)
        recipe = create_view_recipe(self.settings)
        return embed_views(model.encoder, recipe, self.images, rows, draw).flatten(0, 1)

    def embed_crops(self, model: SimCLR, rows: NDArray[np.int64]) -> Tensor:
        """Compute (M, width) h of the center crops of some images."""
        return embed_crops(model, self.images, rows, self.settings.train_size)

    def find_neighbors(self, model: SimCLR) -> Tensor:
        """Return (n, K) the nearest neighbors of each measured image among the others, by the model as it is."""
        with torch.inference_mode():
            return find_neighbors(self.embed_crops(model.eval(), self.rows))

    @staticmethod
    def measure_agreement(h: Tensor, neighbors: Tensor) -> float:
        """Measure the percentage of (n, K) nearest neighbors that are also the nearest by h (n, width)."""
        return compute_percentage((find_neighbors(h)[:, :, None] == neighbors[:, None]).any(dim=2))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class number of each labeled row."""
        labels = self.images.census.labels
        return np.unique([str(labels[row]) for row in self.labeled_rows], return_inverse=True)[1]

    def measure_knn_accuracy(self, model: SimCLR) -> float:
        """Measure kNN accuracy in percent: a fifth of a sample is classified by its neighbors in the rest."""
        return compute_percentage(self.classify(model)[0])

    def classify(self, model: SimCLR) -> tuple[Tensor, float]:
        """Classify a fifth of a sample by its neighbors in the rest.

        Returns:
            (M,) bool on the CPU, which are right; and the accuracy of always predicting the largest class of the
            rest, percent.
        """
        h = self.embed_crops(model, self.labeled_rows)
        classes = torch.from_numpy(self.labels)
        is_test = split_stratified(self.labels, KNN_TEST_SHARE, self.settings.seed)
        # Row numbers, made on the CPU: a mask on a GPU must be counted there, and waited for, each time it selects.
        train, test = (torch.from_numpy(np.flatnonzero(part)) for part in (~is_test, is_test))
        (votes,) = knn_votes(
            h[train.to(h.device)], classes[train].to(h.device), h[test.to(h.device)],
            neighbors=(NEIGHBORS,), temperature=TEMPERATURE, classes=int(classes.max()) + 1,
        )  # fmt: skip
        is_right = votes.argmax(dim=1).cpu() == classes[test]
        return is_right, compute_percentage(classes[test] == classes[train].bincount().argmax())


def embed_crops(
    model: SimCLR,
    images: DecodedImages,
    rows: NDArray[np.int64],
    size: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Tensor:
    """Compute (M, width) h of the center crops of some images, at an image size."""
    sizes = torch.from_numpy(images.sizes[rows])
    crops = create_center_crop(sizes, model.encoder.spec.crop_fraction)

    def compute(part: slice) -> Tensor:
        pixels = torch.from_numpy(images.read(rows[part])).to(model.encoder.mean.device)
        h: Tensor = model.encoder(make_view(pixels, sizes[part], crops[part], size)).float()
        progress(part.stop, len(rows))
        return h

    return torch.cat(compute_in_parts(compute, len(rows), IMAGES_PER_BATCH))


def find_neighbors(h: Tensor) -> Tensor:
    """Return (n, K) the rows with the largest cosine to each row of h (n, width), without itself; K is at most 10."""
    rows = torch.nn.functional.normalize(h.float().cpu(), dim=1)
    similarity = (rows @ rows.T).fill_diagonal_(-2)
    return similarity.topk(min(AGREEMENT_NEIGHBORS, len(rows) - 1), dim=1).indices
