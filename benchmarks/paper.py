"""The paper's experiments in small: views, temperature, batch size and epochs, h and z.

    python benchmarks/paper.py IMAGES --test TEST --budget-minutes 30 --out FOLDER
        [--backbone narrow --image-size 32 --train-images 2000 --test-images 2000 --batch-size 128 --seed 0]
        [--only figure5 table5 figure9 heads]

IMAGES and TEST have one folder per class. One short training is timed first, and the epochs are chosen so that all
trainings take the budget. A training that would start after its end is skipped, and its value is null. Writes
FOLDER/paper.json (and prints it) and a PNG for each part. Values are kNN accuracies in percent on the test images
(k = 20, votes exp(cosine / 0.07)), for `heads` also linear ones. There is one seed: differences of one or two points
are chance.

Departures from the paper, besides size: a small encoder (`narrow`: a ResNet-10 of a quarter of its width, for minutes
on a CPU; or any timm name), and AdamW (at the same rate for every batch size) in place of LARS. As in Figure 5, one
view of each image is changed and the other is not. But images of one size need no crop first, so the unchanged view is
the whole image (its center square). Operations have a fixed order here, so only half of the matrix is trained. The
operations are those of this package.
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

from simclr_cli.core.files import prepare_folder, write_file, write_json
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator, seeded
from simclr_cli.encode.create import create_initial_encoder
from simclr_cli.engine.augment import ViewRecipe, draw_parameters, make_view
from simclr_cli.engine.encoder import SMALL_IMAGE_SIZE, Encoder, EncoderSpec, create_encoder
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.optim import Schedule, create_optimizer, set_learning_rate
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.engine.simclr import ProjectionHead, SimCLR
from simclr_cli.images.decode import decode_evaluation_crop, decode_squashed
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers, map_in_order

NARROW = {"channels": (16, 32, 64, 128), "stem_width": 8}
PEAK_LEARNING_RATE, WARMUP_SHARE = 0.002, 0.1  # of AdamW; of the steps
STORED_SCALE = 1.5  # side of the stored squares over the side of the views, as in training
TRIAL_STEPS = 4
TRAINING_COST = 6  # of an image, over the cost to embed it: two views, and a backward pass costs two forward passes
TRAINING_SHARE = 0.9  # of the budget; the rest is a reserve
UNCHANGED = ViewRecipe(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
OPERATIONS: dict[str, dict[str, Any]] = {
    "crop": {"crop_area": (0.08, 1.0), "crop_aspect": (3 / 4, 4 / 3)},
    "color": {"jitter": 0.8, "grayscale": 0.2},
    "blur": {"blur": 0.5},
    "flip": {"flip": 0.5},
    "rotate": {"rotate": 1.0},
}
TEMPERATURES = (0.05, 0.1, 0.5, 1.0)
BATCH_SIZES, EPOCH_SHARES = (64, 128, 256, 512), (0.25, 0.5, 1.0)  # of Figure 9
PARTS = ("heads", "table5", "figure5", "figure9")  # in this order, since the other parts reuse the training of heads


@dataclass(frozen=True)
class Trial:
    """The views and settings of one training."""

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
    evaluation: Tensor  # (N, 3, S, S) uint8, as evaluation crops them
    labels: Tensor  # (N,)


def load_images(folder: Path, count: int, size: int, seed: int, classes: tuple[str, ...]) -> Images:
    """Load about `count` random images, the same number of each class."""
    census = take_census(folder)
    names = classes or census.classes
    generator, chosen = create_numpy_generator(seed, Purpose.SPLIT), []
    for name in names:
        class_images = [image for image in census.images if image.name.split("/")[0] == name]
        chosen += [class_images[i] for i in sorted(generator.permutation(len(class_images))[: -(-count // len(names))])]
    crop, side = (1.0 if size <= SMALL_IMAGE_SIZE else 0.875), round(STORED_SCALE * size)
    side = min(side, max(max(image.height, image.width) for image in chosen))
    paths = [census.path(image) for image in chosen]

    def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
        return decode_squashed(path, side), decode_evaluation_crop(path, size, crop)

    decoded = list(map_in_order(decode, paths, count_workers()))
    usable = [
        (image, pixels) for image, pixels in zip(chosen, decoded, strict=True) if not isinstance(pixels, UnusableImage)
    ]

    def stack(part: int) -> Tensor:
        return torch.from_numpy(np.stack([pixels[part] for _, pixels in usable])).permute(0, 3, 1, 2).contiguous()

    sizes = torch.tensor([(image.height, image.width) for image, _ in usable])
    labels = torch.tensor([names.index(image.name.split("/")[0]) for image, _ in usable])
    return Images(stack(0), sizes, stack(1), labels)


def create_model_encoder(args: argparse.Namespace) -> Encoder:
    """Create the encoder as it is before the first step."""
    if args.backbone != "narrow":
        return create_initial_encoder(args.backbone, "none", args.image_size, args.seed)
    small = args.image_size <= SMALL_IMAGE_SIZE
    spec = EncoderSpec("resnet10t", args.image_size, small_stem=small, model_args=NARROW)
    return create_encoder(spec, seed=args.seed)


def train(train_set: Images, trial: Trial, args: argparse.Namespace, max_steps: int | None = None) -> SimCLR:
    """Train SimCLR with one recipe for each of the two views."""
    encoder = create_model_encoder(args)
    with seeded(args.seed, Purpose.HEAD):
        model = SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=128)).train()
    optimizer = create_optimizer(model, "adamw", weight_decay=0.01)
    count = len(train_set.labels)
    steps = count // trial.batch
    total = trial.epochs * steps
    for step in range(min(total, max_steps or total)):
        epoch, within = divmod(step, steps)
        order = create_numpy_generator(args.seed, Purpose.ORDER, epoch).permutation(count)
        rows = torch.from_numpy(order[within * trial.batch : (within + 1) * trial.batch])
        pixels, sizes = train_set.pixels[rows], train_set.sizes[rows]
        generator = create_torch_generator(args.seed, Purpose.VIEWS, step)
        views = [
            make_view(pixels, sizes, draw_parameters(sizes, recipe, generator), args.image_size)
            for recipe in (trial.first, trial.second)
        ]
        warmup = round(WARMUP_SHARE * total)
        set_learning_rate(optimizer, Schedule(PEAK_LEARNING_RATE, total, warmup)(step))
        loss = contrastive_loss(model(torch.cat(views))[1], trial.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def compute_knn_accuracy(train_rows: Tensor, labels: Tensor, test_rows: Tensor, test_labels: Tensor) -> float:
    """Return the kNN accuracy in percent, by 20 neighbors."""
    classes = int(labels.max()) + 1
    (votes,) = knn_votes(train_rows, labels, test_rows, neighbors=(20,), temperature=0.07, classes=classes)
    return compute_percentage(votes.argmax(dim=1) == test_labels)


def compute_linear_accuracy(train_rows: Tensor, labels: Tensor, test_rows: Tensor, test_labels: Tensor) -> float:
    """Return the accuracy of logistic regression in percent; every fifth training row validates l2."""
    validation = torch.arange(len(labels)) % 5 == 0
    probe = fit_probe(train_rows, labels, validation=validation, classes=int(labels.max()) + 1)
    return compute_percentage(probe.compute_logits(test_rows).argmax(dim=1) == test_labels)


def compute_percentage(is_correct: Tensor) -> float:
    """Return the share of true values in percent."""
    return round(100 * is_correct.double().mean().item(), 2)


class Trainer:
    """The runner of trials: it trains each one once, until the deadline."""

    def __init__(self, train_set: Images, test_set: Images, args: argparse.Namespace, deadline: float) -> None:
        self.train_set, self.test_set, self.args, self.deadline = train_set, test_set, args, deadline
        self.figures: dict[Trial, dict[str, float]] = {}

    def run(self, trial: Trial, *, both: bool = False) -> dict[str, float] | None:
        """Return kNN by h; with `both`, kNN and linear by h and z; None after the deadline."""
        known = self.figures.get(trial)
        if known is not None and not (both and "z" not in known):
            return known
        if time.monotonic() > self.deadline:
            return None
        start = time.monotonic()
        model = train(self.train_set, trial, self.args)
        sets = (self.train_set, self.test_set)
        h, h_test = (torch.cat([model.encoder.embed(part) for part in images.evaluation.split(500)]) for images in sets)
        rows = {"h": (h, h_test)}
        if both:
            with torch.inference_mode():
                rows["z"] = (model.head(h), model.head(h_test))
        labels, test_labels = (images.labels for images in sets)
        figures = {name: compute_knn_accuracy(a, labels, b, test_labels) for name, (a, b) in rows.items()}
        if both:
            figures |= {
                f"{k} linear": compute_linear_accuracy(a.clone(), labels, b, test_labels) for k, (a, b) in rows.items()
            }
        self.figures[trial] = figures
        print(f"{len(self.figures)}: {time.monotonic() - start:.0f} s, h {figures['h']} %", file=sys.stderr, flush=True)
        return figures

    def measure_seconds_per_image(self, trial: Trial) -> float:
        """Time training on a few steps, without the warm-up."""
        train(self.train_set, trial, self.args, 1)
        start = time.monotonic()
        train(self.train_set, trial, self.args, 1)
        first_step = time.monotonic()
        train(self.train_set, trial, self.args, 1 + TRIAL_STEPS)
        seconds = (time.monotonic() - first_step) - (first_step - start)
        return max(1e-6, seconds) / TRIAL_STEPS / trial.batch


def get_figure(figures: dict[str, float] | None, name: str = "h") -> float | None:
    """Return one of the figures, or None if there are none."""
    return None if figures is None else figures[name]


def plan_trials(args: argparse.Namespace, epochs: int, count: int) -> dict[str, dict[tuple[str, str], Trial]]:
    """Return the trials of each part, by the row and column of its table."""
    strength = 0.5 if args.image_size <= SMALL_IMAGE_SIZE else 1.0
    both = ViewRecipe(strength=strength, blur=0.0 if args.image_size <= SMALL_IMAGE_SIZE else 0.5)
    default_trial = Trial(both, both, 0.5, args.batch_size, epochs)
    trials_of: dict[str, dict[tuple[str, str], Trial]] = {part: {} for part in PARTS if part in args.only}
    if "figure5" in trials_of:
        for a, b in itertools.combinations_with_replacement(OPERATIONS, 2):
            changed = dataclasses.replace(UNCHANGED, strength=strength, **{**OPERATIONS[a], **OPERATIONS[b]})
            trials_of["figure5"][a, b] = Trial(changed, UNCHANGED, 0.5, args.batch_size, epochs)
    if "table5" in trials_of:
        for temperature in TEMPERATURES:
            trials_of["table5"]["accuracy", f"{temperature:g}"] = dataclasses.replace(
                default_trial, temperature=temperature
            )
    if "figure9" in trials_of:
        for batch, length in itertools.product([size for size in BATCH_SIZES if size <= count // 2], EPOCH_SHARES):
            trial_epochs = max(1, round(length * epochs))
            trials_of["figure9"][f"batch {batch}", f"{trial_epochs} epochs"] = dataclasses.replace(
                default_trial, batch=batch, epochs=trial_epochs
            )
    if "heads" in trials_of:
        trials_of["heads"]["h", "kNN"] = default_trial
    return trials_of


def run_part(part: str, trials: dict[tuple[str, str], Trial], trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Run the trials of a part; return its table in percent, by row and column."""
    if part == "heads":
        figures = trainer.run(trials["h", "kNN"], both=True)
        return {
            row: {"kNN": get_figure(figures, row), "linear": get_figure(figures, f"{row} linear")} for row in ("h", "z")
        }
    table: dict[str, dict[str, Any]] = {}
    for (row, column), trial in trials.items():
        accuracy = get_figure(trainer.run(trial))
        table.setdefault(row, {})[column] = accuracy
        if part == "figure5":
            table.setdefault(column, {})[row] = accuracy
    return table


