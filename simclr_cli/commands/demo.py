"""The demo command: draw images, pretrain on them, search for similar ones, and compare with baselines by kNN."""

from __future__ import annotations

import time
from pathlib import Path

from simclr_cli.api import DemoResult, DemoSettings, PretrainSettings, ProbeSettings, SimilarSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.similar import similar
from simclr_cli.core.events import Note, Report, StopController, silent
from simclr_cli.core.files import prepare_folder, write_json
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.load import create_untrained_encoder, load_run_encoder
from simclr_cli.evaluate.baselines import create_pixel_baselines
from simclr_cli.evaluate.comparison import compare_encoders
from simclr_cli.images.labels import LabeledImages, label_images
from simclr_cli.images.scan import take_census
from simclr_cli.images.synthetic import CLASSES, draw_images
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder


def demo(settings: DemoSettings, *, report: Report = silent, stop: StopController | None = None) -> DemoResult:
    """Run the demo, from drawing images to the comparison with baselines.

    Raises:
        SimclrError: the folder cannot be written to, or the demo was interrupted.
    """
    start = time.perf_counter()
    folder = _draw_images_once(settings, report)
    trained = pretrain(
        PretrainSettings(
            images=folder,
            runs=settings.out / "runs",
            # A small encoder and small views, to take a few minutes on two cores.
            backbone="resnet10t",
            weights="none",
            image_size=settings.image_size,
            batch_size=64,
            epochs=settings.epochs,
            temperature=0.2,
            seed=settings.seed,
        ),
        report=report,
        stop=stop,
    )
    query = folder / CLASSES[0] / "0000.png"
    neighbors = similar(
        SimilarSettings(queries=(query,), run=Path(trained.run).name, runs=settings.out / "runs", top=5), report=report
    )
    loaded = load_run_encoder(RunFolder(Path(trained.run)), resolve_device(None))
    pixels = create_pixel_baselines(loaded)["raw pixels"]
    encoders = {"trained": loaded, "untrained": create_untrained_encoder(loaded, settings.seed), "raw pixels": pixels}
    images = LabeledImages(*label_images(take_census(folder, workers=count_workers())))
    comparison = compare_encoders(encoders, images, ProbeSettings(seed=settings.seed), linear=False, report=report)
    return DemoResult(
        folder=str(settings.out),
        images=len(images.census.images),
        classes=CLASSES,
        scores=comparison.compute_scores(settings.seed),
        query=neighbors.queries[0],
        seconds=time.perf_counter() - start,
        pretrain=trained,
    )


def _draw_images_once(settings: DemoSettings, report: Report) -> Path:
    """Draw the images, unless the same ones exist already; return their folder."""
    folder = settings.out / f"images-{settings.count}-seed-{settings.seed}"
    marker = settings.out / f"{folder.name}.json"
    prepare_folder(settings.out)
    if not marker.exists():
        report(Note(f"Drawing {settings.count:,} images of {len(CLASSES)} patterns in {folder}."))
        draw_images(folder, seed=settings.seed, count=settings.count)
        write_json(marker, {"count": settings.count, "seed": settings.seed})  # last: all images are drawn
    return folder
