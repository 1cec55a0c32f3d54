"""The baselines of an encoder: the untrained encoder, raw pixels, color histograms, trained weights, others."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_cli.api import ProbeSettings
from simclr_cli.core.events import Note, Report
from simclr_cli.encode.load import (
    LoadedEncoder,
    choose_default_encoder,
    create_untrained_encoder,
    load_named_encoder,
)
from simclr_cli.encode.weights import find_timm_weights
from simclr_cli.engine.encoder import Encoder, EncoderSpec

PIXEL_SIDE = 32  # px
BINS_PER_CHANNEL = 8  # 512 colors


def load_baselines(ready: LoadedEncoder, settings: ProbeSettings, report: Report) -> dict[str, LoadedEncoder]:
    """Return the baselines of an encoder by name, in the order of the tables.

    Raises:
        SimclrError: one of its subclasses: a --baseline does not name an encoder.
    """
    baselines = {"untrained": create_untrained_encoder(ready, settings.seed)} | create_pixel_baselines(ready)
    own = dataclasses.replace(settings, encoder=None, run=None, image_size=None)  # each at its own size
    if ready.run is not None and ready.run.start_folder.is_dir():
        baselines["start"] = load_named_encoder(str(ready.run.start_folder), own, ready.device, report)
    default, size, _ = choose_default_encoder(ready.device, offline=True)
    if find_timm_weights(default) is None:
        report(Note(f"The weights of {default} are not on this machine. That baseline is skipped."))
    else:
        frozen = load_named_encoder(default, dataclasses.replace(own, image_size=size), ready.device, report)
        if frozen.checksum not in {encoder.checksum for encoder in (ready, *baselines.values())}:
            _add_baseline(frozen.title, frozen, baselines, ready)
    for name in settings.baseline:
        _add_baseline(name, load_named_encoder(name, own, ready.device, report), baselines, ready)
    return baselines


def name_representation(ready: LoadedEncoder) -> str:
    """Return the name in tables of the encoder that is probed."""
    return "trained" if ready.run else ready.title


def _add_baseline(name: str, loaded: LoadedEncoder, baselines: dict[str, LoadedEncoder], ready: LoadedEncoder) -> None:
    """Add a baseline by a name that no other encoder has; an encoder that is there already is not added again."""
    known = {**baselines, name_representation(ready): ready}
    if name in known and known[name].checksum != loaded.checksum:
        name = f"{name} at {loaded.encoder.spec.image_size} px"
    if name not in known:
        baselines[name] = loaded


class RawPixels(nn.Module):
    """A backbone whose h is the image itself, averaged to at most 32 x 32 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten (M, 3, S, S) to (M, 3 * side * side)."""
        side = min(PIXEL_SIDE, x.shape[-1])
        return F.adaptive_avg_pool2d(x, side).flatten(1)


class ColorHistogram(nn.Module):
    """A backbone whose h is the square roots of the shares of 512 colors: cosine is Bhattacharyya's coefficient."""

    def forward(self, x: Tensor) -> Tensor:
        """Count the colors of (M, 3, S, S) in [0, 1] into (M, 512)."""
        bins = (x * BINS_PER_CHANNEL).long().clamp(0, BINS_PER_CHANNEL - 1)
        colors = ((bins[:, 0] * BINS_PER_CHANNEL + bins[:, 1]) * BINS_PER_CHANNEL + bins[:, 2]).flatten(1)  # (M, S * S)
        counts = torch.zeros(len(x), BINS_PER_CHANNEL**3, device=x.device)
        counts.scatter_add_(1, colors, torch.ones_like(colors, dtype=counts.dtype))
        return (counts / colors.shape[1]).sqrt()


def create_pixel_baselines(ready: LoadedEncoder) -> dict[str, LoadedEncoder]:
    """Create encoders without weights, raw pixels and color histograms, for the crop of another encoder."""
    baselines, of = {}, ready.encoder.spec
    # The cosine of raw pixels is that of their differences from middle gray.
    for name, module, mean in (("raw pixels", RawPixels(), 0.5), ("color histogram", ColorHistogram(), 0.0)):
        spec = EncoderSpec(name, of.image_size, mean=(mean,) * 3, crop=of.crop_fraction)
        baselines[name] = LoadedEncoder(Encoder(module, spec).eval().to(ready.device), ready.device, name, "")
    return baselines
