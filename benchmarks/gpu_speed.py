"""Parts of benchmarks/gpu.py that measure speed: steps, CIFAR-10 for as long as there is time, minutes to a target."""

from __future__ import annotations

from machine import summarize  # before torch

# isort: split
import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpu_part import GIB, Figures, read_peak, reset_peak, synchronize
from PIL import Image
from step import Synthetic, link_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import Interrupted, is_out_of_memory
from simclr_cli.core.events import EpochDone, Event, Note, Report
from simclr_cli.core.files import prepare_folder
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.probes import DEFAULT_L2, knn_votes
from simclr_cli.images.cache import decode_images
from simclr_cli.images.loader import BatchLoader
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.loop import Training, build_model
from simclr_cli.train.plan import Circumstances, resolve

CASES = (("resnet18", 32, 512, 16), ("resnet50", 224, 256, 6))  # size, batch, steps an epoch
SMALL_CASES = (("test_resnet", 32, 16, 4), ("test_resnet", 64, 16, 4))
TIME_SHARES = {("off", 0): 0.1, ("off", 1): 0.15, ("on", 0): 0.3, ("on", 1): 0.85}  # of what is left, for a case
MIN_ROUNDS = 3
LOADER_WORKERS, LOADER_SECONDS = 16, 8
MAX_EPOCHS = 200  # as in lightly's figure
TARGET = 85  # percent


def create_training(figures: Figures, images: Path, report: Report, **given: Any) -> tuple[Training, float]:
    """Create the training of a run: `pretrain` without its plan, monitor and report.

    Returns:
        The training, and the seconds of its creation with the model on the device: nearly all of them for compiling.
    """
    workers, device = count_workers(), torch.device(figures.device)
    census = take_census(images, workers=workers)
    settings = ResolvedSettings(
        images=images, weights="none", held_out=0, device=figures.device, micro_batch=given["batch_size"],
        checkpoint_seconds=1e6, **given,
    )  # fmt: skip
    settings = resolve(settings, Circumstances(len(census.images), settings.image_size, device))[0]
    decoded = decode_images(census, settings.image_size, workers=workers, progress=lambda *_: None)
    run = RunFolder(figures.work / "trainings" / f"{time.monotonic_ns()}")
    prepare_folder(run.path)
    job = TrainingJob(run, settings, BatchLoader(decoded, settings.batch_size, settings.seed, device))
    model = build_model(settings).to(device)
    synchronize(figures.device)
    start = time.monotonic()
    training = Training(model, job, report)
    synchronize(figures.device)
    return training, time.monotonic() - start


def is_compiled(training: Training) -> bool:
    """Return False after a fallback."""
    return training.step.encode is not training.model.encoder


def steps(figures: Figures) -> None:
    """Time training, its step on one resident batch, plain eager torch, and a loop with torchvision's views."""
    torch.backends.cudnn.benchmark = True  # as training sets it: the loop comes first
    cases = SMALL_CASES if figures.small else CASES
    for (switch, index), share in TIME_SHARES.items():
        backbone, size, batch, count = cases[index]
        case = f"{backbone}, {size} px"
        images, loop = figures.work / f"images-{index}", f"{case}, torchvision loop"
        settings = {"backbone": backbone, "image_size": size, "batch_size": batch, "compile": switch}
        if switch == "off":
            link_images(figures.photos if size > 32 else figures.cifar / "train", batch * count, images)
            figures.measure(loop, time_torchvision_loop, figures, images, settings)
        name, end = f"{case}, compile {switch}", time.monotonic() + share * figures.seconds_left()
        rate = figures.values[loop].get("images_per_second", {}).get("median")
        figures.measure(name, time_case, figures, name, images, end, settings, rate)
        torch._dynamo.reset()


