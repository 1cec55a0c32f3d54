"""What an exported model says of itself: timm's config.json, and a card that tells how to load it without simclr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simclr_cli.api.fields import MOST_SIDE
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.engine.encoder import Encoder, EncoderSpec, check_name, image_size_args

FORMAT_VERSION = 1

CARD = """\
---
library_name: timm
tags: [image-feature-extraction, self-supervised, simclr]
---
# {architecture}, trained by SimCLR

An image encoder, trained without labels on {images:,} images, {epochs:,} times through, at {size} px.
It gives h, a vector of {width} numbers an image; images are alike when the cosine of their vectors is large.

```python
import timm, torch
from PIL import Image, ImageOps
{load}
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=encoder), is_training=False)
with torch.inference_mode():
    image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
    h = encoder.eval()(transform(image)[None])  # (1, {width})
```
"""

CLASSIFIER_CARD = """\
---
library_name: timm
tags: [image-classification, simclr]
---
# {architecture}, a classifier of {classes:,} classes

Fine-tuned by simclr with the labels of {images:,} images, at {size} px.
It told {told:.1f} % of {test_images:,} held-out images right.
The classes' names are `label_names` in config.json, in the order of the outputs.

```python
import json, timm, torch
from PIL import Image, ImageOps
{load}
names = json.load(open("THIS/FOLDER/config.json"))["label_names"]
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=classifier), is_training=False)
with torch.inference_mode():
    image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
    probabilities = classifier.eval()(transform(image)[None]).softmax(1)[0]  # ({classes},)
print(names[int(probabilities.argmax())], float(probabilities.max()))
```
"""

PREPARED = """
Images are upright RGB in [0, 1], {normalization}.
Short side resized to {resized} px (bicubic), center crop of {size} px.
"""

LOAD = """\
{name} = timm.create_model("local-dir:THIS/FOLDER", pretrained=True, num_classes={classes})"""

# The small-image stem is not one of timm's own, so timm must be told of it before it is given the weights.
LOAD_SMALL_STEM = """\
from safetensors.torch import load_file

{name} = timm.create_model("{architecture}", num_classes={classes})
{name}.{stem}
{name}.maxpool = torch.nn.Identity()
{name}.load_state_dict(load_file("THIS/FOLDER/model.safetensors"))
{name}.pretrained_cfg.update({{"input_size": (3, {size}, {size}), "crop_pct": {crop}, "interpolation": "bicubic",
                               "mean": (0, 0, 0), "std": (1, 1, 1)}})"""
STEM = "conv1 = torch.nn.Conv2d(3, {name}.conv1.out_channels, 3, padding=1, bias=False)"
DEEP_STEM = "conv1[0].stride = (1, 1)"


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

    What it says is believed only as far as simclr itself could have written it: timm would take more, such as the path
    of a checkpoint, or a model's name that is an address.

    Raises:
        RunError: it was not written by simclr, or is damaged.
    """
    try:
        preprocessing = config["pretrained_cfg"]
        mean, std = (tuple(float(value) for value in preprocessing[name]) for name in ("mean", "std"))
        spec = EncoderSpec(
            architecture=str(config["simclr"]["architecture"]),
            image_size=int(preprocessing["input_size"][1]),
            mean=mean,
            std=std,
            small_stem=bool(config["simclr"]["small_stem"]),
            model_args=dict(config["model_args"]),
        )
        if not 0 < spec.image_size <= MOST_SIDE or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("images of no size or scale")
        check_name(spec.architecture)
        if spec.model_args not in ({}, image_size_args(spec.architecture, spec.image_size)):
            raise ValueError(f"arguments {list(spec.model_args)}")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, SettingsError) as error:
        raise RunError(f"{path} does not describe an encoder ({error}).", "Restore it, or train again.") from None
    return spec


def classifier_config(encoder: Encoder, labels: Sequence[str], training: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a classifier: an encoder's, with the names of the classes where timm looks for them.

    Args:
        training: how it came to be, as JSON can hold it.
    """
    config = timm_config(encoder)
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = len(labels)
    return {**config, "label_names": list(labels), "simclr": {**config["simclr"], "training": dict(training)}}


def labels_from_config(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes in a classifier's config.json, the file at `path`, in the order of its outputs.

    Raises:
        RunError: it has none.
    """
    names = config.get("label_names")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise RunError(f"{path} names no classes, so it is no classifier's.", "Make one with: simclr finetune FOLDER")
    return tuple(names)


def model_card(encoder: Encoder, classes: int = 0, **figures: float) -> str:
    """Write README.md of an encoder, or of a classifier, with the code that loads it by timm alone.

    The classes' names, which may be any text, stand in config.json alone.

    Args:
        figures: the words of CARD or CLASSIFIER_CARD that do not follow from the encoder.
    """
    spec = encoder.spec
    card, name = (CLASSIFIER_CARD, "classifier") if classes else (CARD, "encoder")
    words = {
        "name": name,
        "architecture": spec.architecture.split(".")[0],
        "classes": classes,
        "size": spec.image_size,
        "crop": spec.crop,
        "resized": int(spec.image_size / spec.crop),
        "width": encoder.width,
        "normalization": f"normalized by mean {spec.mean} and std {spec.std}" if spec.normalizes else "not normalized",
        **figures,
    }
    load = LOAD
    if spec.small_stem:
        stem = STEM if hasattr(encoder.backbone.conv1, "out_channels") else DEEP_STEM
        load = LOAD_SMALL_STEM.replace("{stem}", stem)
    return (card + PREPARED).format(load=load.format(**words), **words)
