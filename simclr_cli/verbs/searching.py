"""The nearest rows of an index: by comparing all of them, or, beyond a few million, those in the nearest cells."""

from __future__ import annotations

import math
import re
from fnmatch import translate

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.cells import Cells, make_cells, nearest_of, recall
from simclr_cli.engine.search import nearest
from simclr_cli.errors import InputError
from simclr_cli.events import Note, Report
from simclr_cli.files import NotWritten
from simclr_cli.seeds import Purpose, numpy_generator, torch_generator
from simclr_cli.store.cells import KeptCells, read_cells, write_cells
from simclr_cli.store.index import Index
from simclr_cli.store.segments import LiveVectors, places_of, rows_of

CELLS_FROM = 3_000_000  # vectors: comparing all takes a quarter of a second a query on two cores
COVERED = 0.8  # share of the vectors that kept cells must cover; the others are compared, all of them
ASKED, TOP = 200, 10  # queries, and neighbours of each, by which the recall is counted
WANTED = 0.98  # recall, for which so many cells are looked into as it takes

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


def search(
    index: Index,
    queries: NDArray[np.float32],
    top: int,
    among: NDArray[np.bool_] | None,
    *,
    exact: bool,
    report: Report,
) -> Found:
    """The `top` most similar rows of each query: similarities and places, (Q, k) each, as `engine.search.nearest`.

    Args:
        exact: compare all, however many there are.
    """
    # A part is compared whole, too: the cells looked into may hold none of it.
    if exact or len(index) < CELLS_FROM or among is not None:
        return nearest(index.h, queries, top, among)
    kept = current_cells(index, report)
    covered, newer = index.segments[: len(kept.digests)], index.segments[len(kept.digests) :]
    first = sum(map(len, covered))
    cells = Cells(kept.centres, kept.starts, kept.members)
    answers = []
    for query in queries:
        near = places_of(covered, cells.near(query, kept.probed))
        found = [nearest_of(index.h, near, query, top)]
        if newer:
            (similarities,), (places,) = nearest(LiveVectors(newer, index.width), query[None], top)
            found.append((similarities, first + places))
        similarities, places = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(-similarities, kind="stable")[:top]
        answers.append((similarities[order], places[order]))
    least = min(len(places) for _, places in answers)
    if least < min(top, len(index)):  # the cells hold fewer than are wanted
        return nearest(index.h, queries, top)
    return np.stack([s for s, _ in answers]), np.stack([p for _, p in answers])


def current_cells(index: Index, report: Report) -> KeptCells:
    """The kept cells, or, where they cover too little, new ones, with what they find of the true nearest."""
    kept = read_cells(index.folder, index.segments)
    if kept is not None and sum(map(len, index.segments[: len(kept.digests)])) >= COVERED * len(index):
        return kept
    count = 2 * math.isqrt(len(index))
    report(Note(f"Sorting {len(index):,} vectors into {count:,} cells: searches look into the nearest ones then."))
    cells = make_cells(index.h, count, torch_generator(0, Purpose.SIMILARITY, len(index)))
    probed, found = _probed(index, cells)
    kept = KeptCells(
        cells.centres,
        cells.starts,
        rows_of(index.segments, cells.members),
        tuple(segment.digest for segment in index.segments),
        probed,
        found,
    )
    try:
        write_cells(index.folder, kept)
    except NotWritten as error:  # they are made anew the next time
        report(Note(f"The cells are not kept: {error.what}", warning=True))
    report(
        Note(
            f"The {probed:,} nearest of {count:,} cells hold {100 * found:.1f} % of the true ten nearest "
            f"({ASKED} pictures, against comparing all; --exact does so always)."
        )
    )
    return kept


def _probed(index: Index, cells: Cells) -> tuple[int, float]:
    """How many cells to look into, doubled until enough is found; and the recall of that."""
    drawn = np.sort(numpy_generator(0, Purpose.SIMILARITY, len(index)).permutation(len(index))[:ASKED])
    _, places = nearest(index.h, index.h.take(drawn), TOP + 1)
    exact = np.stack([[p for p in row if p != own][:TOP] for row, own in zip(places.tolist(), drawn, strict=True)])
    probed = 8
    while (found := recall(index.h, cells, drawn, exact, probed)) < WANTED and probed < len(cells.centres):
        probed *= 2
    return min(probed, len(cells.centres)), found


def within(index: Index, pattern: str) -> NDArray[np.bool_] | None:
    """(N,) the pictures whose relative path fits a shell's pattern; None: all, where there is none.

    Raises:
        InputError: none fits.
    """
    if not pattern:
        return None
    fits = re.compile(translate(pattern)).match
    among = np.array([fits(name) is not None for name in index.names], dtype=bool)
    if not among.any():
        raise InputError(f"No picture of {index.root} fits --within {pattern}.", "Try another pattern.")
    return among
