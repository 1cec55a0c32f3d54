"""Settings and result of training without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simclr_cli.api.fields import DEVICE, DEVICES, RUNS, RUNS_HELP, setting
from simclr_cli.api.views import ResolvedViews, ViewSettings
from simclr_cli.core.errors import SettingsError
from simclr_cli.core.events import PlanMade

Optimizer = Literal["lars", "sgd", "adamw"]
LearningRateRule = Literal["linear", "sqrt", "none"]
Precision = Literal["float32", "bfloat16"]
Switch = Literal["on", "off"]
Loss = Literal["nt-xent", "dcl", "supcon"]
DuplicatesRule = Literal["keep", "exact", "near"]


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(ViewSettings):
    """Settings of `simclr pretrain`."""

    about = "Learn an encoder from a folder of images, without labels."
    examples = ("simclr pretrain ./images", "simclr pretrain ./images --epochs 200 --image-size 128 --run birds")

    run: str | None = setting(None, "Name of the run. Auto: the name of the image folder.")
    runs: Path = setting(RUNS, RUNS_HELP)
    resume: bool = setting(
        False, "Go on with a run that was stopped, with its own settings; by --epochs also with a finished one."
    )
    accept_changes: bool = setting(
        False,
        "On --resume, go on though images were added, removed or changed: from the epoch under way on, which begins "
        "again, batches are of what is there now.",
    )
    dry_run: bool = setting(False, "Stop after the plan.")
    backbone: str | None = setting(
        None, "Encoder f: any timm name. Auto: resnet18, or resnet50 for much data on a GPU."
    )
    weights: str = setting("none", "Start from: none (random), imagenet (timm's), or a .safetensors file.")
    batch_size: int | None = setting(
        None, "N, images a step; 2N - 2 negatives for each view. Auto: by images and device.", at_least=2
    )
    micro_batch: int | None = setting(
        None,
        "Images computed at once; a larger batch is made of several, exactly, in up to a third more time. "
        "Auto: what the memory holds.",
        at_least=1,
    )
    held_out: int | None = setting(
        None,
        "Images kept out of training, to measure on. Auto: one in 25, at most 256, and none of fewer than 640.",
        at_least=0,
    )
    epochs: int | None = setting(
        None,
        "Times through the images. On --resume, how many the run shall have in all: from there on every step has the "
        "learning rate that it has in a run of so many. Auto: by the number of images and the device.",
        at_least=1,
    )
    temperature: float | None = setting(
        None, "tau of NT-Xent. Auto: 0.5 at 32 px and below, else 0.1, as in the paper.", above=0.0
    )
    loss: Loss = setting(
        "nt-xent",
        "nt-xent, as in the paper; dcl, which leaves the positive out of the denominator and wants a smaller batch; or "
        "supcon, to which all images of a class folder are alike.",
    )
    group_by: str = setting(
        "",
        "A regular expression. Images in whose paths it finds the same (its first group, if it has one) are not one "
        "another's negatives: of one specimen, patient or burst.",
    )
    duplicates: DuplicatesRule = setting(
        "keep",
        "Copies among the images: keep them as one another's negatives, or not if they are exact (files of equal "
        "content) or near (also to the eye).",
    )
    optimizer: Optimizer | None = setting(None, "Auto: lars from a batch of 1,024 on, else adamw.")
    learning_rate: float | None = setting(
        None, "The rule's base: 0.3 for linear, 0.075 for sqrt, 0.002 for none. Auto: these.", above=0.0
    )
    lr_rule: LearningRateRule | None = setting(
        None, "linear: base * N / 256; sqrt: base * sqrt(N); none: base. Auto: sqrt for lars and sgd, none for adamw."
    )
    weight_decay: float | None = setting(None, "Auto: 1e-6 for lars and sgd, 0.01 for adamw.", at_least=0.0)
    warmup_epochs: int | None = setting(None, "Epochs of linear warm-up. Auto: 10, but at most a tenth.", at_least=0)
    head_layers: int = setting(
        2, "Layers of the projection head g: 2 as in SimCLR v1, 3 as in v2.", at_least=1, at_most=16
    )
    projection_dimensions: int = setting(128, "Width of the projection z.", at_least=2, at_most=65_536)
    precision: Precision | None = setting(None, "Auto: bfloat16 on a GPU that has it, else float32.")
    compile: Switch | None = setting(
        None, "torch.compile. Auto: on for a long run on an NVIDIA GPU, where it pays for its minute."
    )
    device: str | None = setting(None, DEVICE)
    devices: int = setting(1, DEVICES, at_least=1)
    checkpoint_seconds: float = setting(
        60.0, "Time between two checkpoints, which is what a machine that is taken away costs.", at_least=0.0
    )
    tensorboard: bool = setting(
        False,
        "Write event files too, into the run's folder tensorboard, for those who look at runs in TensorBoard (by the "
        "extra 'tensorboard').",
    )
    cache_gb: float | None = setting(
        None,
        "Disk space in GB for the decoded images of this folder; what does not fit is decoded again in every epoch. "
        "Auto: half of what is free.",
        at_least=0.0,
        at_most=1e9,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run is not None and (not self.run or self.run.startswith(".") or set(self.run) & set("/\\")):
            raise SettingsError(
                f"--run is {self.run!r}, and must be the name of a folder.", "Give its place by --runs."
            )
        if self.group_by:
            try:
                re.compile(self.group_by)
            except re.error as error:
                raise SettingsError(
                    f"--group-by is {self.group_by!r}, which is no regular expression ({error}).", "Mend it."
                ) from None
        if self.loss == "supcon" and (self.group_by or self.duplicates != "keep"):
            raise SettingsError(
                "--loss supcon groups images by their classes, so that --group-by and --duplicates do not apply.",
                "Leave them out, or choose another --loss.",
            )
        if self.accept_changes and not self.resume:
            raise SettingsError("--accept-changes belongs to --resume.", "Leave it out, or add --resume.")
        if self.images is None and not self.resume:
            raise SettingsError("No folder of images was given.", "Type: simclr pretrain FOLDER")
        if self.warmup_epochs is not None and self.epochs is not None and self.warmup_epochs > self.epochs:
            raise SettingsError(
                f"--warmup-epochs {self.warmup_epochs} is more than --epochs {self.epochs}.", "Make it smaller."
            )


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(ResolvedViews, PretrainSettings):
    """The same after the plan: nothing is automatic any more."""

    if TYPE_CHECKING:
        run: str
        backbone: str
        batch_size: int
        held_out: int
        epochs: int
        temperature: float
        optimizer: Optimizer
        learning_rate: float
        lr_rule: LearningRateRule
        weight_decay: float
        warmup_epochs: int
        precision: Precision
        compile: Switch
        device: str
        micro_batch: int

    def told(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}

    @staticmethod
    def retold(told: Mapping[str, Any]) -> ResolvedSettings:
        """The settings that `told` told of.

        Raises:
            TypeError: not all of these are settings.
        """
        return ResolvedSettings(**{**told, "images": Path(told["images"]), "runs": Path(told["runs"])})


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` made."""

    run: str  # the folder
    finished: bool  # False after --dry-run
    epochs: int
    images: int
    skipped: int
    first_loss: float | None  # mean of the first epoch
    last_loss: float | None
    images_per_second: float | None  # median over the epochs
    seconds: float
    model_checksum: str | None  # SHA-256 of encoder/model.safetensors
    plan: PlanMade | None = None
    census: dict[str, Any] = field(default_factory=dict)
    state: str | None = None  # learning (and at rest by the end), improving (train longer), unchanged
    outcome: str | None = None  # the same in words
    report: str | None = None  # the page of the run, report.html