TITLES = {
    "figure5": "Figure 5: pairs of operations on one view; single ones on the diagonal",
    "table5": "Table 5: temperature",
    "figure9": "Figure 9: batch and epochs",
    "heads": "h and z of one run",
}


def draw_table(title: str, rows: dict[str, dict[str, Any]]) -> Image.Image:
    """Draw a table of percent as an image, from the least (pale) to the most (blue)."""
    columns = list(next(iter(rows.values())))
    known = [value for row in rows.values() for value in row.values() if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    cell, left, top = (96, 56), 110, 84
    image = Image.new("RGB", (max(left + cell[0] * len(columns) + 24, 560), top + cell[1] * len(rows) + 24), "#fbfaf8")
    drawing, font, large_font = ImageDraw.Draw(image), ImageFont.load_default(14), ImageFont.load_default(18)
    drawing.text((24, 18), title, "#1d1f23", large_font)
    drawing.text((24, 44), "kNN accuracy on the test images, %", "#5f6670", ImageFont.load_default(12))
    for j, column in enumerate(columns):
        drawing.text((left + cell[0] * (j + 0.5), top - 10), column, "#5f6670", font, "mm")
    for i, (row, cells) in enumerate(rows.items()):
        y = top + cell[1] * i
        drawing.text((left - 12, y + cell[1] / 2), row, "#5f6670", font, "rm")
        for j, column in enumerate(columns):
            value, x = cells[column], left + cell[0] * j
            share = 0.0 if value is None or high == low else (value - low) / (high - low)
            tint = tuple(round(a + (b - a) * share) for a, b in zip((238, 243, 249), (31, 95, 174), strict=True))
            drawing.rectangle((x + 2, y + 2, x + cell[0] - 2, y + cell[1] - 2), tint)
            text = "-" if value is None else f"{value:.1f}"
            drawing.text(
                (x + cell[0] / 2, y + cell[1] / 2), text, "white" if share > 0.5 else "#1d1f23", large_font, "mm"
            )
    return image


def main() -> None:
    """Load the images, time one training, choose the epochs, run the trials, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-minutes", type=float, default=30.0)
    parser.add_argument("--backbone", default="narrow")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    for name, default in (("image-size", 32), ("train-images", 2000), ("test-images", 2000), ("batch-size", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.monotonic()
    prepare_folder(args.out)
    classes = take_census(args.images).classes
    if len(classes) < 2:
        parser.error(f"the folders in {args.images} are not classes")
    train_set = load_images(args.images, args.train_images, args.image_size, args.seed, classes)
    test_set = load_images(args.test, args.test_images, args.image_size, args.seed, classes)
    count = len(train_set.labels)
    args.batch_size = min(args.batch_size, count // 2)
    trainer = Trainer(train_set, test_set, args, start + 60 * args.budget_minutes)
    trials = {trial for part in plan_trials(args, 1000, count).values() for trial in part.values()}
    seconds = trainer.measure_seconds_per_image(next(iter(trials)))
    evaluation_seconds = len(trials) * seconds / TRAINING_COST * (count + len(test_set.labels))
    training_seconds = 60 * args.budget_minutes * TRAINING_SHARE - evaluation_seconds - (time.monotonic() - start)
    epochs = max(1, int(training_seconds / (seconds * count * sum(trial.epochs for trial in trials) / 1000)))
    print(f"{len(trials)} trainings of up to {epochs} epochs; {1e3 * seconds:.2f} ms an image", file=sys.stderr)
    results = {part: run_part(part, trials_of, trainer) for part, trials_of in plan_trials(args, epochs, count).items()}
    for part, rows in results.items():
        image = draw_table(TITLES[part], rows)
        write_file(args.out / f"{part}.png", lambda stream, image=image: image.save(stream, "PNG"))
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    figures = {
        **options,
        "images": count,
        "test_images": len(test_set.labels),
        "epochs": epochs,
        "chance": compute_percentage(test_set.labels == test_set.labels.bincount().argmax()),
        "minutes": round((time.monotonic() - start) / 60, 2),
        "results": results,
        **describe_machine(),
    }
    write_json(args.out / "paper.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
