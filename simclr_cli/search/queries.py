"""What is searched for: files, folders, names of a run's own images, and sums of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import lexists
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.encode.embed import unit_rows
from simclr_cli.images.decode import UnusableImage, read_header
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.scan import take_census
from simclr_cli.search.library import Chosen
from simclr_cli.store.index import Index

ONE_BY_ONE = 20  # names that are looked for in the index itself
SIGNS = {"+": 1.0, "-": -1.0}


Term = tuple[float, tuple[Path, ...]]  # +1 or -1, and images whose mean is added or taken away


@dataclass(frozen=True)
class Query:
    """What one answer is for: one image, or a sum."""

    text: str
    terms: tuple[Term, ...]

    @property
    def images(self) -> list[Path]:
        """Of all its terms."""
        return [image for _, images in self.terms for image in images]


def gather(
    given: Sequence[Path], workers: int, report: Report, *, among: Path | None = None, strict: bool = True
) -> tuple[list[list[Path]], list[str]]:
    """The images of each file or folder given, those of a folder by the census.

    Args:
        among: the folder that names which are no files here are relative to.
        strict: a file that is no image is an error; else it is left out, with its reason.

    Returns:
        A list for each one given, empty for a file that was left out; and what is no image, with the reason.

    Raises:
        InputError: a folder without an image, a path that is not there, or, if strict, a file that is no image.
    """
    gathered: list[list[Path]] = []
    skipped: list[str] = []
    header = apart(read_header, workers)
    for name in given:
        path = name
        if among is not None and not lexists(name) and lexists(among / name):
            path = among / name
        if lexists(path) and path.is_dir():
            census = take_census(path, workers=workers, progress=progress(report, "reading headers"))
            gathered.append([census.path(image) for image in census.images])
            skipped += [f"{path / entry.name}: {entry.reason}" for entry in census.skipped]
            continue
        try:
            header(path)
            gathered.append([path])
        except UnusableImage as unusable:
            if not strict:
                gathered.append([])
                skipped.append(f"{path}: {unusable.reason}")
            elif lexists(path):
                raise InputError(f"The query {path} is not used: {unusable.reason}.", "Give an image.") from None
            elif among is None or among.is_dir():
                raise InputError(f"There is no {path}.", "Check the path.") from None
            else:
                gathered.append([among / name])  # the images are gone, and their vectors may serve
    return gathered, skipped


def read_queries(given: Sequence[Path], among: Path, workers: int, report: Report) -> tuple[list[Query], list[str]]:
    """Each image a query of its own; or, where + or - stands among them, one query: the sum.

    Returns:
        The queries; and what the folders among them hold that is no image, with the reason.

    Raises:
        InputError: as `gather`; a sum whose signs do not stand before a term each.
    """
    words = [str(word) for word in given]
    names = [path for path, word in zip(given, words, strict=True) if word not in SIGNS]
    gathered, skipped = gather(names, workers, report, among=among)
    if len(names) == len(given):
        return [Query(str(path), ((1.0, (path,)),)) for paths in gathered for path in paths], skipped
    waiting, sign = iter(gathered), 1.0
    terms: list[Term] = []
    for place, word in enumerate(words):
        if word not in SIGNS:
            terms.append((sign, tuple(next(waiting))))
            sign = 1.0
        elif place + 1 == len(words) or words[place + 1] in SIGNS:
            raise InputError(f"After the {word} comes no image.", "Write it as: simclr similar a.jpg + b.jpg - c.jpg")
        else:
            sign = SIGNS[word]
    text = " ".join(words)
    report(Note(f"One query, the sum: {text}"))
    return [Query(text, tuple(terms))], skipped


def embed_queries(
    queries: Sequence[Query], index: Index, chosen: Chosen, report: Report
) -> tuple[list[Query], NDArray[np.float32], list[str]]:
    """A vector of length 1 for each query; what the index has is not embedded again.

    Returns:
        The queries that can be answered; their (Q, D) float32; and what could not be decoded, with the reason.

    Raises:
        InputError: not one can be answered.
    """
    paths = list(dict.fromkeys(image for query in queries for image in query.images))
    lookup = index.places.get if len(paths) > ONE_BY_ONE else index.place  # of many a table of all names pays
    places = {path: place_of(path, index, lookup) for path in paths}
    known = {path: place for path, place in places.items() if place is not None}
    others = [path for path in paths if path not in known]
    rows = dict(zip(known, index.h.take(np.array(list(known.values()), np.int64)), strict=True))
    made, unusable = chosen.embed(others, report, "embedding queries")
    rows |= zip((path for i, path in enumerate(others) if i not in unusable), unit_rows(made), strict=True)
    skipped = [f"{others[i]}: {unusable.reason}" for i, unusable in unusable.items()]
    answered = []
    for query in queries:
        terms = tuple((sign, tuple(path for path in images if path in rows)) for sign, images in query.terms)
        if all(images for _, images in terms):
            answered.append(Query(query.text, terms))
    if not answered:
        raise InputError(f"No query could be decoded ({skipped[0]}).", "Give whole images.")
    return answered, np.stack([_sum(query, rows) for query in answered]), skipped


def _sum(query: Query, rows: dict[Path, NDArray[np.float32]]) -> NDArray[np.float32]:
    means = [sign * np.mean([rows[path] for path in images], axis=0) for sign, images in query.terms]
    total = np.sum(means, axis=0)
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise InputError(f"The sum {query.text} comes to nothing.", "Take away less than there is.")
    return np.asarray(total / length, np.float32)


def place_of(path: Path, index: Index, lookup: Callable[[str], int | None]) -> int | None:
    """Where a file is in the index, if it is one of its images and as it was, or all of them are gone.

    Args:
        lookup: the place of a relative path, if it is there.
    """
    root = Path(index.root)
    try:
        name = (path.parent.resolve() / path.name).relative_to(root).as_posix()
    except (ValueError, OSError):
        return None
    place = lookup(name)
    if place is None or not root.is_dir():
        return place
    try:
        status = path.stat()
    except OSError:
        return None
    known = index.images[["bytes", "modified_ns"]][place].tolist()
    return place if known == (status.st_size, status.st_mtime_ns) else None
