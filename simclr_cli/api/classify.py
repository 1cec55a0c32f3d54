"""Settings and results of training a classifier and of predicting by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.api.fields import DEVICE, RUNS, RUNS_HELP, WORKERS, Settings, check_out, setting
from simclr_cli.api.probe import Accuracy, LabeledSettings
from simclr_cli.core.errors import SettingsError
from simclr_cli.core.events import PlanMade


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(LabeledSettings):
    """Settings of `simclr finetune`."""

    about = "Train a classifier with labels, from a run's encoder or from scratch."
    examples = ("simclr finetune ./images", "simclr finetune ./train --test ./test --labels-fraction 0.1 --scratch")

    labels_fraction: float = setting(
        1.0, "Share of each class's labels that is used, at least one; which ones follows from --seed.",
        above=0.0, at_most=1.0,
    )  # fmt: skip
    out: Path | None = setting(
        None, "The classifier's folder, never overwritten. Auto: classifier in the run's, with the share of labels.",
        short="o",
    )  # fmt: skip
    scratch: bool = setting(
        False, "For comparison: the same architecture from the random weights that the run's seed gives."
    )
    epochs: int | None = setting(
        None, "Times through the labeled images. Auto: the paper's 60 with 1 % of the labels or less, else 30.",
        at_least=1,
    )  # fmt: skip
    learning_rate: float = setting(0.05, "Base of the learning rate, which is this times batch / 256.", above=0.0)
    batch_size: int | None = setting(
        None, "Images a step. Auto: a power of two by the labeled images and the device.", at_least=2
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scratch and self.weights != "none":
            raise SettingsError(
                "--scratch starts from random weights, --weights from others.", "Leave one of them out."
            )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    """Settings of `simclr predict`."""

    about = "Say which classes images are of, by a classifier that finetune made."
    examples = ("simclr predict query.jpg", "simclr predict ./queries --top 3 --out predictions.csv")

    queries: tuple[Path, ...] = setting((), "Images, or folders of images.", argument=True, exists=True)
    classifier: Path | None = setting(
        None, "The folder of a classifier. Auto: the newest one that did not start from scratch, of --run or of any.",
        exists=True,
    )  # fmt: skip
    run: str | None = setting(None, "Take the newest classifier of this run. Auto: of any run under --runs.")
    runs: Path = setting(RUNS, RUNS_HELP)
    top: int = setting(5, "How many classes an image, the most probable first.", at_least=1, short="n")
    out: Path | None = setting(
        None, "Write the predictions to this file, .csv or .json. Auto: they are printed.", short="o"
    )
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)
    batch_size: int = setting(128, "Images computed at once.", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_out(self.out, ".csv", ".json")
        if not self.queries:
            raise SettingsError("No image was given.", "Type: simclr predict IMAGE")
        if self.classifier is not None and self.run is not None:
            raise SettingsError("--classifier and --run name two classifiers.", "Leave one of them out.")


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` made."""

    out: str  # the classifier's folder
    encoder: str  # that it started from
    scratch: bool  # whether that had random weights
    classes: tuple[str, ...]
    labels: int  # images whose labels were used
    train_images: int  # of which they were drawn
    test_images: int
    split: str  # how the held-out images were chosen
    chance: float  # percent: always guessing the class that most labels name
    accuracy: Accuracy
    epochs: int
    batch_size: int
    learning_rate: float  # the peak
    skipped: int
    seconds: float
    model_checksum: str  # SHA-256 of the classifier's model.safetensors
    plan: PlanMade | None = None


@dataclass(frozen=True)
class ClassProbability:
    """One class for one image."""

    label: str
    probability: float  # 0 to 1, by the classifier: it sums to 1 over the classes it knows


@dataclass(frozen=True)
class Prediction:
    """What one image is likely to be of."""

    path: str
    label: str  # the most probable class
    probability: float  # its probability
    classes: tuple[ClassProbability, ...]  # the --top most probable, that one first


@dataclass(frozen=True)
class PredictResult:
    """What `predict` found."""

    classifier: str  # its folder
    model_checksum: str
    labels: tuple[str, ...]  # all classes it knows
    predictions: tuple[Prediction, ...]
    skipped: tuple[str, ...]  # files that could not be used, with the reason
    out: str | None = None  # the file that was written
