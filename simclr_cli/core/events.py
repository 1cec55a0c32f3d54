"""What verbs report on the way: frozen dataclasses of plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simclr_cli.core.errors import Interrupted


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
    """What is in the folder: the keys of `images.census.Census.summary`."""

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
class ValidationMetrics:
    """How the representation does without labels, on two views each of images that are not trained on."""

    alignment: float  # mean squared distance of the two views of an image on the unit sphere; 0 to 4, small is good
    uniformity: float  # log of the mean of exp(-2 squared distance) of different images; -8 to 0, small is good
    rank_h: float  # effective rank of h (RankMe), 1 to the smaller of its width and twice the images
    rank_z: float  # the same of z
    view_retrieval_accuracy: float  # percent of views whose nearest other view is that of the same image
    positive_similarity: float  # mean cosine of the two views of an image
    negative_similarity: float  # mean cosine of views of different images
    images: int
    held_out: bool  # False where there are too few images to keep some back


@dataclass(frozen=True)
class EpochDone:
    """An epoch: a line of metrics.jsonl, and what the clock said of it, a line of speed.jsonl."""

    epoch: int  # from 1
    loss: float  # mean over the epoch's steps
    learning_rate: float  # of its last step
    images_per_second: float
    seconds: float
    validation: ValidationMetrics | None = None  # None in epochs where it was not measured
    knn_accuracy: float | None = None  # percent, by the 20 nearest neighbors' classes; None where it was not measured


@dataclass(frozen=True)
class TrainingBegun:
    """What may be asked of a training from now on, by any thread, whatever step is under way."""

    save: Callable[[], int]  # what the last whole step left; the number of steps that are saved
    stopped: Callable[[type[Interrupted]], Interrupted]  # the same, and the words that the training then ends with


@dataclass(frozen=True)
class TrainingEnded:
    """All that came of a training is written."""


Event = Progress | Note | CensusTaken | PlanMade | StepDone | EpochDone | TrainingBegun | TrainingEnded
Report = Callable[[Event], None]


def silent(_: Event) -> None:
    """Report to no one."""


def progress(report: Report, stage: str) -> Callable[[int, int], None]:
    """A callback for a long stage that reports each step of it."""
    return lambda done, total: report(Progress(stage, done, total))


def gigabytes(count: int) -> str:
    """12.3 GB, 0.45 GB: bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e9:.2g} GB"