def time_case(
    figures: Figures, name: str, images: Path, end: float, given: dict[str, Any], loop_rate: float | None
) -> dict[str, Any]:
    """Train for some epochs, and time the other arms in between, until `end`."""
    rates: dict[str, list[float]] = {"training": [], "synthetic": [], "plain eager": []}
    arms: dict[str, Synthetic] = {}
    found: dict[str, Any] = {"notes": []}
    device = torch.device(figures.device)

    def time_other_arms(event: Event) -> None:
        if isinstance(event, Note):
            found["notes"].append(event.text)
        if not isinstance(event, EpochDone):
            return
        if not arms:  # the first epoch is warm-up; no other arm has taken memory until here
            found.update(peak_gib=read_peak(figures.device), first_epoch_seconds=round(event.seconds, 2))
            arms["synthetic"] = Synthetic(training.settings, device, training.step)
            arms["plain eager"], found["plain_batch"] = create_plain(training.settings, device)
        elif event.epoch % 2:  # the epoch before used the batches that were loaded while other arms ran
            rates["training"].append(event.images_per_second)
            for arm_name, arm in arms.items():
                rates[arm_name].append(arm.run(training.steps_per_epoch))
            found["images_per_second"] = {arm: summarize(values, 1) for arm, values in rates.items()}
            for a, b in (("training", "synthetic"), ("synthetic", "plain eager"), ("training", "plain eager")):
                found[f"{a} over {b}"] = summarize([x / y for x, y in zip(rates[a], rates[b], strict=True)])
            if loop_rate is not None:
                found["training over torchvision loop"] = summarize([x / loop_rate for x in rates["training"]])
            # 1: none was compiled again
            found["graphs"] = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
        figures.add(**{name: found})
        if len(rates["training"]) >= MIN_ROUNDS and time.monotonic() > end:
            raise Interrupted("", "")

    reset_peak(figures.device)
    if figures.device != "cpu":
        found["allocated_before_gib"] = round(torch.cuda.memory_allocated(device) / GIB, 3)
    torch._dynamo.utils.counters.clear()
    figures.add(**{name: found})  # if the compiler does not come back
    training, seconds = create_training(figures, images, time_other_arms, epochs=1000, **given)
    found |= {"compiled": is_compiled(training), "compile_seconds": round(seconds, 1), "batch": given["batch_size"],
              "precision": training.settings.precision, "optimizer": training.settings.optimizer}  # fmt: skip
    figures.add(**{name: found})
    with contextlib.suppress(Interrupted):
        training.run()
    return found


def create_plain(settings: ResolvedSettings, device: torch.device) -> tuple[Synthetic, int]:
    """Create the step of plain torch, at half of the batch and so on if the memory is too small; return the batch."""
    batch = settings.batch_size
    while True:
        try:
            return Synthetic(dataclasses.replace(settings, batch_size=batch), device, None), batch
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch < 4:
                raise
        batch //= 2
        torch.cuda.empty_cache()


