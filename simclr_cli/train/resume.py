"""The run to train: a new one under a free name, or one that is resumed with its own settings, locked meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions

import simclr_cli
from simclr_cli.api import PretrainSettings, ResolvedSettings
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.core.events import Choice, Report
from simclr_cli.core.files import WriteError, remove_abandoned_files
from simclr_cli.core.locks import lock_folder
from simclr_cli.core.text import format_count
from simclr_cli.images.census import Census
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder, list_runs
from simclr_cli.store.run_info import COMMAND_ONLY_SETTINGS, RunInfo, read_run_info
from simclr_cli.train.resume_images import find_image_folder, has_images_of, record_images

MACHINE_SETTINGS = ("device", "workers", "micro_batch")  # may differ where the run is resumed
RESUME_SETTINGS = ("images", "run", *MACHINE_SETTINGS, *COMMAND_ONLY_SETTINGS)  # may be set with --resume


def open_run(
    settings: PretrainSettings, *, restarted: bool = False
) -> tuple[RunFolder, ResolvedSettings, RunInfo | None]:
    """Choose the run folder; return it, the settings, and the description of a run that is resumed.

    The automatic settings of a new run are still open. A resumed run may get more epochs, also when it is finished; an
    unfinished one ends at once with as many as it has done.

    Args:
        restarted: the same command was run before and failed, so that its run is resumed.

    Raises:
        RunError: nothing to resume, a name that is taken, or images that are not found.
        SettingsError: a resumed run with other settings than its own, or fewer epochs than it has done.
    """
    if settings.resume:
        return _resume_run(settings)
    run = _find_new_run(settings)
    if restarted and run.is_started and not run.is_finished:
        kept = {name: getattr(settings, name) for name in (*MACHINE_SETTINGS, *COMMAND_ONLY_SETTINGS)}
        return _resume_run(PretrainSettings(**{**kept, "run": run.path.name, "resume": True}))
    if settings.dry_run or not run.is_started:
        return run.check_links(), ResolvedSettings(**vars(settings)), None
    if run.is_finished:
        raise RunError(f"The run {run.path} is finished, and is never overwritten.", "Use another --run.")
    raise RunError(
        f"The run {run.path} was started and is not finished.",
        f"Resume with: {run.resume_command}; or use another --run.",
    )


def _resume_run(settings: PretrainSettings) -> tuple[RunFolder, ResolvedSettings, RunInfo]:
    """Find the run to resume, and combine its settings with those that may be set anew."""
    run = _find_interrupted_run(settings).check_links()
    previous = read_run_info(run)
    command = {name: getattr(settings, name) for name in COMMAND_ONLY_SETTINGS}
    machine = {name: value for name in MACHINE_SETTINGS if (value := getattr(settings, name)) is not None}
    images = find_image_folder(run, previous.settings.images, settings.images)
    resolved = dataclasses.replace(previous.settings, **command, **machine, images=images)
    if settings.epochs is not None and (run.is_finished or settings.epochs != resolved.epochs):
        done = len(read_epochs(run))
        if settings.epochs < done or (settings.epochs == done and run.is_finished):
            as_it_is = "" if run.is_finished else f", or {done} to finish the run as it is"
            raise SettingsError(
                f"The run {run.path} has done {format_count(done, 'epoch')}; --epochs {settings.epochs} is not more.",
                f"Set a larger number{as_it_is}.",
            )
        warmup = min(resolved.warmup_epochs, settings.epochs)
        resolved = dataclasses.replace(resolved, epochs=settings.epochs, warmup_epochs=warmup)
    for field in dataclasses.fields(PretrainSettings):
        value = getattr(settings, field.name)
        if field.name not in RESUME_SETTINGS and value not in (field.default, getattr(resolved, field.name)):
            option = "--" + field.name.replace("_", "-")
            raise SettingsError(
                f"The run {run.path} has {option} {getattr(resolved, field.name)}, and keeps its own settings.",
                f"Remove {option}, or train under another --run.",
            )
    return run, resolved, previous


def _find_new_run(settings: PretrainSettings) -> RunFolder:
    """Return the run named by --run, else the first one named like the images that is not finished."""
    assert settings.images is not None  # checked by the settings
    if settings.run is not None:
        return RunFolder(settings.runs / settings.run)
    name = settings.images.resolve().name or "images"
    number = 1
    while (run := RunFolder(settings.runs / (name if number == 1 else f"{name}-{number}"))).is_finished:
        number += 1
    return run


def _find_interrupted_run(settings: PretrainSettings) -> RunFolder:
    """Return the run named by --run, else the newest one that can be resumed, unfinished ones first."""
    if settings.run is not None:
        run = RunFolder(settings.runs / settings.run)
        if not run.is_started:
            raise RunError(f"There is no run {run.path} to resume.", "Remove --resume to start one.")
        if run.is_finished and settings.epochs is None:
            raise RunError(
                f"The run {run.path} is finished.",
                "Use it, resume it with more --epochs, or train under another --run.",
            )
        return run
    for run in sorted(list_runs(settings.runs), key=lambda run: run.is_finished):
        if run.is_finished and settings.epochs is None:
            break
        if settings.images is None or has_images_of(run, read_run_info(run).settings.images, settings.images):
            return run
    of = f" of {settings.images}" if settings.images else ""
    raise RunError(f"There is no interrupted run{of} under {settings.runs}.", "Remove --resume to start one.")


def explain_more_epochs(
    run: RunFolder, previous: RunInfo, settings: ResolvedSettings, choices: Sequence[Choice]
) -> tuple[Choice, ...]:
    """Return the choices of a resumed run, with the consequence of another number of epochs than before."""
    if (epochs := previous.settings.epochs) == settings.epochs:
        return tuple(choices)
    if settings.epochs <= len(read_epochs(run)):
        reason = f"it had {epochs}, of which these are done: the run ends as it is"
    else:
        reason = f"it had {epochs}; every further step has the learning rate of a run of {settings.epochs}"
    return tuple(dataclasses.replace(c, reason=reason) if c.name == "epochs" else c for c in choices)


def record_run(
    run: RunFolder,
    settings: ResolvedSettings,
    decoded: Census,
    choices: Sequence[Choice],
    census: Census,
    previous: RunInfo | None,
) -> RunInfo:
    """Write what describes the run into its folder: settings, versions, census, and every file that is not used.

    A finished run that gets more epochs keeps its encoder in another folder.

    Args:
        decoded, census: of the images after decoding, and before.
        choices: the plan's. Those that a resumed run was started with stay as they were, except epochs.
        previous: of a run that is resumed.

    Raises:
        RunError: a finished run whose last checkpoint is missing or damaged; it stays as it is.
    """
    if run.is_finished:
        if load_checkpoint(run.checkpoint_folder) is None:
            raise RunError(
                f"There is no checkpoint in {run.checkpoint_folder} to resume from.", "Train under another --run."
            )
        run.archive_encoder(len(read_epochs(run)))
    extended: tuple[int, ...] = ()
    if previous is not None:
        has_more_epochs = previous.settings.epochs != settings.epochs
        extended = (*previous.extended, previous.settings.epochs) if has_more_epochs else previous.extended
        changed = {choice.name: choice for choice in choices if has_more_epochs and choice.name == "epochs"}
        choices = [changed.get(choice.name, choice) for choice in previous.choices] or choices
    changes = record_images(run, census)
    info = RunInfo(
        settings=dataclasses.replace(settings, images=decoded.root.resolve()),
        census=decoded.summary(),
        versions={
            "simclr": simclr_cli.__version__,
            "python": platform.python_version(),
            **{name: _find_version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
        },
        choices=tuple(choices),
        extended=extended,
        image_changes=changes,
    )
    run.write_skipped(decoded.list_skipped_and_odd())
    run.write_config(info.to_config())
    return info


def _find_version(package: str) -> str | None:
    """Return the version of a package; None if it was installed without a record, as some builds of torch are."""
    return next((found.version for found in distributions(name=package)), None)


@contextlib.contextmanager
def lock_run(run: RunFolder, report: Report, *, resumed: bool) -> Iterator[None]:
    """Lock the folder within, so that no other process trains in it.

    Raises:
        FolderLockedError: another process trains in it.
        RunError: another process has started the run since this one found its name free.
        WriteError: raised within, with the command that resumes the run added.
    """
    with lock_folder(run.path, report):
        if run.is_started and not resumed:
            raise RunError(f"The run {run.path} was started by another process.", "Run the command again.")
        remove_abandoned_files(run.checkpoint_folder, 0)
        try:
            yield
        except WriteError as error:
            if not run.is_started or run.is_finished:
                raise
            remedy = f"Free space or restore the permission to write, then resume with: {run.resume_command}"
            raise WriteError(error.problem, remedy, is_forbidden=error.is_forbidden) from error
