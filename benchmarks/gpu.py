"""All benchmarks on a GPU in at most --minutes, as one JSON object.

    PYTHONPATH=. python benchmarks/gpu.py CIFAR [PHOTOS] [--minutes 8] [--only PART ...]

CIFAR is a folder with train/<class>/* and test/<class>/* of 32 px, PHOTOS a folder of larger images. Both can be
.tar.xz archives of such a folder. Runs from the source without an installation.

agreement   differences of views, h, NT-Xent and its gradient between GPU and CPU
steps       training over the synthetic step, the synthetic over the plain step (benchmarks/step.py), and peak memory:
            ResNet-18 at 32 px, ResNet-18 and ResNet-50 at 224 px
loss        NT-Xent at N = 65,536, forward and backward
batches     a step of ResNet-50 at 224 px, batch 256 in one pass and by 64, batch 4,096 by 64: seconds and peak memory
embedding   files over resident batches (benchmarks/embedding.py)
cifar       CIFAR-10, ResNet-18, batch 512, as many epochs (at most 200) as the remaining time allows: kNN and linear
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import batches
import embedding
import step
import torch
from machine import describe_machine

from simclr_cli.api import PretrainSettings, ProbeSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.probe import probe
from simclr_cli.core.events import EpochDone, Event
from simclr_cli.engine.augment import TwoViews, ViewRecipe
from simclr_cli.engine.encoder import create_encoder, create_scratch_spec
from simclr_cli.engine.loss import contrastive_loss

CASES = (("resnet18", 32, 512, 40), ("resnet18", 224, 256, 20), ("resnet50", 224, 256, 20))  # size, batch, steps
PROBING_SECONDS = 60  # reserved for the probe


def measure_agreement(device: torch.device) -> dict[str, Any]:
    """Return the largest absolute differences from the CPU, and the largest values."""
    cpu = torch.device("cpu")
    pixels = torch.randint(0, 256, (32, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[400, 533]]).repeat(32, 1)
    views, h, gradients, losses = [], [], [], []
    for target in (cpu, device):
        two_views = TwoViews(64, ViewRecipe())
        x = two_views.make(pixels.to(target), sizes, two_views.draw(sizes, torch.Generator().manual_seed(1)))
        views.append(x.cpu())
        encoder = create_encoder(create_scratch_spec("resnet18", 64)).eval().to(target)
        h.append(encoder.embed(pixels[:, :, :64, :64].to(target)).cpu())
        z = torch.randn(6000, 128, generator=torch.Generator().manual_seed(2)).to(target).requires_grad_()
        loss = contrastive_loss(z, 0.1)
        loss.backward()
        losses.append(loss.item())
        gradients.append(z.grad.cpu())
    pairs = {"views": views, "h": h, "nt_xent_gradient": gradients}
    differences = {
        name: {"difference": float((a - b).abs().max()), "largest": float(a.abs().max())}
        for name, (a, b) in pairs.items()
    }
    return {**differences, "nt_xent": {"difference": abs(losses[0] - losses[1]), "largest": losses[0]}}


def measure_steps(cifar: Path, photos: Path, device: str, work: Path) -> dict[str, Any]:
    """Return the ratios of every case, and the peak memory of PyTorch."""
    figures = {}
    for backbone, size, batch, count in CASES:
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        name = f"{backbone}, {size} px"
        images = step.link_images(cifar if size <= 32 else photos, batch * count, work / f"{backbone}-{size}")
        settings = PretrainSettings(
            images=images, runs=work / "runs", run=f"{backbone}-{size}", backbone=backbone, weights="none",
            image_size=size,
            batch_size=batch, epochs=7, compile="on", device=device, optimizer="lars",
        )  # fmt: skip
        figures[name] = step.measure(settings)
        if device != "cpu":
            figures[name]["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.empty_cache()
    return figures


def measure_loss(device: torch.device, images: int) -> dict[str, Any]:
    """Time NT-Xent at a size whose similarities would not fit into memory."""
    z = torch.randn(2 * images, 128, device=device, requires_grad=True)
    seconds = []
    for _ in range(3):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        contrastive_loss(z, 0.1).backward()
        z.grad.sum().item()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"images": images, "seconds": [round(s, 4) for s in seconds], "peak_gib": peak,
            "all_similarities_would_take_gib": (2 * images) ** 2 * 4 / 2**30}  # fmt: skip


def measure_batches(device: torch.device) -> dict[str, Any]:
    """Return the seconds of a step (the faster of two) and its peak memory, by batch and micro-batch."""
    figures: dict[str, Any] = {}
    for batch, micro_batch in ((256, 256), (256, 64), (4096, 64)):
        train_step, _ = batches.prepare_step(batch, "resnet50", 224, device)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = min(batches.time_step(train_step, batch, micro_batch, side=336) for _ in range(2))
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        figures[f"batch {batch}, micro-batches of {micro_batch}"] = {
            "seconds": round(seconds, 3),
            "peak_gb": round(peak, 2),
        }
        del train_step
        torch.cuda.empty_cache()
    return figures


def measure_cifar(cifar: Path, device: str, work: Path, seconds: float) -> dict[str, Any]:
    """Train for as many epochs as fit, then probe on the test images."""
    settings = PretrainSettings(
        images=cifar / "train", runs=work / "runs", run="cifar-pace", backbone="resnet18", weights="none",
        image_size=32,
        batch_size=512, optimizer="lars", weight_decay=1e-4, device=device, compile="on", epochs=3,
    )  # fmt: skip
    start = time.perf_counter()
    epoch_seconds: list[float] = []

    def record_epoch(event: Event) -> None:
        if isinstance(event, EpochDone):
            epoch_seconds.append(event.seconds)

    pretrain(settings, report=record_epoch)
    seconds_left = seconds - (time.perf_counter() - start) - PROBING_SECONDS
    epochs = max(3, min(200, int(seconds_left / (1.05 * min(epoch_seconds)))))
    result = pretrain(dataclasses.replace(settings, run="cifar", epochs=epochs))
    probe_result = probe(
        ProbeSettings(images=cifar / "train", test=cifar / "test", runs=work / "runs", run="cifar", device=device)
    )
    return {
        "epochs": epochs,
        "wanted_epochs": 200,
        "train_seconds": round(result.seconds, 1),
        "images_per_second": result.images_per_second,
        "losses": [result.first_loss, result.last_loss],
        "scores": [dataclasses.asdict(score) for score in probe_result.scores],
    }


def unpack(path: Path, work: Path) -> Path:
    """Return a folder, unpacked if it is an archive."""
    if path.is_dir():
        return path
    with tarfile.open(path) as archive:
        archive.extractall(work / path.stem, filter="data")
    entries = list((work / path.stem).iterdir())
    return entries[0] if len(entries) == 1 else work / path.stem


def main() -> None:
    """Run the parts, also after one has failed, and print the figures."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="+", default=["agreement", "steps", "loss", "batches", "embedding", "cifar"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--loss-images", type=int, default=65_536)
    args = parser.parse_args()
    device = torch.device(args.device)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["SIMCLR_CACHE"] = f"{work}/cache"
        cifar, photos = (unpack(path, work) for path in (args.images[0], args.images[-1]))
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "agreement": lambda: measure_agreement(device),
            "steps": lambda: measure_steps(cifar, photos, args.device, work),
            "loss": lambda: measure_loss(device, args.loss_images),
            "batches": lambda: measure_batches(device),
            "embedding": lambda: embedding.measure(photos, "resnet18", 224, 2048, 3, args.device),
            "cifar": lambda: measure_cifar(cifar, args.device, work, 60 * args.minutes - (time.perf_counter() - start)),
        }
        for name, part in parts.items():
            if name in args.only:
                part_start = time.perf_counter()
                try:
                    figures[name] = part()
                except Exception as error:
                    figures[name] = {"failed": f"{type(error).__name__}: {error}"[:600]}
                figures[name]["took_seconds"] = round(time.perf_counter() - part_start, 1)
                sys.stderr.write(f"{name}: {json.dumps(figures[name])}\n")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(json.dumps({"gpu": gpu, **figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
