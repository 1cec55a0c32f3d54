"""The paper's own questions, asked again small: which views, which temperature, which batch and how long, h or z.

    python benchmarks/paper.py IMAGES --test TEST --budget-minutes 30 --out FOLDER
        [--backbone narrow --image-size 32 --count 2000 --test-images 2000 --batch-size 128 --seed 0]
        [--only figure5 table5 figure9 heads]

IMAGES and TEST are folders with a folder a class. One small training is timed first, and the epochs are chosen so that
all that is asked for takes the budget. What would begin after its end is left out, and null. Writes FOLDER/paper.json
(printed too) and a PNG for each; figures are percent of the test images told right by their nearest neighbors
(k = 20, votes exp(cosine / 0.07)), for `heads` by the linear probe as well. One seed: differences of a point or two are
chance.

Departures from the paper, besides size: the encoder is a small one (`narrow`: a ResNet-10 of a quarter of its width,
for a CPU's minutes; else any timm name), and AdamW (at the same rate for every batch) takes LARS's place. Figure 5: as
there, one view of each image is changed and the other is left alone; but images of one size need no crop to begin
with, so the view left alone is the whole image (its middle square), and as operations have a fixed order here, only
one half of the matrix is trained. Its operations are those that we have.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from simclr_cli.core.files import make_folder, write_file, write_json
from simclr_cli.core.seeds import Purpose, numpy_generator, seeded, torch_generator
from simclr_cli.encode.load import start_encoder
from simclr_cli.engine.augment import ViewRecipe, draw_parameters, make_view
from simclr_cli.engine.encoder import SMALL_IMAGE, Encoder, EncoderSpec, create_encoder
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.optim import Schedule, create_optimizer, set_learning_rate
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.engine.simclr import ProjectionHead, SimCLR
from simclr_cli.images.decode import UnusableImage, evaluation_crop, squashed
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers, each

NARROW = {"channels": (16, 32, 64, 128), "stem_width": 8}
PEAK, WARMUP = 0.002, 0.1  # AdamW's rate; share of the steps
STORED = 1.5  # side of the stored squares over that of the views, as in training
TRIAL_STEPS = 4
FORWARDS = 6  # what an image costs in training, over what it costs to embed it: two views, backward twice a forward
TRAINING_SHARE = 0.9  # of the budget; the rest is for what the trial did not show
ALONE = ViewRecipe(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
OPERATIONS: dict[str, dict[str, Any]] = {
    "crop": {"crop_area": (0.08, 1.0), "crop_aspect": (3 / 4, 4 / 3)},
    "color": {"jitter": 0.8, "grayscale": 0.2},
    "blur": {"blur": 0.5},
    "flip": {"flip": 0.5},
    "rotate": {"rotate": 1.0},
}
TEMPERATURES = (0.05, 0.1, 0.5, 1.0)
BATCHES, LENGTHS = (64, 128, 256, 512), (0.25, 0.5, 1.0)  # of Figure 9; lengths as shares of the epochs
PARTS = ("heads", "table5", "figure5", "figure9")  # in this order: what heads trains serves the others too


@dataclass(frozen=True)
class Trial:
    """One training: what its two views are, and how it goes."""

    first: ViewRecipe
    second: ViewRecipe
    temperature: float
    batch: int
    epochs: int


@dataclass(frozen=True)
class Images:
    """Decoded images of one folder, with their classes."""

    pixels: Tensor  # (N, 3, side, side) uint8, squashed
    sizes: Tensor  # (N, 2) true heights and widths
    whole: Tensor  # (N, 3, S, S) uint8, as evaluation sees them
    labels: Tensor  # (N,)


def load(folder: Path, count: int, size: int, seed: int, classes: tuple[str, ...]) -> Images:
    """About `count` images, chosen at random, as many of each class."""
    census = take_census(folder)
    names = classes or census.classes
    generator, chosen = numpy_generator(seed, Purpose.SPLIT), []
    for name in names:
        own = [image for image in census.images if image.name.split("/")[0] == name]
        chosen += [own[i] for i in sorted(generator.permutation(len(own))[: -(-count // len(names))])]
    crop, side = (1.0 if size <= SMALL_IMAGE else 0.875), round(STORED * size)
    side = min(side, max(max(image.height, image.width) for image in chosen))
    paths = [census.path(image) for image in chosen]

    def decoded(path: Path) -> tuple[np.ndarray, np.ndarray]:
        return squashed(path, side), evaluation_crop(path, size, crop)

    stored = list(each(decoded, paths, count_workers()))
    kept = [(image, one) for image, one in zip(chosen, stored, strict=True) if not isinstance(one, UnusableImage)]

    def stacked(which: int) -> Tensor:
        return torch.from_numpy(np.stack([one[which] for _, one in kept])).permute(0, 3, 1, 2).contiguous()

    sizes = torch.tensor([(image.height, image.width) for image, _ in kept])
    labels = torch.tensor([names.index(image.name.split("/")[0]) for image, _ in kept])
    return Images(stacked(0), sizes, stacked(1), labels)


def build(given: argparse.Namespace) -> Encoder:
    """The encoder as it is before the first step."""
    if given.backbone != "narrow":
        return start_encoder(given.backbone, "none", given.image_size, given.seed)
    small = given.image_size <= SMALL_IMAGE
    spec = EncoderSpec("resnet10t", given.image_size, small_stem=small, model_args=NARROW)
    return create_encoder(spec, seed=given.seed)


def train(train_set: Images, trial: Trial, given: argparse.Namespace, most_steps: int | None = None) -> SimCLR:
    """SimCLR with a recipe for each of the two views."""
    encoder = build(given)
    with seeded(given.seed, Purpose.HEAD):
        model = SimCLR(encoder, ProjectionHead(encoder.width)).train()
    optimizer = create_optimizer(model, "adamw", weight_decay=0.01)
    count = len(train_set.labels)
    steps = count // trial.batch
    total = trial.epochs * steps
    for step in range(min(total, most_steps or total)):
        epoch, within = divmod(step, steps)
        order = numpy_generator(given.seed, Purpose.ORDER, epoch).permutation(count)
        rows = torch.from_numpy(order[within * trial.batch : (within + 1) * trial.batch])
        pixels, sizes = train_set.pixels[rows], train_set.sizes[rows]
        generator = torch_generator(given.seed, Purpose.VIEWS, step)
        views = [
            make_view(pixels, sizes, draw_parameters(sizes, recipe, generator), given.image_size)
            for recipe in (trial.first, trial.second)
        ]
        warmup = round(WARMUP * total)
        set_learning_rate(optimizer, Schedule(PEAK, total, warmup)(step))
        loss = contrastive_loss(model(torch.cat(views))[1], trial.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def knn(train_rows: Tensor, labels: Tensor, test_rows: Tensor, test_labels: Tensor) -> float:
    """Percent of the test rows told right by the 20 nearest."""
    classes = int(labels.max()) + 1
    (votes,) = knn_votes(train_rows, labels, test_rows, neighbors=(20,), temperature=0.07, classes=classes)
    return percent(votes.argmax(dim=1) == test_labels)


def linear(train_rows: Tensor, labels: Tensor, test_rows: Tensor, test_labels: Tensor) -> float:
    """Percent told right by logistic regression; every fifth train row chooses l2."""
    validation = torch.arange(len(labels)) % 5 == 0
    probe = fit_probe(train_rows, labels, validation=validation, classes=int(labels.max()) + 1)
    return percent(probe.scores(test_rows).argmax(dim=1) == test_labels)


def percent(right: Tensor) -> float:
    """The share of what is true, in percent."""
    return round(100 * right.double().mean().item(), 2)


class Laboratory:
    """Trains what is asked for, each trial once, until the time is over."""

    def __init__(self, train_set: Images, test_set: Images, given: argparse.Namespace, deadline: float) -> None:
        self.train_set, self.test_set, self.given, self.deadline = train_set, test_set, given, deadline
        self.found: dict[Trial, dict[str, float]] = {}

    def ask(self, trial: Trial, *, both: bool = False) -> dict[str, float] | None:
        """kNN by h; with `both`, kNN and linear by h and by z. None: there is no time left."""
        known = self.found.get(trial)
        if known is not None and not (both and "z" not in known):
            return known
        if time.monotonic() > self.deadline:
            return None
        began = time.monotonic()
        model = train(self.train_set, trial, self.given)
        sets = (self.train_set, self.test_set)
        h, h_test = (torch.cat([model.encoder.represent(part) for part in one.intact.split(500)]) for one in sets)
        rows = {"h": (h, h_test)}
        if both:
            with torch.inference_mode():
                rows["z"] = (model.head(h), model.head(h_test))
        labels, test_labels = (one.labels for one in sets)
        figures = {name: knn(a, labels, b, test_labels) for name, (a, b) in rows.items()}
        if both:
            figures |= {f"{k} linear": linear(a.clone(), labels, b, test_labels) for k, (a, b) in rows.items()}
        self.found[trial] = figures
        print(f"{len(self.found)}: {time.monotonic() - began:.0f} s, h {figures['h']} %", file=sys.stderr, flush=True)
        return figures

    def seconds_a_image(self, trial: Trial) -> float:
        """Of training, timed on few steps, the first of which do not count."""
        train(self.train_set, trial, self.given, 1)
        began = time.monotonic()
        train(self.train_set, trial, self.given, 1)
        start = time.monotonic() - began
        began = time.monotonic()
        train(self.train_set, trial, self.given, 1 + TRIAL_STEPS)
        return max(1e-6, time.monotonic() - began - start) / TRIAL_STEPS / trial.batch


def value(figures: dict[str, float] | None, name: str = "h") -> float | None:
    """One of the figures, if they were found."""
    return None if figures is None else figures[name]


def plan(given: argparse.Namespace, epochs: int, count: int) -> dict[str, dict[tuple[str, str], Trial]]:
    """The trials of each part, by the row and the column that they fill."""
    strength = 0.5 if given.image_size <= SMALL_IMAGE else 1.0
    both = ViewRecipe(strength=strength, blur=0.0 if given.image_size <= SMALL_IMAGE else 0.5)
    usual = Trial(both, both, 0.5, given.batch_size, epochs)
    asked: dict[str, dict[tuple[str, str], Trial]] = {part: {} for part in PARTS if part in given.only}
    if "figure5" in asked:
        for a, b in itertools.combinations_with_replacement(OPERATIONS, 2):
            changed = dataclasses.replace(ALONE, strength=strength, **{**OPERATIONS[a], **OPERATIONS[b]})
            asked["figure5"][a, b] = Trial(changed, ALONE, 0.5, given.batch_size, epochs)
    if "table5" in asked:
        for temperature in TEMPERATURES:
            asked["table5"]["accuracy", f"{temperature:g}"] = dataclasses.replace(usual, temperature=temperature)
    if "figure9" in asked:
        for batch, length in itertools.product([size for size in BATCHES if size <= count // 2], LENGTHS):
            some = max(1, round(length * epochs))
            asked["figure9"][f"batch {batch}", f"{some} epochs"] = dataclasses.replace(usual, batch=batch, epochs=some)
    if "heads" in asked:
        asked["heads"]["h", "kNN"] = usual
    return asked


def matrix(part: str, trials: dict[tuple[str, str], Trial], laboratory: Laboratory) -> dict[str, dict[str, Any]]:
    """Rows of columns of percent."""
    if part == "heads":
        found = laboratory.ask(trials["h", "kNN"], both=True)
        return {row: {"kNN": value(found, row), "linear": value(found, f"{row} linear")} for row in ("h", "z")}
    filled: dict[str, dict[str, Any]] = {}
    for (row, column), trial in trials.items():
        accuracy = value(laboratory.ask(trial))
        filled.setdefault(row, {})[column] = accuracy
        if part == "figure5":
            filled.setdefault(column, {})[row] = accuracy
    return filled


TITLES = {
    "figure5": "Figure 5: pairs of operations on one view; one alone on the diagonal",
    "table5": "Table 5: temperature",
    "figure9": "Figure 9: batch and epochs",
    "heads": "h and z of one run",
}


def draw(title: str, rows: dict[str, dict[str, Any]]) -> Image.Image:
    """A matrix of percent as an image, from the least (pale) to the most (blue)."""
    columns = list(next(iter(rows.values())))
    known = [one for row in rows.values() for one in row.values() if one is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    cell, left, top = (96, 56), 110, 84
    image = Image.new("RGB", (max(left + cell[0] * len(columns) + 24, 560), top + cell[1] * len(rows) + 24), "#fbfaf8")
    pen, words, large = ImageDraw.Draw(image), ImageFont.load_default(14), ImageFont.load_default(18)
    pen.text((24, 18), title, "#1d1f23", large)
    pen.text((24, 44), "% of test images told right", "#5f6670", ImageFont.load_default(12))
    for j, column in enumerate(columns):
        pen.text((left + cell[0] * (j + 0.5), top - 10), column, "#5f6670", words, "mm")
    for i, (row, cells) in enumerate(rows.items()):
        y = top + cell[1] * i
        pen.text((left - 12, y + cell[1] / 2), row, "#5f6670", words, "rm")
        for j, column in enumerate(columns):
            one, x = cells[column], left + cell[0] * j
            share = 0.0 if one is None or high == low else (one - low) / (high - low)
            tint = tuple(round(a + (b - a) * share) for a, b in zip((238, 243, 249), (31, 95, 174), strict=True))
            pen.rectangle((x + 2, y + 2, x + cell[0] - 2, y + cell[1] - 2), tint)
            said = "-" if one is None else f"{one:.1f}"
            pen.text((x + cell[0] / 2, y + cell[1] / 2), said, "white" if share > 0.5 else "#1d1f23", large, "mm")
    return image


def main() -> None:
    """Load, time one training, choose the epochs, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-minutes", type=float, default=30.0)
    parser.add_argument("--backbone", default="narrow")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    for name, default in (("image-size", 32), ("images", 2000), ("test-images", 2000), ("batch-size", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    make_folder(given.out)
    classes = take_census(given.images).classes
    if len(classes) < 2:
        parser.error(f"the folders in {given.images} do not look like classes")
    train_set = load(given.images, given.images, given.image_size, given.seed, classes)
    test_set = load(given.test, given.test_images, given.image_size, given.seed, classes)
    count = len(train_set.labels)
    given.batch_size = min(given.batch_size, count // 2)
    laboratory = Laboratory(train_set, test_set, given, began + 60 * given.budget_minutes)
    lengths = {trial for part in plan(given, 1000, count).values() for trial in part.values()}
    seconds = laboratory.seconds_a_image(next(iter(lengths)))
    judging = len(lengths) * seconds / FORWARDS * (count + len(test_set.labels))
    left = 60 * given.budget_minutes * TRAINING_SHARE - judging - (time.monotonic() - began)
    epochs = max(1, int(left / (seconds * count * sum(trial.epochs for trial in lengths) / 1000)))
    print(f"{len(lengths)} trainings of up to {epochs} epochs; {1e3 * seconds:.2f} ms an image", file=sys.stderr)
    results = {part: matrix(part, asked, laboratory) for part, asked in plan(given, epochs, count).items()}
    for part, rows in results.items():
        image = draw(TITLES[part], rows)
        write_file(given.out / f"{part}.png", lambda stream, image=image: image.save(stream, "PNG"))
    told = {name: str(kept) if isinstance(kept, Path) else kept for name, kept in vars(given).items()}
    figures = {
        **told,
        "images": count,
        "test_images": len(test_set.labels),
        "epochs": epochs,
        "chance": percent(test_set.labels == test_set.labels.bincount().argmax()),
        "minutes": round((time.monotonic() - began) / 60, 2),
        "results": results,
        **describe_machine(),
    }
    write_json(given.out / "paper.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
