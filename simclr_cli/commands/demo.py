"""All of it on images that simclr draws itself: draw, pretrain, find the like of one, compare by kNN."""

from __future__ import annotations

import time
from pathlib import Path

from simclr_cli.api import DemoResult, DemoSettings, PretrainSettings, ProbeSettings, SimilarSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.similar import similar
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import make_folder, write_json
from simclr_cli.encode.load import pick_device, run_encoder, untrained_twin
from simclr_cli.evaluate.baselines import without_weights
from simclr_cli.evaluate.comparison import compare
from simclr_cli.images.labels import LabeledImages, labeled
from simclr_cli.images.scan import take_census
from simclr_cli.images.synthetic import CLASSES, draw_images
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder


def demo(settings: DemoSettings, *, report: Report = silent) -> DemoResult:
    """From drawing to neighbors, and whether training helped.

    Raises:
        SimclrError: the folder cannot be written to, or a stop was asked for.
    """
    began = time.perf_counter()
    folder = _draw(settings, report)
    trained = pretrain(
        PretrainSettings(
            images=folder,
            runs=settings.out / "runs",
            # A small encoder and small views: a few minutes on two cores are all there is.
            backbone="resnet10t",
            image_size=settings.image_size,
            batch_size=64,
            epochs=settings.epochs,
            temperature=0.2,
            seed=settings.seed,
        ),
        report=report,
    )
    query = folder / CLASSES[0] / "0000.png"
    found = similar(
        SimilarSettings(queries=(query,), run=Path(trained.run).name, runs=settings.out / "runs", top=5), report=report
    )
    ready = run_encoder(RunFolder(Path(trained.run)), pick_device(None))
    pixels = without_weights(ready)["raw pixels"]
    encoders = {"trained": ready, "untrained": untrained_twin(ready, settings.seed), "raw pixels": pixels}
    images = LabeledImages(*labeled(take_census(folder, workers=count_workers())))
    compared = compare(encoders, images, ProbeSettings(seed=settings.seed), linear=False, report=report)
    return DemoResult(
        folder=str(settings.out),
        images=len(images.census.images),
        classes=CLASSES,
        scores=compared.scores(settings.seed),
        query=found.queries[0],
        seconds=time.perf_counter() - began,
        pretrain=trained,
    )


def _draw(settings: DemoSettings, report: Report) -> Path:
    """Draw the images, unless these very ones have been drawn before."""
    folder = settings.out / f"images-{settings.count}-seed-{settings.seed}"
    drawn = settings.out / f"{folder.name}.json"
    make_folder(settings.out)
    if not drawn.exists():
        report(Note(f"Drawing {settings.count:,} images of {len(CLASSES)} patterns in {folder}."))
        draw_images(folder, seed=settings.seed, count=settings.count)
        write_json(drawn, {"count": settings.count, "seed": settings.seed})  # last: all of them are there
    return folder
