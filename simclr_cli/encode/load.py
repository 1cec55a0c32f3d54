"""Encoders by name, on their device: of a run, of timm, or of a file; and the choice of one where none is named."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import is_offline_mode
from safetensors.torch import save as to_safetensors

from simclr_cli.api import RUNS_FOLDER, EncoderSettings
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.world import SINGLE_PROCESS, World
from simclr_cli.encode.create import REMEDIES, create_named_encoder
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.model_card import parse_spec
from simclr_cli.encode.weights import CONFIG_FILE, Downloads, find_timm_weights
from simclr_cli.engine.augment import ViewRecipe, create_view_recipe
from simclr_cli.engine.encoder import (
    Encoder,
    EncoderSpec,
    create_encoder,
    create_encoder_from_weights,
    resize_spec,
)
from simclr_cli.store.models import detach_tensors
from simclr_cli.store.run import RunFolder, find_named_run, find_newest_run, find_run, list_runs
from simclr_cli.store.run_info import RunInfo, read_run_info

# Where no encoder is named and no run fits: docs/which-encoder.md.
DEFAULT_FOR_CPU = ("tf_efficientnet_lite0.in1k", 224, "light, for a CPU")
DEFAULT_FOR_GPU = ("vit_small_patch14_dinov2.lvd142m", 224, "DINOv2, for a GPU")


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in eval mode on its device, and its origin."""

    encoder: Encoder
    device: torch.device
    name: str  # as the user may name it: the run's folder, or as in --encoder
    checksum: str  # of the weights, and of size and preprocessing unless they are the run's own
    run: RunFolder | None = None  # None: not of a run
    is_resized: bool = False  # True if the image size is not that of its run

    @cached_property
    def info(self) -> RunInfo:
        """Description of the run, read once.

        Raises:
            RunError: config.json of the run is missing or damaged.
        """
        assert self.run is not None
        return read_run_info(self.run)

    @property
    def title(self) -> str:
        """Name for tables and pages: the run's name, or a timm name without its file."""
        return self.run.path.name if self.run else self.name.partition("=")[0]

    @property
    def outcome_folder(self) -> RunFolder:
        """The run, or the folder of its encoder or of an earlier one, which may hold the outcome and a probe."""
        folder = Path(self.name.removeprefix("local-dir:")).absolute()
        return self.run or RunFolder(folder.parent if folder.name == "encoder" else folder)

    @property
    def seed(self) -> int:
        """Seed of the run, or 0."""
        return self.info.settings.seed if self.run else 0

    @property
    def view_recipe(self) -> ViewRecipe:
        """Distribution of the views of the run, or else the paper's."""
        return create_view_recipe(self.info.settings) if self.run else ViewRecipe()

    def choose_bits(self, bits: int | None) -> int | None:
        """Return how many bits images of 16 bits use: as in training, or else those of their folder."""
        return self.encoder.spec.bits or bits

    @property
    def images_folder(self) -> Path:
        """Folder of images that the run was trained on, which may no longer exist.

        Raises:
            SettingsError: the encoder is not of a run.
        """
        if self.run is None:
            raise SettingsError(f"The encoder {self.name} has no images of its own.", "Add the folder of images.")
        return self.info.settings.images

    @property
    def images(self) -> Path:
        """Folder of images that the run was trained on.

        Raises:
            SettingsError: the encoder is not of a run.
            RunError: the folder no longer exists.
        """
        root = self.images_folder
        if not root.is_dir():
            raise RunError(f"The images of {self.name} are no longer in {root}.", "Pass their folder.")
        return root

    def was_trained_on(self, folder: Path) -> bool:
        """Return True if the run was trained on this folder."""
        return self.run is not None and folder.resolve() == self.info.settings.images.resolve()


def resolve_encoder(
    settings: EncoderSettings, world: World = SINGLE_PROCESS, report: Report = silent, *, of_folder: bool = False
) -> LoadedEncoder:
    """Load the encoder that the settings name, or else that of the newest run, or else a default trained one.

    Args:
        of_folder: if none is named, accept only a run that was trained on `settings.images`, if that is set.

    Raises:
        RunError: there is no such run, or it is unfinished or damaged.
        SettingsError, MachineError: see load_named_encoder.
    """
    device = resolve_device(settings.device, world, report)
    if name := settings.encoder or settings.run:
        return load_named_encoder(name, settings, device, report)
    runs = [run for run in list_runs(settings.runs) if run.is_finished]
    if of_folder and settings.images is not None:
        runs = [run for run in runs if _was_trained_on(run, settings.images)]
    if runs or settings.images is None:
        return _load_run(find_newest_run(runs, settings.runs), settings.image_size, device)
    name, size, reason = choose_default_encoder(device, offline=settings.offline)
    settings = dataclasses.replace(settings, image_size=settings.image_size or size)
    lack = f"no run was trained on {settings.images}" if of_folder else f"there is no run under {settings.runs}"
    report(Note(f"Encoder: {name} at {settings.image_size} px ({reason}), because {lack}."))
    return load_named_encoder(name, settings, device, report)


