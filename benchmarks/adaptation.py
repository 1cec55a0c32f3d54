"""Continued training of ImageNet-trained weights on a folder of images: which recipes help, and a guard for the rest.

    python benchmarks/adaptation.py run DATA WEIGHTS WORK [--arms ARM ... | --arms-file FILE]
    python benchmarks/adaptation.py table WORK [--match TEXT]
    python benchmarks/adaptation.py guard WORK

DATA has clothing/ (train, validation, test), magnetic_tiles/ (train, test), and cifar/ (train, test) if an arm uses it;
CIFAR-10 may lie elsewhere (--cifar). WEIGHTS is the file of tf_efficientnet_lite0. WORK keeps decoded images, frozen
embeddings, and log.jsonl: one line per arm, checkpoint and interpolation. Arms that are in the log are skipped.

An arm is `set:size` and settings that differ from the defaults of Arm, such as

    clothing:64:rate=5e-4:norms=train:steps=500                     SimCLR alone
    clothing:128:contrast=0:distill=cross:form=relation:views=crop  the embeddings at 224 px as targets, no SimCLR

`table` prints every line against the frozen encoder of the same set and size. `guard` chooses thresholds of
label-free monitors on clothing and tiles (validation images), and counts wrong decisions on all sets (test images),
as it does for the command's rule by labels (train images), against the start at its own size and at that of use.
"""

from __future__ import annotations

from machine import describe_machine  # before torch

# isort: split
import argparse
import copy
import dataclasses
import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator, seeded
from simclr_cli.engine.augment import TwoViews, ViewRecipe, draw_parameters, make_view
from simclr_cli.engine.encoder import Encoder, create_encoder_from_weights, create_trained_spec
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.metrics import (
    alignment,
    compute_mean_gain,
    effective_rank,
    normalize_views,
    uniformity,
    view_retrieval_accuracy,
)
from simclr_cli.engine.optim import create_optimizer, set_learning_rate
from simclr_cli.engine.probes import create_regression, fit_logistic, knn_votes
from simclr_cli.engine.simclr import ProjectionHead, SimCLR
from simclr_cli.images.decode import decode_evaluation_crop, decode_squashed, read_header
from simclr_cli.images.threads import map_in_order
from simclr_cli.train.guard import MAX_DECLINE, Candidate, Kept, choose, score_images

ARCHITECTURE, NATIVE_SIZE = "tf_efficientnet_lite0", 224
CROP = 0.875
NEIGHBORS = 10  # of precision and of neighbor agreement
HELD_OUT = 256  # validation images that the monitors see
LABELED = 1000  # train images whose classes the guard may use, as in the command
L2_GRID = (1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 1.0)  # strongest first
NORM_IMAGES = 1024  # for re-estimated norm statistics
VIEWS = {
    "paper": ViewRecipe(),
    "mild": ViewRecipe(crop_area=(0.4, 1.0), strength=0.5, grayscale=0.0),
    "crop": ViewRecipe(crop_area=(0.4, 1.0), jitter=0.0, grayscale=0.0, blur=0.0),
    "whole": ViewRecipe(crop_area=(0.7, 0.9), crop_aspect=(0.9, 1.1), jitter=0.0, grayscale=0.0, blur=0.0),
}


