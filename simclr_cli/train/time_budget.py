"""Budgets of time for what a training does besides its steps: how often it is measured and its metrics are written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class TimeBudget:
    """A share of the time since its creation that some repeated work may take."""

    def __init__(self, share: float) -> None:
        self.share, self.start = share, time.perf_counter()
        self.spent = self.last = 0.0  # seconds: of all, of the last one

    def allows(self) -> bool:
        """Return whether the share is kept if the work is done again and takes as long as the last time."""
        return self.spent + self.last <= self.share * (time.perf_counter() - self.start + self.last)

    @contextlib.contextmanager
    def spend(self) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        yield
        self.last = time.perf_counter() - start
        self.spent += self.last


class MeasuredEpochs:
    """The epochs in which something is measured, besides the last one: every so many, within a budget if there is one.

    Without a budget they follow from the number of the epoch alone.
    """

    def __init__(self, every: int, budget: TimeBudget | None) -> None:
        self.every, self.budget = every, budget
        self.last = 0

    def include(self, epoch: int) -> bool:
        """Return whether it is time to measure after `epoch` epochs."""
        if self.budget is None:
            return epoch % self.every == 0
        return epoch - self.last >= self.every and self.budget.allows()

    def measure(self, epoch: int) -> contextlib.AbstractContextManager[None]:
        """Return a block in which to measure after `epoch` epochs."""
        self.last = epoch
        return contextlib.nullcontext() if self.budget is None else self.budget.spend()
