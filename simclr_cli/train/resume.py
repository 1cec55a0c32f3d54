"""Which run: a new one under a free name, or one that was stopped, with its own settings; for one process at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import simclr_cli
from simclr_cli.api import PretrainSettings, ResolvedSettings
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.core.events import Choice, Report
from simclr_cli.core.files import NotWritten, remove_strays
from simclr_cli.core.locks import locked
from simclr_cli.core.text import count
from simclr_cli.images.census import Census
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder, list_runs
from simclr_cli.store.run_info import NOT_KEPT, RunInfo, read_run_info
from simclr_cli.train.run_images import find_folder, is_of, keep_images

ELSEWHERE = ("device", "workers", "micro_batch")  # may be others where it goes on
MAY_DIFFER = ("images", "run", *ELSEWHERE, *NOT_KEPT)  # on resuming; anything else is the run's own


def begin(settings: PretrainSettings, *, restarted: bool = False) -> tuple[RunFolder, ResolvedSettings, RunInfo | None]:
    """The run, its settings, automatic ones still open if it is new, and what it was before if it goes on.

    A run that goes on may be given more epochs than it was begun with, also when it is finished.

    Args:
        restarted: the same command was given before, and failed: what it began is gone on with.

    Raises:
        RunError: nothing to resume, a name that is taken, or images that are nowhere.
        SettingsError: a resumed run given other settings than its own, or no more epochs than it has done.
    """
    if not settings.resume:
        new = _named_or_next(settings)
        if restarted and new.begun and not new.finished:
            kept = {name: getattr(settings, name) for name in (*ELSEWHERE, *NOT_KEPT)}
            settings = PretrainSettings(**{**kept, "run": new.path.name, "resume": True})
        elif settings.dry_run or not new.begun:
            return new.checked(), ResolvedSettings(**vars(settings)), None
        elif new.finished:
            raise RunError(f"The run {new.path} is finished, and is never overwritten.", "Choose another --run.")
        else:
            raise RunError(
                f"The run {new.path} was begun and is not finished.",
                f"Go on with: {new.resume_command}; or choose another name with --run.",
            )
    run = _stopped_run(settings).checked()
    before = read_run_info(run)
    command = {name: getattr(settings, name) for name in NOT_KEPT}
    elsewhere = {name: given for name in ELSEWHERE if (given := getattr(settings, name)) is not None}
    images = find_folder(run, before.settings.images, settings.images)
    own = dataclasses.replace(before.settings, **command, **elsewhere, images=images)
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
    return run, own, before


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


def _stopped_run(settings: PretrainSettings) -> RunFolder:
    """The run that is named, or else the newest that can go on, those that are not finished first."""
    if settings.run is not None:
        run = RunFolder(settings.runs / settings.run)
        if not run.begun:
            raise RunError(f"There is no run {run.path} to go on with.", "Leave out --resume to begin one.")
        if run.finished and settings.epochs is None:
            raise RunError(
                f"The run {run.path} is finished.", "Use it, go on to more --epochs, or train under another --run."
            )
        return run
    for run in sorted(list_runs(settings.runs), key=lambda run: run.finished):
        if run.finished and settings.epochs is None:
            break
        if settings.images is None or is_of(run, read_run_info(run).settings.images, settings.images):
            return run
    of = f" of {settings.images}" if settings.images else ""
    raise RunError(f"There is no stopped run{of} under {settings.runs}.", "Leave out --resume to begin one.")


def explain(before: RunInfo, chosen: ResolvedSettings, choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices of a run that goes on; if it is given other epochs than it had, what that means."""
    if (had := before.settings.epochs) == chosen.epochs:
        return tuple(choices)
    reason = f"it had {had}; from here on every step has the learning rate that it has in a run of {chosen.epochs}"
    return tuple(dataclasses.replace(c, reason=reason) if c.name == "epochs" else c for c in choices)


def settle(
    run: RunFolder,
    chosen: ResolvedSettings,
    census: Census,
    choices: Sequence[Choice],
    full: Census,
    before: RunInfo | None,
) -> RunInfo:
    """Make the folder that of a run in training: which is its own if it was finished, and is given more epochs now.

    What the run is stands in it from here on: settings, versions, census, and every file skipped, with its reason.

    Args:
        census, full: after decoding, and before.
        choices: the plan's. Those that a run was begun with stay as they were, but for epochs.
        before: what a run was that goes on.

    Raises:
        RunError: a finished run whose last checkpoint is gone or damaged; it stays as it is.
    """
    if run.finished:
        if load_checkpoint(run.checkpoints) is None:
            raise RunError(f"There is no checkpoint in {run.checkpoints} to go on from.", "Train under another --run.")
        run.set_encoder_aside(len(read_epochs(run)))
    extended: tuple[int, ...] = ()
    if before is not None:
        more = before.settings.epochs != chosen.epochs
        extended = (*before.extended, before.settings.epochs) if more else before.extended
        new = {choice.name: choice for choice in choices if more and choice.name == "epochs"}
        choices = [new.get(choice.name, choice) for choice in before.choices] or choices
    changes = keep_images(run, full)
    info = RunInfo(
        settings=dataclasses.replace(chosen, images=census.root.resolve()),
        census=census.summary(),
        versions={
            "simclr": simclr_cli.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
        },
        choices=tuple(choices),
        extended=extended,
        image_changes=changes,
    )
    run.write_skipped([(entry.name, entry.reason) for entry in census.skipped])
    run.write_config(info.described())
    return info


@contextlib.contextmanager
def alone(run: RunFolder, report: Report, *, resumed: bool) -> Iterator[None]:
    """Within, no other process trains in this folder.

    Raises:
        Busy: another one does.
        RunError: another one has begun the run since this one found its name free.
        NotWritten: from within, with the command that goes on with the run.
    """
    with locked(run.path, report):
        if run.begun and not resumed:
            raise RunError(f"The run {run.path} was begun by another process.", "Type the command again.")
        remove_strays(run.checkpoints, 0)
        try:
            yield
        except NotWritten as error:
            if not run.begun or run.finished:
                raise
            remedy = f"Make room or give back the right to write, then go on with: {run.resume_command}"
            raise NotWritten(error.what, remedy, forbidden=error.forbidden) from error