@dataclass(frozen=True)
class Arm:
    """Settings of one trajectory, from which checkpoints and interpolations are evaluated."""

    images: str  # clothing, tiles or cifar
    size: int
    rate: float = 1e-4
    head_rate: float = 0.0  # 0: the same
    norms: str = "frozen"  # statistics: frozen, or train (also evaluated with re-estimated ones)
    trained: str = "all"  # all, norms, last (stage and final convolution), head-first
    views: str = "paper"
    contrast: float = 1.0  # weight of NT-Xent
    temperature: float = 0.1
    distill: str = "none"  # start: the start's embeddings of the same views; cross: at 224 px, of the whole image
    form: str = "cosine"  # or relation: similarities to all train images
    weight: float = 1.0  # of the distillation
    sharpness: float = 0.05  # temperature of the relation
    teacher: str = "plain"  # of the relation: plain, centered, own, fixed, renewed or anchored (see Targets)
    perplexity: float = 0.0  # of the relation's targets, which then sets the sharpness
    batch: int = 64
    drawn: int = 1  # views of each image in a step without SimCLR
    steps: int = 150
    decay: str = "constant"  # of the rate after the warm-up; or cosine
    at: str = "50,150"  # checkpoints
    alphas: str = "0.5,1"  # shares of the adapted weights in the interpolations
    also: str = ""  # more sizes at which the last checkpoint is evaluated
    seed: int = 0

    @staticmethod
    def parse(text: str) -> Arm:
        """Parse `set:size:name=value:...`."""
        images, size, *settings = text.split(":")
        values: dict[str, Any] = {}
        types = {field.name: type(field.default) for field in dataclasses.fields(Arm)}
        for setting in settings:
            name, value = setting.split("=")
            values[name] = types[name](value)
        return Arm(images, int(size), **values)

    @property
    def name(self) -> str:
        """Return the text that parses to this arm: only what differs from the defaults."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name not in ("images", "size") and getattr(self, field.name) != field.default
        ]
        return ":".join([self.images, str(self.size), *changed])


# --- Images ---------------------------------------------------------------------------------------------------------


class ImageSet:
    """Decoded images of one data set and split, kept as .npy files in the work folder."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.work = name, args.work
        self.files, labels = list_files(name, args)
        classes = sorted({label for split in labels.values() for label in split})
        self.classes = len(classes)
        self.labels = {
            split: torch.tensor([classes.index(label) for label in values]) for split, values in labels.items()
        }
        self.weights = args.weights

    @functools.cache  # noqa: B019  (as long as the process)
    def squashed(self, split: str, size: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, S, S) uint8 images squashed to 1.5 times the training size, and their (N, 2) true sizes."""
        side = int(1.5 * size)
        pixels = self._load(f"{split}-squashed-{side}", split, lambda path: decode_squashed(path, side))
        sizes = self._load(f"{split}-sizes", split, lambda path: np.array(read_header(path)[1:]))
        return torch.from_numpy(pixels), torch.from_numpy(sizes)

    @functools.cache  # noqa: B019
    def cropped(self, split: str, size: int) -> Tensor:
        """Return (N, 3, S, S) uint8 pixels of evaluation."""
        name = f"{split}-cropped-{size}"
        return torch.from_numpy(self._load(name, split, lambda path: decode_evaluation_crop(path, size, CROP)))

    @functools.cache  # noqa: B019
    def frozen(self, split: str, size: int) -> Tensor:
        """Return the embeddings (N, width) of the start at a size."""
        path = self.work / f"{self.name}-{split}-frozen-{size}.npy"
        if not path.exists():
            encoder = create_start(size, self.weights)
            np.save(path, embed(encoder, self.cropped(split, size)).numpy())
        return torch.from_numpy(np.load(path))

    def _load(self, name: str, split: str, decode: Any) -> Any:
        path = self.work / f"{self.name}-{name}.npy"
        if not path.exists():
            rows = np.stack(list(map_in_order(decode, self.files[split], 2)))
            np.save(path, rows.transpose(0, 3, 1, 2) if rows.ndim == 4 else rows)
        return np.load(path, mmap_mode="c")


def list_files(name: str, args: argparse.Namespace) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
    """List files and classes of train, validation and test; sets without validation images lose some of train."""
    folder = {"clothing": args.data / "clothing", "tiles": args.data / "magnetic_tiles", "cifar": args.cifar}[name]
    files = {
        split: sorted(path for path in (folder / split).glob("*/*") if path.is_file())
        for split in ("train", "validation", "test")
    }
    draw = create_numpy_generator(0, Purpose.SPLIT)
    if name == "tiles":
        order = draw.permutation(len(files["train"]))
        train, validation = order[120:], order[:120]
        files |= {"validation": [files["train"][i] for i in validation], "train": [files["train"][i] for i in train]}
    if name == "cifar":
        order, test = draw.permutation(len(files["train"])), draw.permutation(len(files["test"]))[:2000]
        files |= {
            "validation": [files["train"][i] for i in order[5000:6000]],
            "train": [files["train"][i] for i in order[:5000]],
            "test": [files["test"][i] for i in test],
        }
    return files, {split: [path.parent.name for path in paths] for split, paths in files.items()}


# --- Encoders -------------------------------------------------------------------------------------------------------


def create_start(size: int, weights: Path) -> Encoder:
    """Create the encoder that every arm starts from."""
    return create_encoder_from_weights(create_trained_spec(ARCHITECTURE, size), load_file(weights), str(weights))


def embed(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Compute (N, width) embeddings of uint8 pixels, in bfloat16 on processors that have it (twice as fast)."""
    encoder.eval()
    batch = max(16, 256 * 64**2 // pixels.shape[-1] ** 2)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return torch.cat([encoder.embed(part.contiguous()) for part in pixels.split(batch)]).clone()


def interpolate(encoder: Encoder, start: dict[str, Tensor], end: dict[str, Tensor], alpha: float) -> None:
    """Set all weights and norm statistics between start (alpha = 0) and end (WiSE-FT, arXiv 2109.01903)."""
    state = {
        key: torch.lerp(start[key], value, alpha) if value.is_floating_point() else value for key, value in end.items()
    }
    encoder.backbone.load_state_dict(state)


def estimate_norms(encoder: Encoder, pixels: Tensor) -> None:
    """Compute the norms' statistics anew, from images as evaluation sees them."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
    encoder.train()
    order = torch.from_numpy(create_numpy_generator(0, Purpose.ORDER).permutation(len(pixels))[:NORM_IMAGES])
    with torch.no_grad():
        for rows in order.split(128):
            encoder(pixels[rows].float().div(255))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()


def choose_trained(encoder: Encoder, trained: str) -> None:
    """Let only a part of the encoder learn."""
    for name, parameter in encoder.backbone.named_parameters():
        is_last = name.startswith(("blocks.5", "blocks.6", "conv_head", "bn2"))
        parameter.requires_grad_(trained in ("all", "head-first") or (trained == "last" and is_last))
    if trained == "norms":
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(True)


# --- Training -------------------------------------------------------------------------------------------------------


class Targets:
    """Targets of distillation: embeddings of the start, or the similarities among them.

    The relation compares, for each image, two distributions over all other train images: softmax of the cosines between
    targets, and of the cosines of the student's embedding to a bank.

    plain     Cosines of targets; the bank are the targets, so the student stays in their space.
    centered  The mean target is subtracted from targets, bank and student.
    own       It is subtracted from targets only; the bank are the student's embeddings (plain cosines, as in use), at
              first the start's, each renewed when its image is seen.
    fixed     As own, but the bank stays as it is: the recipe of simclr_cli.
    renewed   As own, but the bank are at first the targets (not centered).
    anchored  As renewed, but the bank stays as it is.
    """

    def __init__(self, arm: Arm, images: ImageSet, weights: Path) -> None:
        self.arm = arm
        self.start = create_start(arm.size, weights).eval() if arm.distill == "start" else None
        if arm.distill == "none":
            return
        frozen = images.frozen("train", NATIVE_SIZE if arm.distill == "cross" else arm.size)
        mean = frozen.mean(dim=0)
        self.rows = F.normalize(frozen, dim=1)
        self.teacher = self.rows if arm.teacher == "plain" else F.normalize(frozen - mean, dim=1)
        self.bank = {
            "own": F.normalize(images.frozen("train", arm.size), dim=1),
            "fixed": F.normalize(images.frozen("train", arm.size), dim=1),
            "renewed": self.rows,
            "anchored": self.rows,
        }.get(arm.teacher, self.teacher)
        self.mean = mean if arm.teacher == "centered" else torch.zeros_like(mean)
        self.sharpness = find_sharpness(self.teacher, arm.perplexity) if arm.perplexity else arm.sharpness

    def compute_loss(self, h: Tensor, views: Tensor, rows: Tensor) -> Tensor:
        """Compute the distillation loss of h (M, width) of views of the train images `rows` (M,)."""
        if self.arm.form == "cosine":
            targets = self.rows[rows]
            if self.start is not None:
                with torch.no_grad():
                    targets = F.normalize(self.start(views), dim=1)
            return (1 - (F.normalize(h, dim=1) * targets).sum(dim=1)).mean()
        student, teacher = F.normalize(h - self.mean, dim=1), self.teacher[rows]
        is_self = torch.zeros(len(rows), len(self.bank), dtype=torch.bool).scatter_(1, rows[:, None], True)
        wanted = (teacher @ self.teacher.T / self.sharpness).masked_fill(is_self, -torch.inf).softmax(dim=1)
        found = (student @ self.bank.T / self.sharpness).masked_fill(is_self, -1e4).log_softmax(dim=1)
        if self.arm.teacher in ("own", "renewed"):
            self.bank = self.bank.index_copy(0, rows, student.detach())
        return F.kl_div(found, wanted, reduction="batchmean")


def find_sharpness(rows: Tensor, perplexity: float) -> float:
    """Find the temperature at which softmax of the cosines to the others has a median perplexity."""
    similarity = rows[:512] @ rows.T
    similarity.fill_diagonal_(-torch.inf)
    low, high = 0.005, 1.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        entropy = torch.special.entr((similarity / middle).softmax(dim=1)).sum(dim=1)
        low, high = (middle, high) if float(entropy.exp().median()) < perplexity else (low, middle)
    return low


def draw_batches(count: int, arm: Arm) -> Iterator[Tensor]:
    """Yield the rows of each batch: every image once per epoch, in the arm's random order."""
    draw = create_torch_generator(arm.seed, Purpose.ORDER)
    while True:
        yield from [rows for rows in torch.randperm(count, generator=draw).split(arm.batch) if len(rows) == arm.batch]


def compute_rate(arm: Arm, step: int) -> float:
    """Compute the share of the peak rate: linear warm-up over a tenth of 150 steps, then constant or cosine."""
    warmup = min(1.0, (step + 1) / 15)
    return warmup * (1.0 if arm.decay == "constant" else 0.5 * (1 + np.cos(np.pi * step / arm.steps)))


def train(arm: Arm, images: ImageSet, weights: Path) -> Iterator[tuple[int, Encoder, float, float]]:
    """Train an arm; yield step, encoder, loss and CPU seconds at each checkpoint."""
    encoder = create_start(arm.size, weights)
    choose_trained(encoder, arm.trained)
    with seeded(arm.seed, Purpose.HEAD):
        model = SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=128))
    optimizers = [create_optimizer(part, "adamw", weight_decay=1e-4) for part in (encoder, model.head)]
    targets = Targets(arm, images, weights)
    pixels, sizes = images.squashed("train", arm.size)
    transform = TwoViews(arm.size, VIEWS[arm.views])
    checkpoints, seconds, losses = [int(step) for step in arm.at.split(",")], 0.0, []
    batches = draw_batches(len(pixels), arm)
    for step in range(arm.steps):
        start = get_cpu_seconds()
        rows = next(batches)
        draw = create_torch_generator(arm.seed, Purpose.VIEWS, step)
        if arm.contrast:
            views = transform.make(pixels[rows], sizes[rows], transform.draw(sizes[rows], draw))
            rows = rows.repeat(2)
        else:
            rows = rows.repeat(arm.drawn)
            parameters = draw_parameters(sizes[rows], VIEWS[arm.views], draw)
            views = make_view(pixels[rows], sizes[rows], parameters, arm.size)
        model.train()
        if arm.norms == "frozen":
            encoder.eval()
        is_head_alone = arm.trained == "head-first" and step < arm.steps // 10
        with torch.set_grad_enabled(not is_head_alone):
            h = encoder(views)
        loss = h.new_zeros(())
        if arm.contrast:
            loss = loss + arm.contrast * contrastive_loss(model.head(h), arm.temperature)
        if arm.distill != "none":
            loss = loss + arm.weight * targets.compute_loss(h, views, rows)
        for optimizer, rate in zip(optimizers, (arm.rate, arm.head_rate or arm.rate), strict=True):
            optimizer.zero_grad()
            set_learning_rate(optimizer, rate * compute_rate(arm, step))
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers[is_head_alone:]:
            optimizer.step()
        losses.append(float(loss.detach()))
        seconds += get_cpu_seconds() - start
        if step + 1 in checkpoints:
            yield step + 1, encoder, float(np.mean(losses[-20:])), seconds


