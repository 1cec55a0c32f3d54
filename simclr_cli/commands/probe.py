"""`simclr probe`: kNN and linear probe of an encoder and its baselines on held-out images."""

from __future__ import annotations

import dataclasses

from simclr_cli.api import ProbeResult, ProbeSettings
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import prepare_folder, write_bytes, write_json
from simclr_cli.encode.load import resolve_encoder
from simclr_cli.evaluate.analysis import (
    count_confusions,
    list_label_errors,
    probe_few_labels,
    score_classes,
    write_verdict,
)
from simclr_cli.evaluate.baselines import load_baselines, name_representation
from simclr_cli.evaluate.comparison import compare_encoders
from simclr_cli.images.labels import read_labeled_images
from simclr_cli.images.threads import count_workers
from simclr_cli.pages.confusion_matrix import draw_confusion_matrix


def probe(settings: ProbeSettings, *, report: Report = silent) -> ProbeResult:
    """Score an encoder and its baselines.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    ready = resolve_encoder(settings, report=report)
    root = settings.images or ready.images
    report(Note(f"Probing {ready.name} on {root}."))
    images = read_labeled_images(root, settings, count_workers(settings.workers), report)
    if images.held_out is None and ready.was_trained_on(root):
        report(Note("The held-out images were also used for pretraining, without their labels."))
    encoders = load_baselines(ready, settings, report)
    if not ready.name.startswith("random:"):  # otherwise the encoder is the untrained baseline itself
        encoders = {name_representation(ready): ready, **encoders}
    folder = settings.out or (ready.run.probe_folder if ready.run else None)
    if folder is not None:
        prepare_folder(folder)  # before long work
    comparison = compare_encoders(encoders, images, settings, linear=True, report=report)
    scores, first = comparison.compute_scores(settings.seed), comparison.first
    label_errors, label_errors_note = list_label_errors(comparison, settings.seed)
    result = ProbeResult(
        encoder=ready.name,
        train_images=len(first.train.labels),
        test_images=len(first.test.labels),
        classes=comparison.classes,
        chance=comparison.chance,
        scores=scores,
        split=images.split,
        knn_temperature=settings.knn_temperature,
        skipped=comparison.skipped,
        model_checksum=ready.checksum,
        protocol=settings.protocol,
        verdict=write_verdict(scores, len(first.test.labels)),
        per_class=score_classes(first, comparison.classes),
        confusion=count_confusions(first, comparison.classes),
        label_errors=label_errors,
        label_errors_note=label_errors_note,
        few_labels=probe_few_labels(comparison, settings, report),
        folder=str(folder) if folder else None,
    )
    if folder is not None:
        write_bytes(folder / "confusion.png", draw_confusion_matrix(result.classes, result.confusion))
        write_json(folder / "probe.json", dataclasses.asdict(result))
    return result
