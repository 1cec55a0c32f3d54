"""Which picture goes into which step; hands out batches, the next ones made while the last is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.images.cache import DecodedPictures
from simclr_cli.seeds import Purpose, numpy_generator

AHEAD = 2  # batches made while one is at work
RESIDENT_SHARE = 1 / 3  # of a GPU's free memory that the pictures may take for good


@dataclass(frozen=True)
class Batch:
    """The pictures of one step."""

    step: int  # of the whole training, from 0
    rows: NDArray[np.int64]  # (N,) rows of the census
    pixels: Tensor  # (N, 3, side, side) uint8, on the device
    sizes: Tensor  # (N, 2) true heights and widths, on the CPU


class Batches:
    """Full batches only, as the paper's code: the epoch's remainder waits for another epoch's order.

    On a GPU the pixels of all pictures are kept there if they fit; else each batch is copied from pinned memory,
    without waiting for what the GPU is doing.
    """

    def __init__(self, decoded: DecodedPictures, batch_size: int, seed: int, device: torch.device) -> None:
        self.decoded = decoded
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_per_epoch = len(decoded) // batch_size
        fits = decoded.bytes <= RESIDENT_SHARE * free_memory(device)
        self.resident = self._move_in() if fits else None  # (N, 3, side, side) uint8
        self._order: tuple[int, NDArray[np.int64]] | None = None  # (epoch, its order)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """(N,) the epoch's permutation of the pictures: a function of (seed, epoch) alone."""
        known = self._order
        if known is None or known[0] != epoch:
            known = epoch, numpy_generator(self.seed, Purpose.ORDER, epoch).permutation(len(self.decoded))
            self._order = known
        return known[1]

    def run(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of the steps from `start` to before `stop`, counted through all epochs.

        Raises:
            InputError: a picture that is decoded anew each time cannot be any more.
        """
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = deque(pool.submit(self._make, step) for step in range(start, min(start + AHEAD, stop)))
            try:
                for step in range(start, stop):
                    if step + AHEAD < stop:
                        coming.append(pool.submit(self._make, step + AHEAD))
                    rows, pixels = coming.popleft().result()
                    pixels = pixels.to(self.device, non_blocking=True)
                    if self.resident is not None:
                        pixels = self.resident[pixels]
                    yield Batch(step, rows, pixels, torch.from_numpy(self.decoded.sizes[rows]))
            finally:
                pool.shutdown(cancel_futures=True)

    def _make(self, step: int) -> tuple[NDArray[np.int64], Tensor]:
        """The rows of a step, and what is copied to the device for it: their pixels, or the rows if it has those."""
        epoch, within = divmod(step, self.steps_per_epoch)
        rows = self.order(epoch)[within * self.batch_size : (within + 1) * self.batch_size]
        sent = torch.from_numpy(rows if self.resident is not None else self.decoded.read(rows))
        return rows, sent.pin_memory() if self.device.type == "cuda" else sent

    def _move_in(self) -> Tensor:
        side, count = self.decoded.side, len(self.decoded)
        pixels = torch.empty(count, 3, side, side, dtype=torch.uint8, device=self.device)
        for rows in np.array_split(np.arange(count), -(-count // 1024)):
            pixels[rows[0] : rows[-1] + 1] = torch.from_numpy(self.decoded.read(rows)).to(self.device)
        return pixels


def free_memory(device: torch.device) -> int:
    """Bytes of the device's own memory that are free; 0 where the CPU's memory is all there is, or it is not known."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
