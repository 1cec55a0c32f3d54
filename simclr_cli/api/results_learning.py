"""What the verbs that train return, and those that make use of labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simclr_cli.core.events import Choice, PlanMade


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
    state: str | None = None  # learning (and at rest by the end), improving (train longer), unchanged
    outcome: str | None = None  # the same in words
    report: str | None = None  # the page of the run, report.html


@dataclass(frozen=True)
class PreviewResult:
    """The sheet that `preview` made, and how its views were made."""

    out: str
    images: str
    pictures: int  # on the sheet
    views: int  # of each
    image_size: int
    preset: str | None
    choices: tuple[Choice, ...]  # the settings of the views, with their reasons
    enlarged: float  # share of the crops that are enlarged to more than twice their size
    advice: tuple[str, ...]  # what to notice


@dataclass(frozen=True)
class Accuracy:
    """How many of the held-out pictures were told right, in percent."""

    top_1: float
    low: float  # with `high`, where 95 % of bootstrap samples of the held-out pictures lie
    high: float
    balanced: float  # mean over the classes
    top_5: float | None = None  # None with five classes or fewer


@dataclass(frozen=True)
class Score:
    """How well one representation tells the classes apart, on held-out pictures."""

    representation: str  # trained, untrained, raw pixels, colour histogram, imagenet, or what --baseline names
    knn_20: Accuracy  # by the votes of the 20 nearest
    knn_200: Accuracy
    linear: Accuracy | None  # None where it was not fitted
    gain: float | None = None  # points by which the first representation is above this one
    gain_low: float | None = None  # with `gain_high`, its 95 % interval, paired by picture
    gain_high: float | None = None

    @property
    def deciding(self) -> Accuracy:
        """Return the linear probe's accuracy, or without one that of 20 neighbors."""
        return self.linear or self.knn_20


@dataclass(frozen=True)
class ClassScore:
    """One class, by the first representation."""

    name: str
    train_pictures: int
    test_pictures: int
    recall: float | None  # percent of its held-out pictures that were told right; None where there are none
    precision: float | None  # percent of what was told to be it that is; None where nothing was


@dataclass(frozen=True)
class Confusion:
    """How many held-out pictures of a class were told to be of one; cells of 0 are left out."""

    label: str
    predicted: str
    count: int


@dataclass(frozen=True)
class Suspect:
    """A picture whose label is likely to be wrong."""

    path: str  # relative to its folder
    label: str
    predicted: str
    probability: float  # of the label, by a probe that was not fitted on this picture


@dataclass(frozen=True)
class FewLabels:
    """Accuracy with a part of the labels only."""

    representation: str
    labels: int  # train pictures whose label was used
    wanted: str  # 1 %, 5 a class
    top_1: float  # percent, mean over the draws
    std: float  # between the draws
    draws: int


@dataclass(frozen=True)
class ProbeResult:
    """What `probe` found."""

    encoder: str
    train_pictures: int
    test_pictures: int
    classes: tuple[str, ...]
    chance: float  # percent: always guessing the largest class
    scores: tuple[Score, ...]  # the encoder's first, then the baselines'
    split: str  # how the held-out pictures were chosen
    knn_temperature: float
    refused: int
    model_digest: str
    protocol: str = "quick"  # of the linear probe: quick, or paper
    verdict: str = ""  # one sentence
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[Confusion, ...] = ()
    suspects: tuple[Suspect, ...] = ()  # most suspect first
    few_labels: tuple[FewLabels, ...] = ()
    folder: str | None = None  # where probe.json and the picture of the confusion matrix are


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` made."""

    out: str  # the classifier's folder
    encoder: str  # that it started from
    scratch: bool  # whether that had random weights
    classes: tuple[str, ...]
    labels: int  # pictures whose labels were used
    train_pictures: int  # of which they were drawn
    test_pictures: int
    split: str  # how the held-out pictures were chosen
    chance: float  # percent: always guessing the class that most labels name
    accuracy: Accuracy
    epochs: int
    batch_size: int
    learning_rate: float  # the peak
    refused: int
    seconds: float
    model_digest: str  # SHA-256 of the classifier's model.safetensors
    plan: PlanMade | None = None


@dataclass(frozen=True)
class ClassProbability:
    """One class for one picture."""

    label: str
    probability: float  # 0 to 1, by the classifier: it sums to 1 over the classes it knows


@dataclass(frozen=True)
class Prediction:
    """What one picture is likely to be of."""

    path: str
    label: str  # the most probable class
    probability: float  # its probability
    classes: tuple[ClassProbability, ...]  # the --top most probable, that one first


@dataclass(frozen=True)
class PredictResult:
    """What `predict` found."""

    classifier: str  # its folder
    model_digest: str
    labels: tuple[str, ...]  # all classes it knows
    predictions: tuple[Prediction, ...]
    refused: tuple[str, ...]  # files that could not be used, with the reason
    out: str | None = None  # the file that was written
