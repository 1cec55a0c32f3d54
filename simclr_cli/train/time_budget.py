"""A budget of time for what a training does besides its steps: measuring the model, and writing its metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class TimeBudget:
    """A share of the time since its creation that some repeated work may take; a share of 1 always allows it."""

    def __init__(self, share: float) -> None:
        self.share, self.start = share, time.perf_counter()
        self.spent = self.last = 0.0  # seconds: of all, of the last one

    def allows(self) -> bool:
        """Return whether the share is kept if the work is done again and takes as long as the last time."""
        return self.share >= 1 or self.spent + self.last <= self.share * (time.perf_counter() - self.start + self.last)

    @contextlib.contextmanager
    def spend(self) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        yield
        self.last = time.perf_counter() - start
        self.spent += self.last
