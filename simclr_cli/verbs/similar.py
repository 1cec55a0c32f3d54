"""The nearest pictures by cosine similarity, from the run's own vectors, made or refreshed when they must be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.errors import InputError, RunError
from simclr_cli.events import Note, Report, progress, silent
from simclr_cli.images.decode import Refusal, default_workers, read_header
from simclr_cli.images.folder import Refused, take_census
from simclr_cli.results import Neighbour, QueryResult, SimilarResult
from simclr_cli.settings import SimilarSettings
from simclr_cli.store.run import RunFolder, find_run
from simclr_cli.store.vectors import Vectors, read_vectors, write_vectors
from simclr_cli.verbs.embedding import as_vectors, embed_files, embed_pictures, pictures_of
from simclr_cli.verbs.encoders import ReadyEncoder, pick_device, run_encoder


def similar(settings: SimilarSettings, *, report: Report = silent) -> SimilarResult:
    """For each query the most similar pictures of the run, the query itself left out.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    workers = settings.workers or default_workers()
    queries, refused = gather_queries(settings.queries, workers)  # before long work
    ready = run_encoder(find_run(settings.run, settings.runs), pick_device(settings.device))
    assert ready.run is not None
    report(Note(f"Searching the pictures of {ready.run.path}."))
    vectors = current_vectors(ready, ready.run, batch_size=settings.batch_size, workers=workers, report=report)
    h, refusals = embed_files(
        ready, queries, batch_size=settings.batch_size, workers=workers, report=report, stage="embedding queries"
    )
    refused += [f"{queries[i]}: {refusal.reason}" for i, refusal in refusals.items()]
    if not len(h):
        raise InputError(f"No query could be decoded ({refused[0]}).", "Give whole pictures.")
    embedded = [query for i, query in enumerate(queries) if i not in refusals]
    found = tuple(
        QueryResult(str(query), nearest(row, vectors, settings.top, leave_out=query))
        for query, row in zip(embedded, h, strict=True)
    )
    return SimilarResult(str(ready.run.path), len(vectors.rows), found, tuple(refused))


def gather_queries(given: Sequence[Path], workers: int) -> tuple[list[Path], list[str]]:
    """The pictures among files and folders of queries, and what a folder held that is none.

    Raises:
        InputError: a file that is missing or no picture, or a folder without one.
    """
    queries: list[Path] = []
    refused: list[str] = []
    for path in given:
        if path.is_dir():
            census = take_census(path, workers=workers)
            queries += [census.path(picture) for picture in census.pictures]
            refused += [f"{path / entry.name}: {entry.reason}" for entry in census.refused]
        else:
            try:
                read_header(path)
            except Refusal as refusal:
                raise InputError(f"The query {path} is not used: {refusal.reason}.", "Give a picture.") from None
            queries.append(path)
    return queries, refused


def current_vectors(ready: ReadyEncoder, run: RunFolder, *, batch_size: int, workers: int, report: Report) -> Vectors:
    """The vectors of the run's own pictures, embedded now if they are missing, damaged, or the folder has changed.

    If the folder is gone, the vectors that are there serve, with a word about it.
    """
    stored = run.vectors / "vectors.npy"
    found, why = None, "There are no vectors of this run yet"
    try:
        found = read_vectors(stored, model_digest=ready.digest) if stored.exists() else None
    except RunError as error:
        why = error.what.rstrip(".")
    try:
        root = pictures_of(run)
    except RunError as error:
        if found is None:
            raise
        report(Note(f"{error.what} The vectors made before are searched.", warning=True))
        return found
    census = take_census(root, workers=workers, progress=progress(report, "reading headers"))
    if found is not None:
        kept = census.without([Refused(entry["name"], entry["reason"]) for entry in found.refused])
        if kept.fingerprint == found.source_fingerprint:
            return found
        why = "The pictures have changed"
    report(Note(f"{why}: embedding {len(census.pictures):,} pictures."))
    h, census = embed_pictures(ready, census, batch_size=batch_size, workers=workers, report=report)
    vectors = as_vectors(ready, census, h, normalise=True)
    write_vectors(stored, vectors)
    return vectors


def nearest(h: NDArray[np.float32], vectors: Vectors, top: int, *, leave_out: Path) -> tuple[Neighbour, ...]:
    """The `top` rows by cosine similarity, ties in the rows' order.

    Args:
        h: (D,) of any length.
        leave_out: the query's own file, in case it is among the rows.
    """
    root = Path(vectors.root)
    similarity = vectors.values @ (h / max(float(np.linalg.norm(h)), 1e-12))  # (N,)
    own = leave_out.resolve()
    hits: list[Neighbour] = []
    for row in np.argsort(-similarity, kind="stable"):
        path = root / vectors.rows[row]
        if path.resolve() != own:
            hits.append(Neighbour(len(hits) + 1, str(path), float(similarity[row])))
        if len(hits) == top:
            break
    return tuple(hits)
