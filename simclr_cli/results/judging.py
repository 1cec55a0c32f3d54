"""What the verb that says how good an encoder is returns."""

from __future__ import annotations

from dataclasses import dataclass


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
        """Return the linear probe's accuracy, or without one that of 20 neighbours."""
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
