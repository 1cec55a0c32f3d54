"""The images that are least like the others: strays, wrong files, rare things."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import Outlier, OutliersResult, OutliersSettings
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Report, progress, silent
from simclr_cli.core.text import closeness, count
from simclr_cli.engine.outliers import Oddness, oddness, percent_below, robust_z
from simclr_cli.search.library import choose_run, open_index, within
from simclr_cli.search.output import Entry, Group, cells, page_of, write_found
from simclr_cli.search.similarity_scale import Calibration
from simclr_cli.store.index import Index

STANDS_OUT = 3.5  # robust z above which an image is one: Iglewicz & Hoaglin 1993


def outliers(settings: OutliersSettings, *, report: Report = silent) -> OutliersResult:
    """The oddest images of a run first, by the distance to their nearest others.

    Images of equal content count as one, so that a stray that is there eleven times is not at home among its copies.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    chosen = choose_run(settings)
    out = page_of(settings, chosen.run, "outliers")  # before long work
    index, calibration = open_index(chosen, report)
    among, copies = contents(index, settings.within)
    if int(among.sum()) < 2:
        raise InputError("There are fewer than two different images.", "Compare more of them.")
    found = oddness(index.h, settings.neighbors, None if among.all() else among, progress(report, "comparing"))
    z = robust_z(found.score)
    result = OutliersResult(
        run=str(chosen.run.path),
        searched=len(found.places),
        neighbors=found.neighbors,
        outliers=None if z is None else int((z > STANDS_OUT).sum()),
        images=oddest(index, found, z, copies, calibration, settings.top),
        out=None if out is None else str(out),
    )
    if out is not None:
        lead = f"{count(result.searched, 'image')} of {index.root}, each compared to its {found.neighbors} nearest."
        entries = tuple(Entry(one.path, told(one), cells(one)) for one in result.images)
        group = Group("The oddest first", entries, standing_out(result))
        write_found(out, result, "Odd images", lead, [group], workers=chosen.workers, report=report)
    return result


def contents(index: Index, pattern: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which images are compared: of those whose path fits, the first of each content.

    Returns:
        (N,) bool; and how many of those that fit have the content of each (N,) int64.
    """
    fits = within(index, pattern)
    places = np.arange(len(index)) if fits is None else np.flatnonzero(fits)
    keys = index.contents(places)
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    among, copies = np.zeros(len(index), bool), np.zeros(len(index), np.int64)
    among[places[first]] = True
    copies[places] = counts[inverse.reshape(-1)]
    return among, copies


def oddest(
    index: Index,
    found: Oddness,
    z: NDArray[np.float64] | None,
    copies: NDArray[np.int64],
    calibration: Calibration,
    top: int,
) -> tuple[Outlier, ...]:
    """The `top` of them in words of the result, ties in the order of the index."""
    percent, similarity = percent_below(found.score), found.similarity.tolist()
    order = np.argsort(-found.score, kind="stable")[:top]
    return tuple(
        Outlier(
            rank=rank,
            path=str(index.path(int(found.places[i]))),
            score=float(found.score[i]),
            percentile=float(percent[i]),
            z=None if z is None else float(z[i]),
            nearest=str(index.path(int(found.nearest[i]))),
            similarity=similarity[i],
            above_random=calibration.above_random(similarity[i]),
            above_views=calibration.above_views(similarity[i]),
            duplicates=int(copies[found.places[i]]),
        )
        for rank, i in enumerate(order.tolist(), 1)
    )


def told(one: Outlier) -> str:
    """An image's score in words."""
    z = "" if one.z is None else f" (robust z {one.z:.1f})"
    return f"{one.score:.3f}{z}; its nearest is {closeness(one.above_random, one.above_views)}"


def standing_out(result: OutliersResult) -> str:
    """How many stand out, in a sentence; empty where that cannot be said."""
    if result.outliers is None:
        return ""
    return f"{result.outliers:,} stand out: more than {STANDS_OUT} robust standard deviations above the median."