def get_cpu_seconds() -> float:
    """Return the CPU seconds of this process so far, of all threads."""
    times = os.times()
    return times.user + times.system


# --- Evaluation -----------------------------------------------------------------------------------------------------


def evaluate(encoder: Encoder, images: ImageSet, size: int, *, views: bool = True) -> dict[str, Any]:
    """Measure accuracy on validation and test images, and the label-free monitors on validation images."""
    h = {split: embed(encoder, images.cropped(split, size)) for split in ("train", "validation", "test")}
    return measure(h, images, size) | (measure_views(encoder, images, size) if views else {})


def measure(h: dict[str, Tensor], images: ImageSet, size: int) -> dict[str, Any]:
    """Measure embeddings of train, validation and test images."""
    rows = {split: F.normalize(values, dim=1) for split, values in h.items()}
    if not all(bool(values.isfinite().all()) for values in h.values()):
        return {"failed": "not finite"}
    found: dict[str, Any] = {"size_used": size}
    labels = images.labels["train"]
    linear = fit_linear(h, images)
    for split in ("validation", "test"):
        true = images.labels[split]
        nearest = (rows[split] @ rows["train"].T).topk(NEIGHBORS, dim=1).indices
        (votes,) = knn_votes(
            h["train"], labels, h[split], neighbors=(20,), temperature=0.07, classes=images.classes
        )  # fmt: skip
        found[split] = {
            "knn20": percent(votes.argmax(dim=1) == true),
            "knn1": percent(labels[nearest[:, 0]] == true),
            "p10": percent(labels[nearest] == true[:, None]),
            "linear": percent(linear[split] == true),
        }
    found["gain_native"] = compare_scores(h["train"], images, NATIVE_SIZE)
    found["gain_start"] = compare_scores(h["train"], images, size)
    found["agreement_start"] = compare_neighbors(rows, images, size)
    found["agreement_native"] = compare_neighbors(rows, images, NATIVE_SIZE)
    native = F.normalize(images.frozen("validation", NATIVE_SIZE), dim=1)
    found["cosine_native"] = float((native * rows["validation"]).sum(dim=1).mean())
    found["uniformity_plain"] = uniformity(rows["validation"][:HELD_OUT])
    return found


