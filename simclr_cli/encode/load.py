"""Encoders by name, on their device: of a run, of timm, or of a weights file."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors

from simclr_cli.api import RUNS_FOLDER, EncoderSettings
from simclr_cli.core.errors import MachineError, RunError, SettingsError
from simclr_cli.core.world import SINGLE_PROCESS, World
from simclr_cli.encode.model_card import parse_spec
from simclr_cli.engine.encoder import (
    Encoder,
    EncoderError,
    EncoderSpec,
    check_architecture,
    create_encoder,
    create_encoder_from_weights,
    create_pretrained_spec,
    create_scratch_spec,
    resolve_model_args,
)
from simclr_cli.store.models import detach_tensors, read_config, read_weights
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.run_info import RunInfo, read_run_info

REMEDIES = {  # of an EncoderError, by its argument
    "architecture": "Use another --backbone.",
    "image_size": "Use another --image-size (many transformers require a multiple of 16 or 32) or --backbone.",
    "imagenet": "Use --weights none, or another --backbone.",
    "state": "Set --backbone to the architecture of these weights.",
}


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in eval mode on its device, and its origin."""

    encoder: Encoder
    device: torch.device
    name: str  # folder of the run, or timm name with its weights
    checksum: str  # SHA-256 of the weights
    run: RunFolder | None = None  # None for a plain timm model

    @cached_property
    def info(self) -> RunInfo:
        """Description of the run, read once.

        Raises:
            RunError: config.json of the run is missing or damaged.
        """
        assert self.run is not None
        return read_run_info(self.run)

    @property
    def images(self) -> Path:
        """Folder of images that the run was trained on.

        Raises:
            RunError: it no longer exists.
        """
        root = self.info.settings.images
        if not root.is_dir():
            raise RunError(f"The images of {self.name} are no longer in {root}.", "Pass their folder.")
        return root

    def was_trained_on(self, folder: Path) -> bool:
        """Return True if the run was trained on this folder."""
        return self.run is not None and folder.resolve() == self.info.settings.images.resolve()


def resolve_device(name: str | None, world: World = SINGLE_PROCESS) -> torch.device:
    """Return the named device, or else the first GPU or the CPU. With several processes, each uses its own GPU.

    Raises:
        MachineError: the device is unavailable on this machine.
    """
    if world.world_size > 1 and (torch.cuda.is_available() if name is None else name.startswith("cuda")):
        name = f"cuda:{world.local_rank}"
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and world.world_size == 1 else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MachineError(f"The device {name} cannot be used here ({reason}).", "Try --device cpu.") from None
    return device


@contextlib.contextmanager
def name_options() -> Iterator[None]:
    """Raise an EncoderError within as a SettingsError whose remedy names options of the command."""
    try:
        yield
    except EncoderError as error:
        raise SettingsError(error.problem, REMEDIES[error.argument]) from error


@name_options()
def create_initial_encoder(backbone: str, weights: str, image_size: int, seed: int) -> Encoder:
    """Create the encoder that training starts from: with random weights, timm's trained ones, or those of a file.

    Raises:
        SettingsError, MachineError: see create_encoder and create_encoder_from_weights; the remedy names options.
    """
    if weights == "none":
        return create_encoder(create_scratch_spec(backbone, image_size), seed=seed)
    if weights == "imagenet":
        try:
            return create_encoder(create_pretrained_spec(backbone, image_size), imagenet=True)
        except MachineError as error:
            raise MachineError(error.problem, f"{error.remedy} Or use --weights FILE.safetensors.") from error
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise SettingsError(f"--weights is {weights!r}.", "Use none, imagenet, or the path of a .safetensors file.")
    return create_encoder_from_weights(_resolve_spec(path, backbone, image_size), read_weights(path), str(path))


def _resolve_spec(weights: Path, backbone: str, image_size: int) -> EncoderSpec:
    """Return the spec with stem and normalization of the run that the weights file belongs to, or else of timm."""
    config_file = weights.with_name("config.json")
    if not config_file.is_file():
        return create_pretrained_spec(backbone, image_size)
    spec = parse_spec(config_file, read_config(config_file, "Restore it, or train again."))
    check_architecture(backbone)
    return replace(
        spec, architecture=backbone, image_size=image_size, model_args=resolve_model_args(backbone, image_size)
    )


def resolve_encoder(settings: EncoderSettings, world: World = SINGLE_PROCESS) -> LoadedEncoder:
    """Load the encoder that the settings name: a plain timm model, or that of a run (by default the newest).

    Raises:
        RunError: there is no such run, or it is unfinished or damaged.
    """
    device = resolve_device(settings.device, world)
    if settings.backbone is None:
        return load_run_encoder(find_run(settings.run, settings.runs), device)
    encoder = create_initial_encoder(settings.backbone, settings.weights, settings.image_size, settings.seed).eval()
    checksum = hashlib.sha256(to_safetensors(detach_tensors(encoder.backbone.state_dict()))).hexdigest()
    return LoadedEncoder(encoder.to(device), device, f"{settings.backbone} ({settings.weights})", checksum)


def load_run_encoder(run: RunFolder, device: torch.device) -> LoadedEncoder:
    """Load the trained encoder of a finished run.

    Raises:
        RunError: the run is unfinished, damaged, or from a newer version.
    """
    config, state = run.read_encoder()
    spec = parse_spec(run.encoder_folder / "config.json", config)
    try:
        encoder = create_encoder_from_weights(spec, state, str(run.weights_file))
    except SettingsError as error:  # the files of the run are wrong, not the user's settings
        raise RunError(error.problem, "Restore the run from a copy, or train it again.") from None
    return LoadedEncoder(encoder.eval().to(device), device, str(run.path), config["simclr"]["model_checksum"], run)


def load_encoder(run: str | Path | None = None, *, runs: Path = RUNS_FOLDER, device: str | None = None) -> Encoder:
    """Load the encoder of a run (by default the newest) as a torch module in eval mode.

    It maps (M, 3, S, S) floats in [0, 1], S = `encoder.spec.image_size`, to h (M, `encoder.width`).
    """
    return load_run_encoder(find_run(str(run) if run else None, runs), resolve_device(device)).encoder


def create_untrained_encoder(loaded: LoadedEncoder, seed: int) -> LoadedEncoder:
    """Create the same architecture with random weights: those that its run started from, or else those of the seed."""
    spec = loaded.encoder.spec
    encoder = create_encoder(spec, seed=loaded.info.settings.seed if loaded.run else seed).eval()
    return LoadedEncoder(encoder.to(loaded.device), loaded.device, f"{spec.architecture} (untrained)", "")
