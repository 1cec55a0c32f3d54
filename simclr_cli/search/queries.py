"""Queries: files, folders, names of the searched images, and sums of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os.path import lexists
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api.search import SIGNS
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.engine.nearest import center_rows, normalize_rows
from simclr_cli.images.decode import read_header
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.search.library import Library
from simclr_cli.store.index import Index

MAX_SINGLE_LOOKUPS = 20  # of names in an index; for more a table of all its names is quicker

Term = tuple[float, tuple[Path, ...]]  # +1 or -1, and images whose mean is added or subtracted


@dataclass(frozen=True)
class Query:
    """A query: one image, or a sum of images and folders."""

    text: str
    terms: tuple[Term, ...]

    @property
    def images(self) -> list[Path]:
        """The images of all terms."""
        return [image for _, images in self.terms for image in images]


def collect_images(
    paths: Sequence[Path], workers: int, report: Report, *, root: Path | None = None, strict: bool = True
) -> tuple[list[list[Path]], list[str]]:
    """Return the images of each file or folder, those of a folder by its census.

    Args:
        root: the folder of names that are not files here.
        strict: raise an error for a file that is not an image, instead of skipping it.

    Returns:
        A list for each path, empty for a skipped file; and the skipped files, with the reason.

    Raises:
        InputError: a folder without an image, a path that does not exist, or, if strict, a file that is not an image.
    """
    collected: list[list[Path]] = []
    skipped: list[str] = []
    check_header = isolate(read_header, workers)
    for name in paths:
        path = root / name if root is not None and not lexists(name) and lexists(root / name) else name
        if lexists(path) and path.is_dir():
            census = take_census(path, workers=workers, progress=progress(report, "reading headers"))
            collected.append([census.path(image) for image in census.images])
            skipped += [f"{path / file.name}: {file.reason}" for file in census.skipped]
            continue
        try:
            check_header(path)
            collected.append([path])
        except UnusableImage as unusable:
            if not strict:
                collected.append([])
                skipped.append(f"{path}: {unusable.reason}")
            elif lexists(path):
                raise InputError(f"The query {path} cannot be used: {unusable.reason}.", "Use an image file.") from None
            elif root is None or root.is_dir():
                raise InputError(f"There is no {path}.", "Check the path.") from None
            else:
                collected.append([root / name])  # the images are gone, but may have stored embeddings
    return collected, skipped


def read_queries(words: Sequence[Path], root: Path, workers: int, report: Report) -> tuple[list[Query], list[str]]:
    """Read each image as a query of its own, or, if there is a + or -, all words as one sum.

    Args:
        words: files, folders, names of images in `root`, and signs.

    Returns:
        The queries; and the skipped files in folders, with the reason.

    Raises:
        InputError: as `collect_images`.
    """
    texts = [str(word) for word in words]
    names = [word for word, text in zip(words, texts, strict=True) if text not in SIGNS]
    collected, skipped = collect_images(names, workers, report, root=root)
    if len(names) == len(words):
        return [Query(str(path), ((1.0, (path,)),)) for paths in collected for path in paths], skipped
    remaining, sign = iter(collected), 1.0
    terms: list[Term] = []
    for text in texts:
        if text not in SIGNS:
            terms.append((sign, tuple(next(remaining))))
            sign = 1.0
        else:
            sign = SIGNS[text]
    sum_text = " ".join(texts)
    report(Note(f"One query, the sum: {sum_text}"))
    return [Query(sum_text, tuple(terms))], skipped


def embed_queries(
    queries: Sequence[Query], index: Index, mean: NDArray[np.float32], library: Library, report: Report
) -> tuple[list[Query], NDArray[np.float32], list[str]]:
    """Compute a row of length 1 for each query; embeddings in the index are reused.

    Args:
        mean: (D,) that is subtracted from each embedding.

    Returns:
        The queries that have images; their (Q, D) float32; and the images that cannot be decoded, with the reason.

    Raises:
        InputError: no query has an image.
    """
    paths = list(dict.fromkeys(image for query in queries for image in query.images))
    rows, skipped = _embed_images(paths, index, library, report)
    rows = {path: center_rows(row[None], mean)[0] for path, row in rows.items()}
    answerable = []
    for query in queries:
        terms = tuple((sign, tuple(path for path in images if path in rows)) for sign, images in query.terms)
        if all(images for _, images in terms):
            answerable.append(Query(query.text, terms))
    if not answerable:
        raise InputError(f"No query could be decoded ({skipped[0]}).", "Use intact image files.")
    return answerable, np.stack([_add_terms(query, rows) for query in answerable]), skipped


def _embed_images(
    paths: Sequence[Path], index: Index, library: Library, report: Report
) -> tuple[dict[Path, NDArray[np.float32]], list[str]]:
    """Return h, of length 1, of each image that can be decoded; and the others, with the reason."""
    lookup = index.places_by_name.get if len(paths) > MAX_SINGLE_LOOKUPS else index.find_place
    places = {path: place for path in paths if (place := find_in_index(path, index, lookup)) is not None}
    rows = dict(zip(places, index.h.take(np.array(list(places.values()), np.int64)), strict=True))
    new = [path for path in paths if path not in places]
    h, unusable = library.embed(new, index.bits, report, "embedding queries")
    rows |= zip((path for i, path in enumerate(new) if i not in unusable), normalize_rows(h), strict=True)
    return rows, [f"{new[i]}: {error.reason}" for i, error in unusable.items()]


def _add_terms(query: Query, rows: Mapping[Path, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return (D,) the sum of the terms, scaled to length 1."""
    means = [sign * np.mean([rows[path] for path in images], axis=0) for sign, images in query.terms]
    total = np.sum(means, axis=0)
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise InputError(f"The sum {query.text} is zero.", "Subtract other images.")
    return np.asarray(total / length, np.float32)


def find_in_index(path: Path, index: Index, lookup: Callable[[str], int | None]) -> int | None:
    """Return the place of a file in an index, or None if it is not there or has changed since.

    If the folder of the index is gone, its images count as unchanged.

    Args:
        lookup: returns the place of a relative path, if there is one.
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
