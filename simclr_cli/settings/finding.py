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
class IndexSettings:
    """Which pictures are searched, and how their vectors are kept up to date: shared by the verbs that find."""

    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    as_is: bool = setting(False, "Take the vectors as they are, without a look at whether the pictures have changed.")
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=1)
    batch_size: int = setting(128, "Pictures embedded at once.", at_least=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class SimilarSettings(IndexSettings):
    """Settings of `simclr similar`."""

    queries: tuple[Path, ...] = setting(
        (),
        "Pictures, folders of pictures, or names of the run's own pictures. With + and - between them they are one "
        "query: the sum of their vectors.",
        argument=True,
    )
    top: int = setting(10, "How many neighbours a query.", at_least=1, short="n")
    within: str = setting("", "Only pictures whose relative path fits this pattern, such as 'birds/*.jpg'. Auto: all.")
    min_similarity: float | None = setting(
        None, "Only pictures at least so similar, by cosine. Auto: any.", at_least=-1, at_most=1
    )
    out: Path | None = setting(None, OUT_FOUND, short="o")
    open: bool = setting(False, OPEN)
    thumbnails: bool = setting(False, THUMBNAILS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.queries:
            raise SettingsError("No query was given.", "Type: simclr similar PICTURE")
        check_found_out(self)
