"""The paper's own experiments in small, on any pictures in class folders: what it found, found again or not.

    python benchmarks/paper.py TRAIN TEST [--budget-minutes 12] [--pictures 2000] [--only figure5 table5 figure9 heads]
                               [--out FOLDER]

figure5   which pairs of operations make good views (Figure 5): one branch is left as it is, the other gets the pair
table5    the temperature, with normalised z (Table 5)
figure9   the batch by the epochs (Figure 9)
heads     h beside z (section 4.2, Figure 8)

One small training is timed first, and the epochs follow from the budget. Every training is scored by the quick linear
probe and kNN (k = 20) on TEST. Prints one JSON object; with --out writes it there, and a page of the figures.

Departures: the paper's ImageNet is cropped to one size first in both branches, these pictures have one size already; of
its operations those that simclr has (no cutout, noise or Sobel); AdamW at 0.002 sqrt(batch / 128); one seed.
"""

from __future__ import annotations

from machine import describe_machine  # before torch: see there

# isort: split
import argparse
import itertools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor
from views import SIZE, SPEC, load

from simclr_cli.engine.accuracy import percent
from simclr_cli.engine.encoder import create_encoder
from simclr_cli.engine.loss import nt_xent
from simclr_cli.engine.model import ProjectionHead, SimCLR
from simclr_cli.engine.optim import create_optimizer, learning_rate, set_learning_rate
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.engine.views import ViewRecipe, draw_parameters, make_view
from simclr_cli.files import make_folder, write_bytes
from simclr_cli.pages.charts import Curve, line_chart
from simclr_cli.pages.page import Section, page

OPERATIONS: dict[str, dict[str, Any]] = {
    "crop": {"crop_area": (0.08, 1.0), "crop_aspect": (3 / 4, 4 / 3)},
    "colour": {"jitter": 0.8, "grey": 0.2, "strength": 0.5},
    "blur": {"blur": 0.5},
    "turn": {"turn": 1.0},
}
NOTHING: dict[str, Any] = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grey": 0.0,
                           "blur": 0.0}  # fmt: skip
IDENTITY = ViewRecipe(**NOTHING)
USUAL = ViewRecipe(blur=0.0, strength=0.5)  # the paper's CIFAR recipe, for both branches
TEMPERATURES = (0.05, 0.1, 0.5, 1.0)
BATCHES = (32, 64, 128, 256)
BATCH, TEMPERATURE, RATE = 128, 0.5, 0.002


