"""lightly's arms of benchmarks/cifar.py and benchmarks/probing.py, run by a Python that has lightly (and no simclr).

    python benchmarks/lightly_arms.py pretrain TRAIN --weights OUT.safetensors [--epochs 10 --seed 0 ...]
    python benchmarks/lightly_arms.py linear TRAIN --test TEST --weights IN.safetensors [--epochs 3 ...]

pretrain  SimCLR by lightly's parts and the settings of its CIFAR-10 benchmark (SGD, 0.06 * batch / 128, momentum 0.9,
          decay 5e-4, cosine, tau 0.5), without normalization, so that the weights stand for the same preprocessing.
linear    lightly's LinearClassifier, by Lightning, on crops and flips; prints its top-1 and the seconds an epoch takes.

Each prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import lightly
import pytorch_lightning
import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.utils.benchmarking import LinearClassifier
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2 as transforms


def backbone(given: argparse.Namespace) -> torch.nn.Module:
    """The same f as ours: at 32 px and below a stem that keeps the resolution."""
    model = timm.create_model(given.backbone, num_classes=0)
    if given.image_size <= 32:
        first = model.conv1[0] if isinstance(model.conv1, torch.nn.Sequential) else model.conv1
        first.stride = (1, 1)  # deep stems only: a 7x7 one would have to be another
        assert first.kernel_size == (3, 3)
        model.maxpool = torch.nn.Identity()
    return model


class Training:
    """lightly's SimCLR, one optimizer step at a time."""

    def __init__(self, given: argparse.Namespace, total: int) -> None:
        self.f = backbone(given)
        width = self.f.num_features
        self.model = torch.nn.Sequential(self.f, SimCLRProjectionHead(width, width, 128)).train()
        rate = 0.06 * given.batch / 128
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate, 0.9, weight_decay=5e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)
        self.criterion = NTXentLoss(0.5)

    def step(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """One update; its loss."""
        loss = self.criterion(*self.model(torch.cat([first, second])).chunk(2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())


def pretrain(given: argparse.Namespace) -> dict[str, float]:
    """Train, and save f."""
    views = SimCLRTransform(input_size=given.image_size, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    loader = DataLoader(ImageFolder(given.train, views), given.batch, shuffle=True, drop_last=True,
                        num_workers=given.workers, persistent_workers=True)  # fmt: skip
    training = Training(given, given.epochs * len(loader))
    began, losses = time.perf_counter(), [0.0]
    for _ in range(given.epochs):
        losses = [training.step(first, second) for (first, second), _ in loader]
    took = time.perf_counter() - began
    save_file({name: value.contiguous() for name, value in training.f.state_dict().items()}, given.weights)
    return {"loss": sum(losses) / len(losses), "seconds": took}


def linear(given: argparse.Namespace) -> dict[str, float]:
    """Train lightly's linear classifier on a frozen f."""
    f = backbone(given)
    f.load_state_dict(load_file(given.weights))
    size = given.image_size
    crops = [transforms.RandomResizedCrop(size, antialias=True), transforms.RandomHorizontalFlip()]
    middle = [transforms.Resize(int(size / 0.875)), transforms.CenterCrop(size)] if size > 32 else []
    as_floats = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True)]
    loaders = [
        DataLoader(ImageFolder(folder, transforms.Compose([*steps, *as_floats])), 256, shuffle=shuffle,
                   num_workers=given.workers, persistent_workers=True)
        for folder, steps, shuffle in ((given.train, crops, True), (given.test, middle, False))
    ]  # fmt: skip
    classes = len(loaders[0].dataset.classes)
    module = LinearClassifier(f, 256, feature_dim=f.num_features, num_classes=classes, topk=(1, min(5, classes)))
    trainer = pytorch_lightning.Trainer(
        max_epochs=given.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    began = time.perf_counter()
    trainer.fit(module, *loaders)
    took = time.perf_counter() - began
    return {
        "top_1": 100 * float(trainer.callback_metrics["val_top1"]),
        "seconds": took,
        "seconds_an_epoch": took / given.epochs,
    }


def main() -> None:
    """One arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=["pretrain", "linear"])
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="resnet10t")
    for name, default in (("image-size", 32), ("batch", 64), ("epochs", 10), ("seed", 0), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    found = pretrain(given) if given.arm == "pretrain" else linear(given)
    print(json.dumps({**found, "lightly": lightly.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
