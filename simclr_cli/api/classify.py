"""Settings and results of `simclr finetune` and `simclr predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.api.fields import (
    DEVICE_HELP,
    ENCODER,
    LABELS,
    OPTIMIZATION,
    OUTPUT,
    RUNS_FOLDER,
    RUNS_HELP,
    WORKERS_HELP,
    Settings,
    check_output_folder,
    check_output_path,
    setting,
)
from simclr_cli.api.probe import Accuracy, LabeledSettings
from simclr_cli.core.errors import SettingsError
from simclr_cli.core.events import PlanMade


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(LabeledSettings):
    """Settings of `simclr finetune`."""

    about = "Train a classifier with labels, from an encoder or from scratch."
    examples = ("simclr finetune ./images", "simclr finetune ./train --test ./test --labels-fraction 0.1 --scratch")

    labels_fraction: float = setting(
        1.0, "Fraction of the labels of each class to use, at least one label; drawn by --seed.",
        panel=LABELS, above=0.0, at_most=1.0,
    )  # fmt: skip
    scratch: bool = setting(
        False, "Start from the random weights of the run's seed instead, for comparison.", panel=ENCODER
    )
    epochs: int | None = setting(
        None, "Passes through the labeled images. Auto: the paper's 60 with 1 % of the labels or less, else 30.",
        panel=OPTIMIZATION, at_least=1,
    )  # fmt: skip
    learning_rate: float = setting(
        0.05, "Base learning rate; the learning rate is base * batch size / 256.", panel=OPTIMIZATION, above=0.0
    )
    batch_size: int | None = setting(
        None, "Images per step. Auto: a power of two, by the number of labeled images and the device.",
        panel=OPTIMIZATION, at_least=2,
    )  # fmt: skip
    out: Path | None = setting(
        None, "New folder for the classifier. Auto: classifier in the run's folder, named by the fraction of labels.",
        panel=OUTPUT, short="o",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_folder(self.out)
        if self.scratch and self.encoder is not None and self.encoder.startswith("random:"):
            raise SettingsError("--scratch starts from random weights, as does this --encoder.", "Remove one of them.")


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    """Settings of `simclr predict`."""

    about = "Predict the classes of images with a classifier of `simclr finetune`."
    examples = ("simclr predict query.jpg", "simclr predict ./queries --top 3 --out predictions.csv")

    queries: tuple[Path, ...] = setting((), "Images, or folders of images.", argument=True, exists=True)
    classifier: Path | None = setting(
        None, "Folder of a classifier. Auto: the newest one of --run, or of any, that did not start from scratch.",
        exists=True,
    )  # fmt: skip
    run: str | None = setting(None, "Use the newest classifier of this run. Auto: of any run under --runs.")
    runs: Path = setting(RUNS_FOLDER, RUNS_HELP)
    top: int = setting(5, "Number of classes per image, the most probable first.", at_least=1, short="n")
    out: Path | None = setting(None, "Write the predictions to this file, .csv or .json. Auto: print them.", short="o")
    device: str | None = setting(None, DEVICE_HELP)
    workers: int | None = setting(None, WORKERS_HELP, at_least=0)
    batch_size: int = setting(128, "Images computed at once.", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_path(self.out, ".csv", ".json")
        if not self.queries:
            raise SettingsError("No image was given.", "Run: simclr predict IMAGE")
        if self.classifier is not None and self.run is not None:
            raise SettingsError("--classifier and --run name two classifiers.", "Remove one of them.")


@dataclass(frozen=True)
class FinetuneResult:
    """Result of `simclr finetune`."""

    out: str  # the classifier's folder
    encoder: str  # the run or timm model that it started from
    scratch: bool  # it started from random weights
    classes: tuple[str, ...]
    labels: int  # train images whose labels were used
    train_images: int
    test_images: int
    split: str  # the rule that chose the held-out images
    chance: float  # percent: accuracy of always predicting the largest class
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
    """The probability of one class for one image."""

    label: str
    probability: float  # 0 to 1; the sum over all classes is 1


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of one image."""

    path: str
    label: str  # the most probable class
    probability: float  # its probability
    classes: tuple[ClassProbability, ...]  # the --top most probable, in order


@dataclass(frozen=True)
class PredictResult:
    """Result of `simclr predict`."""

    classifier: str  # its folder
    model_checksum: str
    labels: tuple[str, ...]  # all its classes
    predictions: tuple[Prediction, ...]
    skipped: tuple[str, ...]  # files that could not be used, with reasons
    out: str | None = None  # the file written
