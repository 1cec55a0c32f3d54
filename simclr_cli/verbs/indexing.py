"""The vectors of a run's own pictures, up to date: what was added, changed, moved or removed costs only itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.atomic import remove_strays
from simclr_cli.engine.calibration import Calibration
from simclr_cli.errors import InputError, RunError
from simclr_cli.events import Note, Report, progress
from simclr_cli.files import NotWritten
from simclr_cli.images.census import Census, Picture
from simclr_cli.images.decode import NotNow, Refusal
from simclr_cli.images.folder import NEVER, take_census
from simclr_cli.images.groups import content_digest
from simclr_cli.images.workers import count_workers, each
from simclr_cli.locks import Busy, locked
from simclr_cli.settings import IndexSettings
from simclr_cli.store.index import Index, RefusedFile, read_index, set_aside, update
from simclr_cli.store.rows import Rows, named
from simclr_cli.store.run import RunFolder
from simclr_cli.store.runs import find_run
from simclr_cli.store.segments import Unusable
from simclr_cli.verbs.calibrating import calibration
from simclr_cli.verbs.embedding import embed_files, unit_rows
from simclr_cli.verbs.encoders import ReadyEncoder, pick_device, run_encoder
from simclr_cli.wording import count

WAIT_SECONDS = 5  # for another process that brings the same vectors up to date
KEPT_EVERY = 8_192  # pictures embedded before their vectors are put aside, which is what a crash may cost


@dataclass(frozen=True)
class Chosen:
    """The run that is searched, and by what: resolved once, at the top of a command."""

    run: RunFolder
    ready: ReadyEncoder
    workers: int
    settings: IndexSettings


def choose_run(settings: IndexSettings) -> Chosen:
    """Find the run that the settings name, and load its encoder.

    Raises:
        RunError: no such run, or it is not finished or damaged.
    """
    run = find_run(settings.run, settings.runs)
    return Chosen(run, run_encoder(run, pick_device(settings.device)), count_workers(settings.workers), settings)


@dataclass(frozen=True)
class Opened:
    """A run's vectors, ready to be searched."""

    run: RunFolder
    ready: ReadyEncoder
    index: Index
    calibration: Calibration

    @property
    def root(self) -> Path:
        """The folder of the pictures."""
        return Path(self.index.root)


def open_index(chosen: Chosen, report: Report) -> Opened:
    """The vectors of the pictures as they are now, and what similarities mean among them.

    If the pictures are gone, or with `as_is`, the vectors that are there serve.

    Raises:
        RunError: neither pictures nor vectors.
        InputError: not one picture can be decoded.
    """
    run, ready, workers, settings = chosen.run, chosen.ready, chosen.workers, chosen.settings
    report(Note(f"Searching the pictures of {run.path}."))
    stored, why = _stored(run, ready)
    census = _census(ready, why, settings.as_is, workers, report)
    if census is None:
        assert stored is not None
        index = stored
    elif stored is not None and is_current(stored, census):
        index = stored
    else:
        index = _updated(run, stored, census, ready, settings.batch_size, workers, report)
    left_out = [(entry.name, entry.reason) for entry in census.refused] if census else []
    left_out += [(entry.name, entry.reason) for entry in index.refused]
    if left_out:
        name, reason = left_out[0]
        report(Note(f"Left out: {count(len(left_out), 'file')}, the first of them {name} ({reason}).", warning=True))
    return Opened(run, ready, index, calibration(ready, index, census, workers=workers, report=report))


def _updated(
    run: RunFolder, stored: Index | None, census: Census, ready: ReadyEncoder, batch_size: int, workers: int,
    report: Report,
) -> Index:  # fmt: skip
    """The vectors brought up to date, or as they stand where another process is at it or they may only be read."""
    try:
        with locked(run.vectors, report, wait=WAIT_SECONDS):
            remove_strays(run.vectors, 0)
            found, why = _stored(run, ready)  # the other process may have done it meanwhile
            if why:
                report(Note(f"{why}: embedding {count(len(census.pictures), 'picture')}."))
            if found is None:
                found = Index(run.vectors, str(census.root.resolve()), ready.digest, ready.encoder.width)
            return bring_up_to_date(found, census, ready, batch_size=batch_size, workers=workers, report=report)
    except (Busy, NotWritten) as error:
        if not stored or (isinstance(error, NotWritten) and not error.forbidden):
            raise
        report(Note(f"{error.what} The vectors made before are searched.", warning=True))
        return stored


def _stored(run: RunFolder, ready: ReadyEncoder) -> tuple[Index | None, str]:
    """The vectors that lie there, or why there are none that could be used."""
    try:
        found = read_index(run.vectors, model_digest=ready.digest)
    except Unusable as error:
        return None, error.what.rstrip(".")
    if found is None:
        return None, "There are no vectors of this run yet"
    return found, "" if len(found) else "The vectors of this run were never finished"


def _census(ready: ReadyEncoder, why: str, as_is: bool, workers: int, report: Report) -> Census | None:
    """The pictures as they are now; None where the vectors made before are to serve.

    Args:
        why: there are none that could, if so.
    """
    if as_is:
        if why:
            raise RunError(f"{why}.", "Leave out --as-is: they are made then.")
        return None
    try:
        root = ready.images
    except RunError as error:
        if why:
            raise
        report(Note(f"{error.what} The vectors made before are searched.", warning=True))
        return None
    return take_census(root, workers=workers, progress=progress(report, "reading headers"))


