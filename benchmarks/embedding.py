"""Embedding from files against the encoder's limit: the same timm model on one synthetic batch that is already there.

    python benchmarks/embedding.py PHOTOS [--backbone resnet18] [--size 224] [--count 256] [--rounds 5]

In turn, round by round: `embed` from files (decoding included), and plain timm in inference mode on a resident batch,
in both memory layouts. Prints one JSON object: images/s of each, and the ratios.
"""

from __future__ import annotations

from machine import describe_machine, spread  # before torch: see there

# isort: split
import argparse
import json
import time
from pathlib import Path
from typing import Any

import timm
import torch

from simclr_cli.api import EmbedSettings
from simclr_cli.core.events import silent
from simclr_cli.encode.embed import embed_files
from simclr_cli.encode.load import ready_encoder
from simclr_cli.images.threads import count_workers

BATCH = 64


def measure(photos: Path, backbone: str, size: int, images: int, rounds: int, device: str | None) -> dict[str, Any]:
    """The arms in turn."""
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = (paths * (1 + images // len(paths)))[:images]
    ready = ready_encoder(EmbedSettings(backbone=backbone, image_size=size, images=photos, device=device))
    model = timm.create_model(backbone, num_classes=0).eval().to(ready.device)
    layouts = {"timm": torch.contiguous_format, "timm, channels_last": torch.channels_last}
    x = torch.rand(BATCH, 3, size, size, device=ready.device)
    rates: dict[str, list[float]] = {"embed from files": [], **{name: [] for name in layouts}}
    for round_ in range(rounds + 1):
        began = time.perf_counter()
        embed_files(ready, paths, batch_size=BATCH, workers=count_workers(), report=silent, stage="")
        pace = {"embed from files": len(paths) / (time.perf_counter() - began)}
        for name, layout in layouts.items():
            model, batch = model.to(memory_format=layout), x.contiguous(memory_format=layout)
            with torch.inference_mode():
                model(batch).cpu()
                began = time.perf_counter()
                for _ in range(len(paths) // BATCH):
                    h = model(batch)
                h.cpu()
            pace[name] = len(paths) // BATCH * BATCH / (time.perf_counter() - began)
        if round_:  # the first is warm-up
            for name, rate in pace.items():
                rates[name].append(rate)
    files = rates["embed from files"]
    ratios = {name: spread([a / b for a, b in zip(files, rates[name], strict=True)]) for name in layouts}
    asked = {"backbone": backbone, "size": size, "images": images, "device": str(ready.device)}
    rates_spread = {name: spread(values, 1) for name, values in rates.items()}
    return {**asked, "images_per_second": rates_spread, "embed_over": ratios}


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    for name, default in (("size", 224), ("images", 256), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps({**measure(**vars(parser.parse_args()), device=None), **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
