"""Settings of what looks for faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.fields import setting
from simclr_cli.settings.shared import RUNS, RUNS_HELP, Settings


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Settings of `simclr doctor`."""

    images: Path | None = setting(
        None, "A folder of pictures to look at too. Auto: the machine and the runs only.", argument=True, exists=True
    )
    runs: Path = setting(RUNS, RUNS_HELP)
