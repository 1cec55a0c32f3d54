"""What there is to do, as the first of several processes has found out and tells the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_cli.engine.model import SimCLR
from simclr_cli.events import PlanMade
from simclr_cli.images.census import Census
from simclr_cli.settings import ResolvedSettings
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import RunInfo


@dataclass(frozen=True)
class Work:
    """A run to train."""

    run: RunFolder
    chosen: ResolvedSettings
    census: Census  # before decoding
    plan: PlanMade | None = None  # these three the first one keeps to itself
    model: SimCLR | None = None
    before: RunInfo | None = None  # of a run that goes on

    def told(self) -> list[Any]:
        """As JSON can hold it."""
        return [str(self.run.path.absolute()), self.chosen.told(), self.census.told()]

    @staticmethod
    def retold(told: list[Any]) -> Work:
        """The work that `told` told of."""
        return Work(RunFolder(Path(told[0])), ResolvedSettings.retold(told[1]), Census.retold(told[2]))
