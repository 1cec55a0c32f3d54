"""What encoder/ says of itself: timm's config.json, and a model card that tells how to load it without simclr."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from simclr_cli.engine.encoder import Encoder, EncoderSpec
from simclr_cli.errors import RunError

FORMAT_VERSION = 1

CARD = """\
---
library_name: timm
tags: [image-feature-extraction, self-supervised, simclr]
---
# {architecture}, trained by SimCLR

An image encoder, trained without labels on {pictures:,} pictures, {epochs:,} times through, at {size} px.
It gives h, a vector of {width} numbers a picture; pictures are alike when the cosine of their vectors is large.

```python
import timm, torch
from PIL import Image, ImageOps
{load}
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=encoder), is_training=False)
with torch.inference_mode():
    picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
    h = encoder.eval()(transform(picture)[None])  # (1, {width})
```

Pictures are upright RGB in [0, 1], {normalisation}.
Short side resized to {resized} px (bicubic), centre crop of {size} px.
"""

LOAD = """\
encoder = timm.create_model("local-dir:THIS/FOLDER", pretrained=True, num_classes=0)"""

# The small-image stem is not one of timm's own, so timm must be told of it before it is given the weights.
LOAD_SMALL_STEM = """\
from safetensors.torch import load_file

encoder = timm.create_model("{architecture}", num_classes=0)
encoder.conv1 = torch.nn.Conv2d(3, encoder.conv1.out_channels, 3, padding=1, bias=False)
encoder.maxpool = torch.nn.Identity()
encoder.load_state_dict(load_file("THIS/FOLDER/model.safetensors"))
encoder.pretrained_cfg.update({{"input_size": (3, {size}, {size}), "crop_pct": {crop}, "interpolation": "bicubic",
                               "mean": (0, 0, 0), "std": (1, 1, 1)}})"""

LOAD_SMALL_DEEP_STEM = """\
from safetensors.torch import load_file

encoder = timm.create_model("{architecture}", num_classes=0)
encoder.conv1[0].stride = (1, 1)
encoder.maxpool = torch.nn.Identity()
encoder.load_state_dict(load_file("THIS/FOLDER/model.safetensors"))
encoder.pretrained_cfg.update({{"input_size": (3, {size}, {size}), "crop_pct": {crop}, "interpolation": "bicubic",
                               "mean": (0, 0, 0), "std": (1, 1, 1)}})"""


def timm_config(encoder: Encoder) -> dict[str, Any]:
    """encoder/config.json: timm's `local-dir:` layout, and under "simclr" what timm has no word for."""
    spec = encoder.spec
    architecture = spec.architecture.split(".")[0]
    return {
        # timm knows no small stem. By the plain name it would load the weights of a deep one, and compute other things.
        "architecture": f"{architecture}-with-small-stem" if spec.small_stem else architecture,
        "num_classes": 0,
        "num_features": encoder.width,
        "model_args": dict(spec.model_args),
        "pretrained_cfg": {
            "input_size": [3, spec.image_size, spec.image_size],
            "num_classes": 0,
            "crop_pct": spec.crop,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "simclr": {"format_version": FORMAT_VERSION, "architecture": architecture, "small_stem": spec.small_stem},
    }


def spec_from_config(path: Path, config: dict[str, Any]) -> EncoderSpec:
    """The spec that `timm_config` wrote down, in the file at `path`.

    Raises:
        RunError: it was not written by simclr, or is damaged.
    """
    try:
        preprocessing = config["pretrained_cfg"]
        mean, std = (tuple(float(value) for value in preprocessing[name]) for name in ("mean", "std"))
        return EncoderSpec(
            architecture=str(config["simclr"]["architecture"]),
            image_size=int(preprocessing["input_size"][1]),
            mean=cast(tuple[float, float, float], mean),
            std=cast(tuple[float, float, float], std),
            small_stem=bool(config["simclr"]["small_stem"]),
            model_args=dict(config["model_args"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{path} does not describe an encoder ({error!r}).", "Restore it, or train again.") from None


def model_card(encoder: Encoder, *, pictures: int, epochs: int) -> str:
    """README.md of encoder/."""
    spec = encoder.spec
    architecture = spec.architecture.split(".")[0]
    load = LOAD
    if spec.small_stem:
        deep = not hasattr(encoder.backbone.conv1, "out_channels")
        load = LOAD_SMALL_DEEP_STEM if deep else LOAD_SMALL_STEM
        load = load.format(architecture=architecture, size=spec.image_size, crop=spec.crop)
    return CARD.format(
        architecture=architecture,
        pictures=pictures,
        epochs=epochs,
        size=spec.image_size,
        width=encoder.width,
        load=load,
        normalisation=f"normalised by mean {spec.mean} and std {spec.std}" if spec.normalises else "not normalised",
        resized=int(spec.image_size / spec.crop),
    )
