"""Views for kinds of pictures: each value with its reason (docs/presets.md)."""

from __future__ import annotations

from simclr_cli.api import Preset
from simclr_cli.api.views import ResolvedViews
from simclr_cli.engine.augment import ViewRecipe

IMAGENET, CIFAR = "the paper's for ImageNet (appendix A)", "the paper's for CIFAR-10 (B.9)"

# The reasons stand in docs/presets.md as well, with their sources; a test compares them.
PRESETS: dict[Preset, dict[str, tuple[float, str]]] = {
    "photo": {
        "crop_min": (0.08, IMAGENET),
        "color_strength": (1.0, IMAGENET),
        "grey": (0.2, IMAGENET),
        "flip": (0.5, IMAGENET),
        "turn": (0.0, "photos have an up and a down"),
        "blur": (0.5, IMAGENET),
    },
    "small": {
        "crop_min": (0.08, CIFAR),
        "color_strength": (0.5, CIFAR),
        "grey": (0.2, CIFAR),
        "flip": (0.5, CIFAR),
        "turn": (0.0, "photos have an up and a down"),
        "blur": (0.0, CIFAR),
    },
    "microscopy": {
        "crop_min": (0.2, "a smaller crop is often empty slide, which says nothing"),
        "color_strength": (0.5, "stain varies between laboratories, but it is information too"),
        "grey": (0.0, "colour is the stain's information"),
        "flip": (0.5, "a slide has no left and right"),
        "turn": (1.0, "a slide has no up and down"),
        "blur": (0.1, "focus carries information; a little, for slides differ in it"),
    },
    "aerial": {
        "crop_min": (0.25, "objects are small in the frame, and two small crops would share none"),
        "color_strength": (0.4, "colour tells what covers the ground; light and haze change it a little"),
        "grey": (0.1, "colour tells what covers the ground"),
        "flip": (0.5, "seen from above, there is no left and right"),
        "turn": (1.0, "seen from above, there is no up and down"),
        "blur": (0.1, "what is small in the frame is a few pixels wide"),
    },
    "grey": {
        "crop_min": (0.08, IMAGENET),
        "color_strength": (1.0, "only brightness and contrast are left to change: at full strength at any size"),
        "grey": (0.0, "a grey view of a grey picture is the picture itself"),
        "flip": (0.5, IMAGENET),
        "turn": (0.0, "grey photos have an up and a down"),
        "blur": (0.5, "at any size: with colour gone, few differences are left"),
    },
}


def view_recipe(settings: ResolvedViews) -> ViewRecipe:
    """The views that resolved settings ask for."""
    return ViewRecipe(
        crop_area=(settings.crop_min, 1.0),
        flip=settings.flip,
        turn=settings.turn,
        jitter=0.8 if settings.color_strength else 0.0,
        grey=settings.grey,
        blur=settings.blur,
        strength=settings.color_strength,
    )
