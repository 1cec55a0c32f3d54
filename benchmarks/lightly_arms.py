"""The arms of lightly in benchmarks/cifar.py and probing.py, for a Python that has lightly and no simclr.

    python benchmarks/lightly_arms.py pretrain TRAIN --weights OUT.safetensors [--epochs 10 --seed 0 ...]
    python benchmarks/lightly_arms.py linear TRAIN --test TEST --weights IN.safetensors [--epochs 3 ...]

pretrain  SimCLR by lightly's parts and the settings of its CIFAR-10 benchmark (SGD, 0.06 * batch / 128, momentum 0.9,
          decay 5e-4, cosine, tau 0.5), without normalization, so that the weights fit the same preprocessing.
linear    lightly's LinearClassifier, by Lightning, on crops and flips; prints its top-1 and the seconds per epoch.

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


def create_backbone(args: argparse.Namespace) -> torch.nn.Module:
    """Create the same f as ours, with a stem that keeps the resolution at 32 px and below."""
    model = timm.create_model(args.backbone, num_classes=0)
    if args.image_size <= 32:
        first = model.conv1[0] if isinstance(model.conv1, torch.nn.Sequential) else model.conv1
        first.stride = (1, 1)  # only deep stems; a 7x7 stem would need another kernel
        assert first.kernel_size == (3, 3)
        model.maxpool = torch.nn.Identity()
    return model


class Training:
    """lightly's SimCLR, one optimizer step at a time."""

    def __init__(self, args: argparse.Namespace, total: int) -> None:
        self.f = create_backbone(args)
        width = self.f.num_features
        self.model = torch.nn.Sequential(self.f, SimCLRProjectionHead(width, width, 128)).train()
        rate = 0.06 * args.batch / 128
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate, 0.9, weight_decay=5e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)
        self.criterion = NTXentLoss(0.5)

    def step(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """Take one optimizer step, and return its loss."""
        loss = self.criterion(*self.model(torch.cat([first, second])).chunk(2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())


def pretrain(args: argparse.Namespace) -> dict[str, float]:
    """Train, and save f."""
    views = SimCLRTransform(input_size=args.image_size, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    loader = DataLoader(ImageFolder(args.train, views), args.batch, shuffle=True, drop_last=True,
                        num_workers=args.workers, persistent_workers=True)  # fmt: skip
    training = Training(args, args.epochs * len(loader))
    start, losses = time.perf_counter(), [0.0]
    for _ in range(args.epochs):
        losses = [training.step(first, second) for (first, second), _ in loader]
    seconds = time.perf_counter() - start
    save_file({name: value.contiguous() for name, value in training.f.state_dict().items()}, args.weights)
    return {"loss": sum(losses) / len(losses), "seconds": seconds}


def train_linear(args: argparse.Namespace) -> dict[str, float]:
    """Train lightly's linear classifier on a frozen f."""
    f = create_backbone(args)
    f.load_state_dict(load_file(args.weights))
    size = args.image_size
    crops = [transforms.RandomResizedCrop(size, antialias=True), transforms.RandomHorizontalFlip()]
    center_crop = [transforms.Resize(int(size / 0.875)), transforms.CenterCrop(size)] if size > 32 else []
    to_float = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True)]
    loaders = [
        DataLoader(ImageFolder(folder, transforms.Compose([*steps, *to_float])), 256, shuffle=shuffle,
                   num_workers=args.workers, persistent_workers=True)
        for folder, steps, shuffle in ((args.train, crops, True), (args.test, center_crop, False))
    ]  # fmt: skip
    classes = len(loaders[0].dataset.classes)
    module = LinearClassifier(f, 256, feature_dim=f.num_features, num_classes=classes, topk=(1, min(5, classes)))
    trainer = pytorch_lightning.Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(module, *loaders)
    seconds = time.perf_counter() - start
    return {
        "top_1": 100 * float(trainer.callback_metrics["val_top1"]),
        "seconds": seconds,
        "seconds_an_epoch": seconds / args.epochs,
    }


def main() -> None:
    """Run one arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=["pretrain", "linear"])
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="resnet10t")
    for name, default in (("image-size", 32), ("batch", 64), ("epochs", 10), ("seed", 0), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    figures = pretrain(args) if args.arm == "pretrain" else train_linear(args)
    print(json.dumps({**figures, "lightly": lightly.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
