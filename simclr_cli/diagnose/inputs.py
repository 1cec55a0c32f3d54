"""Checks of the folders, runs and images that a command names, before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import lexists
from pathlib import Path

from simclr_cli import api
from simclr_cli.api.fields import EncoderSettings, Settings
from simclr_cli.core.errors import InputError
from simclr_cli.core.world import World
from simclr_cli.images.decode import read_header
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.label_table import read_labels
from simclr_cli.images.scan import check_folder, check_images, could_be_image
from simclr_cli.store.models import CLASSIFIER_REMEDY, check_weights_file, parse_class_names, read_config
from simclr_cli.store.moves import check_destination, read_journal
from simclr_cli.store.run import (
    RunFolder,
    choose_classifier_folder,
    find_classifier,
    find_named_run,
    find_run,
    find_started_run,
    list_runs,
)
from simclr_cli.store.run_info import read_run_info
from simclr_cli.train.resume import open_run


def check_inputs(settings: Settings) -> None:
    """Raise the error that a command would raise later for what it cannot find.

    Raises:
        InputError: no such folder of images, or no such query, or no image in it; or a table of labels is unusable.
        RunError: no such run, or it is unfinished, or may not be overwritten.
        SettingsError: a resumed run has other settings.
    """
    images = getattr(settings, "images", None)
    if images is not None:
        check_folder(images)
    match settings:
        case api.PretrainSettings():
            open_run(settings, restarted=World.from_environment().was_restarted)
            if settings.weights not in (None, "none", "trained") and not settings.resume:
                check_weights_file(Path(settings.weights))
        case api.ReportSettings():
            find_started_run(settings.run, settings.runs)
        case api.PredictSettings():
            classifier = settings.classifier or find_classifier(settings.run, settings.runs)
            config_file = classifier / "config.json"
            parse_class_names(config_file, read_config(config_file, CLASSIFIER_REMEDY))
            _check_queries(settings.queries, is_strict=False)
        case api.DuplicatesSettings(restore=Path() as moved):
            read_journal(moved)
            return  # the folder to restore into may be empty by now
        case EncoderSettings():
            _check_encoder(settings)
    if (labels := getattr(settings, "labels", None)) is not None:
        read_labels(labels)
    for folder in (images, getattr(settings, "test", None)):
        if folder is not None and not getattr(settings, "no_update", False):  # else embeddings suffice
            check_images(folder)


def _check_encoder(settings: EncoderSettings) -> None:
    run = _find_run(settings)
    if isinstance(settings, api.FinetuneSettings):
        choose_classifier_folder(settings.out, run, settings.labels_fraction, scratch=settings.scratch)
    root = settings.images or (read_run_info(run).settings.images if run else None)
    if isinstance(settings, api.SimilarSettings):
        _check_queries(settings.queries, root, is_strict=True)
    if isinstance(settings, api.DuplicatesSettings) and settings.move_to and root:
        check_destination(settings.move_to, root)


def _check_queries(queries: Sequence[Path], root: Path | None = None, *, is_strict: bool) -> None:
    """Raise InputError for a query that does not exist, a folder without images, or a file that is no image.

    Args:
        root: the folder of names that are not files here.
        is_strict: whether a file that is no image is an error.
    """
    for query in queries:
        is_below = not lexists(query) and root is not None and root.is_dir()
        path = root / query if is_below and root else query
        if path.is_dir():
            check_images(path)
        elif is_below and not lexists(path) and str(query) not in ("+", "-"):
            raise InputError(f"There is no {query}.", "Check the path.")
        elif is_strict and lexists(path) and not could_be_image(path):
            try:
                isolate(read_header, workers=1)(path)
            except UnusableImage as unusable:
                raise InputError(f"The query {path} cannot be used: {unusable.reason}.", "Use an image file.") from None


def _find_run(settings: EncoderSettings) -> RunFolder | None:
    """Return the run whose encoder is named or the newest one; None if another encoder is named or the default."""
    if name := settings.encoder or settings.run:
        run = find_named_run(name, settings.runs, is_run=settings.run is not None)
        if run is None and name.startswith("local-dir:"):
            check_weights_file(Path(name.partition(":")[2]) / "model.safetensors")
        elif run is None and name.endswith(".safetensors"):
            check_weights_file(Path(name.partition("=")[2] or name))
        return run
    has_runs = any(run.is_finished for run in list_runs(settings.runs))
    return find_run(None, settings.runs) if has_runs or settings.images is None else None
