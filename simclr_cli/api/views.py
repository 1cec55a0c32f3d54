"""Settings of the views, and of the command that previews them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from simclr_cli.api.fields import MOST_SIDE, PAGES, SEED, WORKERS, Settings, check_out, setting
from simclr_cli.core.errors import SettingsError
from simclr_cli.core.events import Choice

Preset = Literal["photo", "small", "microscopy", "aerial", "grayscale"]
IMAGENET, CIFAR = "the paper's for ImageNet (appendix A)", "the paper's for CIFAR-10 (B.9)"

# The reasons stand in docs/presets.md as well, with their sources; a test compares them.
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

LARGEST_ON_GPU, LARGEST_ON_CPU = 224, 64  # px, of an automatic image size


def probability(of: str) -> Any:
    """A setting from 0 to 1, automatic if it is not given."""
    return setting(None, f"Probability of {of}", at_least=0.0, at_most=1.0)


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Settings):
    """Which images, and what two views of one may differ in."""

    images: Path | None = setting(
        None, "The folder of images; any depth, formats and sizes.", argument=True, option=True, exists=True
    )
    preset: Preset | None = setting(
        None,
        "Views made for a kind of images; what is typed besides it wins. docs/presets.md gives the reason of each "
        "value. Auto: the paper's, by size.",
    )
    image_size: int | None = setting(
        None,
        "Side of the views in pixels. Auto: by the images' median short side and the device.",
        at_least=8,
        at_most=MOST_SIDE,
    )
    crop_min: float | None = setting(
        None, "Least share of the image's area in a crop. Auto: the preset's, or 0.08.", above=0.0, at_most=1.0
    )
    color_strength: float | None = setting(
        None,
        "s of the color jitter; 0 for none. Auto: the preset's, or 0.5 at 32 px and below, else 1.",
        at_least=0.0,
        at_most=2.0,
    )
    grayscale: float | None = probability("a grayscale view. Auto: the preset's, or 0.2.")
    flip: float | None = probability("a left-right flip. Auto: the preset's, or 0.5.")
    rotate: float | None = probability(
        "a turn by 0, 90, 180 or 270 degrees, each as likely; with flips, all eight symmetries. "
        "Auto: the preset's, or 0."
    )
    blur: float | None = probability("blur. Auto: the preset's, or 0.5, and 0 at 32 px and below.")
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    workers: int | None = setting(None, WORKERS, at_least=0)


@dataclass(frozen=True, kw_only=True)
class ResolvedViews(ViewSettings):
    """The same after the plan: nothing is automatic any more."""

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

    about = "Show the views that training would see, before any training."
    examples = ("simclr preview ./images", "simclr preview ./images --preset microscopy --out views.html --open")

    out: Path = setting(
        Path("preview.png"), "The sheet: .png, or .html with the reason of each setting as well.", short="o"
    )
    count: int = setting(8, "How many images, spread over the folder.", at_least=1, at_most=200)
    views: int = setting(6, "How many views of each.", at_least=1, at_most=24)
    open: bool = setting(False, "Open the sheet in the browser.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_out(self.out, ".png", *PAGES)
        if self.images is None:
            raise SettingsError("No folder of images was given.", "Type: simclr preview FOLDER")


@dataclass(frozen=True, kw_only=True)
class ResolvedPreview(ResolvedViews, PreviewSettings):
    """The same after the plan, as far as it concerns views."""


@dataclass(frozen=True)
class PreviewResult:
    """The sheet that `preview` made, and how its views were made."""

    out: str
    folder: str
    images: int  # on the sheet
    views: int  # of each
    image_size: int
    preset: str | None
    choices: tuple[Choice, ...]  # the settings of the views, with their reasons
    enlarged: float  # share of the crops that are enlarged to more than twice their size
    advice: tuple[str, ...]  # what to notice
