"""Events that commands report, and the request to stop that they answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from simclr_cli.core.errors import Interrupted


@dataclass(frozen=True)
class Progress:
    """Progress of a long stage: `done` of `total`."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Note:
    """A sentence for a person."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class CensusTaken:
    """The content of a folder of images, by the keys of `images.census.Census.summary`."""

    summary: dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A line of the plan: a resolved setting and its reason."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class PlanMade:
    """The plan of a command, before it does any long work."""

    run: str
    choices: tuple[Choice, ...]
    steps: int
    seconds: float | None  # estimated, for the steps that are left; None where it is unknown
    steps_done: int = 0  # before, of a run that is resumed


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
    """Validation metrics without labels, from two views each of images that are not trained on."""

    alignment: float  # mean squared distance of the two views of an image on the unit sphere; 0 to 4, small is good
    uniformity: float  # log of the mean of exp(-2 squared distance) of different images; -8 to 0, small is good
    rank_h: float  # effective rank of h (RankMe), 1 to the smaller of its width and twice the images
    rank_z: float  # the same of z
    view_retrieval_accuracy: float  # percent of views whose nearest other view is that of the same image
    positive_similarity: float  # mean cosine of the two views of an image
    negative_similarity: float  # mean cosine of views of different images
    images: int
    held_out: bool  # False: too few images to hold some out, so that training images are measured
    agreement: float | None = None  # percent of the nearest neighbors by the start at its own size that are kept


@dataclass(frozen=True)
class EpochDone:
    """A finished epoch: a line of metrics.jsonl, and its times, a line of speed.jsonl."""

    epoch: int  # from 1
    loss: float  # mean over the epoch's steps
    learning_rate: float  # of its last step
    images_per_second: float
    seconds: float
    validation: ValidationMetrics | None = None  # None in epochs where it was not measured
    knn_accuracy: float | None = None  # percent, by the 20 nearest neighbors' classes; None where it was not measured


Event = Progress | Note | CensusTaken | PlanMade | StepDone | EpochDone
Report = Callable[[Event], None]


def silent(_: Event) -> None:
    """Ignore an event."""


def progress(report: Report, stage: str) -> Callable[[int, int], None]:
    """Return a callback that reports each step of a long stage."""
    return lambda done, total: report(Progress(stage, done, total))


class Saveable(Protocol):
    """A training that any thread can save, whatever step is running."""

    def save(self) -> int:
        """Save the last whole step, and return the number of steps saved."""
        ...

    def save_and_interrupt(self, kind: type[Interrupted]) -> Interrupted:
        """Save the last whole step, and return the error that ends the training."""
        ...


class StopController:
    """The request to stop, if there is one, and the running training, if there is one."""

    def __init__(self) -> None:
        self.request: Interrupted | None = None
        self.training: Saveable | None = None

    @contextlib.contextmanager
    def saving(self, training: Saveable) -> Iterator[None]:
        """Save this training on a stop within; after an error too, since only it knows how to resume."""
        self.training = training
        yield
        self.training = None
