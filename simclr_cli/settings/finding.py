"""Settings of what finds pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.errors import SettingsError
from simclr_cli.fields import check, setting
from simclr_cli.settings.shared import (
    DEVICE,
    OPEN,
    OUT_FOUND,
    RUN,
    RUNS,
    RUNS_HELP,
    THUMBNAILS,
    WORKERS,
    check_found_out,
)


@dataclass(frozen=True, kw_only=True)
class SimilarSettings:
    """Settings of `simclr similar`."""

    queries: tuple[Path, ...] = setting(
        (), "Pictures, or folders of pictures, to find the like of.", argument=True, exists=True
    )
    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    top: int = setting(10, "How many neighbours a query.", at_least=1, short="n")
    out: Path | None = setting(None, OUT_FOUND, short="o")
    open: bool = setting(False, OPEN)
    thumbnails: bool = setting(False, THUMBNAILS)
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=1)
    batch_size: int = setting(128, "Pictures embedded at once.", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        if not self.queries:
            raise SettingsError("No query was given.", "Type: simclr similar PICTURE")
        check_found_out(self)