def fit_linear(h: dict[str, Tensor], images: ImageSet) -> dict[str, Tensor]:
    """Predict classes by logistic regression, with an l2 chosen on a fifth of train."""
    labels, classes = images.labels["train"], images.classes
    mean, std = h["train"].mean(dim=0), h["train"].std(dim=0).clamp(min=1e-6)
    x = {split: (values - mean) / std for split, values in h.items()}
    held_out = torch.from_numpy(create_numpy_generator(0, Purpose.LABELS).random(len(labels)) < 0.2)
    model, best = create_regression(30), (-1.0, L2_GRID[0])
    for l2 in L2_GRID:
        weights = fit_logistic(model, x["train"][~held_out], labels[~held_out], l2=l2, classes=classes)
        accuracy = percent(predict(weights, x["train"][held_out]) == labels[held_out])
        best = max(best, (accuracy, l2))
        if accuracy < best[0] - 3:
            break
    weights = fit_logistic(create_regression(60), x["train"], labels, l2=best[1], classes=classes)
    return {split: predict(weights, x[split]) for split in ("validation", "test")}


def predict(weights: Tensor, x: Tensor) -> Tensor:
    """Predict the class of each row."""
    return F.linear(x, weights[:, :-1], weights[:, -1]).argmax(dim=1)


