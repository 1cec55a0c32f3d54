"""Randomness as a function: what happens follows from (seed, purpose, position), never from what ran before.

So a resumed run, or one with another number of workers, sees the same images in the same order with the
same augmentations.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What randomness is for; keeps streams of one seed apart. The values are part of the run format."""

    ENCODER = 1
    HEAD = 2
    ORDER = 3
    VIEWS = 4
    STEP = 5
    SPLIT = 6
    BOOTSTRAP = 7
    LABELS = 8
    HELD_OUT = 9
    HEALTH = 10
    CLASSIFIER = 11
    AUGMENT = 12
    SIMILARITY = 13
    CLUSTERS = 14


def seed_for(seed: int, purpose: Purpose, *position: int) -> int:
    """A 63-bit seed for one purpose at one position (an epoch, a step); any two keys give unrelated seeds.

    By SHA-256, not by numpy's SeedSequence: that one splits large words and pads short keys, so that keys can meet.
    """
    key = ",".join(str(int(part)) for part in (seed, purpose, *position))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, purpose: Purpose, *position: int) -> torch.Generator:
    """A CPU generator: the same numbers whatever device the images are on."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, *position))


def seed_device(device: torch.device, seed: int, purpose: Purpose, *position: int) -> None:
    """Let what a network draws there, dropout and the like, follow from this key from now on.

    On a CPU by its own generator: torch.manual_seed also notes the stack, for GPUs that may be used later (0.3 ms).
    """
    seed_all = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed_all(seed_for(seed, purpose, *position))


@contextlib.contextmanager
def seeded(seed: int, purpose: Purpose) -> Iterator[None]:
    """Let whatever draws from torch's global CPU generator draw by this key; afterwards the generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, purpose))
        yield


def numpy_generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(seed_for(seed, purpose, *position))
