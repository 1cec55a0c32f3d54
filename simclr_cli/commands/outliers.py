"""The outliers command: the images least similar to their nearest neighbors, such as wrong or rare ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import Outlier, OutliersResult, OutliersSettings
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Report, progress, silent
from simclr_cli.core.text import describe_similarity, format_count
from simclr_cli.engine.outliers import OutlierScores, compute_percentiles, compute_robust_z_scores, score_outliers
from simclr_cli.search.library import match_pattern, open_index, open_library
from simclr_cli.search.output import ResultGroup, ResultImage, collect_cells, prepare_output, write_results
from simclr_cli.search.similarity_scale import SimilarityScale
from simclr_cli.store.index import Index

MIN_OUTLIER_Z = 3.5  # robust z above which an image is an outlier: Iglewicz & Hoaglin 1993


def outliers(settings: OutliersSettings, *, report: Report = silent) -> OutliersResult:
    """List the images of a folder by the distance to their nearest neighbors, the farthest first.

    Images with equal content count as one, so that an outlier with ten duplicates is still far from the others.

    Raises:
        SimclrError: one of its subclasses, with what to do next.
    """
    library = open_library(settings, report)
    out = prepare_output(settings, library.pages_folder, "outliers")  # before long work
    index, scale = open_index(library, report)
    among, duplicates = select_distinct(index, settings.within)
    if int(among.sum()) < 2:
        raise InputError("There are fewer than two different images.", "Use a folder with more images.")
    scores = score_outliers(index.h, settings.neighbors, None if among.all() else among, progress(report, "comparing"))
    z = compute_robust_z_scores(scores.score)
    result = OutliersResult(
        folder=str(library.images),
        encoder=library.loaded.name,
        searched=len(scores.places),
        neighbors=scores.neighbors,
        outliers=None if z is None else int((z > MIN_OUTLIER_Z).sum()),
        images=list_outliers(index, scores, z, duplicates, scale, settings.top),
        out=None if out is None else str(out),
    )
    if out is not None:
        compared = f"each compared with its {scores.neighbors} nearest neighbors"
        lead = f"{format_count(result.searched, 'image')} of {index.root}, {compared}. {library.caution}".strip()
        images = tuple(ResultImage(image.path, describe_score(image), collect_cells(image)) for image in result.images)
        group = ResultGroup("The least similar first", images, describe_outlier_count(result))
        write_results(out, result, "Outliers", lead, [group], workers=library.workers, report=report)
    return result


def select_distinct(index: Index, pattern: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Select the images to compare: of those whose path matches the pattern, the first with each content.

    Returns:
        (N,) bool; and for each matching image the number of those with its content, (N,) int64.
    """
    is_match = match_pattern(index, pattern)
    places = np.arange(len(index)) if is_match is None else np.flatnonzero(is_match)
    checksums = index.get_checksums(places)
    _, first, inverse, counts = np.unique(checksums, return_index=True, return_inverse=True, return_counts=True)
    among, duplicates = np.zeros(len(index), bool), np.zeros(len(index), np.int64)
    among[places[first]] = True
    duplicates[places] = counts[inverse.reshape(-1)]
    return among, duplicates


def list_outliers(
    index: Index,
    scores: OutlierScores,
    z: NDArray[np.float64] | None,
    duplicates: NDArray[np.int64],
    scale: SimilarityScale,
    top: int,
) -> tuple[Outlier, ...]:
    """Return the `top` images by score, ties in the order of the index."""
    percentiles, similarity = compute_percentiles(scores.score), scores.similarity.tolist()
    order = np.argsort(-scores.score, kind="stable")[:top]
    return tuple(
        Outlier(
            rank=rank,
            path=str(index.get_path(int(scores.places[i]))),
            score=float(scores.score[i]),
            percentile=float(percentiles[i]),
            z=None if z is None else float(z[i]),
            nearest=str(index.get_path(int(scores.nearest[i]))),
            similarity=similarity[i],
            above_random=scale.above_random(similarity[i]),
            above_views=scale.above_views(similarity[i]),
            duplicates=int(duplicates[scores.places[i]]),
        )
        for rank, i in enumerate(order.tolist(), 1)
    )


def describe_score(image: Outlier) -> str:
    """Return the caption of an image."""
    z = "" if image.z is None else f" (robust z {image.z:.1f})"
    similarity = describe_similarity(image.above_random, image.above_views)
    return f"{image.score:.3f}{z}; its nearest neighbor is {similarity}"


def describe_outlier_count(result: OutliersResult) -> str:
    """Return the number of outliers as a sentence, or "" if most scores are equal."""
    if result.outliers is None:
        return ""
    outliers = format_count(result.outliers, "outlier")
    return f"{outliers}: more than {MIN_OUTLIER_Z} robust standard deviations above the median."