def percent(outcomes: Tensor) -> float:
    """Return the share of true outcomes in percent."""
    return round(100 * float(outcomes.double().mean()), 3)


def compare_neighbors(rows: dict[str, Tensor], images: ImageSet, size: int) -> float:
    """Return the share of the start's nearest train images, at a size, that validation images keep, in percent."""
    start = {split: F.normalize(images.frozen(split, size), dim=1) for split in ("train", "validation")}
    nearest = [
        (found["validation"] @ found["train"].T).topk(NEIGHBORS, dim=1).indices for found in (start, rows)
    ]  # fmt: skip
    return percent((nearest[0][:, :, None] == nearest[1][:, None]).any(dim=2))


def compare_scores(h: Tensor, images: ImageSet, size: int) -> list[float]:
    """Return the gain by labels over the start at a size, with its interval, as the command's guard measures it.

    Args:
        h: (N, width) embeddings of the train images, of which some are compared.
    """
    order = torch.from_numpy(create_numpy_generator(0, Purpose.LABELS).permutation(len(h))[:LABELED])
    labels = images.labels["train"][order]
    return list(compute_mean_gain(*(score_images(x[order], labels) for x in (h, images.frozen("train", size)))))


def measure_views(encoder: Encoder, images: ImageSet, size: int) -> dict[str, Any]:
    """Measure the monitors of training on two views of each of some validation images, always the same views."""
    pixels, sizes = (part[:HELD_OUT] for part in images.squashed("validation", size))
    transform = TwoViews(size, VIEWS["paper"])
    drawn = transform.draw(sizes, create_torch_generator(0, Purpose.VALIDATION))
    views = transform.make(pixels, sizes, drawn)
    h = embed(encoder, views.mul(255).round().byte())
    h_a, h_b = normalize_views(h)
    return {
        "alignment": alignment(h_a, h_b),
        "uniformity": (uniformity(h_a) + uniformity(h_b)) / 2,
        "rank": effective_rank(h),
        "retrieval": view_retrieval_accuracy(h_a, h_b),
        "held_out": len(pixels),
    }


