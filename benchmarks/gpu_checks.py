"""Parts of benchmarks/gpu.py that are right or wrong: agreement with the CPU, the command, too little memory."""

from __future__ import annotations

from machine import summarize  # before torch

# isort: split
import functools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_part import GIB, Figures, read_peak, reset_peak, synchronize
from torch import Tensor

from simclr_cli.api import PretrainSettings, ResolvedSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.events import Event, Note, silent
from simclr_cli.engine import loss
from simclr_cli.engine.augment import TwoViews, ViewRecipe
from simclr_cli.engine.encoder import create_encoder, create_scratch_spec
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.optim import create_optimizer, set_learning_rate
from simclr_cli.images.loader import Batch
from simclr_cli.train.loop import build_model
from simclr_cli.train.plan import Circumstances, resolve
from simclr_cli.train.step import Step

COMMAND_EPOCHS = 3
# Relative, of norms; about 100 times the errors of the CPU's own float32 against float64 (ResNet-18 and ViT, 64 px:
# h 2e-7, loss 4e-8 to 9e-8, gradient of the weights 7e-6; NT-Xent's gradient 2e-7), as a GPU adds in another order and
# may use Winograd's algorithm. TF32 would differ by more than 1e-4.
TOLERANCE, GRADIENT_TOLERANCE, BFLOAT16_TOLERANCE = 1e-4, 1e-3, 0.02
METRICS_TOLERANCE = 0.05  # of the loss of an epoch, by the same command twice: rounding grows in training
MAX_SIMILARITIES = loss.MAX_SIMILARITIES_CPU, loss.MAX_SIMILARITIES_GPU
LOSS_BLOCKS = (2**25, 2**27)  # similarities
MEMORY_SHARE = 0.05  # of the GPU, that ResNet-50 at a batch of 256 gets