def _was_trained_on(run: RunFolder, folder: Path) -> bool:
    with contextlib.suppress(RunError):
        return read_run_info(run).settings.images.resolve() == folder.resolve()
    return False


def choose_default_encoder(device: torch.device, *, offline: bool) -> tuple[str, int, str]:
    """Choose a trained encoder for a device: timm name, image size, and the reason.

    The other device's is chosen if only its weights are on this machine, and nothing may be downloaded.
    """
    choices = (DEFAULT_FOR_CPU, DEFAULT_FOR_GPU) if device.type == "cpu" else (DEFAULT_FOR_GPU, DEFAULT_FOR_CPU)
    cached = [choice for choice in choices if find_timm_weights(choice[0])]
    return cached[0] if cached and (offline or is_offline_mode()) else choices[0]


def load_named_encoder(name: str, settings: EncoderSettings, device: torch.device, report: Report) -> LoadedEncoder:
    """Load an encoder by its name: of a run, of timm, hf-hub:ID, local-dir:FOLDER, FILE, NAME=FILE or random:NAME.

    Args:
        settings: `runs`, `image_size`, `seed`, and the terms of downloads.

    Raises:
        RunError: the run is unfinished, or its files or the file of weights are damaged.
        SettingsError: there is neither a run nor a timm model of that name, or the weights do not fit.
        MachineError: weights are not on this machine, and cannot be downloaded.
    """
    if run := find_named_run(name, settings.runs, is_run=settings.run == name):
        return _load_run(run, settings.image_size, device)
    downloads = Downloads(settings.offline, settings.accept_license, report)
    encoder = create_named_encoder(name, settings.image_size, settings.seed, downloads)
    weights = hashlib.sha256(to_safetensors(detach_tensors(encoder.backbone.state_dict()))).hexdigest()
    return LoadedEncoder(encoder.eval().to(device), device, name, _identify(weights, encoder.spec))


def _identify(weights_checksum: str, spec: EncoderSpec) -> str:
    """Return a checksum of all that maps an image to its embedding."""
    spec = dataclasses.replace(spec, architecture=spec.architecture.split(".")[0], crop=spec.crop_fraction)
    text = json.dumps([weights_checksum, repr(spec)])
    return hashlib.sha256(text.encode()).hexdigest()


def load_run_encoder(run: RunFolder, device: torch.device) -> LoadedEncoder:
    """Load the trained encoder of a finished run.

    Raises:
        RunError: the run is unfinished, damaged, or from a newer version.
    """
    return _load_run(run, None, device)


def _load_run(run: RunFolder, image_size: int | None, device: torch.device) -> LoadedEncoder:
    config, state = run.read_encoder()
    spec, checksum, name = parse_spec(run.encoder_folder / CONFIG_FILE, config), config["simclr"]["model_checksum"], ""
    if image_size is not None and image_size != spec.image_size:
        spec, name = resize_spec(spec, image_size), f" at {image_size} px"
        checksum = _identify(checksum, spec)
    try:
        encoder = create_encoder_from_weights(spec, state, str(run.weights_file))
    except SettingsError as error:
        if name:  # the user's image size
            raise SettingsError(error.problem, REMEDIES["image_size"]) from None
        raise RunError(error.problem, "Restore the run from a copy, or train it again.") from None
    return LoadedEncoder(encoder.eval().to(device), device, f"{run.path}{name}", checksum, run, bool(name))


def load_encoder(run: str | Path | None = None, *, runs: Path = RUNS_FOLDER, device: str | None = None) -> Encoder:
    """Load the encoder of a run (by default the newest) as a torch module in eval mode.

    It maps (M, 3, S, S) floats in [0, 1], S = `encoder.spec.image_size`, to h (M, `encoder.width`).
    """
    return load_run_encoder(find_run(str(run) if run else None, runs), resolve_device(device)).encoder


def create_untrained_encoder(loaded: LoadedEncoder, seed: int) -> LoadedEncoder:
    """Create the same architecture with random weights: those that its run started from, or else those of the seed."""
    spec = loaded.encoder.spec
    encoder = create_encoder(spec, seed=loaded.seed if loaded.run else seed).eval()
    return LoadedEncoder(encoder.to(loaded.device), loaded.device, f"random:{spec.architecture}", "")
