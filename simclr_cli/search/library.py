"""The vectors of a run's own images, up to date: what was added, changed, moved or removed costs only itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import IndexSettings
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.core.files import NotWritten, remove_strays
from simclr_cli.core.locks import Busy, locked
from simclr_cli.core.text import count
from simclr_cli.encode.embed import embed_files, nothing_decoded, unit_rows
from simclr_cli.encode.load import ReadyEncoder, pick_device, run_encoder
from simclr_cli.images.census import Census, ImageFile, SkippedImage
from simclr_cli.images.decode import UnavailableNow, UnusableImage
from simclr_cli.images.groups import content_checksum
from simclr_cli.images.scan import NEVER, take_census
from simclr_cli.images.threads import count_workers, each
from simclr_cli.search.similarity_scale import Calibration, calibrated, calibration_of
from simclr_cli.store.index import IMAGE, Index, Rows, SkippedFile, Unusable, append, read_index, save
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.train.run_images import compare

WAIT_SECONDS = 5  # for another process that brings the same vectors up to date
KEPT_EVERY = 8_192  # images embedded before their vectors are saved, which is what a crash may cost


@dataclass(frozen=True)
class Chosen:
    """The run that is searched, and by what: resolved once, at the top of a command."""

    run: RunFolder
    ready: ReadyEncoder
    workers: int
    settings: IndexSettings

    def embed(
        self, paths: Sequence[Path], report: Report, stage: str
    ) -> tuple[NDArray[np.float32], dict[int, UnusableImage]]:
        """h of every file that can be decoded, and the unusable of the others by their place in `paths`."""
        size, workers = self.settings.batch_size, self.workers
        return embed_files(self.ready, paths, batch_size=size, workers=workers, report=report, stage=stage)


def choose_run(settings: IndexSettings) -> Chosen:
    """Find the run that the settings name, and load its encoder.

    Raises:
        RunError: no such run, or it is not finished or damaged.
    """
    run = find_run(settings.run, settings.runs)
    return Chosen(run, run_encoder(run, pick_device(settings.device)), count_workers(settings.workers), settings)


def open_index(chosen: Chosen, report: Report) -> tuple[Index, Calibration]:
    """Return the vectors of the images as they are now, and what similarities mean among them.

    If the images are gone, or with `no_update`, the vectors that are there serve.

    Raises:
        RunError: neither images nor vectors.
        InputError: not one image can be decoded.
    """
    report(Note(f"Searching the images of {chosen.run.path}."))
    index, why = _stored(chosen)
    census = _census(chosen, why, report)
    if census is not None and (index is None or why or differences(index, census)):
        index = _updated(chosen, index if not why else None, census, report)
    assert index is not None
    skipped: list[SkippedImage | SkippedFile] = [*(census.skipped if census else ()), *index.skipped]
    if skipped:
        first = f"the first of them {skipped[0].name} ({skipped[0].reason})"
        report(Note(f"Left out: {count(len(skipped), 'file')}, {first}.", warning=True))
    calibration = calibration_of(index)
    assert calibration is not None
    return index, calibration


def _updated(chosen: Chosen, usable: Index | None, census: Census, report: Report) -> Index:
    """Bring the vectors up to date; where another process is at it, or they may only be read, return what is usable."""
    vectors, ready = chosen.run.vectors, chosen.ready
    try:
        with locked(vectors, report, wait=WAIT_SECONDS):
            remove_strays(vectors, 0)
            found, why = _stored(chosen)  # the other process may have done it meanwhile
            if why:
                report(Note(f"{why}: embedding {count(len(census.images), 'image')}."))
            if found is None:
                found = Index(vectors, str(census.root.resolve()), ready.checksum, ready.encoder.width)
            return bring_up_to_date(found, census, chosen, report)
    except (Busy, NotWritten) as error:
        if usable is None or (isinstance(error, NotWritten) and not error.forbidden):
            raise
        report(Note(f"{error.what} The vectors made before are searched.", warning=True))
        return usable


def _stored(chosen: Chosen) -> tuple[Index | None, str]:
    """Return the vectors that lie there, and why they cannot be searched, if so."""
    try:
        found = read_index(chosen.run.vectors, model_checksum=chosen.ready.checksum)
    except Unusable as error:
        return None, error.what.rstrip(".")
    if found is None or found.width != chosen.ready.encoder.width:
        return None, "There are no vectors of this run yet"
    return found, "" if len(found) and calibration_of(found) else "The vectors of this run were never finished"


def _census(chosen: Chosen, why: str, report: Report) -> Census | None:
    """Return the images as they are now; None where the vectors made before are to serve.

    Args:
        why: they cannot, if so.
    """
    if chosen.settings.no_update:
        if why:
            raise RunError(f"{why}.", "Leave out --no-update: they are made then.")
        return None
    try:
        root = chosen.ready.images
    except RunError as error:
        if why:
            raise
        report(Note(f"{error.what} The vectors made before are searched.", warning=True))
        return None
    return take_census(root, workers=chosen.workers, progress=progress(report, "reading headers"))


@dataclass(frozen=True)
class Differences:
    """What has to be done for an index to be that of its folder."""

    gone: NDArray[np.int64]  # places in the index
    new: tuple[ImageFile, ...]  # added, changed or moved
    skipped: tuple[SkippedFile, ...]  # as they were when they could not be decoded
    others: bool  # the folder is another one, or the last update has not come to its end

    def __bool__(self) -> bool:
        return bool(len(self.gone) or self.new or self.others)


def differences(index: Index, census: Census) -> Differences:
    """Compare an index with the images as they are now, by names, sizes in bytes and times of change."""
    before = dict(zip(index.names, index.images[["bytes", "modified_ns"]].tolist(), strict=True))
    no_name_twice = len(before) == len(index)
    before.update((entry.name, (entry.bytes, entry.modified_ns)) for entry in index.skipped)
    changes = compare(before, census)
    again = {*changes.changed, *changes.touched}
    lost, wanted = again.union(changes.removed), again.union(changes.added)
    left = tuple(entry for entry in index.skipped if entry.name not in lost)
    kept = np.full(len(index), no_name_twice)
    if not no_name_twice:
        kept[list(index.places.values())] = True  # after an interrupted update: the newer
    kept[[index.places[name] for name in lost if name in index.places]] = False
    return Differences(
        np.flatnonzero(~kept),
        tuple(image for image in census.images if image.name in wanted) if wanted else (),
        left,
        index.root != str(census.root.resolve()) or index.is_unfinished or len(left) < len(index.skipped),
    )


def bring_up_to_date(index: Index, census: Census, chosen: Chosen, report: Report) -> Index:
    """Make an index that of the images as they are; what has an equal in content there already is not embedded again.

    Until all is done the old index stands; vectors made by then are saved, and known when it is done again.

    Raises:
        InputError: not one image can be decoded.
        MachineError: no right to write, or no space.
    """
    known = index.known
    found = differences(known, census)
    if not found and not index.is_unfinished and calibration_of(index):
        return index
    if len(index):
        _tell(known, found, report)
    skipped = list(found.skipped)
    by_content = places_by_content(known) if found.new else {}
    for start in range(0, len(found.new), KEPT_EVERY):
        part = found.new[start : start + KEPT_EVERY]
        rows, failed = _embedded(known, by_content, part, census, chosen, report)
        index = append(index, rows)
        skipped += failed
    index = index.settled(found.gone, skipped, str(census.root.resolve()))
    if not len(index):
        raise nothing_decoded(census)
    similarity = calibrated(index, census, chosen.ready, workers=chosen.workers, report=report)
    return save(replace(index, similarity=similarity))


def _tell(known: Index, found: Differences, report: Report) -> None:
    parts = [f"{count(len(found.new), 'file')} new, changed or moved"] if found.new else []
    parts += [f"{len(found.gone):,} of {len(known):,} gone, changed or moved away"] if len(found.gone) else []
    if parts:
        report(Note(f"The images have changed: {', '.join(parts)}. Only new content is embedded."))


def places_by_content(index: Index) -> Mapping[bytes, int]:
    """Return the place of every image by the checksum of its file."""
    whole = index.images["checksum"].tobytes()
    return {whole[32 * place : 32 * place + 32]: place for place in range(len(index))}


def _embedded(
    known: Index, by_content: Mapping[bytes, int], images: Sequence[ImageFile], census: Census, chosen: Chosen,
    report: Report,
) -> tuple[Rows, list[SkippedFile]]:  # fmt: skip
    """Return rows of some images: copied where an image of the same content is known, embedded where not."""
    paths = [census.path(image) for image in images]
    checksums = list(each(content_checksum, paths, chosen.workers))
    failed = {i: found for i, found in enumerate(checksums) if isinstance(found, UnusableImage)}
    whole = {i: bytes.fromhex(found) for i, found in enumerate(checksums) if not isinstance(found, UnusableImage)}
    same = {i: by_content[checksum] for i, checksum in whole.items() if checksum in by_content}
    others = [i for i in whole if i not in same]
    made, unusable = chosen.embed([paths[i] for i in others], report, "embedding")
    failed |= {others[i]: error for i, error in unusable.items()}
    h = np.empty((len(images), known.width), np.float32)
    h[list(same)] = known.h.take(np.array(list(same.values()), np.int64))
    h[[i for i in others if i not in failed]] = unit_rows(made)
    kept = [i for i in whole if i not in failed]
    described = [(images[i].bytes, images[i].modified_ns, list(whole[i]), (images[i].height, images[i].width))
                 for i in kept]  # fmt: skip
    rows = Rows(h[kept], [images[i].name for i in kept], np.array(described, IMAGE))
    return rows, [_skipped(images[i], error) for i, error in sorted(failed.items())]


def _skipped(image: ImageFile, unusable: UnusableImage) -> SkippedFile:
    """Describe an image that is tried again when it has changed, or, if skipped for now only, the next time."""
    modified_ns = NEVER if isinstance(unusable, UnavailableNow) else image.modified_ns
    return SkippedFile(image.name, unusable.reason, image.bytes, modified_ns)


def within(index: Index, pattern: str) -> NDArray[np.bool_] | None:
    """Return (N,) which images' relative paths fit a shell's pattern; None: all, where there is no pattern.

    Raises:
        InputError: none fits.
    """
    if not pattern:
        return None
    fits = re.compile(translate(pattern)).match
    among = np.array([fits(name) is not None for name in index.names], dtype=bool)
    if not among.any():
        raise InputError(f"No image of {index.root} fits --within {pattern}.", "Try another pattern.")
    return among
