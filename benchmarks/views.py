"""Batched views against torchvision's views of single images: kNN accuracy after the same training.

    python benchmarks/views.py CIFAR [--train 5000 --test 10000 --epochs 12 --seeds 3]

CIFAR is a folder with train/<class>/* and test/<class>/*, 32 px. The arms differ only in the views: encoder, initial
weights, order of the images, loss and optimizer are the same. Prints one JSON object: kNN accuracy in percent on the
test images (k = 20 and 200) by arm and seed, and the difference of the means.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from simclr_cli.engine.augment import TwoViews, ViewRecipe
from simclr_cli.engine.encoder import EncoderSpec, create_encoder
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.optim import Schedule, create_optimizer, set_learning_rate
from simclr_cli.engine.probes import knn_votes
from simclr_cli.engine.simclr import ProjectionHead, SimCLR

SIZE, BATCH, TEMPERATURE, PEAK = 32, 128, 0.5, 0.002
# A ResNet-10 of a quarter of its width with the small stem, which learns CIFAR-10 on a CPU in minutes.
SPEC = EncoderSpec("resnet10t", SIZE, small_stem=True, model_args={"channels": (16, 32, 64, 128), "stem_width": 8})
TORCHVISION_VIEWS = v2.Compose(
    [
        v2.RandomResizedCrop(SIZE, scale=(0.08, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]),
    ]
)


def load(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """Return (N, 3, 32, 32) uint8 images and (N,) classes: the first by name, the same number of each class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, i) for i, c in enumerate(classes) for path in sorted(c.iterdir())[: count // len(classes)]]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([i for _, i in files])


def train(pixels: Tensor, arm: str, seed: int, epochs: int) -> SimCLR:
    """Train SimCLR on the views of one arm."""
    torch.manual_seed(seed)
    encoder = create_encoder(SPEC, seed=seed)
    model = SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=128)).train()
    optimizer = create_optimizer(model, "adamw", weight_decay=0.01)
    ours = TwoViews(SIZE, ViewRecipe(blur=0.0, strength=0.5))
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    sizes = torch.full((BATCH, 2), SIZE)
    steps, generator = len(pixels) // BATCH, torch.Generator().manual_seed(1000 + seed)
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(pixels)))
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            if arm == "ours":
                x = ours.make(pixels[rows], sizes, ours.draw(sizes, generator))
            else:
                x = torch.stack([TORCHVISION_VIEWS(images[i]) for _ in range(2) for i in rows])
            global_step, total = epoch * steps + step, epochs * steps
            set_learning_rate(optimizer, Schedule(PEAK, total, steps)(global_step))
            loss = contrastive_loss(model(x)[1], TEMPERATURE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Train every arm with every seed, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("train", 5000), ("test", 10000), ("epochs", 12), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    (pixels, labels), (test, test_labels) = (
        load(args.folder / "train", args.train),
        load(args.folder / "test", args.test),
    )
    scores: dict[str, dict[str, list[float]]] = {arm: {"knn_20": [], "knn_200": []} for arm in ("ours", "torchvision")}
    for seed in range(args.seeds):
        for arm, accuracies in scores.items():
            encoder = train(pixels, arm, seed, args.epochs).encoder
            h, h_test = (torch.cat([encoder.embed(part) for part in x.split(500)]) for x in (pixels, test))
            votes = knn_votes(h, labels, h_test, neighbors=(20, 200), temperature=0.07, classes=10)
            for name, class_votes in zip(accuracies, votes, strict=True):
                accuracies[name].append(
                    round(100 * (class_votes.argmax(dim=1) == test_labels).double().mean().item(), 2)
                )
    difference = {
        name: round(statistics.fmean(scores["ours"][name]) - statistics.fmean(scores["torchvision"][name]), 2)
        for name in ("knn_20", "knn_200")
    }
    figures = {"scores": scores, "ours_minus_torchvision": difference}
    print(json.dumps({**vars(args), "folder": str(args.folder), **figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
