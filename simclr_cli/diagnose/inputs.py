"""Checks of the folders, runs and images that a command names, before torch is imported, which takes seconds."""

from __future__ import annotations

from os.path import lexists
from pathlib import Path

from simclr_cli import api
from simclr_cli.api.fields import EncoderSettings, Settings
from simclr_cli.core.errors import InputError
from simclr_cli.core.world import World
from simclr_cli.images.scan import check_folder
from simclr_cli.store.models import check_weights_file
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
        InputError: no such folder of images, or no such query.
        RunError: no such run, or it is unfinished, or may not be overwritten.
        SettingsError: a resumed run has other settings.
    """
    if (images := getattr(settings, "images", None)) is not None:
        check_folder(images)
    match settings:
        case api.PretrainSettings():
            open_run(settings, restarted=World.from_environment().was_restarted)
        case api.ReportSettings():
            find_started_run(settings.run, settings.runs)
        case api.PredictSettings(classifier=None):
            find_classifier(settings.run, settings.runs)
        case api.DuplicatesSettings(restore=Path()):
            pass
        case EncoderSettings():
            _check_encoder(settings)


def _check_encoder(settings: EncoderSettings) -> None:
    run = _find_run(settings)
    if isinstance(settings, api.FinetuneSettings):
        choose_classifier_folder(settings.out, run, settings.labels_fraction, scratch=settings.scratch)
    if isinstance(settings, api.SimilarSettings):
        root = settings.images or (read_run_info(run).settings.images if run else None)
        for query in settings.queries:
            is_known = lexists(query) or str(query) in ("+", "-")
            if not is_known and root is not None and root.is_dir() and not lexists(root / query):
                raise InputError(f"There is no {query}.", "Check the path.")


def _find_run(settings: EncoderSettings) -> RunFolder | None:
    """Return the run whose encoder is named or the newest one; None if another encoder is named or the default."""
    if name := settings.encoder or settings.run:
        run = find_named_run(name, settings.runs, is_run=settings.run is not None)
        if run is None and name.endswith(".safetensors"):
            check_weights_file(Path(name.partition("=")[2] or name))
        return run
    has_runs = any(run.is_finished for run in list_runs(settings.runs))
    return find_run(None, settings.runs) if has_runs or settings.images is None else None
