"""Settings of the views, and settings and result of `simclr preview`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from simclr_cli.api.fields import (
    BASICS,
    GENERAL,
    HARDWARE,
    MAX_IMAGE_SIZE,
    PAGE_SUFFIXES,
    SEED_HELP,
    VIEWS,
    WORKERS_HELP,
    Settings,
    check_output_path,
    setting,
)
from simclr_cli.core.errors import SettingsError
from simclr_cli.core.events import Choice

Preset = Literal["photo", "small", "microscopy", "aerial", "grayscale"]
IMAGENET, CIFAR = "the paper's for ImageNet (appendix A)", "the paper's for CIFAR-10 (B.9)"

# docs/presets.md has the same reasons, with their sources; a test compares them.
PRESETS: dict[Preset, dict[str, tuple[float, str]]] = {
    "photo": {
        "crop_min": (0.08, IMAGENET),
        "color_strength": (1.0, IMAGENET),
        "grayscale": (0.2, IMAGENET),
        "flip": (0.5, IMAGENET),
        "rotate": (0.0, "photos have an up and a down"),
        "blur": (0.5, IMAGENET),
    },
    "small": {
        "crop_min": (0.08, CIFAR),
        "color_strength": (0.5, CIFAR),
        "grayscale": (0.2, CIFAR),
        "flip": (0.5, CIFAR),
        "rotate": (0.0, "photos have an up and a down"),
        "blur": (0.0, CIFAR),
    },
    "microscopy": {
        "crop_min": (0.2, "a smaller crop is often empty slide, which says nothing"),
        "color_strength": (0.5, "stain varies between laboratories, but it is information too"),
        "grayscale": (0.0, "color is the stain's information"),
        "flip": (0.5, "a slide has no left and right"),
        "rotate": (1.0, "a slide has no up and down"),
        "blur": (0.1, "focus carries information; a little, for slides differ in it"),
    },
    "aerial": {
        "crop_min": (0.25, "objects are small in the frame, and two small crops would share none"),
        "color_strength": (0.4, "color tells what covers the ground; light and haze change it a little"),
        "grayscale": (0.1, "color tells what covers the ground"),
        "flip": (0.5, "seen from above, there is no left and right"),
        "rotate": (1.0, "seen from above, there is no up and down"),
        "blur": (0.1, "what is small in the frame is a few pixels wide"),
    },
    "grayscale": {
        "crop_min": (0.08, IMAGENET),
        "color_strength": (1.0, "only brightness and contrast are left to change: at full strength at any size"),
        "grayscale": (0.0, "a grayscale view of a grayscale image is the image itself"),
        "flip": (0.5, IMAGENET),
        "rotate": (0.0, "grayscale photos have an up and a down"),
        "blur": (0.5, "at any size: with color gone, few differences are left"),
    },
}

MAX_AUTO_SIZE_ON_GPU, MAX_AUTO_SIZE_ON_CPU = 224, 64  # px, of an automatic image size


def _probability(help: str) -> Any:
    """Declare an automatic setting of the views from 0 to 1."""
    return setting(None, help, panel=VIEWS, at_least=0.0, at_most=1.0)


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Settings):
    """Settings of the images and of their augmented views."""

    images: Path | None = setting(
        None, "Folder of images, of any depth, format and size.", panel=BASICS, argument=True, option=True, exists=True
    )
    image_size: int | None = setting(
        None,
        "Side of the views in pixels. Auto: by the median short side of the images and by the device.",
        panel=BASICS,
        at_least=8,
        at_most=MAX_IMAGE_SIZE,
    )
    preset: Preset | None = setting(
        None,
        "Views for a kind of image: photo, small, microscopy, aerial or grayscale. The options below override it. "
        "See docs/presets.md. Auto: grayscale if all sampled images are gray, else the paper's by image size.",
        panel=VIEWS,
    )
    crop_min: float | None = setting(
        None,
        "Smallest crop, as a fraction of the image's area. Auto: the preset's, or 0.08.",
        panel=VIEWS,
        above=0.0,
        at_most=1.0,
    )
    color_strength: float | None = setting(
        None,
        "Strength of the color jitter (s); 0 for none. Auto: the preset's, or 0.5 at 32 px and below, else 1.",
        panel=VIEWS,
        at_least=0.0,
        at_most=2.0,
    )
    grayscale: float | None = _probability("Probability of a grayscale view. Auto: the preset's, or 0.2.")
    flip: float | None = _probability("Probability of a horizontal flip. Auto: the preset's, or 0.5.")
    rotate: float | None = _probability(
        "Probability of a rotation by 0, 90, 180 or 270 degrees, all equally likely. Auto: the preset's, or 0."
    )
    blur: float | None = _probability(
        "Probability of a Gaussian blur. Auto: the preset's, or 0.5, and 0 at 32 px and below."
    )
    seed: int = setting(0, SEED_HELP, panel=GENERAL, at_least=0, at_most=2**63 - 1)
    workers: int | None = setting(None, WORKERS_HELP, panel=HARDWARE, at_least=0)


@dataclass(frozen=True, kw_only=True)
class ResolvedViews(ViewSettings):
    """Settings of the views after the plan, without automatic values."""

    resolved: ClassVar[bool] = True

    if TYPE_CHECKING:
        images: Path
        image_size: int
        crop_min: float
        color_strength: float
        grayscale: float
        flip: float
        rotate: float
        blur: float
        workers: int


@dataclass(frozen=True, kw_only=True)
class PreviewSettings(ViewSettings):
    """Settings of `simclr preview`."""

    about = "Show the views that training from random weights would use."
    examples = ("simclr preview ./images", "simclr preview ./images --preset microscopy --out views.html --open")

    out: Path = setting(
        Path("preview.png"), "Sheet to write: .png, or .html with the reason for each setting.",
        panel=BASICS, short="o",
    )  # fmt: skip
    count: int = setting(8, "Number of images, spread over the folder.", panel=BASICS, at_least=1, at_most=200)
    views: int = setting(6, "Number of views per image.", panel=BASICS, at_least=1, at_most=24)
    open: bool = setting(False, "Open the sheet in the browser.", panel=BASICS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_path(self.out, ".png", *PAGE_SUFFIXES)
        if self.images is None:
            raise SettingsError("No folder of images was given.", "Run: simclr preview FOLDER")


@dataclass(frozen=True, kw_only=True)
class ResolvedPreview(ResolvedViews, PreviewSettings):
    """Settings of `simclr preview` after the plan, without automatic values."""


@dataclass(frozen=True)
class PreviewResult:
    """Result of `simclr preview`."""

    out: str
    folder: str
    images: int  # on the sheet
    views: int  # of each
    image_size: int
    preset: str | None
    choices: tuple[Choice, ...]  # the settings of the views, with their reasons
    enlarged: float  # fraction of the crops that are enlarged to more than twice their size
    advice: tuple[str, ...]  # about these views
