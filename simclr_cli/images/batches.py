"""Which picture goes into which step of which epoch; hands out batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simclr_cli.images.cache import DecodedPictures
from simclr_cli.seeds import Purpose, numpy_generator


@dataclass(frozen=True)
class Batch:
    """The pictures of one step."""

    step: int  # within the epoch, from 0
    rows: Tensor  # (N,) int64, rows of the census
    pixels: Tensor  # (N, 3, side, side) uint8
    sizes: Tensor  # (N, 2) true heights and widths


class Batches:
    """Full batches only, as the paper's code: the epoch's remainder waits for another epoch's order."""

    def __init__(self, decoded: DecodedPictures, batch_size: int, seed: int) -> None:
        self.decoded = decoded
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = len(decoded) // batch_size

    def order(self, epoch: int) -> np.ndarray:
        """(N,) the epoch's permutation of the pictures: a function of (seed, epoch) alone."""
        return numpy_generator(self.seed, Purpose.ORDER, epoch).permutation(len(self.decoded))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        order = self.order(epoch)
        for step in range(start, self.steps_per_epoch):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch(
                step,
                torch.from_numpy(rows),
                torch.from_numpy(self.decoded.pixels[rows]),
                torch.from_numpy(self.decoded.sizes[rows]),
            )
