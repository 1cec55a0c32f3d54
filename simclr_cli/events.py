"""What verbs report on the way and return at the end: frozen dataclasses of plain values, the same as --json prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Something long is at `done` of `total`."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Note:
    """One sentence that a person should see."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class CensusTaken:
    """What is in the folder: the keys of `images.folder.Census.summary`."""

    summary: dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """One line of the plan: a setting as resolved, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class PlanMade:
    """What is about to happen."""

    run: str
    choices: tuple[Choice, ...]
    steps: int
    seconds: float | None  # estimated; None where it was not


@dataclass(frozen=True)
class StepDone:
    """One update of the weights."""

    epoch: int  # from 1
    epochs: int
    step: int  # within the epoch, from 1
    steps: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class EpochDone:
    """One line of metrics.jsonl."""

    epoch: int  # from 1
    loss: float  # mean over the epoch's steps
    learning_rate: float  # of its last step
    images_per_second: float
    seconds: float


Event = Progress | Note | CensusTaken | PlanMade | StepDone | EpochDone
Report = Callable[[Event], None]


def silent(_: Event) -> None:
    """Report to no one."""


def gigabytes(count: int) -> str:
    """12.3 GB, 0.45 GB: bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e9:.2g} GB"


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` made."""

    run: str  # the folder
    finished: bool  # False after --dry-run
    epochs: int
    pictures: int
    refused: int
    first_loss: float | None  # mean of the first epoch
    last_loss: float | None
    images_per_second: float | None  # median over the epochs
    seconds: float
    model_digest: str | None  # SHA-256 of encoder/model.safetensors
    plan: PlanMade | None = None
    census: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` wrote."""

    out: str
    rows_file: str
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
class Score:
    """How well one representation tells the classes apart, on held-out pictures, in percent."""

    representation: str  # trained, untrained, pixels
    knn_20: float
    knn_200: float
    linear: float | None  # None where it was not fitted


@dataclass(frozen=True)
class ProbeResult:
    """What `probe` found."""

    encoder: str
    train_pictures: int
    test_pictures: int
    classes: tuple[str, ...]
    chance: float  # percent: always guessing the largest class
    scores: tuple[Score, ...]
    split: str  # how the held-out pictures were chosen
    knn_temperature: float
    refused: int
    model_digest: str


@dataclass(frozen=True)
class Neighbour:
    """One hit."""

    rank: int  # from 1
    path: str
    similarity: float  # cosine, -1 to 1


@dataclass(frozen=True)
class QueryResult:
    """The hits of one query, nearest first."""

    query: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class SimilarResult:
    """What `similar` found."""

    run: str
    searched: int  # vectors
    queries: tuple[QueryResult, ...]
    refused: tuple[str, ...] = ()  # files in a folder of queries that are no pictures


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
