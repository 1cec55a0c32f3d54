"""Distillation of the start: a view must have the similarities that the start finds for the whole image at its size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.core.events import Report, progress
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.engine.adaptation import distillation_loss, find_temperature
from simclr_cli.engine.image_ops import upload
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.monitor import embed_crops

MAX_ANCHORS = 4_096  # images to compare with; each is embedded once more, at the size of the views
PERPLEXITY = 30.0  # about as many anchors count as similar


def draw_anchors(count: int, seed: int) -> NDArray[np.int64]:
    """Draw the rows of the images that others are compared with, sorted: a function of the seed."""
    return np.sort(create_numpy_generator(seed, Purpose.ANCHORS).permutation(count)[:MAX_ANCHORS])


def prepare_distillation(model: SimCLR, job: TrainingJob, report: Report) -> Distillation | None:
    """Embed the anchors by the start, which the model must still be; None if the job distills nothing."""
    if job.targets is None:
        return None
    rows = draw_anchors(len(job.targets), job.settings.seed)
    with torch.inference_mode():
        anchors = embed_crops(
            model.eval(), job.batches.decoded, rows, job.settings.train_size,
            progress(report, "embedding at the training size"),
        )  # fmt: skip
    return Distillation(job.targets, rows, anchors.clone())


class Distillation:
    """The similarities to distill: of every image to the anchors, by the start at its own size."""

    def __init__(self, targets: Tensor, rows: NDArray[np.int64], anchors: Tensor) -> None:
        """Center the targets, and choose the temperature.

        Their mean is subtracted, because the similarities of all images to it hide those to one another.

        Args:
            targets: (N, width) embeddings of all images by the start at its own size, rows of length 1, on the CPU.
            rows: (A,) of the anchors.
            anchors: (A, width) their embeddings by the start at the size of the views, on the device.
        """
        index = torch.from_numpy(rows)
        self.targets = F.normalize(targets - targets.mean(dim=0), dim=1)
        self.target_anchors = self.targets[index].to(anchors.device)
        self.anchors = F.normalize(anchors, dim=1)
        self.anchor_of_row = torch.full((len(targets),), -1).index_put((index,), torch.arange(len(rows)))
        self.temperature = find_temperature(self.targets[index], min(PERPLEXITY, len(rows) / 2))

    def compute_loss(self, h: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Compute the loss of h (2N, width) of two views of the images in N rows."""
        index = torch.from_numpy(rows).repeat(2)
        targets, own = upload(self.targets[index], h.device), upload(self.anchor_of_row[index], h.device)
        return distillation_loss(h, self.anchors, targets, self.target_anchors, own, self.temperature)
