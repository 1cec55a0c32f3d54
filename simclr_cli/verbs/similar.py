"""The nearest pictures by cosine similarity, from the run's own vectors, which are brought up to date first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.search import nearest
from simclr_cli.events import Report, silent
from simclr_cli.results import Neighbour, QueryResult, SimilarResult
from simclr_cli.settings import SimilarSettings
from simclr_cli.verbs.indexing import Opened, choose_run, open_index, within
from simclr_cli.verbs.outputs import Entry, Group, page_of, write_found
from simclr_cli.verbs.queries import Query, embed_queries, read_queries
from simclr_cli.wording import closeness

SPARE = 4  # more hits than are wanted: the query's own file may be among them, under several names


def similar(settings: SimilarSettings, *, report: Report = silent) -> SimilarResult:
    """For each query the most similar pictures of the run, the query itself left out.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    chosen = choose_run(settings)
    workers, root = chosen.workers, chosen.ready.info.settings.images
    queries, refused = read_queries(settings.queries, root, workers, report)  # before long work
    out = page_of(settings, chosen.run, "similar")
    opened = open_index(chosen, report)
    answered, h, failed = embed_queries(
        queries, opened.index, opened.ready, batch_size=settings.batch_size, workers=workers, report=report
    )
    among = within(opened.index, settings.within)
    found = tuple(
        QueryResult(query.text, hits)
        for query, hits in zip(answered, _hits(opened, answered, h, among, settings), strict=True)
    )
    searched = len(opened.index) if among is None else int(among.sum())
    result = SimilarResult(
        str(opened.run.path), searched, found, (*refused, *failed), out=str(out) if out is not None else None
    )
    if out is not None:
        groups = [_group(query, one) for query, one in zip(answered, found, strict=True)]
        lead = f"Of {searched:,} pictures of {opened.run.path}, by the cosine similarity of h."
        write_found(out, result, "Similar pictures", lead, groups, workers=workers, report=report)
    return result


def _group(query: Query, found: QueryResult) -> Group:
    """The hits of a query as a group of the gallery, the query itself first if it is one picture."""
    entries = tuple(
        Entry(
            hit.path,
            f"{hit.similarity:.3f}: {closeness(hit.above_random, hit.above_views)}",
            {
                "rank": hit.rank,
                "similarity": hit.similarity,
                "above_random": hit.above_random,
                "above_views": hit.above_views,
            },
        )
        for hit in found.neighbours
    )
    pictures = query.pictures
    sample = Entry(str(pictures[0]), "the query") if len(pictures) == 1 else None
    return Group(f"Most similar to {query.text}", entries, sample=sample)


def _hits(
    opened: Opened,
    queries: Sequence[Query],
    h: NDArray[np.float32],
    among: NDArray[np.bool_] | None,
    settings: SimilarSettings,
) -> list[tuple[Neighbour, ...]]:
    """The neighbours of each query; its own files are left out, under whatever path they lie."""
    own = [{picture.resolve() for picture in query.pictures} for query in queries]
    wanted = settings.top + max(map(len, own)) + SPARE
    while True:
        similarities, places = nearest(opened.index.h, h, wanted, among)
        hits = [
            _neighbours(opened, leave_out, row, where, settings)
            for leave_out, row, where in zip(own, similarities, places, strict=True)
        ]
        if places.shape[1] < wanted or all(len(found) >= settings.top for found in hits):
            return [found[: settings.top] for found in hits]
        if settings.min_similarity is not None and float(similarities[:, -1].max()) < settings.min_similarity:
            return [found[: settings.top] for found in hits]
        wanted *= 2  # many links to the query


def _neighbours(
    opened: Opened,
    leave_out: set[Path],
    similarities: NDArray[np.float32],
    places: NDArray[np.int64],
    settings: SimilarSettings,
) -> tuple[Neighbour, ...]:
    hits: list[Neighbour] = []
    for similarity, place in zip(similarities.tolist(), places.tolist(), strict=True):
        path = opened.index.path(place)
        if settings.min_similarity is not None and similarity < settings.min_similarity:
            break
        if path.resolve() not in leave_out:
            meaning = opened.calibration.above_random(similarity), opened.calibration.above_views(similarity)
            hits.append(Neighbour(len(hits) + 1, str(path), similarity, *meaning))
    return tuple(hits)
