"""Randomness as a function: what happens follows from (seed, purpose, position), never from what ran before.

So a resumed run, or one with another number of workers, sees the same pictures in the same order with the
same augmentations.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What randomness is for; keeps streams of one seed apart. The values are part of the run format."""

    ENCODER = 1
    HEAD = 2
    ORDER = 3
    VIEWS = 4
    STEP = 5
    SPLIT = 6


def seed_for(seed: int, purpose: Purpose, *position: int) -> int:
    """A 63-bit seed for one purpose at one position (an epoch, a step), well mixed by numpy's SeedSequence."""
    words = np.random.SeedSequence([seed, int(purpose), *position]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def torch_generator(seed: int, purpose: Purpose, *position: int) -> torch.Generator:
    """A CPU generator: the same numbers whatever device the pictures are on."""
    import torch

    return torch.Generator().manual_seed(seed_for(seed, purpose, *position))


def numpy_generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng([seed, int(purpose), *position])
