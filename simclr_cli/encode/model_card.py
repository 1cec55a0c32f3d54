"""Description of an exported model: timm's config.json, and a card with the code that loads it without simclr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simclr_cli.api.fields import MAX_IMAGE_SIZE
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.engine.encoder import Encoder, EncoderSpec, check_architecture

FORMAT_VERSION = 1
MODEL_ARGUMENTS = ("global_pool", "class_token", "reg_tokens", "init_values", "dynamic_img_size")
MAX_ARGUMENT = 64

CARD = """\
---
library_name: timm
tags: [image-feature-extraction, self-supervised, simclr]
---
# {architecture}, trained by simclr

An image encoder, trained without labels on {images:,} images (epochs: {epochs:,}; loss: {loss}; start: {start}).
It computes h, an embedding of {width} numbers per image. Similar images have embeddings with a large cosine.

Outcome of the training: {outcome}

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

Fine-tuned by simclr with the labels of {images:,} images at {size} px.
Its accuracy on {test_images:,} held-out images is {accuracy:.1f} %.
The names of the classes are `label_names` in config.json, in the order of the outputs.

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

PREPROCESSING = """
Images are upright RGB in [0, 1], {normalization}. Embedded color profiles are converted to sRGB first{deep}.
The short side is resized to {resized} px (bicubic), then a center crop of {size} px is taken.
"""

LOAD = """\
{name} = timm.create_model("local-dir:THIS/FOLDER", pretrained=True, num_classes={classes})"""

# timm does not have the small-image stem, so the code replaces the stem before it loads the weights.
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


def build_timm_config(encoder: Encoder) -> dict[str, Any]:
    """Build encoder/config.json: timm's `local-dir:` layout, and under "simclr" what timm does not know."""
    spec = encoder.spec
    architecture = spec.architecture.split(".")[0]
    return {
        # With the plain name, timm would load the weights of a small deep stem into its own and compute something else.
        "architecture": f"{architecture}-with-small-stem" if spec.small_stem else architecture,
        "num_classes": 0,
        "num_features": encoder.width,
        "model_args": dict(spec.model_args),
        "pretrained_cfg": {
            "input_size": [3, spec.image_size, spec.image_size],
            "num_classes": 0,
            "crop_pct": spec.crop_fraction,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "simclr": {
            "format_version": FORMAT_VERSION,
            "architecture": architecture,
            "small_stem": spec.small_stem,
            "bits": spec.bits,
        },
    }


def parse_spec(path: Path, config: dict[str, Any]) -> EncoderSpec:
    """Parse what `build_timm_config`, or timm itself, wrote to the file at `path`.

    timm accepts more values than these, such as the path of a checkpoint, or a URL as the name of a model.

    Raises:
        RunError: the file is of another form, or it is damaged.
    """
    try:
        own, preprocessing = config.get("simclr", config), config["pretrained_cfg"]
        mean, std = (tuple(float(value) for value in preprocessing[name]) for name in ("mean", "std"))
        spec = EncoderSpec(
            architecture=str(own["architecture"]),
            image_size=int(preprocessing["input_size"][1]),
            mean=mean,
            std=std,
            small_stem=bool(own.get("small_stem", False)),
            model_args=_read_arguments(config.get("model_args", {})),
            crop=float(preprocessing["crop_pct"]),
            bits=own.get("bits"),
        )
        if spec.bits not in (None, *range(1, 17)):
            raise ValueError("invalid bits")
        if not 0 < spec.image_size <= MAX_IMAGE_SIZE or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("invalid input_size, mean or std")
        if not 0 < spec.crop_fraction <= 1:
            raise ValueError("invalid crop_pct")
        check_architecture(spec.architecture)
        if unknown := [name for name, value in spec.model_args.items() if not _is_harmless(name, value, spec)]:
            raise ValueError(f"arguments {unknown}")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, SettingsError) as error:
        raise RunError(f"{path} does not describe an encoder ({error}).", "Restore it, or train again.") from None
    return spec


def _read_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of timm.create_model without those that every encoder has."""
    return {name: value for name, value in arguments.items() if name not in ("num_classes", "pretrained")
            and (name, value) != ("in_chans", 3)}  # fmt: skip


def _is_harmless(name: str, value: Any, spec: EncoderSpec) -> bool:
    """Return whether an argument of timm.create_model only describes an architecture of the usual size."""
    if name == "img_size":
        return value in (spec.image_size, [spec.image_size] * 2)
    return name in MODEL_ARGUMENTS and (value is None or isinstance(value, str) or abs(value) <= MAX_ARGUMENT)


def build_classifier_config(encoder: Encoder, labels: Sequence[str], training: Mapping[str, Any]) -> dict[str, Any]:
    """Build config.json of a classifier: that of an encoder, with the names of the classes where timm expects them.

    Args:
        training: settings and results of its training, for JSON.
    """
    config = build_timm_config(encoder)
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = len(labels)
    return {**config, "label_names": list(labels), "simclr": {**config["simclr"], "training": dict(training)}}


def render_model_card(encoder: Encoder, classes: int = 0, **figures: object) -> str:
    """Render README.md of an encoder or a classifier, with the code that loads it by timm.

    The names of the classes may be any text, so they are only in config.json.

    Args:
        figures: values of CARD or CLASSIFIER_CARD that do not follow from the encoder.
    """
    spec = encoder.spec
    card, name = (CLASSIFIER_CARD, "classifier") if classes else (CARD, "encoder")
    normalization = f"normalized by mean {spec.mean} and std {spec.std}" if spec.has_normalization else "not normalized"
    values = {
        "name": name,
        "architecture": spec.architecture.split(".")[0],
        "classes": classes,
        "size": spec.image_size,
        "crop": spec.crop_fraction,
        "resized": int(spec.image_size / spec.crop_fraction),
        "width": encoder.width,
        "normalization": normalization,
        "deep": f", and values of 16-bit images are divided by {2**spec.bits - 1:,}" if spec.bits else "",
        **figures,
    }
    load = LOAD
    if spec.small_stem:
        stem = STEM if hasattr(encoder.backbone.conv1, "out_channels") else DEEP_STEM
        load = LOAD_SMALL_STEM.replace("{stem}", stem)
    return (card + PREPROCESSING).format(load=load.format(**values), **values)
