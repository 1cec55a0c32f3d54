"""Which image goes into which step; hands out batches, the next ones made while the last is at work."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.core.distributed import Ranks
from simclr_cli.core.hardware import free_memory
from simclr_cli.core.seeds import Purpose, numpy_generator
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.threads import ahead

AHEAD = 2  # parts of batches made while one is at work
RESIDENT_SHARE = 1 / 3  # of a GPU's free memory that the images may take for good


@dataclass(frozen=True)
class Batch:
    """The images of one step, of which this process computes a part, in one or several micro-batches."""

    step: int  # of the whole training, from 0
    rows: NDArray[np.int64]  # (N,) rows of the census
    sizes: Tensor  # (N, 2) true heights and widths, on the CPU
    parts: tuple[slice, ...]  # of the N; this process's micro-batches
    pixels: Iterator[Tensor]  # (n, 3, side, side) uint8 on the device: of all parts; of all but the last once more


class Batches:
    """Full batches only, as the paper's code: the epoch's remainder waits for another epoch's order.

    On a GPU the pixels of all images are kept there if they fit; else each micro-batch is copied from pinned memory,
    without waiting for what the GPU is doing.
    """

    def __init__(
        self,
        decoded: DecodedImages,
        batch_size: int,
        seed: int,
        device: torch.device,
        ranks: Ranks | None = None,
        out: NDArray[np.int64] | None = None,
    ) -> None:
        """out: rows of the census that are kept out of all batches."""
        self.decoded = decoded
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.ranks = ranks or Ranks()
        self.out = np.empty(0, dtype=np.int64) if out is None else out
        self.steps_per_epoch = (len(decoded) - len(self.out)) // batch_size
        fits = decoded.bytes <= RESIDENT_SHARE * own_memory(device)
        self.resident = self._move_in() if fits else None  # (N, 3, side, side) uint8
        self.order = lru_cache(2)(self._order)  # one epoch is made while the last is at work

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """(N,) the epoch's permutation of the images in training: a function of (seed, epoch) alone."""
        order = numpy_generator(self.seed, Purpose.ORDER, epoch).permutation(len(self.decoded))
        return order[~np.isin(order, self.out)] if len(self.out) else order

    def rows(self, step: int) -> NDArray[np.int64]:
        """(N,) rows of the census that a step is of."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[within * self.batch_size : (within + 1) * self.batch_size]

    def parts(self, most: int | None) -> tuple[slice, ...]:
        """This process's micro-batches, of `most` images: even ones, and as many as every other process has."""
        own = self.ranks.part(self.batch_size)
        largest = -(-self.batch_size // self.ranks.count)
        count = min(-(-largest // (most or largest)), self.batch_size // self.ranks.count)
        length = own.stop - own.start
        bounds = [own.start + i * length // count for i in range(count + 1)]
        return tuple(slice(a, b) for a, b in pairwise(bounds))

    def run(self, start: int, stop: int, most: int | None = None) -> Generator[Batch, None, None]:
        """The batches of the steps from `start` to before `stop`, counted through all epochs.

        Args:
            most: images in a micro-batch; None: no bound.

        Raises:
            InputError: an image that is decoded anew each time cannot be any more.
        """
        parts = self.parts(most)
        order = [(part, False) for part in parts] + [(part, True) for part in parts[:-1]]
        wanted = ((step, *asked) for step in range(start, stop) for asked in order)
        kept: dict[tuple[int, int], Tensor] = {}  # decoded anew, and wanted once more

        def make(asked: tuple[int, slice, bool]) -> Tensor:
            step, part, again = asked
            if again and (pixels := kept.pop((step, part.start), None)) is not None:
                return pixels
            rows = self.rows(step)[part]
            sent = torch.from_numpy(rows if self.resident is not None else self.decoded.read(rows))
            sent = sent.pin_memory() if self.device.type == "cuda" else sent
            if not again and part != parts[-1] and self.decoded.stored < len(self.decoded):
                kept[step, part.start] = sent
            return sent

        def on_device() -> Generator[Tensor, None, None]:
            with closing(ahead(make, wanted, AHEAD)) as made:
                for pixels in made:
                    there = pixels.to(self.device, non_blocking=True)
                    yield there if self.resident is None else self.resident[there]

        with closing(on_device()) as coming:
            for step in range(start, stop):
                rows = self.rows(step)
                yield Batch(step, rows, torch.from_numpy(self.decoded.sizes[rows]), parts, coming)

    def _move_in(self) -> Tensor:
        side, count = self.decoded.side, len(self.decoded)
        pixels = torch.empty(count, 3, side, side, dtype=torch.uint8, device=self.device)
        for rows in np.array_split(np.arange(count), -(-count // 1024)):
            pixels[rows[0] : rows[-1] + 1] = torch.from_numpy(self.decoded.read(rows)).to(self.device)
        return pixels


def own_memory(device: torch.device) -> int:
    """Bytes that are free of a device's memory; 0 where that is the CPU's, or it is not known."""
    return free_memory(device) if device.type == "cuda" else 0
