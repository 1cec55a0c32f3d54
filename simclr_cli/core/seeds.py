"""Random seeds as a function of (seed, purpose, position), independent of earlier draws.

A resumed run, or one with another number of workers, therefore draws the same images and augmentations.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """Use of a random stream, which separates the streams of one seed. The values are part of the run format."""

    ENCODER = 1
    HEAD = 2
    ORDER = 3
    VIEWS = 4
    STEP = 5
    SPLIT = 6
    BOOTSTRAP = 7
    LABELS = 8
    HELD_OUT = 9
    VALIDATION = 10
    CLASSIFIER = 11
    AUGMENT = 12
    SIMILARITY = 13
    CLUSTERS = 14
    ANCHORS = 15


def derive_seed(seed: int, purpose: Purpose, *position: int) -> int:
    """Return a 63-bit seed for a purpose at a position (an epoch, a step); different keys give unrelated seeds.

    By SHA-256: numpy's SeedSequence splits large words and pads short keys, so different keys can collide.
    """
    key = ",".join(str(int(part)) for part in (seed, purpose, *position))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def create_torch_generator(seed: int, purpose: Purpose, *position: int) -> torch.Generator:
    """Create a CPU generator, so that the numbers do not depend on the device of the images."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *position))


def seed_device(device: torch.device, seed: int, purpose: Purpose, *position: int) -> None:
    """Seed a device's global generator, from which layers such as dropout draw.

    On a CPU by its own generator: torch.manual_seed also records the stack, for GPUs initialized later (0.3 ms).
    """
    seed_all = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed_all(derive_seed(seed, purpose, *position))


@contextlib.contextmanager
def seeded(seed: int, purpose: Purpose) -> Iterator[None]:
    """Seed torch's global CPU generator within the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, purpose))
        yield


def create_numpy_generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """Create a numpy generator."""
    return np.random.default_rng(derive_seed(seed, purpose, *position))
