"""How good is an encoder where labels exist: kNN and linear probe on held-out images, beside all it must beat."""

from __future__ import annotations

import dataclasses

from simclr_cli.api import ProbeResult, ProbeSettings
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import make_folder, write_bytes, write_json
from simclr_cli.encode.load import ready_encoder
from simclr_cli.evaluate.analysis import confusion, few_labels, likely_mislabeled, per_class, verdict
from simclr_cli.evaluate.baselines import baselines
from simclr_cli.evaluate.comparison import compare
from simclr_cli.images.labels import read_labelled
from simclr_cli.images.threads import count_workers
from simclr_cli.pages.confusion_matrix import confusion_png


def probe(settings: ProbeSettings, *, report: Report = silent) -> ProbeResult:
    """Score a run's encoder (or a plain timm model), and beside it whatever it must be better than.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    ready = ready_encoder(settings)
    root = settings.images or ready.images
    report(Note(f"Probing {ready.name} on {root}."))
    images = read_labelled(root, settings, count_workers(settings.workers), report)
    if images.held_out is None and ready.was_trained_on(root):
        report(Note("The held-out images were among those trained on, without their labels."))
    encoders = baselines(ready, settings, report)
    if ready.run is not None or settings.weights != "none":  # else it is its own untrained twin
        encoders = {"trained": ready, **encoders}
    found = compare(encoders, images, settings, linear=True, report=report)
    scores = found.scores(settings.seed)
    folder = settings.out or (ready.run.probe_folder if ready.run else None)
    result = ProbeResult(
        encoder=ready.name,
        train_images=len(found.first.train.labels),
        test_images=len(found.first.test.labels),
        classes=found.classes,
        chance=found.chance,
        scores=scores,
        split=images.split,
        knn_temperature=settings.knn_temperature,
        skipped=found.skipped,
        model_checksum=ready.checksum,
        protocol=settings.protocol,
        verdict=verdict(scores, len(found.first.test.labels)),
        per_class=per_class(found.first, found.classes),
        confusion=confusion(found.first, found.classes),
        label_errors=likely_mislabeled(found, settings.seed),
        few_labels=few_labels(found, settings, report),
        folder=str(folder) if folder else None,
    )
    if folder is not None:
        make_folder(folder)
        write_bytes(folder / "confusion.png", confusion_png(result.classes, result.confusion))
        write_json(folder / "probe.json", dataclasses.asdict(result))
    return result