@dataclass(frozen=True)
class Changes:
    """How a folder differs from its index."""

    gone: NDArray[np.int64]  # places in the index
    new: tuple[Picture, ...]  # added, changed or moved
    refused: tuple[RefusedFile, ...]  # as they were when they could not be decoded


def compare(index: Index, census: Census) -> Changes:
    """By names, sizes in bytes and times of change."""
    places = index.places
    sizes, times = index.bytes.tolist(), index.modified_ns.tolist()
    refused = {entry.name: entry for entry in index.refused}
    kept, still, new = np.zeros(len(index), bool), [], []
    for picture in census.pictures:
        place, entry = places.get(picture.name), refused.get(picture.name)
        now = (picture.bytes, picture.modified_ns)
        if place is not None and (sizes[place], times[place]) == now:
            kept[place] = True
        elif entry is not None and (entry.bytes, entry.modified_ns) == now:
            still.append(entry)
        else:
            new.append(picture)
    return Changes(np.flatnonzero(~kept), tuple(new), tuple(still))


def is_current(index: Index, census: Census) -> bool:
    """Whether an index is that of the pictures as they are."""
    if index.aside or index.root != str(census.root.resolve()):
        return False
    changes = compare(index, census)
    return not (len(changes.gone) or changes.new) and changes.refused == index.refused


def bring_up_to_date(
    index: Index, census: Census, ready: ReadyEncoder, *, batch_size: int, workers: int, report: Report
) -> Index:
    """The index of the pictures as they are; what has an equal in content there already is not embedded again.

    Until all is done the old index stands; vectors made by then are put aside, and found when it is done again.

    Raises:
        InputError: not one picture can be decoded.
        MachineError: no right to write, or no space.
    """
    if is_current(index, census):
        return index
    root = str(census.root.resolve())
    known = index.with_aside()
    changes = compare(known, census)
    if len(index):
        _tell(known, changes, report)
    refused = list(changes.refused)
    by_content = places_by_content(known) if changes.new else {}
    added = None
    for start in range(0, len(changes.new), KEPT_EVERY):
        if added is not None:
            index = set_aside(index, added)
        part = changes.new[start : start + KEPT_EVERY]
        added, failed = _rows(known, by_content, part, census, ready, batch_size, workers, report)
        refused += failed
    if not len(index.with_aside()) - len(changes.gone) + (len(added) if added else 0):
        raise InputError(f"No picture in {census.root} could be decoded.", "Give a folder of whole pictures.")
    return update(index.with_aside(), changes.gone, added, refused, root)


def _tell(known: Index, changes: Changes, report: Report) -> None:
    parts = [f"{count(len(changes.new), 'file')} new, changed or moved"] if changes.new else []
    parts += [f"{len(changes.gone):,} of {len(known):,} gone, changed or moved away"] if len(changes.gone) else []
    if parts:
        report(Note(f"The pictures have changed: {', '.join(parts)}. Only new content is embedded."))


def places_by_content(index: Index) -> Mapping[bytes, int]:
    """The place of every picture by the digest of its file."""
    whole = np.ascontiguousarray(index.digest).tobytes()
    return {whole[32 * place : 32 * place + 32]: place for place in range(len(index))}


def _rows(
    known: Index, by_content: Mapping[bytes, int], pictures: Sequence[Picture], census: Census,
    ready: ReadyEncoder, batch_size: int, workers: int, report: Report,
) -> tuple[Rows, list[RefusedFile]]:  # fmt: skip
    """Rows of some pictures: copied where a picture of the same content is known, embedded where not."""
    paths = [census.path(picture) for picture in pictures]
    digests = [found if isinstance(found, Refusal) else bytes.fromhex(found)
               for found in each(content_digest, paths, workers)]  # fmt: skip
    h = np.empty((len(pictures), known.width), np.float32)
    failed = {i: found for i, found in enumerate(digests) if isinstance(found, Refusal)}
    places = [by_content.get(found, -1) if isinstance(found, bytes) else -1 for found in digests]
    same = [i for i, place in enumerate(places) if place >= 0]
    h[same] = known.h.take(np.array([places[i] for i in same], dtype=np.int64))
    others = [i for i, place in enumerate(places) if place < 0 and i not in failed]
    made, refusals = embed_files(
        ready, [paths[i] for i in others], batch_size=batch_size, workers=workers, report=report, stage="embedding"
    )
    failed |= {others[i]: refusal for i, refusal in refusals.items()}
    whole = [i for i in others if i not in failed]
    h[whole] = unit_rows(made)
    kept = [i for i in range(len(pictures)) if i not in failed]
    names, ends = named([pictures[i].name for i in kept])
    rows = Rows(
        h=h[kept],
        names=names,
        ends=ends,
        bytes=np.array([pictures[i].bytes for i in kept], np.int64),
        modified_ns=np.array([pictures[i].modified_ns for i in kept], np.int64),
        digest=np.frombuffer(b"".join(digests[i] for i in kept), np.uint8).reshape(-1, 32),  # type: ignore[misc]
        size=np.array([(pictures[i].height, pictures[i].width) for i in kept], np.int32).reshape(-1, 2),
    )
    return rows, [_left_out(pictures[i], refusal) for i, refusal in sorted(failed.items())]


def _left_out(picture: Picture, refusal: Refusal) -> RefusedFile:
    """A picture that is tried again when it has changed, or, if the refusal is of this time only, the next time."""
    modified_ns = NEVER if isinstance(refusal, NotNow) else picture.modified_ns
    return RefusedFile(picture.name, refusal.reason, picture.bytes, modified_ns)
