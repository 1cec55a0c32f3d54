"""Images -> the classes that a classifier of ours takes them for, with probabilities."""

from __future__ import annotations

import dataclasses
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from simclr_cli.api import ClassProbability, Prediction, PredictResult, PredictSettings
from simclr_cli.core.errors import InputError, RunError, SettingsError
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import make_folder, write_csv, write_json
from simclr_cli.core.text import as_cell, as_words
from simclr_cli.encode.embed import embed_files
from simclr_cli.encode.load import ReadyEncoder, pick_device
from simclr_cli.encode.model_card import labels_from_config, spec_from_config
from simclr_cli.engine.classifier import split_classifier
from simclr_cli.images.threads import count_workers
from simclr_cli.search.queries import gather
from simclr_cli.store.models import read_model
from simclr_cli.store.run import find_classifier


def predict(settings: PredictSettings, *, report: Report = silent) -> PredictResult:
    """The most probable classes of every image given, each prepared as for `embed`.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    folder = settings.classifier or find_classifier(settings.run, settings.runs)
    ready, linear, labels = load_classifier(folder, pick_device(settings.device))
    if settings.out is not None:
        make_folder(settings.out.absolute().parent)  # before long work
    report(Note(f"Predicting by {folder}."))
    workers = count_workers(settings.workers)
    gathered, skipped = gather(settings.queries, workers, report, strict=False)
    paths = [path for some in gathered for path in some]
    h, unusable = embed_files(
        ready, paths, batch_size=settings.batch_size, workers=workers, report=report, stage="predicting"
    )
    skipped += [f"{paths[i]}: {unusable.reason}" for i, unusable in unusable.items()]
    if not len(h):
        raise InputError(f"No image could be decoded ({skipped[0]}).", "Give whole images.")
    with torch.inference_mode():
        probabilities = linear(torch.from_numpy(h)).softmax(dim=1)
    whole = [path for i, path in enumerate(paths) if i not in unusable]
    predictions = []
    for path, row in zip(whole, probabilities, strict=True):
        order = row.argsort(descending=True, stable=True)[: settings.top].tolist()  # ties in the classes' order
        likely = tuple(ClassProbability(labels[i], float(row[i])) for i in order)
        predictions.append(Prediction(str(path), likely[0].label, likely[0].probability, likely))
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


def load_classifier(folder: Path, device: torch.device) -> tuple[ReadyEncoder, nn.Linear, tuple[str, ...]]:
    """Load f, the linear classifier (on the CPU) and the names of its outputs from a folder that `finetune` wrote.

    Raises:
        RunError: it is none, or damaged, or of a newer version.
    """
    config, state = read_model(folder, "Make a classifier with: simclr finetune FOLDER")
    labels = labels_from_config(folder / "config.json", config)
    spec = spec_from_config(folder / "config.json", config)
    try:
        encoder, linear = split_classifier(spec, len(labels), state)
    except SettingsError as error:  # of the classifier's, not of what was typed
        raise RunError(error.what, error.remedy) from None
    checksum = config["simclr"]["model_checksum"]
    return ReadyEncoder(encoder.to(device), device, str(folder), checksum), linear, labels


def write_predictions(out: Path, result: PredictResult) -> None:
    """The whole result as JSON, or a table: path, label, probability, label_2, probability_2, ...

    In the table names and labels are as `names` writes them.
    """
    if out.suffix.lower() == ".json":
        return write_json(out, dataclasses.asdict(result))
    ranks = range(2, len(result.predictions[0].classes) + 1)
    columns = ["path", "label", "probability", *(f"{name}_{i}" for i in ranks for name in ("label", "probability"))]
    rows = []
    for one in result.predictions:
        cells = ((as_words(each.label), f"{each.probability:.6f}") for each in one.classes)
        rows.append([as_cell(one.path), *chain(*cells)])
    return write_csv(out, columns, rows)
