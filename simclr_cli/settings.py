"""One frozen dataclass a verb: each setting's default and help stand here and nowhere else.

A setting of None is automatic: the verb resolves it once, shows the choice and its reason, and saves it resolved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simclr_cli.errors import SettingsError
from simclr_cli.fields import check, setting

Optimizer = Literal["lars", "sgd", "adamw"]
LearningRateRule = Literal["linear", "sqrt", "none"]
Precision = Literal["float32", "bfloat16"]
Switch = Literal["on", "off"]
Loss = Literal["nt-xent", "dcl", "supcon"]
Copies = Literal["keep", "exact", "near"]

RUNS = Path("simclr-runs")


DEVICE = "Where to compute: cpu, cuda, cuda:1, mps. Auto: the first GPU, else the CPU."
WORKERS = "Threads that read and decode pictures. Auto: one a core."
DEVICES = (
    "Processes on this machine that work as one, each on a GPU of its own, or on its share of the CPU. "
    "For several machines: torchrun or srun."
)
RUN = "Name of the run, or the path of its folder. Auto: the newest finished run under --runs."
RUNS_HELP = "The folder that runs are kept in."
SEED = "Every random choice follows from it; same seed, same machine, same result."


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Settings of `simclr pretrain`."""

    images: Path | None = setting(
        None, "The folder of pictures; any depth, formats and sizes.", argument=True, exists=True
    )
    run: str | None = setting(None, "Name of the run. Auto: the name of the image folder.")
    runs: Path = setting(RUNS, RUNS_HELP)
    resume: bool = setting(False, "Go on with a run that was stopped, with its own settings.")
    dry_run: bool = setting(False, "Stop after the plan.")
    backbone: str | None = setting(
        None, "Encoder f: any timm name. Auto: resnet18, or resnet50 for much data on a GPU."
    )
    weights: str = setting("none", "Start from: none (random), imagenet (timm's), or a .safetensors file.")
    image_size: int | None = setting(
        None, "Side of the views in pixels. Auto: by the pictures' median short side and the device.", at_least=8
    )
    batch_size: int | None = setting(
        None, "N, pictures a step; 2N - 2 negatives for each view. Auto: by pictures and device.", at_least=2
    )
    micro_batch: int | None = setting(
        None,
        "Pictures computed at once; a larger batch is made of several, exactly, in up to a third more time. "
        "Auto: what the memory holds.",
        at_least=1,
    )
    epochs: int | None = setting(None, "Times through the pictures. Auto: by their number and the device.", at_least=1)
    temperature: float | None = setting(
        None, "tau of NT-Xent. Auto: 0.5 at 32 px and below, else 0.1, as in the paper.", above=0.0
    )
    loss: Loss = setting(
        "nt-xent",
        "nt-xent, as in the paper; dcl, which leaves the positive out of the denominator and wants a smaller batch; or "
        "supcon, to which all pictures of a class folder are alike.",
    )
    group_by: str = setting(
        "",
        "A regular expression. Pictures in whose paths it finds the same (its first group, if it has one) are not one "
        "another's negatives: of one specimen, patient or burst.",
    )
    copies: Copies = setting(
        "keep",
        "Copies among the pictures: keep them as one another's negatives, or not if they are exact (files of equal "
        "content) or near (also to the eye; by the extra 'near').",
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
    head_layers: int = setting(2, "Layers of the projection head g: 2 as in SimCLR v1, 3 as in v2.", at_least=1)
    projection_dimensions: int = setting(128, "Width of the projection z.", at_least=2)
    crop_min: float = setting(0.08, "Least share of the picture's area in a crop.", above=0.0, at_most=1.0)
    color_strength: float | None = setting(
        None, "s of the colour jitter; 0 for none. Auto: 0.5 at 32 px and below, else 1.", at_least=0.0, at_most=2.0
    )
    grey: float = setting(0.2, "Probability of a grey view.", at_least=0.0, at_most=1.0)
    flip: float = setting(0.5, "Probability of a left-right flip.", at_least=0.0, at_most=1.0)
    blur: float | None = setting(
        None, "Probability of blur. Auto: 0.5, and 0 at 32 px and below.", at_least=0.0, at_most=1.0
    )
    precision: Precision | None = setting(None, "Auto: bfloat16 on a GPU that has it, else float32.")
    compile: Switch | None = setting(
        None, "torch.compile. Auto: on for a long run on an NVIDIA GPU, where it pays for its minute."
    )
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE)
    devices: int = setting(1, DEVICES, at_least=1)
    workers: int | None = setting(None, WORKERS, at_least=1)
    checkpoint_seconds: float = setting(
        60.0, "Time between two checkpoints, which is what a machine that is taken away costs.", at_least=0.0
    )
    cache_gb: float | None = setting(
        None,
        "Disk space in GB for the decoded pictures of this folder; what does not fit is decoded again in every epoch. "
        "Auto: half of what is free.",
        at_least=0.0,
        at_most=1e9,
    )

    def __post_init__(self) -> None:
        check(self)
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
        if self.loss == "supcon" and (self.group_by or self.copies != "keep"):
            raise SettingsError(
                "--loss supcon takes the classes for what is alike, and leaves no place for --group-by and --copies.",
                "Leave them out, or choose another --loss.",
            )
        if self.images is None and not self.resume:
            raise SettingsError("No folder of pictures was given.", "Type: simclr pretrain FOLDER")
        if self.warmup_epochs is not None and self.epochs is not None and self.warmup_epochs > self.epochs:
            raise SettingsError(
                f"--warmup-epochs {self.warmup_epochs} is more than --epochs {self.epochs}.", "Make it smaller."
            )


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(PretrainSettings):
    """The same after the plan: nothing is automatic any more."""

    if TYPE_CHECKING:
        images: Path
        run: str
        backbone: str
        image_size: int
        batch_size: int
        epochs: int
        temperature: float
        optimizer: Optimizer
        learning_rate: float
        lr_rule: LearningRateRule
        weight_decay: float
        warmup_epochs: int
        color_strength: float
        blur: float
        precision: Precision
        compile: Switch
        device: str
        workers: int
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


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Which encoder to use, and where: shared by the verbs that use one."""

    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    backbone: str | None = setting(None, "Use a plain timm model of this name instead of a run.")
    weights: str = setting("none", "Weights of --backbone: none (random), imagenet (timm's), or a .safetensors file.")
    image_size: int = setting(224, "Side of the pictures for --backbone; a run has its own.", at_least=8)
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=1)
    batch_size: int = setting(128, "Pictures embedded at once.", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        if self.backbone is not None and self.run is not None:
            raise SettingsError("--run and --backbone name two encoders.", "Leave one of them out.")
        if self.backbone is None and self.weights != "none":
            raise SettingsError("--weights belongs to --backbone; a run has its own.", "Add --backbone NAME.")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(EncoderSettings):
    """Settings of `simclr embed`."""

    images: Path | None = setting(None, "The folder of pictures. Auto: the run's own.", argument=True, exists=True)
    out: Path = setting(Path("vecs.npy"), "The file of vectors, .npy; the rows' names go beside it.", short="o")
    raw: bool = setting(False, "Leave h as it is instead of scaling each row to length 1.")
    shards: int | None = setting(
        None,
        "Write so many files and a list of them; those that are there already are kept. Auto: one file.",
        at_least=1,
        at_most=99_999,
    )
    devices: int = setting(1, DEVICES, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.suffix != ".npy":
            raise SettingsError(f"--out is {self.out}, and must end in .npy.", f"Try --out {self.out}.npy")
        if self.out.is_dir():
            raise SettingsError(f"--out is {self.out}, which is a folder.", "Give the path of a file.")
        if self.backbone is not None and self.images is None:
            raise SettingsError("A plain --backbone has no pictures of its own.", "Name the folder to embed.")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(EncoderSettings):
    """Settings of `simclr probe`."""

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
    knn_temperature: float = setting(0.07, "Neighbours vote with the weight exp(similarity / temperature).", above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None and self.test is not None:
            raise SettingsError(
                "--labels names the classes of one folder only.", "Leave out --test, or use class folders."
            )
        if self.backbone is not None and self.images is None:
            raise SettingsError("A plain --backbone has no pictures of its own.", "Name the folder to probe on.")


@dataclass(frozen=True, kw_only=True)
class SimilarSettings:
    """Settings of `simclr similar`."""

    queries: tuple[Path, ...] = setting(
        (), "Pictures, or folders of pictures, to find the like of.", argument=True, exists=True
    )
    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    top: int = setting(10, "How many neighbours a query.", at_least=1, short="n")
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=1)
    batch_size: int = setting(128, "Pictures embedded at once.", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        if not self.queries:
            raise SettingsError("No query was given.", "Type: simclr similar PICTURE")


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Settings of `simclr cache`."""

    images: Path | None = setting(None, "Only what is kept of this folder of pictures. Auto: of all.", argument=True)
    clear: bool = setting(False, "Delete it. It is made again when it is needed.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Settings of `simclr demo`."""

    out: Path = setting(Path("simclr-demo"), "The folder for the drawn pictures and the run.", short="o")
    pictures: int = setting(1600, "How many pictures to draw.", at_least=100)
    epochs: int = setting(20, "Epochs to train for.", at_least=1)
    image_size: int = setting(40, "Side of the views in pixels.", at_least=8)
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)

    def __post_init__(self) -> None:
        check(self)
