"""The speed of training against its own step on synthetic data, and of that step against plain torch.

    python benchmarks/step.py IMAGES [--backbone resnet18] [--sizes 32 64 128] [--batch 32] [--steps 4] [--epochs 14]

For every size: one `pretrain` on IMAGES, and between its epochs, in the same process, the same number of steps of two
other arms. "Synthetic" is the training's own forward + backward + step on one resident batch. "Plain" is that in eager
float32 NCHW with torch's default AdamW. Prints one JSON object: images/s of each arm, and the ratios of every round,
from the second epoch on.
"""

from __future__ import annotations

from machine import describe_machine, summarize  # before torch

# isort: split
import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simclr_cli.api import PretrainSettings, ResolvedSettings
from simclr_cli.commands import pretrain as pretrain_command
from simclr_cli.core.events import EpochDone, Event, PlanMade
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.train.loop import build_model
from simclr_cli.train.step import Step


class Synthetic:
    """Forward + backward + step on one resident batch, as training does it or in plain torch."""

    def __init__(self, chosen: ResolvedSettings, device: torch.device, step: Step | None) -> None:
        """Warm up. `step`: of a training, whose model, compiled or not, is used; None: plain torch."""
        self.chosen, self.device = chosen, device
        self.x = torch.rand(2 * chosen.batch_size, 3, chosen.image_size, chosen.image_size, device=device)
        self.forward: Callable[[Tensor], Tensor]
        if step is None:
            model = build_model(chosen).to(device).train()
            model.encoder.backbone.to(memory_format=torch.contiguous_format)
            self.forward = lambda x: model.head(model.encoder.backbone(x))
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
            self.precision = "float32"
        else:
            self.forward = lambda x: step.model.head(step.encode(x))
            self.optimizer, self.precision = step.optimizer, str(chosen.precision)
        self.run(2)

    def update(self, x: Tensor) -> Tensor:
        """Do a step on views x (2N, 3, S, S), and return its loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            z = self.forward(x)
        loss = contrastive_loss(z, self.chosen.temperature)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def run(self, steps: int) -> float:
        """Return the images/s over some steps."""
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.update(self.x)
        float(loss)  # waits for the device
        return steps * self.chosen.batch_size / (time.perf_counter() - start)


def measure(settings: PretrainSettings) -> dict[str, Any]:
    """Run one training, with the other arms between its epochs."""
    rates: dict[str, list[float]] = {"training": [], "synthetic": [], "plain": []}
    arms: dict[str, Synthetic] = {}
    recorded: dict[str, Any] = {}

    def time_other_arms(event: Event) -> None:
        if isinstance(event, PlanMade):
            recorded["plan"] = {choice.name: choice.value for choice in event.choices}
        if not isinstance(event, EpochDone):
            return
        if not arms:  # the first epoch is warm-up
            chosen = recorded["chosen"]
            device = torch.device(chosen.device)
            arms.update(
                synthetic=Synthetic(chosen, device, recorded["training"].step), plain=Synthetic(chosen, device, None)
            )
            return
        rates["training"].append(event.images_per_second)
        for name, arm in arms.items():
            rates[name].append(arm.run(recorded["steps"]))

    training = pretrain_command.Training

    class Recorded(training):  # type: ignore[misc, valid-type]
        def __init__(self, model: Any, job: Any, *arguments: Any, **keywords: Any) -> None:
            recorded["chosen"], recorded["steps"] = job.settings, job.batches.steps_per_epoch
            super().__init__(model, job, *arguments, **keywords)
            recorded["training"] = self

    pretrain_command.Training = Recorded
    try:
        pretrain_command.pretrain(settings, report=time_other_arms)
    finally:
        pretrain_command.Training = training
    rounds = list(zip(*rates.values(), strict=True))
    return {
        "plan": {
            name: recorded["plan"][name] for name in ("device", "batch size", "precision", "compile", "optimizer")
        },
        "steps_a_round": recorded["steps"],
        "images_per_second": {name: summarize(values, 1) for name, values in rates.items()},
        "training_over_synthetic": summarize([training / synthetic for training, synthetic, _ in rounds]),
        "synthetic_over_plain": summarize([synthetic / plain for _, synthetic, plain in rounds]),
    }


def link_images(folder: Path, count: int, target: Path) -> Path:
    """Link the first `count` images into a folder, repeatedly if there are fewer."""
    target.mkdir()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for i in range(count):
        path = files[i % len(files)]
        (target / f"{i:06}{path.suffix}").symlink_to(path.resolve())
    return target


def main() -> None:
    """Measure every size and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    for name, default in (("batch", 32), ("steps", 4), ("epochs", 14)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as work:
        os.environ["SIMCLR_CACHE"] = f"{work}/cache"
        images = link_images(args.images, args.batch * args.steps, Path(work) / "images")
        settings = PretrainSettings(
            images=images,
            runs=Path(work) / "runs",
            backbone=args.backbone,
            weights="none",
            batch_size=args.batch,
            epochs=args.epochs,
        )
        for size in args.sizes:
            figures[f"{size} px"] = measure(dataclasses.replace(settings, image_size=size, run=f"{size}"))
    print(json.dumps({"backbone": args.backbone, **figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
