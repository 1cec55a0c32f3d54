"""Which encoder, and where: from settings to a ready f — to start training from, a run's, or a plain timm model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors

from simclr_cli.api import RUNS, EncoderSettings
from simclr_cli.core.errors import MachineError, RunError, SettingsError
from simclr_cli.core.world import ALONE, Place
from simclr_cli.encode.model_card import spec_from_config
from simclr_cli.engine.encoder import (
    Encoder,
    EncoderSpec,
    check_name,
    create_encoder,
    create_encoder_of,
    image_size_args,
    pretrained_spec,
    scratch_spec,
)
from simclr_cli.store.models import plain, read_description, read_weights
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.run_info import RunInfo, read_run_info


@dataclass(frozen=True)
class ReadyEncoder:
    """An encoder in eval mode on its device, and whose it is."""

    encoder: Encoder
    device: torch.device
    name: str  # the run's folder, or the timm name with its weights
    checksum: str  # SHA-256 of the weights
    run: RunFolder | None = None  # None for a plain timm model

    @cached_property
    def info(self) -> RunInfo:
        """What its run is, read once.

        Raises:
            RunError: its config.json is missing or damaged.
        """
        assert self.run is not None
        return read_run_info(self.run)

    @property
    def images(self) -> Path:
        """The folder that its run was trained on.

        Raises:
            RunError: it is no longer there.
        """
        root = self.info.settings.images
        if not root.is_dir():
            raise RunError(f"The images of {self.name} are no longer in {root}.", "Name their folder.")
        return root

    def was_trained_on(self, folder: Path) -> bool:
        """Return whether a folder is the one that its run was trained on."""
        return self.run is not None and folder.resolve() == self.info.settings.images.resolve()


def pick_device(name: str | None, place: Place = ALONE) -> torch.device:
    """The device named, or the first GPU, or the CPU. Of several processes on a machine each has a GPU of its own.

    Raises:
        MachineError: there is no such device here.
    """
    if place.count > 1 and (torch.cuda.is_available() if name is None else name.startswith("cuda")):
        name = f"cuda:{place.local}"
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and place.count == 1 else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MachineError(f"The device {name} cannot be used here ({reason}).", "Try --device cpu.") from None
    return device


def start_encoder(backbone: str, weights: str, image_size: int, seed: int) -> Encoder:
    """The encoder that training starts from: random, timm's trained weights, or a file's.

    Raises:
        SettingsError, MachineError: see create_encoder and create_encoder_of.
    """
    if weights == "none":
        return create_encoder(scratch_spec(backbone, image_size), seed=seed)
    if weights == "imagenet":
        return create_encoder(pretrained_spec(backbone, image_size), imagenet=True)
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise SettingsError(f"--weights is {weights!r}.", "Give none, imagenet, or the path of a .safetensors file.")
    return create_encoder_of(_spec_beside(path, backbone, image_size), read_weights(path), str(path))


def _spec_beside(weights: Path, backbone: str, image_size: int) -> EncoderSpec:
    """Weights out of a run's encoder/ keep its stem and normalization; others are taken for timm's own."""
    config = weights.with_name("config.json")
    if not config.is_file():
        return pretrained_spec(backbone, image_size)
    spec = spec_from_config(config, read_description(config, "Restore it, or train again."))
    check_name(backbone)
    return replace(spec, architecture=backbone, image_size=image_size, model_args=image_size_args(backbone, image_size))


def ready_encoder(settings: EncoderSettings, place: Place = ALONE) -> ReadyEncoder:
    """The encoder that the settings name: a plain timm model, or that of a run (the newest, if none is named).

    Raises:
        RunError: no such run, or it is not finished or damaged.
    """
    device = pick_device(settings.device, place)
    if settings.backbone is None:
        return run_encoder(find_run(settings.run, settings.runs), device)
    encoder = start_encoder(settings.backbone, settings.weights, settings.image_size, settings.seed).eval()
    checksum = hashlib.sha256(to_safetensors(plain(encoder.backbone.state_dict()))).hexdigest()
    return ReadyEncoder(encoder.to(device), device, f"{settings.backbone} ({settings.weights})", checksum)


def run_encoder(run: RunFolder, device: torch.device) -> ReadyEncoder:
    """The trained encoder of a finished run.

    Raises:
        RunError: not finished, damaged, or of a newer version.
    """
    config, state = run.read_encoder()
    spec = spec_from_config(run.encoder / "config.json", config)
    try:
        encoder = create_encoder_of(spec, state, str(run.weights_file))
    except SettingsError as error:  # of the run's, not of what was typed
        raise RunError(error.what, "Restore the run from a copy, or train it again.") from None
    return ReadyEncoder(encoder.eval().to(device), device, str(run.path), config["simclr"]["model_checksum"], run)


def load_encoder(run: str | Path | None = None, *, runs: Path = RUNS, device: str | None = None) -> Encoder:
    """The encoder of a run (the newest, if none is named) as a torch module in eval mode.

    It takes (M, 3, S, S) floats in [0, 1], S = `encoder.spec.image_size`, and gives h (M, `encoder.width`).
    """
    return run_encoder(find_run(str(run) if run else None, runs), pick_device(device)).encoder


def untrained_twin(ready: ReadyEncoder, seed: int) -> ReadyEncoder:
    """Return the same architecture with random weights: what its run began from, or else what the seed gives."""
    spec = ready.encoder.spec
    encoder = create_encoder(spec, seed=ready.info.settings.seed if ready.run else seed).eval()
    return ReadyEncoder(encoder.to(ready.device), ready.device, f"{spec.architecture} (untrained)", "")
