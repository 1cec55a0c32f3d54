"""What an encoder must be better than: no training, no encoder at all, and whatever else is at hand."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from simclr_cli.api import ProbeSettings
from simclr_cli.core.events import Note, Report
from simclr_cli.encode.load import ReadyEncoder, run_encoder, start_encoder, untrained_twin
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder_of, pretrained_spec
from simclr_cli.store.models import read_weights
from simclr_cli.store.run import find_run

PIXEL_SIDE = 32  # px; raw pixels are compared as 32 x 32 x 3 numbers about their middle
BINS = 8  # of each channel; 512 colors


def baselines(ready: ReadyEncoder, settings: ProbeSettings, report: Report) -> dict[str, ReadyEncoder]:
    """All that an encoder is held against, by name, in the order in which it is shown.

    Raises:
        RunError: --baseline names what is no run and no file of weights.
        SettingsError: its weights are of another architecture.
    """
    spec = ready.encoder.spec
    found = {"untrained": untrained_twin(ready, settings.seed)} | without_weights(ready)
    if settings.weights != "imagenet" and (imagenet := imagenet_on_machine(spec.architecture, ready.device)):
        found["imagenet"] = imagenet
    for name in settings.baseline:
        if name.endswith(".safetensors"):
            encoder = start_encoder(spec.architecture, name, spec.image_size, settings.seed).eval().to(ready.device)
            found[name] = ReadyEncoder(encoder, ready.device, name, "")
        else:
            found[name] = run_encoder(find_run(name, settings.runs), ready.device)
    if "imagenet" not in found and ready.run is not None:
        report(Note(f"timm's ImageNet weights of {spec.architecture} are not on this machine, and are not compared."))
    return found


class RawPixels(nn.Module):
    """The image itself as h: averaged to at most 32 x 32, and laid out in a row."""

    def forward(self, x: Tensor) -> Tensor:
        """(M, 3, S, S) -> (M, 3 * side * side)."""
        side = min(PIXEL_SIDE, x.shape[-1])
        return F.adaptive_avg_pool2d(x, side).flatten(1)


class ColorHistogram(nn.Module):
    """The square roots of the shares that 8 x 8 x 8 colors have in the image (so that cosine is Bhattacharyya's)."""

    def forward(self, x: Tensor) -> Tensor:
        """(M, 3, S, S) in [0, 1] -> (M, 512)."""
        bins = (x * BINS).long().clamp(0, BINS - 1)
        colors = ((bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]).flatten(1)  # (M, S * S)
        counts = torch.zeros(len(x), BINS**3, device=x.device)
        counts.scatter_add_(1, colors, torch.ones_like(colors, dtype=counts.dtype))
        return (counts / colors.shape[1]).sqrt()


def without_weights(like: ReadyEncoder) -> dict[str, ReadyEncoder]:
    """Return raw pixels and color histograms as encoders, scored by the same code, on the same crop."""
    found = {}
    # Of pixels cosine says something about their middle.
    for name, module, middle in (("raw pixels", RawPixels(), 0.5), ("color histogram", ColorHistogram(), 0.0)):
        spec = EncoderSpec(name, like.encoder.spec.image_size, mean=(middle,) * 3)
        found[name] = ReadyEncoder(Encoder(module, spec).eval().to(like.device), like.device, name, "")
    return found


def imagenet_on_machine(architecture: str, device: torch.device) -> ReadyEncoder | None:
    """timm's trained weights of an architecture at their own image size, if a download has left them here.

    Only looked for: nothing is downloaded, and no network is touched.
    """
    name = architecture.split(".")[0]
    config = timm.get_pretrained_cfg(name)
    if config is None or config.hf_hub_id is None:
        return None
    path = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if not isinstance(path, str):
        return None
    encoder = create_encoder_of(pretrained_spec(name, config.input_size[-1]), read_weights(Path(path)), path)
    return ReadyEncoder(encoder.eval().to(device), device, f"{name} (imagenet)", "")