class TwoViewsByTorchvision(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each file, one image at a time, with the operations and settings of lightly's SimCLRTransform."""

    def __init__(self, files: list[Path], size: int) -> None:
        s = 0.5 if size <= 32 else 1.0
        blur = transforms.GaussianBlur(size // 10 // 2 * 2 + 1, (0.1, 2.0))
        self.files = files
        self.view = transforms.Compose([
            transforms.RandomResizedCrop(size, scale=(0.08, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([blur], 0.0 if size <= 32 else 0.5),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        return self.view(image), self.view(image)


def stack_arrays(items: list[tuple[Tensor, Tensor]]) -> list[np.ndarray]:
    """Stack the first and the second views as arrays, which a worker sends through its pipe."""
    return [torch.stack(views).numpy() for views in zip(*items, strict=True)]


def time_torchvision_loop(figures: Figures, images: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Time the loop of lightly's examples: torchvision's views in a DataLoader, and the plain eager step."""
    device, size = torch.device(figures.device), given["image_size"]
    settings = ResolvedSettings(images=images, weights="none", device=figures.device, **given)
    reset_peak(figures.device)
    plain, batch = create_plain(resolve(settings, Circumstances(10_000, size, device))[0], device)
    workers, seconds = (2, 1) if figures.small else (LOADER_WORKERS, LOADER_SECONDS)
    files = sorted(images.iterdir()) * 200  # it must not end: each batch is the work of one worker
    # The batches that wait are in shared memory, or, where that is small, in pipes, which are slower.
    shared_bytes = shutil.disk_usage("/dev/shm").free
    in_pipes = shared_bytes < 3 * workers * batch * 2 * 3 * size**2 * 4
    loader = DataLoader(TwoViewsByTorchvision(files, size), batch, shuffle=True, num_workers=workers,
                        pin_memory=device.type == "cuda", collate_fn=stack_arrays if in_pipes else None)  # fmt: skip
    rates: list[float] = []
    counted, start, end = 0, time.perf_counter(), time.monotonic() + seconds
    for number, views in enumerate(loader, start=1):
        loss = plain.update(torch.cat([torch.as_tensor(view).to(device, non_blocking=True) for view in views]))
        is_late = time.monotonic() > end + 2 * seconds  # of few cores
        if number % workers == 0 or is_late:  # a batch of every worker; the first ones are warm-up
            float(loss)  # waits for the device
            rates.append((number - counted) * batch / (time.perf_counter() - start))
            counted, start = number, time.perf_counter()
            if is_late or (len(rates) > 1 and time.monotonic() > end):
                break
    return {"images_per_second": summarize(rates[1:] or rates, 1), "workers": workers, "batch": batch,
            "in_pipes": in_pipes}  # fmt: skip


Labeled = tuple[Tensor, Tensor]  # (N, 3, 32, 32) uint8 pixels and (N,) labels, on the device


def load_cifar(figures: Figures, part: str) -> Labeled:
    """Return the images of a part, train or test."""
    census = take_census(figures.cifar / part, workers=count_workers())
    decoded = decode_images(census, 32, workers=count_workers(), progress=lambda *_: None)
    labels = [decoded.census.classes.index(label) for label in decoded.census.labels if label is not None]
    pixels = torch.from_numpy(decoded.read(np.arange(len(decoded))))
    return pixels.to(figures.device), torch.tensor(labels, device=figures.device)


def score(encoder: Encoder, sets: tuple[Labeled, Labeled], *, linear: bool = True) -> dict[str, float]:
    """Return kNN (k = 20, 200) and linear accuracy in percent of h, computed where the pixels are."""
    encoder.eval()
    (train, labels), (test, test_labels) = (
        (torch.cat([encoder.embed(part) for part in pixels.split(1000)]).clone(), y) for pixels, y in sets
    )
    encoder.train()
    classes = int(labels.max()) + 1
    votes = knn_votes(train, labels, test, neighbors=(20, 200), temperature=0.07, classes=classes)
    scores = {"knn_20": votes[0], "knn_200": votes[1]}
    if linear:
        scores["linear"] = compute_linear_logits(train, labels, test, classes)
    correct = {name: values.argmax(1) == test_labels for name, values in scores.items()}
    return {name: round(100 * float(values.float().mean()), 2) for name, values in correct.items()}


def compute_linear_logits(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Return the logits of multinomial logistic regression on standardized columns, as `simclr probe` fits it."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    x, layer = (train - mean) / std, torch.nn.Linear(train.shape[1], classes, device=train.device)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(x), labels) + DEFAULT_L2 / 2 / len(x) * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(evaluate)
    with torch.no_grad():
        return layer((test - mean) / std)


class CifarTraining:
    """Trainings of ResNet-18 on CIFAR-10, by one recipe."""

    def __init__(self, figures: Figures, **recipe: Any) -> None:
        """Load the images, measure the pace of an epoch, and score an untrained encoder."""
        self.figures = figures
        self.recipe = {"backbone": "resnet18", "image_size": 32, "batch_size": 512, "optimizer": "lars",
                       "weight_decay": 1e-4, **recipe}  # fmt: skip
        if figures.small:
            self.recipe |= {"backbone": "test_resnet", "batch_size": 64, "compile": "off"}
        self.sets = load_cifar(figures, "train"), load_cifar(figures, "test")
        pace: list[float] = []

        def record(_: Training, event: EpochDone) -> bool:
            pace.append(event.seconds)
            return len(pace) == 2  # the first is warm-up

        trial = self.run(MAX_EPOCHS, record)
        self.epoch_seconds = pace[-1]
        figures.add(train_images=len(self.sets[0][1]), test_images=len(self.sets[1][1]), recipe=self.recipe,
                    epoch_seconds=round(self.epoch_seconds, 3), compiled=is_compiled(trial),
                    precision=trial.settings.precision)  # fmt: skip
        untrained = build_model(trial.settings).encoder.to(figures.device)
        figures.measure("untrained", score, untrained, self.sets)
        self.scoring_seconds = figures.values["untrained"]["took_seconds"]

    def run(self, epochs: int, is_done: Callable[[Training, EpochDone], bool]) -> Training:
        """Train until `is_done` returns True after an epoch, or to the last epoch."""

        def report(event: Event) -> None:
            if isinstance(event, Note):
                self.figures.add(notes=[*self.figures.values.get("notes", []), event.text])
            if isinstance(event, EpochDone) and is_done(training, event):
                raise Interrupted("", "")

        training, _ = create_training(self.figures, self.figures.cifar / "train", report, epochs=epochs, **self.recipe)
        with contextlib.suppress(Interrupted):
            training.run()
        return training

    def plan_epochs(self, seconds_for_others: float) -> int:
        """Return how many epochs fit into the time that is left."""
        seconds = self.figures.seconds_left() - seconds_for_others
        return max(1, min(MAX_EPOCHS, int(seconds / (1.03 * self.epoch_seconds))))


def cifar(figures: Figures) -> None:
    """Train for as many epochs as fit, and score the encoder before and after."""
    trainings = CifarTraining(figures, compile="off")
    reserve = 2 * trainings.scoring_seconds + trainings.epoch_seconds + 5  # a stop waits for the end of an epoch
    epochs = trainings.plan_epochs(reserve)
    rows: list[EpochDone] = []
    start = time.monotonic()

    def record(_: Training, event: EpochDone) -> bool:
        rows.append(event)
        figures.add(epochs=len(rows), planned_epochs=epochs, losses=[round(row.loss, 4) for row in rows],
                    images_per_second=summarize([row.images_per_second for row in rows], 1),
                    training_seconds=round(time.monotonic() - start, 1))  # fmt: skip
        return figures.seconds_left() < reserve

    training = trainings.run(epochs, record)
    figures.measure("trained", score, training.model.encoder, trainings.sets)


def speed(figures: Figures) -> None:
    """Train with settings for speed until kNN (k = 20 or 200) reaches the target; the time of scoring is left out."""
    trainings = CifarTraining(figures, compile="on", temperature=0.2, crop_min=0.2)
    # Another compilation, and a score after each twentieth of the epochs.
    epochs = trainings.plan_epochs(30 + 20 * trainings.scoring_seconds)
    curve: list[dict[str, Any]] = []
    start, scoring_seconds = time.monotonic(), 0.0

    def record(training: Training, event: EpochDone) -> bool:
        nonlocal scoring_seconds
        is_late = figures.seconds_left() < 2 * trainings.scoring_seconds + trainings.epoch_seconds
        if event.epoch % max(1, epochs // 20) and event.epoch < epochs and not is_late:
            return False
        begin = time.monotonic()
        accuracy = score(training.model.encoder, trainings.sets, linear=False)
        minutes = round((begin - start - scoring_seconds) / 60, 3)
        scoring_seconds += time.monotonic() - begin
        curve.append({"epoch": event.epoch, "minutes": minutes, "loss": round(event.loss, 4), **accuracy})
        is_reached = max(accuracy.values()) >= TARGET
        figures.add(epochs=epochs, target=TARGET, minutes_to_target=minutes if is_reached else None, curve=curve)
        return is_reached or is_late

    trainings.run(epochs, record)
