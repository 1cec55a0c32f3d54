"""Settings of what finds pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

CopyKind = Literal["exact", "near", "all"]


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


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(IndexSettings):
    """Settings of `simclr duplicates`."""

    kind: CopyKind = setting(
        "all",
        "exact: files of equal content; near: pictures that are alike to the encoder and to the eye, one of each "
        "content; all: both.",
    )
    min_similarity: float | None = setting(
        None,
        "The least similarity of near copies, by cosine. Auto: what half of the pairs of views of one picture reach.",
        at_least=-1,
        at_most=1,
    )
    move_to: Path | None = setting(
        None,
        "Move all but the best copy of each group to this folder, with a list by which they can be put back. "
        "Auto: nothing is moved.",
    )
    put_back: Path | None = setting(
        None, "Put back what was moved to this folder, and do nothing else. Auto: look for copies."
    )
    out: Path | None = setting(None, OUT_FOUND, short="o")
    open: bool = setting(False, OPEN)
    thumbnails: bool = setting(False, THUMBNAILS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_found_out(self)
        if self.kind == "exact" and self.min_similarity is not None:
            raise SettingsError("--min-similarity is of near copies, and --kind is exact.", "Leave one of them out.")
        if self.put_back is not None and (self.move_to or self.out or self.open):
            raise SettingsError("--put-back finds nothing, and moves nothing out.", "Type it alone.")
