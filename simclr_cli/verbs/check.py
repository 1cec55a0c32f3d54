"""Whether the files of a run are what was written; for each that is not, what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from simclr_cli.atomic import is_temporary
from simclr_cli.digests import DIGESTS, Damaged, Table, digest_file, files_in, read_table
from simclr_cli.events import Report, progress, silent
from simclr_cli.locks import locked
from simclr_cli.results import CheckResult, Finding, State
from simclr_cli.settings import CheckSettings
from simclr_cli.store.contents import OTHER, RETRAIN, kind_of, source_of
from simclr_cli.store.own_digests import contradicted
from simclr_cli.store.run import RunFolder
from simclr_cli.store.runs import find_begun_run
from simclr_cli.verbs.mending import can_be_forgotten, last_checkpoint, mend

NO_DAMAGE: frozenset[State] = frozenset(("unknown", "left over"))
TRIES = 5  # where another process writes in the run meanwhile
WHAT: dict[State, str] = {
    "damaged": "It is not what was written, or cannot be read.",
    "missing": "It was written, and is gone.",
    "foreign": "It was not written by this run, and might be taken for a part of it.",
    "unknown": "It is no file of a run.",
    "left over": "A command that was writing it did not come to its end.",
}
REMEDY: dict[State, str] = {
    "foreign": "Delete it, or move it elsewhere: {file}",
    "unknown": "It may stay.",
    "left over": "Delete it, unless a command is at work in this run: {file}",
}
RESUME = "It is written again when training goes on: {resume}"
FORGET = "It is not needed, and can be forgotten: simclr check {run} --mend"


def check(settings: CheckSettings, *, report: Report = silent) -> CheckResult:
    """Compare every file of a run with what was written; with `mend`, put right what can be, and compare again.

    Raises:
        RunError: no such run, or of a newer version.
        MachineError: with `mend`, the system refused to write, or another process trains in the run.
    """
    run = find_begun_run(settings.run, settings.runs)
    result = look(run, progress(report, "checking"))
    if settings.mend and not (result.whole and result.bound):
        wrong = {one.path: one.state for one in result.found if one.state not in NO_DAMAGE and one.path != DIGESTS}
        with locked(run.path, report):
            mended = mend(run, wrong, bound=result.bound)
        result = look(run, progress(report, "checking"), mended)
    return result


def look(run: RunFolder, progress: Callable[[int, int], None], mended: tuple[str, ...] = ()) -> CheckResult:
    """What is in a run's folder, compared with digests.json, or where there is none with what files say of themselves.

    Raises:
        RunError: of a newer version.
    """
    for _ in range(TRIES):
        table = _table(run)
        files = {file.relative_to(run.path).as_posix(): file for file in files_in(run.path)}
        states = _states(run, table, files, progress)
        if NO_DAMAGE.issuperset(states.values()) or _table(run) == table:
            break  # else another process has changed a file meanwhile, and its entry
    wrong = [name for name, state in states.items() if state not in NO_DAMAGE]
    mendable = any(source_of(name) == "checkpoint" for name in wrong) and last_checkpoint(run, wrong) is not None
    return CheckResult(
        run=str(run.path),
        whole=not wrong,
        bound=table is not None,
        files=len(files),
        bytes=sum(file.stat().st_size for file in files.values() if file.exists()),
        found=tuple(_finding(run, name, state, mendable) for name, state in sorted(states.items())),
        mended=mended,
    )


def _table(run: RunFolder) -> Table | None:
    """What digests.json says; None: nothing."""
    try:
        return read_table(run.path)
    except Damaged:
        return None


def _states(
    run: RunFolder, table: Table | None, files: dict[str, Path], progress: Callable[[int, int], None]
) -> dict[str, State]:
    """What is not as it should be, by relative path."""
    found: dict[str, State] = {}
    if table is None:
        found[DIGESTS] = "damaged" if DIGESTS in files else "missing"
    for done, (name, file) in enumerate(files.items(), start=1):
        if name != DIGESTS and (state := _state(name, file, run, table)):
            found[name] = state
        progress(done, len(files))
    for name, known in (table or {}).items():
        if name not in files and None not in known:
            found[name] = "missing"
    return found


def _state(name: str, file: Path, run: RunFolder, table: Table | None) -> State | None:
    """What is not as it should be with one file that is there."""
    if is_temporary(file, run.path):
        return "left over"
    if table is not None and name in table:
        return None if _digest(file) in table[name] else "damaged"
    if contradicted(file):
        return "damaged"
    if table is None:
        return None
    kind = kind_of(name)
    return "unknown" if kind is None else "foreign" if kind.bound else None


def _digest(file: Path) -> str:
    try:
        return digest_file(file)
    except OSError:
        return "unreadable"


def _finding(run: RunFolder, name: str, state: State, mendable: bool) -> Finding:
    """What to say of it."""
    kind = kind_of(name) or OTHER
    remedy = REMEDY.get(state, kind.remedy)
    if state == "missing" and kind.source in ("extra", "training") and can_be_forgotten(run, name):
        remedy = FORGET
    if state in ("damaged", "missing") and kind.source == "checkpoint" and not mendable:
        remedy = RETRAIN if run.finished else RESUME
    path = run.path / name
    places = {"run": run.path, "file": path, "folder": path.parent, "stem": path.stem}
    quoted = {word: shlex.quote(str(place)) for word, place in places.items()}
    return Finding(name, state, WHAT[state], remedy.format(**quoted, resume=run.resume_command))
