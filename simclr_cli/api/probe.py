"""Settings and result of `simclr probe`, and settings that all commands with labels share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from simclr_cli.api.fields import (
    BASICS,
    BATCH_SIZE_HELP,
    HARDWARE,
    LABELS,
    OUTPUT,
    EncoderSettings,
    check_output_folder,
    setting,
)
from simclr_cli.core.errors import SettingsError

Protocol = Literal["quick", "paper"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class LabeledSettings(EncoderSettings):
    """Settings of the labels and of the split into train and held-out images."""

    images: Path | None = setting(None, "Folder of labeled images. Auto: the run's own.", argument=True, exists=True)
    labels: Path | None = setting(
        None, "Table (CSV) with the columns path and label. Auto: the class folders.", panel=LABELS, exists=True
    )
    test: Path | None = setting(
        None, "Folder of held-out images of the same classes. Auto: a stratified split by --seed.",
        panel=LABELS, exists=True,
    )  # fmt: skip
    test_fraction: float = setting(
        0.2, "Fraction of each class to hold out without --test.", panel=LABELS, above=0.0, at_most=0.9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and self.test is not None:
            raise SettingsError("--labels has the classes of one folder only.", "Remove --test, or use class folders.")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(LabeledSettings):
    """Settings of `simclr probe`."""

    about = "Evaluate an encoder with labels, and compare it with baselines."
    examples = ("simclr probe ./train --test ./test", "simclr probe ./images --labels labels.csv --json")

    protocol: Protocol = setting(
        "quick",
        "Linear probe. quick: logistic regression on embeddings, with l2 chosen on a validation split. "
        "paper: 90 epochs of Nesterov SGD over crops and flips of the images.",
        panel=BASICS,
    )
    baseline: tuple[str, ...] = setting(
        (),
        "Another encoder to compare with, named as in --encoder. May be repeated.",
        panel=BASICS,
    )
    knn_temperature: float = setting(
        0.07, "Temperature of kNN: neighbors vote with weight exp(similarity / temperature).", panel=BASICS, above=0.0
    )
    labels_fraction: str = setting("", "Probe also with these fractions of the labels, such as 0.01,0.1.", panel=LABELS)
    labels_per_class: str = setting(
        "", "Probe also with these numbers of labels per class, such as 1,5,10.", panel=LABELS
    )
    draws: int = setting(
        3, "Random draws of each number of labels; the result is their mean.", panel=LABELS, at_least=1
    )
    out: Path | None = setting(
        None, "Folder for probe.json and confusion.png. Auto: probe in the run's folder.", panel=OUTPUT, short="o"
    )
    batch_size: int = setting(128, BATCH_SIZE_HELP, panel=HARDWARE, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_folder(self.out)
        if any(not 0 < fraction <= 1 for fraction in self.label_fractions):
            raise SettingsError(
                f"--labels-fraction is {self.labels_fraction!r}.", "Use fractions between 0 and 1, such as 0.01,0.1."
            )
        if any(count < 1 for count in self.label_counts):
            raise SettingsError(
                f"--labels-per-class is {self.labels_per_class!r}.", "Use numbers of at least 1, such as 1,5,10."
            )

    @property
    def label_fractions(self) -> tuple[float, ...]:
        """The numbers in --labels-fraction."""
        return _parse_numbers("--labels-fraction", self.labels_fraction, float)

    @property
    def label_counts(self) -> tuple[int, ...]:
        """The numbers in --labels-per-class."""
        return _parse_numbers("--labels-per-class", self.labels_per_class, int)


def _parse_numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    """Return the numbers of a comma-separated list."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingsError(f"{option} is {text!r}.", "Use numbers with commas between them.") from None


@dataclass(frozen=True)
class Accuracy:
    """Classification accuracy on the held-out images, in percent."""

    top_1: float
    low: float  # of the 95 % interval, by bootstrap over the held-out images
    high: float  # of the same interval
    balanced: float  # mean over the classes
    top_5: float | None = None  # None with at most five classes


@dataclass(frozen=True)
class Score:
    """Classification accuracy of one representation on the held-out images."""

    representation: str  # trained (by the run), start (of the run), untrained, raw pixels, color histogram, or a name
    knn_20: Accuracy  # by the votes of the 20 nearest neighbors
    knn_200: Accuracy
    linear: Accuracy | None  # None if it was not fitted
    gain: float | None = None  # points of the first representation over this one
    gain_low: float | None = None  # of the 95 % interval of the gain, paired by image
    gain_high: float | None = None  # of the same interval

    @property
    def deciding(self) -> Accuracy:
        """The accuracy of the linear probe, or without one that of 20 neighbors."""
        return self.linear or self.knn_20


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class, for the first representation."""

    name: str
    train_images: int
    test_images: int
    recall: float | None  # percent of its held-out images that are predicted as this class; None if it has none
    precision: float | None  # percent of the images predicted as this class that are of it; None if there are none


@dataclass(frozen=True)
class Confusion:
    """A cell of the confusion matrix of the held-out images, unless it is 0."""

    label: str
    predicted: str
    count: int


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely to be wrong."""

    path: str  # relative to its folder
    label: str
    predicted: str
    probability: float  # of the label, by a probe that was not fitted to this image


@dataclass(frozen=True)
class FewLabels:
    """Accuracy of the linear probe with a part of the labels."""

    representation: str
    labels: int  # train images whose labels were used
    wanted: str  # 1 % of the labels, 5 per class
    top_1: float  # percent, mean over the draws
    std: float  # between the draws
    draws: int


@dataclass(frozen=True)
class ProbeResult:
    """Result of `simclr probe`."""

    encoder: str
    train_images: int
    test_images: int
    classes: tuple[str, ...]
    chance: float  # percent: accuracy of always predicting the largest class
    scores: tuple[Score, ...]  # the encoder's first, then the baselines'
    split: str  # the rule that chose the held-out images
    knn_temperature: float
    skipped: int
    model_checksum: str
    protocol: str = "quick"  # of the linear probe: quick, or paper
    verdict: str = ""  # one sentence
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[Confusion, ...] = ()
    label_errors: tuple[LabelError, ...] = ()  # the most likely first
    label_errors_note: str = ""  # the reason for none, if the probe is mostly wrong itself
    few_labels: tuple[FewLabels, ...] = ()
    folder: str | None = None  # of probe.json and the image of the confusion matrix
