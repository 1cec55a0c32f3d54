"""The start of a training: random weights, or trained ones, which stay in the run as start/ at their own image size."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import MachineError, SettingsError
from simclr_cli.core.events import Report
from simclr_cli.core.text import quote_words
from simclr_cli.encode.create import create_initial_encoder
from simclr_cli.encode.load import choose_default_encoder
from simclr_cli.encode.model_card import build_timm_config
from simclr_cli.encode.weights import WEIGHTS_FILE, Downloads
from simclr_cli.engine.encoder import Encoder
from simclr_cli.store.models import write_model
from simclr_cli.store.run import RunFolder
from simclr_cli.train.rules import RANDOM, InitialWeights

START_CARD = """\
# {architecture}, the weights that a training started from

They are unchanged: `--encoder` of simclr and `local-dir:` of timm read this folder.
"""


@dataclass(frozen=True)
class Start:
    """Initial weights: what the plan says of them, and trained ones at their own image size."""

    initial: InitialWeights = RANDOM
    encoder: Encoder | None = None  # None: random weights
    source: str = "none"  # none, trained or a file


NO_START = Start()


def choose_start(settings: ResolvedSettings, run: RunFolder, device: torch.device, report: Report) -> Start:
    """Choose weights, and the backbone of trained ones, where they are open; load trained ones.

    Trained weights are chosen where timm's are on this machine or can be fetched. A run that has a start/ uses it.

    Raises:
        SimclrError: one of its subclasses: weights that were asked for are unavailable, or of another architecture.
    """
    if settings.weights == "none":
        return NO_START
    default, default_size, _ = choose_default_encoder(device, offline=settings.offline)
    name = settings.backbone or default
    kept = run.start_folder / WEIGHTS_FILE
    source = str(kept) if kept.is_file() else settings.weights or "trained"
    size = default_size if name == default and source == "trained" else None
    downloads = Downloads(settings.offline, settings.accept_license, report)
    try:
        encoder = create_initial_encoder(name, source, size, settings.seed, downloads).eval()
    except MachineError:
        if settings.weights is not None:
            raise
        return Start(InitialWeights("none", f"random: trained ones of {name} are not on this machine"))
    except SettingsError as error:  # timm has none, or under another license
        if settings.weights is not None:
            raise
        return Start(InitialWeights("none", f"random: {error.problem.rstrip('.')}"))
    config = timm.get_pretrained_cfg(name)
    initial = InitialWeights(
        weights=settings.weights or "trained",
        reason=f"timm's, whose own image size is {encoder.spec.image_size} px",
        backbone=name,
        own_size=encoder.spec.image_size,
        is_transformer=bool(config and config.fixed_input_size),  # it has position embeddings
    )
    return Start(initial, encoder, source)


def keep_start(run: RunFolder, start: Start) -> None:
    """Write trained weights into the run as an encoder of its own, unless they are there."""
    if start.encoder is None or run.start_folder.exists():
        return
    config = build_timm_config(start.encoder)
    card = START_CARD.format(architecture=start.encoder.spec.architecture)
    write_model(run.start_folder, start.encoder.backbone.state_dict(), config, card)


def describe_alternative(start: Start, settings: ResolvedSettings) -> str:
    """Describe the use of the trained weights without a training, and what training has gained."""
    assert start.encoder is not None
    name = settings.backbone if settings.weights == "trained" else f"{settings.backbone}={settings.weights}"
    if start.initial.is_transformer:
        gain = "We have not measured what adaptation changes in transformers"
    elif settings.loss == "distill":
        gain = (
            "In our measurements, adaptation gained 2 to 5 points at 128 px, where precision at 10 is then about that "
            "of their own size"
        )
    else:
        gain = "In our measurements, SimCLR gained where these weights were weak, and lost where they were strong"
    return (
        f"Trained weights alone may serve: simclr similar IMAGE --images {quote_words(settings.images)} --encoder "
        f"{quote_words(name)} needs no training. {gain}: docs/which-encoder.md."
    )
