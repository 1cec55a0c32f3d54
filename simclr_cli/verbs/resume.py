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
from simclr_cli.images.census import Census
from simclr_cli.settings import PretrainSettings, ResolvedSettings
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.epochs import read_epochs
from simclr_cli.store.pictures import read_pictures
from simclr_cli.store.run import RunFolder
from simclr_cli.store.runs import list_runs
from simclr_cli.verbs.pictures import find_folder, is_of, keep_pictures
from simclr_cli.wording import count

NOT_KEPT = (
    "resume", "accept_changes", "dry_run", "runs", "cache_gb", "devices", "checkpoint_seconds", "tensorboard",
)  # of the command, not of the run  # fmt: skip
ELSEWHERE = ("device", "workers", "micro_batch")  # may be others where it goes on
ABSENT = {"held_out": 0, "turn": 0.0}  # what runs did from before there were these settings
MAY_DIFFER = ("images", "run", *ELSEWHERE, *NOT_KEPT)  # on resuming; anything else is the run's own


def begin(settings: PretrainSettings, *, restarted: bool = False) -> tuple[RunFolder, ResolvedSettings]:
    """The run and its settings, automatic ones still open if it is new.

    A run that goes on may be given more epochs than it was begun with, also when it is finished.

    Args:
        restarted: the same command was given before, and failed: what it began is gone on with.

    Raises:
        RunError: nothing to resume, a name that is taken, or pictures that are nowhere.
        SettingsError: a resumed run given other settings than its own, or no more epochs than it has done.
    """
    if restarted and not settings.resume and (begun := _named_or_next(settings)).begun and not begun.finished:
        kept = {name: getattr(settings, name) for name in (*ELSEWHERE, *NOT_KEPT)}
        settings = PretrainSettings(**{**kept, "run": begun.path.name, "resume": True})
    if not settings.resume:
        return _new_run(settings).checked(), ResolvedSettings(**vars(settings))
    run = _stopped_run(settings).checked()
    command = {name: getattr(settings, name) for name in NOT_KEPT}
    own = kept_settings(run, {**command, "images": find_folder(run, settings.images)})
    if settings.epochs is not None and (run.finished or settings.epochs != own.epochs):
        if settings.epochs <= (done := len(read_epochs(run))):
            raise SettingsError(
                f"The run {run.path} has done {count(done, 'epoch')}, and --epochs {settings.epochs} is not more.",
                "Give a larger number.",
            )
        own = dataclasses.replace(own, epochs=settings.epochs)
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
        more = settings.epochs is not None
        stopped = [run for run in list_runs(settings.runs) if more or not run.finished]
        stopped.sort(key=lambda run: run.finished)  # those that are not come first
        if settings.images is not None:
            stopped = [run for run in stopped if is_of(run, settings.images)]
        if not stopped:
            of = f" of {settings.images}" if settings.images else ""
            raise RunError(f"There is no stopped run{of} under {settings.runs}.", "Leave out --resume to begin one.")
        run = stopped[0]
    if run.finished and settings.epochs is None:
        raise RunError(
            f"The run {run.path} is finished.", "Use it, go on to more --epochs, or train under another --run."
        )
    return run


def explain(run: RunFolder, chosen: ResolvedSettings, choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices of a run that goes on; if it is given other epochs than it had, what that means."""
    if (before := run.settings().get("epochs")) == chosen.epochs:
        return tuple(choices)
    reason = f"it had {before}; from here on every step has the learning rate that it has in a run of {chosen.epochs}"
    return tuple(dataclasses.replace(c, reason=reason) if c.name == "epochs" else c for c in choices)


def settle(run: RunFolder, chosen: ResolvedSettings, census: Census, choices: Sequence[Choice], full: Census) -> None:
    """Make the folder that of a run in training: which is its own if it was finished, and is given more epochs now.

    Args:
        census, choices: see describe.
        full: the census before decoding.

    Raises:
        RunError: a finished run whose last checkpoint is gone or damaged; it stays as it is.
    """
    if run.finished:
        if load_checkpoint(run.checkpoints) is None:
            raise RunError(f"There is no checkpoint in {run.checkpoints} to go on from.", "Train under another --run.")
        run.set_encoder_aside(len(read_epochs(run)))
    keep_pictures(run, full)
    describe(run, chosen, census, choices)


def describe(run: RunFolder, chosen: ResolvedSettings, census: Census, choices: Sequence[Choice] = ()) -> None:
    """Write down what the run is: settings as resolved, census, versions; and every file refused, with its reason.

    Args:
        choices: the plan's, with their reasons. What a run that goes on was begun with stays as it was, but for epochs.
    """
    before = run.config() if run.config_file.is_file() else {}
    settings = {name: value for name, value in chosen.told().items() if name not in NOT_KEPT}
    settings["images"] = str(census.root.resolve())
    run.begin()
    told = [dataclasses.asdict(choice) for choice in choices]
    extended = before.get("extended", [])
    if before and (had := before["settings"].get("epochs")) != chosen.epochs:
        extended = [*extended, had]
        new = {choice["name"]: choice for choice in told if choice["name"] == "epochs"}
        before["choices"] = [new.get(choice["name"], choice) for choice in before.get("choices", [])]
    run.write_refused([(entry.name, entry.reason) for entry in census.refused])
    run.write_config(
        {
            "simclr_version": simclr_cli.__version__,
            "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
            "python": platform.python_version(),
            "settings": settings,
            "extended": extended,  # the epochs that it was to have before
            "choices": before.get("choices") or told,
            "census": census.summary(),
            "picture_changes": list(read_pictures(run).changes),
        }
    )
