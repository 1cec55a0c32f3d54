"""The baselines of an encoder: the untrained encoder, raw pixels, color histograms, ImageNet weights, other runs."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from simclr_cli.api import ProbeSettings
from simclr_cli.core.events import Note, Report
from simclr_cli.encode.load import (
    LoadedEncoder,
    create_initial_encoder,
    create_untrained_encoder,
    load_run_encoder,
    name_options,
)
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder_from_weights, create_pretrained_spec
from simclr_cli.store.models import read_weights
from simclr_cli.store.run import find_run

PIXEL_SIDE = 32  # px
BINS_PER_CHANNEL = 8  # 512 colors


def load_baselines(ready: LoadedEncoder, settings: ProbeSettings, report: Report) -> dict[str, LoadedEncoder]:
    """Return the baselines of an encoder by name, in the order of the tables.

    Raises:
        RunError: --baseline names neither a run nor a file of weights.
        SettingsError: its weights are of another architecture.
    """
    spec = ready.encoder.spec
    baselines = {"untrained": create_untrained_encoder(ready, settings.seed)} | create_pixel_baselines(ready)
    if settings.weights != "imagenet" and (imagenet := load_cached_imagenet(spec.architecture, ready.device)):
        baselines["imagenet"] = imagenet
    for name in settings.baseline:
        if name.endswith(".safetensors"):
            encoder = create_initial_encoder(spec.architecture, name, spec.image_size, settings.seed)
            baselines[name] = LoadedEncoder(encoder.eval().to(ready.device), ready.device, name, "")
        else:
            baselines[name] = load_run_encoder(find_run(name, settings.runs), ready.device)
    if "imagenet" not in baselines and ready.run is not None:
        text = f"timm's ImageNet weights of {spec.architecture} are not on this machine. That baseline is skipped."
        report(Note(text))
    return baselines


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
    baselines = {}
    # The cosine of raw pixels is that of their differences from middle gray.
    for name, module, mean in (("raw pixels", RawPixels(), 0.5), ("color histogram", ColorHistogram(), 0.0)):
        spec = EncoderSpec(name, ready.encoder.spec.image_size, mean=(mean,) * 3)
        baselines[name] = LoadedEncoder(Encoder(module, spec).eval().to(ready.device), ready.device, name, "")
    return baselines


@name_options()
def load_cached_imagenet(architecture: str, device: torch.device) -> LoadedEncoder | None:
    """Load timm's ImageNet weights of an architecture, at their own image size, from the hub's cache.

    Nothing is downloaded. None: they are not in the cache.
    """
    name = architecture.split(".")[0]
    config = timm.get_pretrained_cfg(name)
    if config is None or config.hf_hub_id is None:
        return None
    path = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if not isinstance(path, str):
        return None
    encoder = create_encoder_from_weights(
        create_pretrained_spec(name, config.input_size[-1]), read_weights(Path(path)), path
    )
    return LoadedEncoder(encoder.eval().to(device), device, f"{name} (imagenet)", "")
