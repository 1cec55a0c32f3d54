"""Settings of what learns from labels, says by them how good an encoder is, or gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from simclr_cli.api import shared
from simclr_cli.api.fields import setting
from simclr_cli.core.errors import SettingsError

Protocol = Literal["quick", "paper"]
N = TypeVar("N", int, float)


@dataclass(frozen=True, kw_only=True)
class LabelledSettings(shared.EncoderSettings):
    """Which pictures have which labels, and which are held out: shared by the verbs that learn from labels."""

    images: Path | None = setting(
        None, "The folder of labelled pictures. Auto: the run's own.", argument=True, exists=True
    )
    labels: Path | None = setting(None, "CSV with the columns path,label. Auto: the class folders.", exists=True)
    test: Path | None = setting(
        None, "Held-out pictures in the same classes. Auto: a stratified split by --seed.", exists=True
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
class ProbeSettings(LabelledSettings):
    """Settings of `simclr probe`."""

    about = "Say how good an encoder is where labels exist, beside the untrained one."
    examples = ("simclr probe ./train --test ./test", "simclr probe ./images --labels labels.csv --json")

    protocol: Protocol = setting(
        "quick",
        "The linear probe: quick, logistic regression on vectors, with l2 chosen on a validation split; or paper, 90 "
        "epochs of Nesterov SGD over crops and flips of the pictures.",
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
    knn_temperature: float = setting(0.07, "Neighbours vote with the weight exp(similarity / temperature).", above=0.0)
    batch_size: int = setting(128, shared.EMBEDDED_AT_ONCE, at_least=1)

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


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(LabelledSettings):
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
        None, "Times through the labelled pictures. Auto: the paper's 60 with 1 % of the labels or less, else 30.",
        at_least=1,
    )  # fmt: skip
    learning_rate: float = setting(0.05, "Base of the learning rate, which is this times batch / 256.", above=0.0)
    batch_size: int | None = setting(
        None, "Pictures a step. Auto: a power of two by the labelled pictures and the device.", at_least=2
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scratch and self.weights != "none":
            raise SettingsError(
                "--scratch starts from random weights, --weights from others.", "Leave one of them out."
            )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(shared.Settings):
    """Settings of `simclr predict`."""

    about = "Say which classes pictures are of, by a classifier that finetune made."
    examples = ("simclr predict query.jpg", "simclr predict ./queries --top 3 --out predictions.csv")

    queries: tuple[Path, ...] = setting((), "Pictures, or folders of pictures.", argument=True, exists=True)
    classifier: Path | None = setting(
        None, "The folder of a classifier. Auto: the newest one that did not start from scratch, of --run or of any.",
        exists=True,
    )  # fmt: skip
    run: str | None = setting(None, "Take the newest classifier of this run. Auto: of any run under --runs.")
    runs: Path = setting(shared.RUNS, shared.RUNS_HELP)
    top: int = setting(5, "How many classes a picture, the most probable first.", at_least=1, short="n")
    out: Path | None = setting(
        None, "Write the predictions to this file, .csv or .json. Auto: they are printed.", short="o"
    )
    device: str | None = setting(None, shared.DEVICE)
    workers: int | None = setting(None, shared.WORKERS, at_least=0)
    batch_size: int = setting(128, "Pictures computed at once.", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        shared.check_out(self.out, ".csv", ".json")
        if not self.queries:
            raise SettingsError("No picture was given.", "Type: simclr predict PICTURE")
        if self.classifier is not None and self.run is not None:
            raise SettingsError("--classifier and --run name two classifiers.", "Leave one of them out.")


def _numbers(option: str, text: str, kind: type[N]) -> tuple[N, ...]:
    """The numbers in a list with commas."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingsError(f"{option} is {text!r}.", "Give numbers with commas between them.") from None
