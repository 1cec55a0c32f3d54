"""The nearest images by cosine similarity, from the run's own vectors, which are brought up to date first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import Neighbor, QueryResult, SimilarResult, SimilarSettings
from simclr_cli.core.events import Report, silent
from simclr_cli.core.text import closeness
from simclr_cli.engine.nearest import nearest
from simclr_cli.search.library import choose_run, open_index, within
from simclr_cli.search.output import Entry, Group, cells, page_of, write_found
from simclr_cli.search.queries import Query, embed_queries, read_queries
from simclr_cli.search.similarity_scale import Calibration
from simclr_cli.store.index import Index

SPARE = 4  # more hits than are wanted: the query's own file may be among them, under several names


def similar(settings: SimilarSettings, *, report: Report = silent) -> SimilarResult:
    """For each query the most similar images of the run, the query itself left out.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    chosen = choose_run(settings)
    workers, root = chosen.workers, chosen.ready.info.settings.images
    queries, skipped = read_queries(settings.queries, root, workers, report)  # before long work
    out = page_of(settings, chosen.run, "similar")
    index, calibration = open_index(chosen, report)
    answered, h, failed = embed_queries(queries, index, chosen, report)
    among = within(index, settings.within)
    hits = _hits(index, calibration, answered, h, among, settings)
    found = tuple(QueryResult(query.text, own) for query, own in zip(answered, hits, strict=True))
    searched = len(index) if among is None else int(among.sum())
    result = SimilarResult(
        str(chosen.run.path), searched, found, (*skipped, *failed), out=str(out) if out is not None else None
    )
    if out is not None:
        groups = [_group(query, one) for query, one in zip(answered, found, strict=True)]
        lead = f"Of {searched:,} images of {chosen.run.path}, by the cosine similarity of h."
        write_found(out, result, "Similar images", lead, groups, workers=workers, report=report)
    return result


def _group(query: Query, found: QueryResult) -> Group:
    """The hits of a query as a group of the gallery, the query itself first if it is one image."""
    entries = tuple(
        Entry(hit.path, f"{hit.similarity:.3f}: {closeness(hit.above_random, hit.above_views)}", cells(hit))
        for hit in found.neighbors
    )
    images = query.images
    sample = Entry(str(images[0]), "the query") if len(images) == 1 else None
    return Group(f"Most similar to {query.text}", entries, sample=sample)


def _hits(
    index: Index, calibration: Calibration, queries: Sequence[Query], h: NDArray[np.float32],
    among: NDArray[np.bool_] | None, settings: SimilarSettings,
) -> list[tuple[Neighbor, ...]]:  # fmt: skip
    """The neighbors of each query; its own files are left out, under whatever path they lie."""
    least = -np.inf if settings.min_similarity is None else settings.min_similarity
    own = [{image.resolve() for image in query.images} for query in queries]
    wanted = settings.top + max(map(len, own)) + SPARE
    while True:
        similarities, places = nearest(index.h, h, wanted, among)
        hits = []
        for leave_out, row, where in zip(own, similarities.tolist(), places.tolist(), strict=True):
            near = [(one, index.path(place)) for one, place in zip(row, where, strict=True) if one >= least]
            hits.append([(one, path) for one, path in near if path.resolve() not in leave_out][: settings.top])
        if places.shape[1] < wanted or all(len(found) == settings.top for found in hits):
            break
        if float(similarities[:, -1].max()) < least:
            break
        wanted *= 2  # many links to the query
    return [
        tuple(
            Neighbor(rank, str(path), one, calibration.above_random(one), calibration.above_views(one))
            for rank, (one, path) in enumerate(found, start=1)
        )
        for found in hits
    ]
