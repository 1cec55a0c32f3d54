"""`simclr predict`: the most probable classes of images by a classifier of `finetune`."""

from __future__ import annotations

import dataclasses
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from simclr_cli.api import ClassProbability, Prediction, PredictResult, PredictSettings
from simclr_cli.core.errors import InputError, RunError, SettingsError
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import prepare_folder, write_csv, write_json
from simclr_cli.core.safe_read import read_json
from simclr_cli.core.text import escape_name_for_csv, escape_value_for_csv
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.embed import embed_files
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.encode.model_card import parse_spec
from simclr_cli.engine.classifier import split_classifier
from simclr_cli.images.threads import count_workers
from simclr_cli.search.queries import collect_images
from simclr_cli.store.models import CLASSIFIER_REMEDY, parse_class_names, read_model
from simclr_cli.store.run import find_classifier


def predict(settings: PredictSettings, *, report: Report = silent) -> PredictResult:
    """Predict the classes of images, which are cropped as for `embed`.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    folder = settings.classifier or find_classifier(settings.run, settings.runs)
    ready, linear, labels = load_classifier(folder, resolve_device(settings.device, report=report))
    if settings.out is not None:
        prepare_folder(settings.out.absolute().parent)  # before long work
    report(Note(f"Predicting with {folder}."))
    if caution := describe_caution(folder):
        report(Note(caution, warning=True))
    workers = count_workers(settings.workers)
    images, skipped = collect_images(settings.queries, workers, report, strict=False)
    paths = list(chain(*images))
    h, unusable = embed_files(
        ready, paths, ready.encoder.spec.bits,
        batch_size=settings.batch_size, workers=workers, report=report, stage="predicting",
    )  # fmt: skip
    skipped += [f"{paths[i]}: {unusable.reason}" for i, unusable in unusable.items()]
    if not len(h):
        raise InputError(f"No image could be decoded ({skipped[0]}).", "Use images that open in an image viewer.")
    with torch.inference_mode():
        probabilities = linear(torch.from_numpy(h)).softmax(dim=1)
    decoded = [path for i, path in enumerate(paths) if i not in unusable]
    predictions = []
    for path, row in zip(decoded, probabilities, strict=True):
        order = row.argsort(descending=True, stable=True)[: settings.top].tolist()  # ties in the classes' order
        top = tuple(ClassProbability(labels[i], float(row[i])) for i in order)
        predictions.append(Prediction(str(path), top[0].label, top[0].probability, top))
    result = PredictResult(
        classifier=str(folder),
        model_checksum=ready.checksum,
        labels=labels,
        predictions=tuple(predictions),
        skipped=tuple(skipped),
        out=str(settings.out) if settings.out else None,
    )
    if settings.out is not None:
        write_predictions(settings.out, result)
    return result


def load_classifier(folder: Path, device: torch.device) -> tuple[LoadedEncoder, nn.Linear, tuple[str, ...]]:
    """Load encoder, linear classifier (on the CPU) and class names from a folder of `finetune`.

    Raises:
        RunError: the folder is not a classifier's, damaged, or of a newer version.
    """
    config, state = read_model(folder, CLASSIFIER_REMEDY)
    labels = parse_class_names(folder / "config.json", config)
    spec = parse_spec(folder / "config.json", config)
    try:
        encoder, linear = split_classifier(spec, len(labels), state)
    except SettingsError as error:  # in the classifier's files, not in the command
        raise RunError(error.problem, error.remedy) from None
    checksum = config["simclr"]["model_checksum"]
    return LoadedEncoder(encoder.to(device), device, str(folder), checksum), linear, labels


def describe_caution(folder: Path) -> str:
    """Return a sentence to show with predictions of a classifier that is not clearly better than chance, else ""."""
    try:
        training = read_json(folder / "config.json")["simclr"]["training"]
        accuracy, low, chance = training["accuracy"]["top_1"], training["accuracy"]["low"], training["chance"]
        return (
            ""
            if low > chance
            else (
                f"Predictions may mean little: the classifier was right about {accuracy:.0f} % of its held-out images "
                f"(95 % interval from {low:.0f} %), as always predicting one class is about {chance:.0f} %."
            )
        )
    except (OSError, ValueError, KeyError, TypeError):  # made without simclr
        return ""


def write_predictions(out: Path, result: PredictResult) -> None:
    """Write the whole result as JSON, or a CSV: path, label, probability, label_2, probability_2, ...

    The CSV has names and labels as `core.text` escapes them.
    """
    if out.suffix.lower() == ".json":
        return write_json(out, dataclasses.asdict(result))
    ranks = range(2, len(result.predictions[0].classes) + 1)
    columns = ["path", "label", "probability", *(f"{name}_{i}" for i in ranks for name in ("label", "probability"))]
    rows = []
    for prediction in result.predictions:
        cells = ((escape_value_for_csv(top.label), f"{top.probability:.6f}") for top in prediction.classes)
        rows.append([escape_name_for_csv(prediction.path), *chain(*cells)])
    return write_csv(out, columns, rows)
