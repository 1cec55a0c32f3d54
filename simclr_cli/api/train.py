"""Settings and result of `simclr pretrain`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simclr_cli.api.fields import (
    ACCEPT_LICENSE_HELP,
    BASICS,
    DEVICE_HELP,
    DEVICES_HELP,
    FILES,
    HARDWARE,
    MAX_IMAGE_SIZE,
    OFFLINE_HELP,
    OPTIMIZATION,
    RUNS_FOLDER,
    RUNS_HELP,
    setting,
)
from simclr_cli.api.views import ResolvedViews, ViewSettings
from simclr_cli.core.errors import SettingsError
from simclr_cli.core.events import PlanMade

Optimizer = Literal["lars", "sgd", "adamw"]
LearningRateRule = Literal["linear", "sqrt", "none"]
Precision = Literal["float32", "bfloat16"]
Switch = Literal["on", "off"]
Loss = Literal["nt-xent", "dcl", "supcon", "distill"]
TrainedPart = Literal["all", "norms", "last", "head"]
DuplicatesRule = Literal["keep", "exact", "near"]


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(ViewSettings):
    """Settings of `simclr pretrain`."""

    about = "Learn an encoder from a folder of images, without labels."
    examples = ("simclr pretrain ./images", "simclr pretrain ./images --epochs 200 --image-size 128 --run birds")

    backbone: str | None = setting(
        None,
        "Encoder (f): any timm model name. Auto: for trained weights a light one on a CPU and DINOv2 ViT-S on a GPU; "
        "else resnet18, or resnet50 for much data on a GPU.",
        panel=BASICS,
    )
    weights: str | None = setting(
        None,
        "Initial weights: none (random, as in the paper), trained (timm's) or a .safetensors file. "
        "Auto: trained where timm's are on this machine or can be fetched, else none.",
        panel=BASICS,
    )
    hours: float | None = setting(
        None, "Plan a training that ends within this time. Auto: no limit.", panel=BASICS, above=0.0
    )
    batch_size: int | None = setting(
        None,
        "Images per step (N). Each view has 2N - 2 negatives. Auto: by the number of images and the device.",
        panel=BASICS,
        at_least=2,
    )
    epochs: int | None = setting(
        None,
        "Passes through the images. With --resume: the new total, whose learning rate schedule applies from then on; "
        "the number that is done ends the run at once. "
        "Auto: by the number of images and the device.",
        panel=BASICS,
        at_least=1,
    )
    device: str | None = setting(None, DEVICE_HELP, panel=BASICS)
    run: str | None = setting(None, "Name of the run. Auto: the name of the image folder.", panel=BASICS)
    runs: Path = setting(RUNS_FOLDER, RUNS_HELP, panel=BASICS)
    loss: Loss | None = setting(
        None,
        "nt-xent: as in the paper. dcl: without the positive in the denominator, for smaller batches. "
        "supcon: all images of a class folder are positives. "
        "distill: keep the neighbors that the initial weights find at their own, larger image size. "
        "Auto: distill for trained weights at a smaller size than their own, else nt-xent.",
        panel=OPTIMIZATION,
    )
    train_size: int | None = setting(
        None,
        "Side of the views in training, in pixels. Auto: --image-size; for trained weights on a CPU at most 128.",
        panel=OPTIMIZATION,
        at_least=8,
        at_most=MAX_IMAGE_SIZE,
    )
    train: TrainedPart | None = setting(
        None,
        "Part of the encoder to train: all, norms (gains and shifts), last (stage) or head (only the projection head). "
        "Auto: all.",
        panel=OPTIMIZATION,
    )
    freeze_batch_norm: bool | None = setting(
        None,
        "Keep the statistics of batch norms as they are. Auto: yes for trained weights.",
        panel=OPTIMIZATION,
    )
    temperature: float | None = setting(
        None,
        "Softmax temperature (tau). Auto: 0.5 at 32 px and below, else 0.1, as in the paper.",
        panel=OPTIMIZATION,
        above=0.0,
    )
    optimizer: Optimizer | None = setting(
        None, "Optimizer: lars, sgd or adamw. Auto: lars for a batch of 1,024 or more, else adamw.", panel=OPTIMIZATION
    )
    learning_rate: float | None = setting(
        None,
        "Base learning rate. Auto: 0.3 for --lr-rule linear, 0.075 for sqrt, 0.002 for none; less for trained weights.",
        panel=OPTIMIZATION,
        above=0.0,
    )
    lr_rule: LearningRateRule | None = setting(
        None,
        "Scaling of the learning rate by the batch size (N). linear: base * N / 256. sqrt: base * sqrt(N). none: base. "
        "Auto: sqrt for lars and sgd, none for adamw.",
        panel=OPTIMIZATION,
    )
    weight_decay: float | None = setting(
        None, "Weight decay. Auto: 1e-6 for lars and sgd, 0.01 for adamw.", panel=OPTIMIZATION, at_least=0.0
    )
    layer_decay: float | None = setting(
        None,
        "Factor of the learning rate from each layer of the encoder to the one before. Auto: 0.75 for trained "
        "transformers, else 1.",
        panel=OPTIMIZATION,
        above=0.0,
        at_most=1.0,
    )
    warmup_epochs: float | None = setting(
        None,
        "Epochs of linear warmup. Auto: 10, but at most a tenth of all; from trained weights 0.3 of all.",
        panel=OPTIMIZATION,
        at_least=0,
    )
    head_layers: int = setting(
        2,
        "Layers of the projection head (g): 2 as in SimCLR v1, 3 as in v2.",
        panel=OPTIMIZATION,
        at_least=1,
        at_most=16,
    )
    projection_dimensions: int = setting(
        128, "Dimensions of the projection (z).", panel=OPTIMIZATION, at_least=2, at_most=65_536
    )
    group_by: str = setting(
        "",
        "Regular expression for paths. Images with the same match (or first group) are not negatives of each other. "
        "Example: images of one specimen, patient or burst.",
        panel=OPTIMIZATION,
    )
    duplicates: DuplicatesRule = setting(
        "keep",
        "keep: duplicates are negatives of each other. exact: files of equal content are not. "
        "near: near-duplicates are not either.",
        panel=OPTIMIZATION,
    )
    held_out: int | None = setting(
        None,
        "Images held out of training, for the validation metrics. "
        "Auto: one in 25, at most 256; none with fewer than 640 images.",
        panel=OPTIMIZATION,
        at_least=0,
    )
    precision: Precision | None = setting(
        None, "float32 or bfloat16. Auto: bfloat16 on a GPU that supports it, else float32.", panel=HARDWARE
    )
    compile: Switch | None = setting(
        None, "torch.compile: on or off. Auto: on for a long run on an NVIDIA GPU, where it saves time.", panel=HARDWARE
    )
    devices: int = setting(1, DEVICES_HELP, panel=HARDWARE, at_least=1)
    micro_batch: int | None = setting(
        None,
        "Images computed at once. A larger batch is computed in parts, with the same result, in up to a third more "
        "time. "
        "Auto: as many as fit into memory.",
        panel=HARDWARE,
        at_least=1,
    )
    resume: bool = setting(
        False, "Resume an interrupted run with its own settings; with --epochs, also a finished one.", panel=FILES
    )
    accept_changes: bool = setting(
        False,
        "With --resume: accept images that were added, removed or changed. The interrupted epoch restarts with them.",
        panel=FILES,
    )
    checkpoint_seconds: float = setting(
        60.0, "Seconds between checkpoints: the most work that is lost if the machine fails.",
        panel=FILES, at_least=0.0,
    )  # fmt: skip
    cache_gb: float | None = setting(
        None,
        "Disk space in GB for decoded images. Images that do not fit are decoded in every epoch. "
        "Auto: half of the free space.",
        panel=FILES,
        at_least=0.0,
        at_most=1e9,
    )
    tensorboard: bool = setting(
        False,
        "Write TensorBoard event files too, into the run's folder tensorboard. Requires the extra 'tensorboard'.",
        panel=FILES,
    )
    offline: bool = setting(False, OFFLINE_HELP, panel=FILES)
    accept_license: bool = setting(False, ACCEPT_LICENSE_HELP, panel=FILES)
    dry_run: bool = setting(False, "Stop after the plan.", panel=FILES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run is not None and (not self.run or self.run.startswith(".") or set(self.run) & set("/\\")):
            raise SettingsError(
                f"--run is {self.run!r}, and must be the name of a folder.", "Use --runs to set its location."
            )
        if not self.resolved:  # the file of an old run may be gone
            _check_weights(self.weights)
        if self.group_by:
            try:
                re.compile(self.group_by)
            except re.error as error:
                raise SettingsError(
                    f"--group-by is {self.group_by!r}, which is no regular expression ({error}).",
                    "Fix the expression.",
                ) from None
        if self.loss == "supcon" and (self.group_by or self.duplicates != "keep"):
            raise SettingsError(
                "--loss supcon groups images by their classes, so --group-by and --duplicates do not apply.",
                "Remove them, or choose another --loss.",
            )
        if self.loss == "distill" and self.weights == "none":
            raise SettingsError("--loss distill keeps what trained weights know, and --weights is none.",
                                "Use --weights trained, or another --loss.")  # fmt: skip
        if self.hours is not None and self.epochs is not None:
            raise SettingsError("--hours plans the epochs, and --epochs sets them.", "Remove one of them.")
        if self.accept_changes and not self.resume:
            raise SettingsError("--accept-changes belongs to --resume.", "Remove it, or add --resume.")
        if self.images is None and not self.resume:
            raise SettingsError("No folder of images was given.", "Run: simclr pretrain FOLDER")
        if self.warmup_epochs is not None and self.epochs is not None and self.warmup_epochs > self.epochs:
            raise SettingsError(
                f"--warmup-epochs {self.warmup_epochs:g} is more than --epochs {self.epochs}.",
                "Set it to fewer epochs.",
            )


def _check_weights(weights: str | None) -> None:
    """Raise SettingsError for initial weights that are neither a word nor the path of a .safetensors file."""
    if weights in (None, "none", "trained"):
        return
    name, equals, file = weights.partition("=")
    if equals and not os.path.lexists(weights):
        raise SettingsError(f"--weights is {weights!r}, with a name.", f"Use --backbone {name} --weights {file}")
    if not weights.endswith(".safetensors"):
        raise SettingsError(f"--weights is {weights!r}.", "Use none, trained, or the path of a .safetensors file.")


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(ResolvedViews, PretrainSettings):
    """Settings of `simclr pretrain` after the plan, without automatic values."""

    if TYPE_CHECKING:
        run: str
        backbone: str
        weights: str
        loss: Loss
        train_size: int
        train: TrainedPart
        freeze_batch_norm: bool
        layer_decay: float
        batch_size: int
        held_out: int
        epochs: int
        temperature: float
        optimizer: Optimizer
        learning_rate: float
        lr_rule: LearningRateRule
        weight_decay: float
        warmup_epochs: float
        precision: Precision
        compile: Switch
        device: str
        micro_batch: int

    def to_json(self) -> dict[str, Any]:
        """Return the values by name, as JSON can hold them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> ResolvedSettings:
        """Return the settings that `to_json` converted.

        Raises:
            TypeError: some values are missing, or are no settings.
        """
        return ResolvedSettings(**{**values, "images": Path(values["images"]), "runs": Path(values["runs"])})


@dataclass(frozen=True)
class PretrainResult:
    """Result of `simclr pretrain`."""

    run: str  # the folder
    finished: bool  # False after --dry-run
    epochs: int
    images: int
    skipped: int
    first_loss: float | None  # mean of the first epoch
    last_loss: float | None
    images_per_second: float | None  # median over the epochs
    seconds: float  # of the whole run; of a resumed one with the epochs before
    model_checksum: str | None  # SHA-256 of encoder/model.safetensors
    plan: PlanMade | None = None
    census: dict[str, Any] = field(default_factory=dict)
    state: str | None = None  # learning, improving (train longer) or unchanged (no clear gain over its start)
    outcome: str | None = None  # the state as a sentence
    report: str | None = None  # the page of the run, report.html
