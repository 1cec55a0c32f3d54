"""Loader of batches: the order of images by seed and epoch, and their pixels on the device, prefetched."""

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

from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.hardware import get_free_memory
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.threads import prefetch

PREFETCHED_PARTS = 2  # micro-batches read while one is in use
RESIDENT_SHARE = 1 / 3  # of a GPU's free memory that the images may occupy


@dataclass(frozen=True)
class Batch:
    """The images of one step, of which this process computes its micro-batches."""

    step: int  # of the whole training, from 0
    rows: NDArray[np.int64]  # (N,) rows of the census
    sizes: Tensor  # (N, 2) true heights and widths, on the CPU
    micro_batches: tuple[slice, ...]  # of the N, this process's
    pixels: Iterator[Tensor]  # (n, 3, side, side) uint8 on the device: of all micro-batches, then of all but the last


class BatchLoader:
    """Loader of full batches only, as the paper's code: the epoch's remainder waits for another epoch's order.

    On a GPU the pixels of all images stay in its memory if they fit. Otherwise each micro-batch is copied from pinned
    memory, asynchronously.
    """

    def __init__(
        self,
        decoded: DecodedImages,
        batch_size: int,
        seed: int,
        device: torch.device,
        process_group: ProcessGroup | None = None,
        held_out: NDArray[np.int64] | None = None,
    ) -> None:
        """Load the pixels to the device if they fit. `held_out`: rows of the census that are in no batch."""
        self.decoded = decoded
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.process_group = process_group or ProcessGroup()
        self.held_out = np.empty(0, dtype=np.int64) if held_out is None else held_out
        self.steps_per_epoch = (len(decoded) - len(self.held_out)) // batch_size
        fits = decoded.bytes <= RESIDENT_SHARE * free_gpu_memory(device)
        self.resident_pixels = self._load_resident_pixels() if fits else None  # (N, 3, side, side) uint8
        self.epoch_order = lru_cache(2)(self._epoch_order)  # of two epochs, since the next one is prefetched

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Return (N,) the epoch's permutation of the training images: a function of (seed, epoch) only."""
        order = create_numpy_generator(self.seed, Purpose.ORDER, epoch).permutation(len(self.decoded))
        return order[~np.isin(order, self.held_out)] if len(self.held_out) else order

    def batch_rows(self, step: int) -> NDArray[np.int64]:
        """Return (N,) the rows of the census in a step's batch."""
        epoch, i = divmod(step, self.steps_per_epoch)
        return self.epoch_order(epoch)[i * self.batch_size : (i + 1) * self.batch_size]

    def micro_batches(self, max_images: int | None) -> tuple[slice, ...]:
        """Return this process's micro-batches, at most `max_images` each: of even size, equally many per process."""
        shard = self.process_group.shard(self.batch_size)
        largest = -(-self.batch_size // self.process_group.world_size)
        count = min(-(-largest // (max_images or largest)), self.batch_size // self.process_group.world_size)
        length = shard.stop - shard.start
        bounds = [shard.start + i * length // count for i in range(count + 1)]
        return tuple(slice(a, b) for a, b in pairwise(bounds))

    def load(self, start: int, stop: int, max_images: int | None = None) -> Generator[Batch, None, None]:
        """Yield the batches of the steps from `start` to before `stop`, counted through all epochs.

        Args:
            max_images: in a micro-batch; None: no limit.

        Raises:
            InputError: an image that is decoded at each reading cannot be decoded any more.
        """
        micro_batches = self.micro_batches(max_images)
        with closing(self._load_pixels(range(start, stop), micro_batches)) as pixels:
            for step in range(start, stop):
                rows = self.batch_rows(step)
                yield Batch(step, rows, torch.from_numpy(self.decoded.sizes[rows]), micro_batches, pixels)

    def _load_pixels(self, steps: range, micro_batches: tuple[slice, ...]) -> Generator[Tensor, None, None]:
        """Yield `Batch.pixels` of all steps; without room in the cache, images are decoded once for both passes."""
        first_pass, second_pass = micro_batches, micro_batches[:-1]
        passes = [(part, False) for part in first_pass] + [(part, True) for part in second_pass]
        are_all_stored = self.decoded.stored_count == len(self.decoded)
        reusable: dict[tuple[int, int], Tensor] = {}  # read in the first pass, for the second

        def read(request: tuple[int, slice, bool]) -> Tensor:
            step, part, is_second_pass = request
            if is_second_pass and (pixels := reusable.pop((step, part.start), None)) is not None:
                return pixels
            pixels = self._read_to_host(self.batch_rows(step)[part])
            if not is_second_pass and part in second_pass and not are_all_stored:
                reusable[step, part.start] = pixels
            return pixels

        requests = ((step, *part_and_pass) for step in steps for part_and_pass in passes)
        with closing(prefetch(read, requests, PREFETCHED_PARTS)) as tensors:
            for tensor in tensors:
                # from pinned memory only: others may change before an Apple GPU has read them (pytorch issue 189690)
                on_device = tensor.to(self.device, non_blocking=self.device.type == "cuda")
                yield on_device if self.resident_pixels is None else self.resident_pixels[on_device]

    def _read_to_host(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the pixels of (n,) rows in host memory; the rows themselves where all pixels are on the device."""
        tensor = torch.from_numpy(rows if self.resident_pixels is not None else self.decoded.read(rows))
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _load_resident_pixels(self) -> Tensor:
        side, count = self.decoded.side, len(self.decoded)
        pixels = torch.empty(count, 3, side, side, dtype=torch.uint8, device=self.device)
        for rows in np.array_split(np.arange(count), -(-count // 1024)):
            pixels[rows[0] : rows[-1] + 1] = torch.from_numpy(self.decoded.read(rows)).to(self.device)
        return pixels


def free_gpu_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU's memory; 0 for any other device."""
    return get_free_memory(device) if device.type == "cuda" else 0
