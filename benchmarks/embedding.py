"""Embedding from files against the same timm model on one synthetic batch in memory.

    python benchmarks/embedding.py PHOTOS [--backbone resnet18] [--size 224] [--images 256] [--rounds 5]

Runs in turn, round by round: `embed` from files (with decoding), and plain timm in inference mode on a resident batch
in both memory layouts. Prints one JSON object: images/s of each, and the ratios.
"""

from __future__ import annotations

from machine import describe_machine, summarize  # before torch

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
from simclr_cli.encode.load import resolve_encoder
from simclr_cli.images.threads import count_workers

BATCH = 64


def measure(photos: Path, backbone: str, size: int, images: int, rounds: int) -> dict[str, Any]:
    """Measure the arms in turn."""
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = (paths * (1 + images // len(paths)))[:images]
    encoder = f"random:{backbone}"
    ready = resolve_encoder(EmbedSettings(encoder=encoder, image_size=size, images=photos))
    model = timm.create_model(backbone, num_classes=0).eval().to(ready.device)
    layouts = {"timm": torch.contiguous_format, "timm, channels_last": torch.channels_last}
    x = torch.rand(BATCH, 3, size, size, device=ready.device)
    rates: dict[str, list[float]] = {"embed from files": [], **{name: [] for name in layouts}}
    for round_index in range(rounds + 1):
        start = time.perf_counter()
        embed_files(ready, paths, None, batch_size=BATCH, workers=count_workers(), report=silent, stage="")
        round_rates = {"embed from files": len(paths) / (time.perf_counter() - start)}
        for name, layout in layouts.items():
            model, batch = model.to(memory_format=layout), x.contiguous(memory_format=layout)
            with torch.inference_mode():
                model(batch).cpu()
                start = time.perf_counter()
                for _ in range(len(paths) // BATCH):
                    h = model(batch)
                h.cpu()
            round_rates[name] = len(paths) // BATCH * BATCH / (time.perf_counter() - start)
        if round_index:  # the first is warm-up
            for name, rate in round_rates.items():
                rates[name].append(rate)
    files = rates["embed from files"]
    ratios = {name: summarize([a / b for a, b in zip(files, rates[name], strict=True)]) for name in layouts}
    settings = {"backbone": backbone, "size": size, "images": images, "device": str(ready.device)}
    summaries = {name: summarize(values, 1) for name, values in rates.items()}
    return {**settings, "images_per_second": summaries, "embed_over": ratios}


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    for name, default in (("size", 224), ("images", 256), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps({**measure(**vars(parser.parse_args())), **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
