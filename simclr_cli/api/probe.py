"""Settings and result of the evaluation with labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from simclr_cli.api.fields import EMBEDDED_AT_ONCE, EncoderSettings, setting
from simclr_cli.core.errors import SettingsError

Protocol = Literal["quick", "paper"]
N = TypeVar("N", int, float)


@dataclass(frozen=True, kw_only=True)
class LabeledSettings(EncoderSettings):
    """Which images have which labels, and which are held out: shared by the verbs that learn from labels."""

    images: Path | None = setting(
        None, "The folder of labeled images. Auto: the run's own.", argument=True, exists=True
    )
    labels: Path | None = setting(None, "CSV with the columns path,label. Auto: the class folders.", exists=True)
    test: Path | None = setting(
        None, "Held-out images in the same classes. Auto: a stratified split by --seed.", exists=True
    )
    test_fraction: float = setting(
        0.2, "Share of each class that is held out if there is no --test.", above=0.0, at_most=0.9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and self.test is not None:
            raise SettingsError(
                "--labels names the classes of one folder only.", "Leave out --test, or use class folders."
            )


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(LabeledSettings):
    """Settings of `simclr probe`."""

    about = "Say how good an encoder is where labels exist, beside the untrained one."
    examples = ("simclr probe ./train --test ./test", "simclr probe ./images --labels labels.csv --json")

    protocol: Protocol = setting(
        "quick",
        "The linear probe: quick, logistic regression on vectors, with l2 chosen on a validation split; or paper, 90 "
        "epochs of Nesterov SGD over crops and flips of the images.",
    )
    baseline: tuple[str, ...] = setting(
        (), "Compare with this too: another run, or a .safetensors file for the same backbone. Several may be given."
    )
    labels_fraction: str = setting("", "Probe with a part of the labels too: shares of them, such as 0.01,0.1.")
    labels_per_class: str = setting("", "The same by numbers of labels a class, such as 1,5,10.")
    draws: int = setting(3, "How many times such a part is drawn; the mean is shown.", at_least=1)
    out: Path | None = setting(
        None, "Folder for probe.json and confusion.png. Auto: probe/ in the run's folder.", short="o"
    )
    knn_temperature: float = setting(0.07, "Neighbors vote with the weight exp(similarity / temperature).", above=0.0)
    batch_size: int = setting(128, EMBEDDED_AT_ONCE, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 0 < share <= 1 for share in self.shares):
            raise SettingsError(f"--labels-fraction is {self.labels_fraction!r}.", "Give shares between 0 and 1.")
        if any(count < 1 for count in self.counts):
            raise SettingsError(f"--labels-per-class is {self.labels_per_class!r}.", "Give numbers of at least 1.")

    @property
    def shares(self) -> tuple[float, ...]:
        """--labels-fraction, as numbers."""
        return _numbers("--labels-fraction", self.labels_fraction, float)

    @property
    def counts(self) -> tuple[int, ...]:
        """--labels-per-class, as numbers."""
        return _numbers("--labels-per-class", self.labels_per_class, int)


def _numbers(option: str, text: str, kind: type[N]) -> tuple[N, ...]:
    """The numbers in a list with commas."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingsError(f"{option} is {text!r}.", "Give numbers with commas between them.") from None


@dataclass(frozen=True)
class Accuracy:
    """How many of the held-out images were told right, in percent."""

    top_1: float
    low: float  # with `high`, where 95 % of bootstrap samples of the held-out images lie
    high: float
    balanced: float  # mean over the classes
    top_5: float | None = None  # None with five classes or fewer


@dataclass(frozen=True)
class Score:
    """How well one representation tells the classes apart, on held-out images."""

    representation: str  # trained, untrained, raw pixels, color histogram, imagenet, or what --baseline names
    knn_20: Accuracy  # by the votes of the 20 nearest
    knn_200: Accuracy
    linear: Accuracy | None  # None where it was not fitted
    gain: float | None = None  # points by which the first representation is above this one
    gain_low: float | None = None  # with `gain_high`, its 95 % interval, paired by image
    gain_high: float | None = None

    @property
    def deciding(self) -> Accuracy:
        """Return the linear probe's accuracy, or without one that of 20 neighbors."""
        return self.linear or self.knn_20


@dataclass(frozen=True)
class ClassScore:
    """One class, by the first representation."""

    name: str
    train_images: int
    test_images: int
    recall: float | None  # percent of its held-out images that were told right; None where there are none
    precision: float | None  # percent of what was told to be it that is; None where nothing was


@dataclass(frozen=True)
class Confusion:
    """How many held-out images of a class were told to be of one; cells of 0 are left out."""

    label: str
    predicted: str
    count: int


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely to be wrong."""

    path: str  # relative to its folder
    label: str
    predicted: str
    probability: float  # of the label, by a probe that was not fitted on this image


@dataclass(frozen=True)
class FewLabels:
    """Accuracy with a part of the labels only."""

    representation: str
    labels: int  # train images whose label was used
    wanted: str  # 1 %, 5 a class
    top_1: float  # percent, mean over the draws
    std: float  # between the draws
    draws: int


@dataclass(frozen=True)
class ProbeResult:
    """What `probe` found."""

    encoder: str
    train_images: int
    test_images: int
    classes: tuple[str, ...]
    chance: float  # percent: always guessing the largest class
    scores: tuple[Score, ...]  # the encoder's first, then the baselines'
    split: str  # how the held-out images were chosen
    knn_temperature: float
    skipped: int
    model_checksum: str
    protocol: str = "quick"  # of the linear probe: quick, or paper
    verdict: str = ""  # one sentence
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[Confusion, ...] = ()
    label_errors: tuple[LabelError, ...] = ()  # most suspect first
    few_labels: tuple[FewLabels, ...] = ()
    folder: str | None = None  # where probe.json and the image of the confusion matrix are
