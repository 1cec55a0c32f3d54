"""Settings of what makes a classifier of an encoder, and uses it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.errors import SettingsError
from simclr_cli.fields import check, setting
from simclr_cli.settings.shared import DEVICE, MOST_SIDE, RUN, RUNS, RUNS_HELP, SEED, WORKERS, EncoderSettings


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Settings of `simclr finetune`."""

    images: Path | None = setting(
        None, "The folder of labelled pictures. Auto: the run's own.", argument=True, exists=True
    )
    labels: Path | None = setting(None, "CSV with the columns path,label. Auto: the class folders.", exists=True)
    labels_fraction: float = setting(
        1.0, "Share of each class's labels that is used, at least one; which ones follows from --seed.",
        above=0.0, at_most=1.0,
    )  # fmt: skip
    test: Path | None = setting(
        None, "Held-out pictures in the same classes. Auto: a stratified split by --seed.", exists=True
    )
    test_fraction: float = setting(
        0.2, "Share of each class that is held out if there is no --test.", above=0.0, at_most=0.9
    )
    out: Path | None = setting(
        None, "The classifier's folder, never overwritten. Auto: classifier in the run's, with the share of labels.",
        short="o",
    )  # fmt: skip
    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    backbone: str | None = setting(None, "Start from a plain timm model of this name instead of a run.")
    weights: str = setting("none", "Weights of --backbone: none (random), imagenet (timm's), or a .safetensors file.")
    image_size: int = setting(
        224, "Side of the pictures for --backbone; a run has its own.", at_least=8, at_most=MOST_SIDE
    )
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
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)

    def __post_init__(self) -> None:
        check(self)
        _ = self.encoder  # which has rules of its own
        if self.labels is not None and self.test is not None:
            raise SettingsError(
                "--labels names the classes of one folder only.", "Leave out --test, or use class folders."
            )
        if self.backbone is not None and self.images is None:
            raise SettingsError("A plain --backbone has no pictures of its own.", "Name the folder to train on.")
        if self.scratch and self.weights != "none":
            raise SettingsError(
                "--scratch starts from random weights, --weights from others.", "Leave one of them out."
            )

    @property
    def encoder(self) -> EncoderSettings:
        """Which encoder to start from, and where."""
        names = ("run", "runs", "backbone", "weights", "image_size", "seed", "device", "workers")
        return EncoderSettings(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Settings of `simclr predict`."""

    queries: tuple[Path, ...] = setting((), "Pictures, or folders of pictures.", argument=True, exists=True)
    classifier: Path | None = setting(
        None, "The folder of a classifier. Auto: the newest one that did not start from scratch, of --run or of any.",
        exists=True,
    )  # fmt: skip
    run: str | None = setting(None, "Take the newest classifier of this run. Auto: of any run under --runs.")
    runs: Path = setting(RUNS, RUNS_HELP)
    top: int = setting(5, "How many classes a picture, the most probable first.", at_least=1, short="n")
    out: Path | None = setting(
        None, "Write the predictions to this file, .csv or .json. Auto: they are printed.", short="o"
    )
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)
    batch_size: int = setting(128, "Pictures computed at once.", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        if not self.queries:
            raise SettingsError("No picture was given.", "Type: simclr predict PICTURE")
        if self.classifier is not None and self.run is not None:
            raise SettingsError("--classifier and --run name two classifiers.", "Leave one of them out.")
        if self.out is not None and self.out.suffix not in (".csv", ".json"):
            raise SettingsError(f"--out is {self.out}, and must end in .csv or .json.", f"Try --out {self.out}.csv")
        if self.out is not None and self.out.is_dir():
            raise SettingsError(f"--out is {self.out}, which is a folder.", "Give the path of a file.")