def agreement(figures: Figures) -> None:
    """Compare a GPU with the CPU in float32, micro-batches with one pass, and bfloat16 with float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    passes: dict[str, bool] = {}

    def compare(name: str, expected: Callable[[], Tensor], found: Callable[[], Tensor], tolerance: float) -> None:
        def compute() -> dict[str, Any]:
            a, b = (compute().detach().cpu().double() for compute in (expected, found))
            difference = float((b - a).norm() / a.norm())
            passes[name] = difference <= tolerance  # False for NaN
            largest = {"largest_difference": float((b - a).abs().max()), "largest_value": float(a.abs().max())}
            return {"pass": passes[name], "difference": difference, "tolerance": tolerance, **largest}

        passes[name] = False
        figures.measure(name, compute)
        figures.add(all_pass=all(passes.values()), passes=passes)

    def compare_devices(name: str, compute: Callable[[str], Tensor], tolerance: float) -> None:
        compare(name, lambda: compute("cpu"), lambda: compute(figures.device), tolerance)

    compare_devices("views", make_views, TOLERANCE)
    compare_devices("h", embed_pixels, TOLERANCE)
    step, nt_xent = functools.cache(take_step), functools.cache(compute_loss)
    names = {"loss": TOLERANCE, "change of the weights": GRADIENT_TOLERANCE, "statistics of batch norms": TOLERANCE}
    for i, (name, tolerance) in enumerate(names.items()):
        compare_devices(f"step: {name}", lambda device, i=i: step(device, "resnet18", 1, "float32")[i], tolerance)
    for i, (name, tolerance) in enumerate([*names.items()][:2]):
        one, four = (lambda i=i, n=n: step(figures.device, "vit_tiny_patch16_224", n, "float32")[i] for n in (1, 4))
        compare(f"four micro-batches without batch norm: {name}", one, four, tolerance)
    float32, bfloat16 = (lambda p=p: step(figures.device, "resnet18", 1, p)[0] for p in ("float32", "bfloat16"))
    compare("bfloat16: loss", float32, bfloat16, BFLOAT16_TOLERANCE)
    for images in (128, 512) if figures.small else (512, 6000):  # all similarities at once, and in blocks of rows
        compare_devices(f"loss, N = {images}", lambda device, n=images: nt_xent(device, n)[0], TOLERANCE)
        compare_devices(f"gradient, N = {images}", lambda device, n=images: nt_xent(device, n)[1], TOLERANCE)
    figures.has_failed |= not all(passes.values())


def make_views(device: str) -> Tensor:
    """Return (64, 3, 64, 64) views of random pixels."""
    pixels = torch.randint(0, 256, (32, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[400, 533]]).repeat(32, 1)
    two_views = TwoViews(64, ViewRecipe())
    return two_views.make(pixels.to(device), sizes, two_views.draw(sizes, torch.Generator().manual_seed(1)))


def embed_pixels(device: str) -> Tensor:
    """Return (32, 512) h of random pixels."""
    pixels = torch.randint(0, 256, (32, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return create_encoder(create_scratch_spec("resnet18", 64)).eval().to(device).embed(pixels.to(device))


def compute_loss(device: str, images: int) -> tuple[Tensor, Tensor]:
    """Return NT-Xent of random z, and its gradient (2N, 128)."""
    z = torch.randn(2 * images, 128, generator=torch.Generator().manual_seed(2)).to(device).requires_grad_()
    value = contrastive_loss(z, 0.1)
    value.backward()
    assert z.grad is not None
    return value, z.grad


def take_step(device: str, backbone: str, parts: int, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of a whole training step, the change of all weights, and the running statistics, on the CPU."""
    count, size = 32, 64
    settings = ResolvedSettings(
        images=Path(), weights="none", backbone=backbone, image_size=size, batch_size=count, compile="off",
        micro_batch=count // parts, precision=precision, optimizer="sgd", device=device,
    )  # fmt: skip
    resolved = resolve(settings, Circumstances(10_000, size, torch.device(device)))[0]
    model = build_model(resolved).to(device).train()
    before = torch.cat([weight.detach().cpu().flatten() for weight in model.parameters()])
    optimizer = create_optimizer(model, resolved.optimizer, weight_decay=resolved.weight_decay)
    set_learning_rate(optimizer, 0.1)
    pixels = torch.randint(0, 256, (count, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    slices = tuple(slice(a, a + count // parts) for a in range(0, count, count // parts))
    micro_batches = (pixels[part].to(device) for part in (*slices, *slices[:-1]))
    batch = Batch(0, np.arange(count), torch.full((count, 2), 96), slices, micro_batches)
    value = Step(model, optimizer, resolved, silent)(batch).cpu()
    after = torch.cat([weight.detach().cpu().flatten() for weight in model.parameters()])
    statistics = [buffer.cpu().flatten() for name, buffer in model.named_buffers() if "running" in name]
    return value, after - before, torch.cat([*statistics, torch.zeros(0)])


def command(figures: Figures) -> None:
    """Train on CIFAR-10 as a user does: save, stop, resume; and once more without that. Then embed, and plan."""
    options = f"--weights none --backbone resnet18 --image-size 32 --batch-size 512 --epochs {COMMAND_EPOCHS}".split()
    options += ["--device", figures.device]
    if figures.small:
        options += ["--backbone", "test_resnet", "--batch-size", "64"]
    start = ["pretrain", str(figures.cifar / "train"), *options]
    resume = ["pretrain", "--run", "stopped", "--resume", "--device", figures.device]
    runs = figures.work / "simclr-runs"
    figures.add(typed=" ".join(["simclr", *start]))
    figures.measure("stopped", stop_training, figures, [*start, "--run", "stopped"], runs / "stopped")
    figures.measure("resumed", run_to_end, figures, resume)
    figures.measure("undisturbed", run_to_end, figures, [*start, "--run", "undisturbed"])
    figures.measure("metrics", compare_metrics, runs / "stopped", runs / "undisturbed")
    embed = ["embed", str(figures.cifar / "test"), "--run", "undisturbed", "--out", "test.npz"]
    figures.measure("embed", run_to_end, figures, [*embed, "--device", figures.device])
    # The plan for photos, on the device that is chosen where none is named.
    figures.measure("dry run", run_to_end, figures, ["pretrain", str(figures.photos), "--weights", "none", "--dry-run"])
    for name in ("stopped", "resumed", "undisturbed", "metrics", "embed", "dry run"):
        figures.has_failed |= not figures.values[name].get("pass", False)


class Command:
    """A running `simclr`; it is killed when the part has no time left."""

    def __init__(self, figures: Figures, options: list[str]) -> None:
        self.figures, self.log = figures, figures.work / f"log-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "simclr_cli", *options, "--json"]
        with self.log.open("wb") as errors, self.log.with_suffix(".json").open("wb") as output:
            self.process = subprocess.Popen(command, cwd=figures.work, stdout=output, stderr=errors)

    def wait(self, condition: Callable[[], bool] = lambda: False) -> bool:
        """Wait for a condition, or for the end of the process; return the condition."""
        while self.process.poll() is None and not condition():
            if self.figures.seconds_left() < 0:
                self.process.kill()
            time.sleep(0.02)
        return condition()

    def describe(self) -> dict[str, Any]:
        """Return the exit code, and what was said."""
        return {"exit_code": self.process.returncode, "said": self.log.read_text(errors="replace")[-4000:]}


def stop_training(figures: Figures, options: list[str], run: Path) -> dict[str, Any]:
    """Save with SIGUSR1 after the first epoch, then stop with SIGINT."""
    start, metrics = time.monotonic(), run / "metrics.jsonl"
    command = Command(figures, options)
    trained = command.wait(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 0)
    epoch = time.monotonic()
    command.process.send_signal(signal.SIGUSR1)
    saved = command.wait(lambda: b"Saved at step" in command.log.read_bytes())
    save = time.monotonic()
    command.process.send_signal(signal.SIGINT)
    command.wait()
    return {
        "pass": trained and saved and command.process.returncode == 130, "saved": saved,
        "seconds_to_first_epoch": round(epoch - start, 2), "seconds_to_save": round(save - epoch, 2),
        "seconds_to_stop": round(time.monotonic() - save, 2), **command.describe(),
    }  # fmt: skip


def run_to_end(figures: Figures, options: list[str]) -> dict[str, Any]:
    """Run `simclr` to its end, and return the numbers of its result."""
    command = Command(figures, options)
    command.wait()
    output = command.log.with_suffix(".json").read_text()
    result = json.loads(output) if command.process.returncode == 0 else {}
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    return {"pass": bool(result), **command.describe(), **numbers}


def compare_metrics(stopped: Path, undisturbed: Path) -> dict[str, Any]:
    """Return the relative differences between the metrics of two runs, by epoch.

    The stop is in the second epoch: the first tells how much two runs differ by rounding alone.
    """
    texts = [(run / "metrics.jsonl").read_text() for run in (stopped, undisturbed)]
    rows = [[json.loads(line) for line in text.splitlines()] for text in texts]
    differences: dict[str, list[float]] = {}  # of what both measured: monitoring goes by the clock
    for a, b in zip(*rows, strict=False):  # one that was killed has fewer
        a, b = ({**row, **(row.get("validation") or {})} for row in (a, b))
        for name, value in b.items():
            if isinstance(value, float) and isinstance(a[name], float):
                difference = abs(a[name] - value) / max(abs(value), 1e-12)
                differences.setdefault(name, []).append(float(f"{difference:.2g}"))
    is_close = len(rows[0]) == len(rows[1]) and max(differences["loss"]) <= METRICS_TOLERANCE
    return {"pass": is_close, "equal": not any(map(any, differences.values())), "relative_differences": differences,
            "losses": [row["loss"] for row in rows[1]]}  # fmt: skip


def memory(figures: Figures) -> None:
    """Time the loss at sizes whose similarities do and do not fit, and train in memory that is too small."""
    for images in (256, 3000) if figures.small else (4096, 65_536):
        for similarities in LOSS_BLOCKS:
            name = f"nt_xent, N = {images}, blocks of 2^{similarities.bit_length() - 1}"
            figures.measure(name, measure_loss, figures.device, images, similarities)
    loss.MAX_SIMILARITIES_CPU, loss.MAX_SIMILARITIES_GPU = MAX_SIMILARITIES
    reset_peak(figures.device)
    if figures.device != "cpu":
        torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE)  # of the current GPU
    figures.measure("training", train_in_little_memory, figures)
    figures.has_failed |= not figures.values["training"].get("pass", False)


def measure_loss(device: str, images: int, similarities: int) -> dict[str, Any]:
    """Time NT-Xent, forward and backward, by blocks of at most so many similarities."""
    loss.MAX_SIMILARITIES_CPU = loss.MAX_SIMILARITIES_GPU = similarities
    z = torch.randn(2 * images, 128, device=device, requires_grad=True)
    milliseconds: list[float] = []
    reset_peak(device)
    end = time.monotonic() + 2
    while len(milliseconds) < 4 or (len(milliseconds) < 30 and time.monotonic() < end):
        synchronize(device)
        start = time.perf_counter()
        contrastive_loss(z, 0.1).backward()
        synchronize(device)
        milliseconds.append(1000 * (time.perf_counter() - start))
    return {"milliseconds": summarize(milliseconds[1:]), "peak_gib": read_peak(device),
            "all_similarities_would_take_gib": (2 * images) ** 2 * 4 / GIB}  # fmt: skip


def train_in_little_memory(figures: Figures) -> dict[str, Any]:
    """Train ResNet-50 at a batch of 256, whose micro-batches have to be halved until they fit."""
    notes: list[str] = []

    def collect(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
            figures.add(notes=notes)

    settings = PretrainSettings(
        images=figures.photos, runs=figures.work / "runs", run="memory", weights="none", device=figures.device,
        backbone="test_resnet" if figures.small else "resnet50", image_size=32 if figures.small else 224,
        batch_size=32 if figures.small else 256, epochs=1,
    )  # fmt: skip
    result = pretrain(settings, report=collect)
    assert result.plan is not None and result.last_loss is not None
    halved = sum("memory was too small" in note for note in notes)
    planned = next(choice.value for choice in result.plan.choices if choice.name == "micro batch")
    is_limited = figures.device != "cpu" and not figures.small
    return {"pass": (halved > 0 or not is_limited) and math.isfinite(result.last_loss), "halved": halved,
            "planned_micro_batch": planned, "share_of_memory": MEMORY_SHARE, "peak_gib": read_peak(figures.device),
            "loss": result.last_loss}  # fmt: skip
