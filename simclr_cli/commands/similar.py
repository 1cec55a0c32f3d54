"""The similar command: the nearest neighbors of images by cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import Neighbor, QueryResult, SimilarResult, SimilarSettings
from simclr_cli.core.events import Report, silent
from simclr_cli.core.text import describe_similarity
from simclr_cli.engine.nearest import find_nearest
from simclr_cli.search.library import match_pattern, open_index, open_library
from simclr_cli.search.output import ResultGroup, ResultImage, collect_cells, prepare_output, write_results
from simclr_cli.search.queries import Query, embed_queries, read_queries
from simclr_cli.search.similarity_scale import SimilarityScale, read_scale
from simclr_cli.store.index import Index

SPARE_NEIGHBORS = 4  # searched in addition: the query's own file may be among them, under several names


def similar(settings: SimilarSettings, *, report: Report = silent) -> SimilarResult:
    """Find the most similar images for each query, without the query itself.

    Raises:
        SimclrError: one of its subclasses, with what to do next.
    """
    library = open_library(settings, report)
    workers, root = library.workers, library.images
    queries, skipped = read_queries(settings.queries, root, workers, report)  # before long work
    out = prepare_output(settings, library.pages_folder, "similar")
    index, _ = open_index(library, report)
    scale = read_scale(index, centered=True)
    assert scale is not None
    queries, h, undecodable = embed_queries(queries, index, scale.mean, library, report)
    among = match_pattern(index, settings.within)
    neighbors = _find_neighbors(index, scale, queries, h, among, settings)
    result = SimilarResult(
        folder=str(library.images),
        encoder=library.loaded.name,
        searched=len(index) if among is None else int(among.sum()),
        queries=tuple(QueryResult(query.text, hits) for query, hits in zip(queries, neighbors, strict=True)),
        skipped=(*skipped, *undecodable),
        out=str(out) if out is not None else None,
    )
    if out is not None:
        groups = [_make_group(query, hits) for query, hits in zip(queries, neighbors, strict=True)]
        by = f"the cosine similarity of centered h by {library.loaded.title}"
        lead = f"Of {result.searched:,} images of {library.images}, by {by}. {library.caution}".strip()
        write_results(out, result, "Similar images", lead, groups, workers=workers, report=report)
    return result


def _make_group(query: Query, neighbors: Sequence[Neighbor]) -> ResultGroup:
    """Return the neighbors of a query as a group of the gallery, with the query as its sample if it is one image."""
    images = tuple(
        ResultImage(
            hit.path,
            f"{hit.similarity:.3f}: {describe_similarity(hit.above_random, hit.above_views)}",
            collect_cells(hit),
        )
        for hit in neighbors
    )
    sample = ResultImage(str(query.images[0]), "the query") if len(query.images) == 1 else None
    return ResultGroup(f"Most similar to {query.text}", images, sample=sample, name=query.text)


def _find_neighbors(
    index: Index, scale: SimilarityScale, queries: Sequence[Query], h: NDArray[np.float32],
    among: NDArray[np.bool_] | None, settings: SimilarSettings,
) -> list[tuple[Neighbor, ...]]:  # fmt: skip
    """Return the neighbors of each query, without the query's own files under any of their paths."""
    least = -np.inf if settings.min_similarity is None else settings.min_similarity
    query_files = [{image.resolve() for image in query.images} for query in queries]
    count = settings.top + max(map(len, query_files)) + SPARE_NEIGHBORS
    while True:
        similarities, places = find_nearest(index.h, h, count, among, scale.mean)
        neighbors = []
        for excluded, row, row_places in zip(query_files, similarities.tolist(), places.tolist(), strict=True):
            hits = [(value, index.get_path(i)) for value, i in zip(row, row_places, strict=True) if value >= least]
            neighbors.append([(value, path) for value, path in hits if path.resolve() not in excluded][: settings.top])
        if places.shape[1] < count or all(len(hits) == settings.top for hits in neighbors):
            break
        if float(similarities[:, -1].max()) < least:
            break
        count *= 2  # there are many links to the query
    return [
        tuple(
            Neighbor(rank, str(path), value, scale.above_random(value), scale.above_views(value))
            for rank, (value, path) in enumerate(hits, start=1)
        )
        for hits in neighbors
    ]