# --- Runs -----------------------------------------------------------------------------------------------------------


class Log:
    """The log: one JSON line per evaluation, written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = read_log(path)

    def has(self, **values: Any) -> bool:
        """Return True if a line has these values."""
        return any(all(row.get(name) == value for name, value in values.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a line, and print its main figures."""
        rounded = json.loads(json.dumps(row), parse_float=lambda text: round(float(text), 7))
        self.rows.append(rounded)
        with self.path.open("a") as stream:
            stream.write(json.dumps(rounded) + "\n")
        print(describe(rounded), flush=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_frozen(images: ImageSet, size: int, args: argparse.Namespace, log: Log) -> None:
    """Measure the start at a size, as it is and with re-estimated norm statistics."""
    for estimated in (False, True):
        arm = f"{images.name}:{size}:frozen"
        if log.has(arm=arm, estimated=estimated) or (estimated and size == NATIVE_SIZE):
            continue
        encoder = create_start(size, args.weights)
        if estimated:
            estimate_norms(encoder, images.cropped("train", size))
        found = evaluate(encoder, images, size)
        log.add({"arm": arm, "images": images.name, "size": size, "step": 0, "alpha": 0.0, "estimated": estimated,
                 "cpu_s": 0.0} | found)  # fmt: skip


def run_arm(arm: Arm, images: ImageSet, args: argparse.Namespace, log: Log) -> None:
    """Train an arm, and evaluate its checkpoints and interpolations."""
    if log.has(arm=arm.name, done=True):
        return
    run_frozen(images, arm.size, args, log)
    start = {key: value.clone() for key, value in create_start(arm.size, args.weights).backbone.state_dict().items()}
    probe = create_start(arm.size, args.weights)
    last = max(int(step) for step in arm.at.split(","))
    for step, encoder, loss, seconds in train(arm, images, args.weights):
        end = copy.deepcopy(encoder.backbone.state_dict())
        sizes = [arm.size] + [int(size) for size in arm.also.split(",") if size and step == last]
        alphas = [float(alpha) for alpha in arm.alphas.split(",")]
        for alpha in alphas:
            for estimated in (False, True) if arm.norms == "train" and alpha == 1 else (False,):
                interpolate(probe, start, end, alpha)
                for size in sizes:
                    if estimated:
                        estimate_norms(probe, images.cropped("train", size))
                    found = evaluate(probe, images, size)
                    row = {"arm": arm.name, "images": arm.images, "size": arm.size, "step": step, "alpha": alpha,
                           "estimated": estimated, "loss": loss, "cpu_s": seconds}  # fmt: skip
                    log.add(row | found)
    log.rows.append({"arm": arm.name, "done": True})
    with log.path.open("a") as stream:
        stream.write(json.dumps(log.rows[-1]) + "\n")


def describe(row: dict[str, Any]) -> str:
    """Return the main figures of a line."""
    if "failed" in row or "test" not in row:
        return f"{row['arm']} {row.get('step')} failed"
    figures = " | ".join(
        " ".join(f"{row[split][name]:5.1f}" for name in ("knn20", "knn1", "p10", "linear"))
        for split in ("validation", "test")
    )
    monitors = " ".join(
        f"{short}{row[name]:.2f}"
        for short, name in (("al", "alignment"), ("un", "uniformity"), ("up", "uniformity_plain"), ("rk", "rank"),
                            ("vr", "retrieval"), ("as", "agreement_start"), ("an", "agreement_native"))
        if name in row
    )  # fmt: skip
    at = f"@{row['size_used']}" + (" est" if row["estimated"] else "")
    return f"{figures} | {row['cpu_s']:5.0f} s {row['step']:4} a{row['alpha']:.2f} {at:8} {row['arm']} | {monitors}"


def run(args: argparse.Namespace) -> None:
    """Run the arms that are not in the log."""
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    log = Log(args.work / "log.jsonl")
    sets: dict[str, ImageSet] = {}
    print(json.dumps(describe_machine()), file=sys.stderr)
    finished: set[str] = set()
    while text := next((arm for arm in read_arms(args) if arm not in finished), ""):
        name, size = text.split(":")[:2]
        if name not in sets:
            sets[name] = ImageSet(name, args)
        if text.endswith(":frozen"):
            run_frozen(sets[name], int(size), args, log)
        else:
            run_arm(Arm.parse(text), sets[name], args, log)
        finished.add(text)


def read_arms(args: argparse.Namespace) -> list[str]:
    """Read the arms to run; the file may grow or change while others run."""
    if args.arms:
        return list(args.arms)
    lines = [line.split("#")[0].strip() for line in args.arms_file.read_text().splitlines()]
    return [line for line in lines if line]


def table(args: argparse.Namespace) -> None:
    """Print the lines of the log."""
    for row in read_log(args.work / "log.jsonl"):
        if not row.get("done") and re.search(args.match, row["arm"]):
            print(describe(row))


# --- Guard ----------------------------------------------------------------------------------------------------------


def collect_changes(work: Path) -> list[dict[str, Any]]:
    """Collect the changes against the start, at the size used, of accuracy and monitors; a failure counts as -100."""
    rows = [row for row in read_log(work / "log.jsonl") if not row.get("done")]
    starts = {(row["images"], row["size"]): row for row in rows if row["step"] == 0 and not row["estimated"]}
    changes = []
    for row in rows:
        start = starts.get((row["images"], row.get("size_used", row["size"])))
        if start is None or row is start:
            continue
        change: dict[str, Any] = {"row": row, "images": row["images"]}
        for split in ("validation", "test"):
            gains = [row[split][name] - start[split][name] for name in ("p10", "linear")] if split in row else [-100.0]
            change[split] = float(np.mean(gains))
        for name in ("alignment", "uniformity", "uniformity_plain", "rank", "retrieval", "agreement_native",
                     "cosine_native"):  # fmt: skip
            change[name] = row.get(name, np.nan) - start.get(name, np.nan)
        change["agreement_start"] = row.get("agreement_start", np.nan)
        change["uniformity_size"] = abs(change["uniformity"])
        changes.append(change)
    return changes


def find_threshold(changes: list[dict[str, Any]], name: str, split: str) -> tuple[int, float, int]:
    """Find the rule `sign * change > threshold` that is wrong least often; return its errors, threshold and sign."""
    best = (len(changes) + 1, 0.0, 1)
    for sign in (1, -1):
        values = np.array([sign * change[name] for change in changes])
        helps = np.array([change[split] > 0 for change in changes])
        ordered = np.unique(values[np.isfinite(values)])
        middles = (ordered[1:] + ordered[:-1]) / 2
        for threshold in [ordered[0] - 1e-9, *middles, ordered[-1] + 1e-9]:
            best = min(best, (int(((values > threshold) != helps).sum()), float(threshold), sign))
    return best


def decide(work: Path, reference: str) -> list[tuple[str, bool, float, float]]:
    """Let the command's rule decide at each checkpoint and size of use.

    Args:
        reference: what the rule by labels compares with: native, the start at its own size, or start, at the size of
            use; none: the rule without labels.

    Returns:
        For each decision, the images, whether trained weights are kept, the change on test images of these (or of
        those that were rejected) in the mean of precision at 10 and linear accuracy, and from which change on they
        should be kept.
    """
    rows = [row for row in read_log(work / "log.jsonl") if "test" in row and not row["estimated"]]
    starts = {(row["images"], row["size"]): row for row in rows if row["step"] == 0}
    names: dict[float, Kept] = {0.5: "interpolated", 1.0: "adapted"}
    groups: dict[tuple[Any, ...], dict[Kept, dict[str, Any]]] = {}
    for row in rows:
        if row["step"] and row["alpha"] in names and "gain_native" in row:
            group = groups.setdefault((row["arm"], row["step"], row["size_used"]), {})
            group[names[row["alpha"]]] = row
    decisions = []
    for (arm, step, size), group in groups.items():
        if len(group) < len(names):  # an arm that is running
            continue
        trained, images = Arm.parse(arm), group["adapted"]["images"]
        at_train_size = groups[arm, step, trained.size]
        is_smaller = reference == "native" and size < NATIVE_SIZE
        candidates: dict[Kept, Candidate] = {"start": describe_candidate(starts[images, trained.size], None)}
        for name, row in group.items():
            gain = None if reference == "none" else tuple(row[f"gain_{reference}"])
            candidates[name] = describe_candidate(at_train_size[name], gain)
        is_larger, is_distilled = size > trained.size, trained.distill != "none"
        kept, _ = choose(candidates, distilled=is_distilled, is_used_larger=is_larger, is_smaller=is_smaller)
        best: Kept = kept
        if kept == "start" and reference == "none":
            best = "adapted" if is_distilled and not is_larger else "interpolated"
        elif kept == "start":
            best = max(group, key=lambda name: group[name][f"gain_{reference}"][0])
        start = starts[images, NATIVE_SIZE if reference == "native" else size]["test"]
        change = float(np.mean([group[best]["test"][name] - start[name] for name in ("p10", "linear")]))
        decisions.append((images, kept != "start", change, -MAX_DECLINE if is_smaller else 0.0))
    return decisions


def describe_candidate(row: dict[str, Any], gain: Any) -> Candidate:
    """Return what the command's guard knows of the weights of a line."""
    return Candidate(row["agreement_native"], row["uniformity"], None, gain)


def count_errors(work: Path) -> None:
    """Print how often the command's rules keep what is worse on test images, or reject what is better."""
    words = {"native": "by labels, against the start at its own size", "none": "without labels"}
    for reference, title in (*words.items(), ("start", "by labels, against the start at the size of use")):
        decisions = decide(work, reference)
        for images in ("", *sorted({decision[0] for decision in decisions})):
            some = [decision[1:] for decision in decisions if decision[0].startswith(images)]
            wrong = [is_kept != (change > least) for is_kept, change, least in some]
            clear = [one for one, (_, change, least) in zip(wrong, some, strict=True) if abs(change - least) > 1]
            good = sum(change > least for _, change, least in some)
            counts = f"{sum(wrong)} of {len(wrong)} wrong, {good} should be kept"
            print(f"{title}, {images or 'all'}: {counts}; beyond 1 point {sum(clear)} of {len(clear)}")


def guard(args: argparse.Namespace) -> None:
    """Print, for each monitor, the best threshold on clothing and tiles (validation), and its errors everywhere."""
    count_errors(args.work)
    changes = collect_changes(args.work)
    chosen_on = [change for change in changes if change["images"] in ("clothing", "tiles")]
    print(f"{len(changes)} lines, helped on test: {sum(change['test'] > 0 for change in changes)}")
    for name in [key for key in changes[0] if key not in ("row", "images", "validation", "test")]:
        errors, threshold, sign = find_threshold(chosen_on, name, "validation")
        parts = []
        for images in sorted({change["images"] for change in changes}):
            group = [change for change in changes if change["images"] == images]
            wrong = [(sign * change[name] > threshold) != (change["test"] > 0) for change in group]
            clear = [is_wrong for is_wrong, change in zip(wrong, group, strict=True) if abs(change["test"]) > 1]
            parts.append(f"{images} {sum(wrong)}/{len(wrong)} (beyond 1 point {sum(clear)}/{len(clear)})")
        relation = ">" if sign > 0 else "<"
        rule = f"{name} {relation} {sign * threshold:.3f}"
        print(f"{rule:36} validation {errors}/{len(chosen_on)}; test: {', '.join(parts)}")


def main() -> None:
    """Parse the arguments and do one of the three things."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    for name in ("data", "weights", "work"):
        runs.add_argument(name, type=Path)
    runs.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 (default: DATA/cifar)")
    runs.add_argument("--arms", nargs="*")
    runs.add_argument("--arms-file", type=Path)
    runs.add_argument("--threads", type=int, default=2)
    runs.set_defaults(function=run)
    tables = commands.add_parser("table")
    tables.add_argument("work", type=Path)
    tables.add_argument("--match", default="")
    tables.set_defaults(function=table)
    guards = commands.add_parser("guard")
    guards.add_argument("work", type=Path)
    guards.set_defaults(function=guard)
    args = parser.parse_args()
    if hasattr(args, "cifar") and args.cifar is None:
        args.cifar = args.data / "cifar"
    args.function(args)


if __name__ == "__main__":
    main()