class Laboratory:
    """Some pictures, and small trainings on them."""

    def __init__(self, train: Path, test: Path, pictures: int, tests: int) -> None:
        self.pixels, self.labels = load(train, pictures)
        self.test, self.truth = load(test, tests)
        self.classes = int(self.labels.max()) + 1
        self.validation = torch.from_numpy(np.random.default_rng(0).random(len(self.labels)) < 0.2)

    def train(
        self, epochs: int, *, views: tuple[ViewRecipe, ViewRecipe] = (USUAL, USUAL), batch: int = BATCH,
        temperature: float = TEMPERATURE,
    ) -> SimCLR:  # fmt: skip
        """SimCLR for some epochs; each branch has its recipe."""
        encoder = create_encoder(SPEC, seed=0)
        torch.manual_seed(0)
        model = SimCLR(encoder, ProjectionHead(encoder.width)).train()
        optimizer = create_optimizer(model, "adamw", weight_decay=0.01)
        sizes, generator = torch.full((batch, 2), SIZE), torch.Generator().manual_seed(1)
        steps, peak = len(self.pixels) // batch, RATE * math.sqrt(batch / 128)
        for step in range(epochs * steps):
            if step % steps == 0:
                order = torch.from_numpy(np.random.default_rng(step // steps).permutation(len(self.pixels)))
            pixels = self.pixels[order[step % steps * batch : (step % steps + 1) * batch]]
            x = torch.cat([make_view(pixels, sizes, draw_parameters(sizes, recipe, generator), SIZE)
                           for recipe in views])  # fmt: skip
            rate = learning_rate(step, total_steps=epochs * steps, warmup_steps=steps // 2, peak=peak)
            set_learning_rate(optimizer, rate)
            loss = nt_xent(model(x)[1], temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    def represent(self, model: SimCLR, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """h and z of whole pictures."""
        h = torch.cat([model.encoder.represent(part) for part in pixels.split(500)])
        with torch.inference_mode():
            return h, model.head(h)

    def score(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Linear and kNN accuracy of some representation, in percent."""
        probe = fit_probe(train, self.labels, classes=self.classes, validation=self.validation)
        (votes,) = knn_votes(train, self.labels, test, neighbours=(20,), temperature=0.07, classes=self.classes)
        right = {"linear": probe.scores(test), "knn": votes}
        return {name: round(percent(scores.argmax(dim=1) == self.truth), 2) for name, scores in right.items()}

    def scored(self, epochs: int, **how: Any) -> dict[str, float]:
        """Train, and score h."""
        model = self.train(epochs, **how)
        found = self.score(self.represent(model, self.pixels)[0], self.represent(model, self.test)[0])
        print(json.dumps({**{name: str(value)[:60] for name, value in how.items()}, **found}), file=sys.stderr)
        return found


def figure5(laboratory: Laboratory, epochs: int) -> dict[str, Any]:
    """Every operation alone, and every pair: "crop", "crop + colour", ..."""
    found = {}
    for count in (1, 2):
        for chosen in itertools.combinations(OPERATIONS, count):
            asked = dict(NOTHING)
            for name in chosen:
                asked |= OPERATIONS[name]
            found[" + ".join(chosen)] = laboratory.scored(epochs, views=(ViewRecipe(**asked), IDENTITY))
    return found


def table5(laboratory: Laboratory, epochs: int) -> dict[str, Any]:
    """By temperature."""
    return {str(tau): laboratory.scored(epochs, temperature=tau) for tau in TEMPERATURES}


def figure9(laboratory: Laboratory, epochs: int) -> dict[str, Any]:
    """By epochs and batch: half, all and twice the epochs."""
    return {
        str(count): {str(batch): laboratory.scored(count, batch=batch) for batch in BATCHES}
        for count in (max(1, epochs // 2), epochs, 2 * epochs)
    }


def heads(laboratory: Laboratory, epochs: int) -> dict[str, Any]:
    """h, z and h before any training."""
    found = {}
    for name, count in (("untrained", 0), ("trained", 2 * epochs)):
        model = laboratory.train(count)
        train, test = laboratory.represent(model, laboratory.pixels), laboratory.represent(model, laboratory.test)
        found[name] = {kind: laboratory.score(a, b) for kind, a, b in zip(("h", "z"), train, test, strict=True)}
    return found


EXPERIMENTS = {"figure5": figure5, "table5": table5, "figure9": figure9, "heads": heads}
COSTS = {"figure5": 10, "table5": 4, "figure9": 14, "heads": 2.5}  # in trainings of so many epochs


def shown(figures: dict[str, Any]) -> str:
    """A page of what came out."""
    sections = []
    if found := figures.get("figure5"):
        names = list(OPERATIONS)
        cells = [
            [found.get(" + ".join(n for n in names if n in (a, b)), {}).get("linear") for b in names] for a in names
        ]
        best = max(cell for row in cells for cell in row)
        least = min(cell for row in cells for cell in row)
        rows = Markup("").join(
            Markup("<tr><th>{}</th>{}</tr>").format(name, Markup("").join(
                Markup('<td style="background: rgba(22, 98, 170, {})">{}</td>').format(
                    f"{0.7 * (cell - least) / max(best - least, 1e-9):.2f}", f"{cell:.1f}") for cell in row))
            for name, row in zip(names, cells, strict=True)
        )  # fmt: skip
        head = Markup("").join(Markup("<th>{}</th>").format(name) for name in names)
        table = Markup("<table><tr><th></th>{}</tr>{}</table>").format(head, rows)
        sections.append(Section("Pairs of operations (Figure 5)", "Linear accuracy in percent; alone on the diagonal.",
                                table))  # fmt: skip
    if found := figures.get("table5"):
        chart = line_chart("Temperature x 100", [round(100 * float(tau)) for tau in found],
                           [Curve(kind, [row[kind] for row in found.values()]) for kind in ("linear", "knn")],
                           unit=" %")  # fmt: skip
        sections.append(Section("Temperature (Table 5)", "Accuracy by tau.", chart))
    if found := figures.get("figure9"):
        curves = [Curve(f"{epochs} epochs", [row["linear"] for row in by.values()]) for epochs, by in found.items()]
        chart = line_chart("Batch", [int(batch) for batch in next(iter(found.values()))], curves, unit=" %")
        sections.append(Section("Batch by epochs (Figure 9)", "Linear accuracy by the batch.", chart))
    if found := figures.get("heads"):
        rows = Markup("").join(
            Markup("<tr><th>{} {}</th><td>{}</td><td>{}</td></tr>").format(name, kind, row["linear"], row["knn"])
            for name, by in found.items() for kind, row in by.items()
        )  # fmt: skip
        table = Markup("<table><tr><th></th><th>linear %</th><th>kNN %</th></tr>{}</table>").format(rows)
        sections.append(Section("h and z (section 4.2)", "The representation before the head, and after it.", table))
    return page("The paper's experiments, in small", sections)


def main() -> None:
    """Time one training, choose the epochs, run the experiments, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--budget-minutes", type=float, default=12)
    for name, default in (("pictures", 2000), ("tests", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    laboratory = Laboratory(given.train, given.test, given.pictures, given.tests)
    laboratory.train(1)
    began = time.perf_counter()
    laboratory.train(1)
    an_epoch = time.perf_counter() - began
    laboratory.scored(0)
    scoring = time.perf_counter() - began - an_epoch
    trainings = sum(COSTS[name] for name in given.only)
    epochs = max(2, int((60 * given.budget_minutes / trainings - scoring) / an_epoch))
    figures: dict[str, Any] = {name: EXPERIMENTS[name](laboratory, epochs) for name in given.only}
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    told = {
        **said,
        "epochs": epochs,
        "batch": BATCH,
        "temperature": TEMPERATURE,
        "seconds_an_epoch": round(an_epoch, 2),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        **figures,
        **describe_machine(),
    }
    print(json.dumps(told, indent=1))
    if given.out:
        make_folder(given.out)
        write_bytes(given.out / "paper.json", (json.dumps(told, indent=1) + "\n").encode())
        write_bytes(given.out / "paper.html", shown(figures).encode())


if __name__ == "__main__":
    main()
