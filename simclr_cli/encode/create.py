"""Creation of encoders: with random weights, with trained ones of timm or the hub, or with those of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from simclr_cli.core.errors import MachineError, SettingsError
from simclr_cli.encode.model_card import parse_spec
from simclr_cli.encode.weights import (
    ANY_DOWNLOADS,
    CONFIG_FILE,
    WEIGHTS_FILE,
    Downloads,
    fetch_file,
    get_timm_license,
    locate_timm_weights,
)
from simclr_cli.engine.encoder import (
    Encoder,
    EncoderError,
    check_architecture,
    create_encoder,
    create_encoder_from_weights,
    create_scratch_spec,
    create_trained_spec,
    resize_spec,
)
from simclr_cli.store.models import read_config, read_weights

REMEDIES = {  # of an EncoderError, by its argument
    "architecture": "Use another name of timm's.",
    "image_size": "Use another --image-size (many transformers require a multiple of 14, 16 or 32) or encoder.",
    "state": "Use NAME=FILE with the architecture of these weights.",
}
REPOSITORY = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*(?<!\W)/\w[\w.-]*(?<!\W)(@[\w./-]+)?", re.ASCII)  # the hub's rules
RANDOM_IMAGE_SIZE = 224  # px, of random:NAME


@contextlib.contextmanager
def name_options() -> Iterator[None]:
    """Raise an EncoderError within as a SettingsError whose remedy names options of the command."""
    try:
        yield
    except EncoderError as error:
        raise SettingsError(error.problem, REMEDIES[error.argument]) from error


@name_options()
def create_initial_encoder(
    backbone: str, weights: str, image_size: int | None, seed: int, downloads: Downloads = ANY_DOWNLOADS
) -> Encoder:
    """Create the encoder that training starts from: with random weights, timm's trained ones, or those of a file.

    Args:
        image_size: None: that of the weights.

    Raises:
        SettingsError, MachineError: see create_encoder, create_encoder_from_weights and fetch_file.
    """
    if weights == "none":
        return create_encoder(create_scratch_spec(backbone, image_size or RANDOM_IMAGE_SIZE), seed=seed)
    if weights == "trained":
        try:
            return _create_trained_encoder(backbone, image_size, downloads)
        except MachineError as error:
            download, _, _ = error.remedy.partition(" elsewhere")
            raise MachineError(error.problem, f"{download} elsewhere, and use --weights FILE, or none.") from error
    return _create_encoder_from_file(backbone, Path(weights), image_size)


@name_options()
def create_named_encoder(name: str, image_size: int | None, seed: int, downloads: Downloads) -> Encoder:
    """Create an encoder by a name in one of the forms of --encoder, but for those of a run.

    Args:
        image_size: None: the encoder's own.

    Raises:
        SettingsError: timm has no such model, or the weights do not fit it.
        RunError: the file of weights is missing or damaged.
        MachineError: the weights are not on this machine, and cannot be downloaded.
    """
    kind, _, rest = name.partition(":")
    if kind == "random":
        return create_encoder(create_scratch_spec(rest, image_size or RANDOM_IMAGE_SIZE), seed=seed)
    if kind == "hf-hub":
        if not REPOSITORY.fullmatch(rest):
            raise SettingsError(f"{name!r} names no repository.", "Use hf-hub:OWNER/NAME, with @REVISION if needed.")
        fetch = partial(fetch_file, rest, title=rest, license=None, downloads=downloads)
        return _create_encoder_from_file(None, Path(fetch(WEIGHTS_FILE)), image_size, Path(fetch(CONFIG_FILE)))
    if (kind == "local-dir" and rest) or (Path(name) / WEIGHTS_FILE).is_file():
        return _create_encoder_from_file(None, Path(rest or name) / WEIGHTS_FILE, image_size)
    if name.endswith(".safetensors"):
        architecture, equals, file = name.partition("=")
        return _create_encoder_from_file(architecture if equals else None, Path(file or name), image_size)
    try:
        return _create_trained_encoder(name, image_size, downloads)
    except EncoderError:  # its remedy is that of name_options
        raise
    except SettingsError as error:
        problem = error.problem.replace("timm has no backbone", "There is no run and no timm model", 1)
        raise SettingsError(problem, error.remedy) from error


def _create_trained_encoder(name: str, image_size: int | None, downloads: Downloads) -> Encoder:
    """Create a timm model with its trained weights, which are fetched."""
    spec, location = create_trained_spec(name, image_size), locate_timm_weights(name)
    if location is None:
        problem = f"There are no trained weights of {name} on the Hugging Face hub as .safetensors."
        raise SettingsError(problem, f"Use another model, {name}=FILE.safetensors, or random:{name}.")
    path = fetch_file(*location, name, get_timm_license(name), downloads)
    return create_encoder_from_weights(spec, read_weights(Path(path)), path)


def _create_encoder_from_file(
    architecture: str | None, weights: Path, image_size: int | None, config_file: Path | None = None
) -> Encoder:
    """Create an encoder with the weights of a file, by the config.json next to it, or by timm's architecture.

    Args:
        architecture: None: the one in config.json.
    """
    config_file = config_file or weights.with_name(CONFIG_FILE)
    state = read_weights(weights)
    if config_file.is_file():
        spec = parse_spec(config_file, read_config(config_file, "Restore it, or train again."))
        name = architecture or spec.architecture
        check_architecture(name)
        spec = resize_spec(dataclasses.replace(spec, architecture=name), image_size or spec.image_size)
    elif architecture is None:
        raise SettingsError(f"There is no config.json next to {weights}.", f"Use NAME={weights} with a name of timm's.")
    else:
        spec = create_trained_spec(architecture, image_size)
    return create_encoder_from_weights(spec, state, str(weights))
