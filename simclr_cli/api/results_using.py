"""What the verbs that put an encoder to use, or keep house, return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simclr_cli.api.results_finding import QueryResult
from simclr_cli.api.results_learning import PretrainResult, Score
from simclr_cli.core.errors import RunError

State = Literal["damaged", "missing", "foreign"]


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` wrote."""

    out: str
    rows_file: str  # names of the rows, and what was refused: beside `out`, `out` itself, or the list of shards
    rows: int
    dimensions: int
    normalised: bool
    encoder: str  # the run's folder, or the timm name
    model_digest: str
    refused: int
    seconds: float
    images_per_second: float
    shards: int | None = None  # files, which rows_file lists; None for one


@dataclass(frozen=True)
class ReportResult:
    """The page that `report` made."""

    run: str  # the folder
    out: str  # report.html in it
    finished: bool  # whether the run is
    bytes: int


@dataclass(frozen=True)
class Finding:
    """A file of a run that is not as it should be."""

    path: str  # relative to the run
    state: State
    what: str
    remedy: str


@dataclass(frozen=True)
class CheckResult:
    """What `check` found in a run's folder."""

    run: str  # the folder
    finished: bool  # else only its checkpoint is verified
    whole: bool  # nothing is damaged, missing or foreign
    files: int  # verified
    bytes: int  # of these
    found: tuple[Finding, ...]
    resume: str | None  # the command that goes on with it; None: it is finished

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 0 if self.whole else RunError.exit_code


@dataclass(frozen=True)
class CacheKept:
    """What is kept of one folder of pictures, to be quicker the next time."""

    path: str
    folder: str  # the pictures'
    sides: tuple[int, ...]  # of the decoded squares, px
    bytes: int
    used: str  # when last, ISO 8601 in UTC


@dataclass(frozen=True)
class CacheResult:
    """What lies in the cache, or, after --clear, what lay there."""

    root: str
    cleared: bool
    bytes: int
    caches: tuple[CacheKept, ...]


@dataclass(frozen=True)
class DemoResult:
    """What `demo` showed."""

    folder: str
    pictures: int
    classes: tuple[str, ...]
    scores: tuple[Score, ...]  # trained, untrained, pixels
    query: QueryResult
    seconds: float
    pretrain: PretrainResult | None = None
