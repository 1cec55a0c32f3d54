"""A library to search: a folder of images, an encoder, and the embeddings, which are kept up to date."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import IndexSettings
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.core.files import WriteError, remove_abandoned_files
from simclr_cli.core.locks import FolderLockedError, lock_folder
from simclr_cli.core.text import format_count
from simclr_cli.encode.embed import embed_files
from simclr_cli.encode.load import LoadedEncoder, resolve_encoder
from simclr_cli.images.cache_location import PAGES_FOLDER, locate_embeddings
from simclr_cli.images.census import Census, SkippedImage
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.search.similarity_scale import SimilarityScale, has_scales, read_scale
from simclr_cli.search.update import compute_checksums, find_changes, update_index
from simclr_cli.store.index import IMAGE, Index, SkippedFile
from simclr_cli.store.index_files import INDEX_FILE, InvalidIndexError, read_index
from simclr_cli.store.run import find_run
from simclr_cli.store.run_info import read_run_info
from simclr_cli.train.outcome import describe_caution

WAIT_SECONDS = 5  # for another process that updates an index which can be searched as it is


@dataclass(frozen=True)
class Library:
    """A folder of images and an encoder, resolved once at the top of a command."""

    images: Path  # may no longer exist
    loaded: LoadedEncoder
    folder: Path  # of the index: in the run for its own images, else in the user's cache
    workers: int
    settings: IndexSettings

    @property
    def pages_folder(self) -> Path:
        """Folder for pages that --open shows."""
        run = self.loaded.run
        return run.pages_folder if run and self.folder == run.vectors_folder else self.folder / PAGES_FOLDER

    @property
    def caution(self) -> str:
        """A sentence to show with results if the encoder is of a run that has learned little, else ""."""
        return describe_caution(self.loaded.outcome_folder)

    def embed(
        self, paths: Sequence[Path], bits: int | None, report: Report, stage: str
    ) -> tuple[NDArray[np.float32], dict[int, UnusableImage]]:
        """Return h of every file that can be decoded, and why not for the others, by their place in `paths`.

        Args:
            bits: that images of 16 bits use.
        """
        size, workers = self.settings.batch_size, self.workers
        return embed_files(self.loaded, paths, bits, batch_size=size, workers=workers, report=report, stage=stage)


def open_library(settings: IndexSettings, report: Report) -> Library:
    """Load the encoder that the settings name, or else one that fits the folder, and find the folder of its index.

    Raises:
        RunError: no such run, or it is not finished or damaged.
        SettingsError, MachineError: see load_named_encoder.
    """
    loaded = resolve_encoder(settings, report=report, of_folder=True)
    images = settings.images or loaded.images_folder
    is_own = loaded.was_trained_on(images) and not loaded.is_resized
    folder = locate_embeddings(images, loaded.checksum)
    if is_own and loaded.run is not None:
        kept = loaded.run.vectors_folder
        if (kept / INDEX_FILE).is_file() or os.access(loaded.run.path, os.W_OK):  # else the run is another user's
            folder = kept
    return Library(images, loaded, folder, count_workers(settings.workers), settings)


def list_files(settings: IndexSettings, report: Report) -> Index:
    """List the images of a folder, or of a run, for a search of equal files: in memory, without an encoder.

    Only files of equal size are read. The others have a checksum of their own, which is not that of their content.

    Raises:
        RunError: neither a folder nor a run is named, and there is no run.
    """
    images = settings.images or read_run_info(find_run(settings.run, settings.runs)).settings.images
    workers = count_workers(settings.workers)
    census = take_census(images, workers=workers, progress=progress(report, "reading headers"))
    counts = Counter(image.bytes for image in census.images)
    places = [place for place, image in enumerate(census.images) if counts[image.bytes] > 1]
    checksums, unusable = compute_checksums([census.path(census.images[place]) for place in places], workers)
    checksum_by_place = {places[i]: checksum for i, checksum in checksums.items()}
    skipped = {places[i]: f"{census.images[places[i]].name} ({error.reason})" for i, error in unusable.items()}
    readable = [(place, image) for place, image in enumerate(census.images) if place not in skipped]
    rows = np.zeros(len(readable), IMAGE)
    for row, (place, image) in enumerate(readable):
        checksum = checksum_by_place.get(place, place.to_bytes(32, "little"))
        rows[row] = image.bytes, image.modified_ns, list(checksum), (image.height, image.width)
    _report_skipped([*(f"{file.name} ({file.reason})" for file in census.skipped), *skipped.values()], report)
    return Index.in_memory(str(census.root.resolve()), [image.name for _, image in readable], rows)


def _report_skipped(files: Sequence[str], report: Report) -> None:
    if files:
        report(Note(f"Skipped {format_count(len(files), 'file')}; the first is {files[0]}.", warning=True))


def open_index(library: Library, report: Report, task: str = "Searching") -> tuple[Index, SimilarityScale]:
    """Return the embeddings of the images as they are now, and their similarity scale.

    If the images are gone, or with `no_update`, the stored embeddings are returned.

    Args:
        task: of the command, for the first line.

    Raises:
        RunError: neither images nor embeddings.
        InputError: not one image can be decoded.
    """
    report(Note(f"{task} {library.images} with {library.loaded.name}."))
    index, problem = _read_stored_index(library)
    census = _take_census(library, problem, report)
    if census is not None and (index is None or problem or find_changes(index, census, library.loaded)):
        index = _lock_and_update(library, None if problem else index, census, report)
    assert index is not None
    skipped: list[SkippedImage | SkippedFile] = [*(census.skipped if census else ()), *index.skipped]
    _report_skipped([f"{file.name} ({file.reason})" for file in skipped], report)
    scale = read_scale(index)
    assert scale is not None
    if library.caution:
        report(Note(library.caution, warning=True))
    return index, scale


def _read_stored_index(library: Library) -> tuple[Index | None, str]:
    """Return the stored index, and why it cannot be searched, or ""."""
    try:
        index = read_index(library.folder, model_checksum=library.loaded.checksum)
    except InvalidIndexError as error:
        return None, error.problem.rstrip(".")
    if index is None or index.width != library.loaded.encoder.width:
        return None, "There are no embeddings yet"
    return index, "" if len(index) and has_scales(index) else "The embeddings are incomplete"


def _take_census(library: Library, problem: str, report: Report) -> Census | None:
    """Return the images as they are now; None to search the stored embeddings.

    Args:
        problem: why the stored embeddings cannot be searched, or "".
    """
    if library.settings.no_update:
        if problem:
            raise RunError(f"{problem}.", "Run the command without --no-update.")
        return None
    if not library.images.is_dir():
        error = RunError(f"The images are no longer in {library.images}.", "Add their folder.")
        if problem:
            raise error
        report(Note(f"{error.problem} The search uses the stored embeddings.", warning=True))
        return None
    return take_census(library.images, workers=library.workers, progress=progress(report, "reading headers"))


def _lock_and_update(library: Library, fallback: Index | None, census: Census, report: Report) -> Index:
    """Update the index under its lock; if it is locked or read-only, return the fallback, if there is one.

    Without a fallback, wait for the process that has the lock: it is computing what this one needs.
    """
    folder, loaded = library.folder, library.loaded
    try:
        with lock_folder(folder, report, wait=None if fallback is None else WAIT_SECONDS):
            remove_abandoned_files(folder, 0)
            index, problem = _read_stored_index(library)  # again: another process may have updated it
            if problem:
                report(Note(f"{problem}: embedding {format_count(len(census.images), 'image')}."))
            if index is None:
                index = Index(folder, str(census.root.resolve()), loaded.checksum, loaded.encoder.width)
            return update_index(index, census, library, report)
    except (FolderLockedError, WriteError) as error:
        if fallback is None or (isinstance(error, WriteError) and not error.is_forbidden):
            raise
        report(Note(f"{error.problem} The search uses the stored embeddings.", warning=True))
        return fallback


def match_pattern(index: Index, pattern: str) -> NDArray[np.bool_] | None:
    """Return (N,) for each image whether its relative path matches a shell pattern; None if there is no pattern.

    Raises:
        InputError: no image matches.
    """
    if not pattern:
        return None
    matches = re.compile(translate(pattern)).match
    is_match = np.array([matches(name) is not None for name in index.names], dtype=bool)
    if not is_match.any():
        raise InputError(f"No image of {index.root} matches --within {pattern}.", "Try another pattern.")
    return is_match
