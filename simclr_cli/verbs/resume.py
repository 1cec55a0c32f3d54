"""Which run: a new one under a free name, or one that was stopped, with its own settings."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import simclr_cli
from simclr_cli.errors import RunError, SettingsError
from simclr_cli.events import Choice
from simclr_cli.images.folder import Census, Refused
from simclr_cli.settings import PretrainSettings, ResolvedSettings
from simclr_cli.store.run import RunFolder, list_runs

NOT_KEPT = (
    "resume", "dry_run", "runs", "cache_gb", "devices", "checkpoint_seconds", "tensorboard",
)  # of the command, not of the run  # fmt: skip
ELSEWHERE = ("device", "workers", "micro_batch")  # may be others where it goes on
ABSENT = {"held_out": 0, "turn": 0.0}  # what runs did from before there were these settings
MAY_DIFFER = ("images", "run", *ELSEWHERE, *NOT_KEPT)  # on resuming; anything else is the run's own


def begin(settings: PretrainSettings, *, restarted: bool = False) -> tuple[RunFolder, ResolvedSettings]:
    """The run and its settings, automatic ones still open if it is new.

    Args:
        restarted: the same command was given before, and failed: what it began is gone on with.

    Raises:
        RunError: nothing to resume, or a name that is taken.
        SettingsError: a resumed run given other settings than its own.
    """
    if restarted and not settings.resume and (begun := _named_or_next(settings)).begun and not begun.finished:
        kept = {name: getattr(settings, name) for name in (*ELSEWHERE, *NOT_KEPT)}
        settings = PretrainSettings(**{**kept, "run": begun.path.name, "resume": True})
    if not settings.resume:
        return _new_run(settings).checked(), ResolvedSettings(**vars(settings))
    run = _stopped_run(settings).checked()
    kept = run.settings()
    if settings.images is not None and str(settings.images.resolve()) != kept["images"]:
        raise RunError(f"The run {run.path} is of {kept['images']}, not of {settings.images}.", "Leave out the folder.")
    if not Path(kept["images"]).is_dir():
        raise RunError(
            f"The pictures of the run {run.path} are no longer in {kept['images']}.", "Bring the folder back there."
        )
    own = kept_settings(run, {name: getattr(settings, name) for name in NOT_KEPT})
    for field in dataclasses.fields(PretrainSettings):
        given = getattr(settings, field.name)
        if field.name not in MAY_DIFFER and given not in (field.default, getattr(own, field.name)):
            option = "--" + field.name.replace("_", "-")
            raise SettingsError(
                f"The run {run.path} has {option} {getattr(own, field.name)}, and goes on with its own settings.",
                f"Leave out {option}, or train under another --run.",
            )
    elsewhere = {name: given for name in ELSEWHERE if (given := getattr(settings, name)) is not None}
    return run, dataclasses.replace(own, **elsewhere)


def kept_settings(run: RunFolder, command: Mapping[str, Any]) -> ResolvedSettings:
    """The settings that a run was begun with, and those of the command.

    Raises:
        RunError: they are not there, or not all of them are settings.
        InputError: its pictures are gone.
    """
    kept = run.settings()
    open_still = [name for name, value in kept.items() if value is None and name != "preset"]
    try:
        if open_still:
            raise TypeError(f"{open_still[0]} is open still")
        return ResolvedSettings(**{**ABSENT, **kept, "images": Path(kept["images"]), **command})
    except (TypeError, SettingsError) as error:
        raise RunError(f"{run.config_file} does not hold a run's settings ({error}).", "Train again.") from None


def _named_or_next(settings: PretrainSettings) -> RunFolder:
    """The run that is named, or else the first of the images' name that is not finished."""
    assert settings.images is not None  # the settings see to it
    if settings.run is not None:
        return RunFolder(settings.runs / settings.run)
    name = settings.images.resolve().name or "images"
    number = 1
    while (run := RunFolder(settings.runs / (name if number == 1 else f"{name}-{number}"))).finished:
        number += 1
    return run


def _new_run(settings: PretrainSettings) -> RunFolder:
    run = _named_or_next(settings)
    if run.finished and not settings.dry_run:
        raise RunError(f"The run {run.path} is finished, and is never overwritten.", "Choose another --run.")
    if run.begun and not run.finished and not settings.dry_run:
        raise RunError(
            f"The run {run.path} was begun and is not finished.",
            f"Go on with: {run.resume_command}; or choose another name with --run.",
        )
    return run


def _stopped_run(settings: PretrainSettings) -> RunFolder:
    if settings.run is not None:
        run = RunFolder(settings.runs / settings.run)
        if not run.begun:
            raise RunError(f"There is no run {run.path} to go on with.", "Leave out --resume to begin one.")
    else:
        stopped = [run for run in list_runs(settings.runs) if not run.finished]
        if settings.images is not None:
            wanted = str(settings.images.resolve())
            stopped = [run for run in stopped if run.settings()["images"] == wanted]
        if not stopped:
            of = f" of {settings.images}" if settings.images else ""
            raise RunError(f"There is no stopped run{of} under {settings.runs}.", "Leave out --resume to begin one.")
        run = stopped[0]
    if run.finished:
        raise RunError(f"The run {run.path} is finished.", "Use it, or train under another --run.")
    return run


def check_same_pictures(run: RunFolder, census: Census) -> None:
    """Raise RunError if the folder no longer holds what the run began with."""
    before = run.config()["census"]
    kept = census.without(
        [Refused(*entry) for entry in run.read_refused()]
    )  # those that could not be decoded are no longer counted
    if kept.fingerprint != before["fingerprint"]:
        raise RunError(
            f"The pictures in {census.root} have changed since {run.path} began "
            f"({before['pictures']} then, {len(kept.pictures)} now).",
            "Bring the folder back to what it was, or train under another --run.",
        )


def describe(run: RunFolder, chosen: ResolvedSettings, census: Census, choices: Sequence[Choice] = ()) -> None:
    """Write down what the run is: settings as resolved, census, versions; and every file refused, with its reason.

    Args:
        choices: the plan's, with their reasons. What a run that goes on was begun with stays as it was.
    """
    before = run.config().get("choices") if run.config_file.is_file() else None
    settings = {name: value for name, value in chosen.told().items() if name not in NOT_KEPT}
    settings["images"] = str(census.root.resolve())
    run.write_refused([(entry.name, entry.reason) for entry in census.refused])
    run.write_config(
        {
            "simclr_version": simclr_cli.__version__,
            "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
            "python": platform.python_version(),
            "settings": settings,
            "choices": before or [dataclasses.asdict(choice) for choice in choices],
            "census": census.summary(),
        }
    )
