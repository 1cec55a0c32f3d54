"""The images of a run as a map to explore in the browser: near ones are alike by their vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simclr_cli.api import MapResult, MapSettings
from simclr_cli.core.errors import InputError, require_extra
from simclr_cli.core.events import Note, Report, progress, silent
from simclr_cli.core.files import make_folder, write_bytes
from simclr_cli.core.seeds import Purpose, numpy_generator
from simclr_cli.core.text import count
from simclr_cli.engine.clustering import k_means
from simclr_cli.engine.layout import along_a_curve, neighbors_wanted, principal_components, t_sne
from simclr_cli.engine.nearest import nearest_others
from simclr_cli.images.labels import read_labels
from simclr_cli.images.thumbnails import each_thumbnail
from simclr_cli.pages.images import sheets, thumbnail_side, thumbnail_step
from simclr_cli.pages.map import NEIGHBORS, Mapped, map_page
from simclr_cli.search.library import choose_run, open_index
from simclr_cli.store.index import Index

UNLABELLED = "(no label)"
TOP = "(top folder)"


def map(settings: MapSettings, *, report: Report = silent) -> MapResult:
    """Write the page of the map of a run's own images.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    started = time.monotonic()
    if settings.layout == "tsne":  # before long work, as the labels
        require_extra("openTSNE", "map", "--layout tsne")
    labels = None if settings.labels is None else read_labels(settings.labels)
    make_folder(settings.out.absolute().parent)
    chosen = choose_run(settings)
    index, _ = open_index(chosen, report)
    mapped, explained = place(index, settings, groupings(index, labels, settings), report)
    side, step = thumbnail_side(len(mapped.names)), thumbnail_step(len(mapped.names))
    paths = [mapped.root / name for name in mapped.names[::step]]
    tell = progress(report, "making thumbnails")
    packed = list(sheets(each_thumbnail(paths, side, chosen.workers, oversampling=2, progress=tell), side))
    if missing := sum(int((sheet.shapes[:, 0] == 0).sum()) for sheet in packed):
        report(Note(f"{count(missing, 'image')} can no longer be decoded: no thumbnail.", warning=True))
    lead = f"{count(len(mapped.names), 'image')}. {_in_words(settings, explained)}"
    page = map_page(f"Map of {chosen.run.path.name}", lead, mapped, packed, side, step).encode("utf-8")
    write_bytes(settings.out, page)
    return MapResult(
        run=str(chosen.run.path),
        out=str(settings.out),
        images=len(mapped.names),
        layout=settings.layout,
        explained=explained,
        groupings=tuple(mapped.groupings),
        bytes=len(page),
        seconds=time.monotonic() - started,
    )


def place(
    index: Index, settings: MapSettings, grouped: Mapping[str, Sequence[str]], report: Report
) -> tuple[Mapped, float | None]:
    """Where each image lies, and which ones are nearest to it, in the order of the page.

    Args:
        grouped: what the map can be colored by: a label for each place in the index.

    Returns:
        The map, and the share of the variance that its two directions hold; None where there are no such.

    Raises:
        MachineError: the layout needs a library that is not there.
    """
    places, explained = principal_components(index.h, 2)
    wanted = max(NEIGHBORS, neighbors_wanted(len(index)) if settings.layout == "tsne" else 0)
    similarities, near = nearest_others(index.h, wanted, progress=progress(report, "finding neighbors"))
    if settings.layout == "tsne":
        report(Note("Placing the images by t-SNE."))
        places, explained = t_sne(similarities, near, places), None
    order = along_a_curve(places)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    names = index.names
    mapped = Mapped(
        root=Path(index.root),
        names=[names[i] for i in order],
        places=places[order],
        similarities=similarities[order, :NEIGHBORS],
        neighbors=rank[near[order, :NEIGHBORS]],
        groupings={name: [labels[i] for i in order] for name, labels in grouped.items()},
    )
    return mapped, explained


def groupings(index: Index, labels: Mapping[str, str] | None, settings: MapSettings) -> dict[str, list[str]]:
    """What the map can be colored by: a label for each place in the index.

    Raises:
        InputError: a table that names no image.
    """
    found: dict[str, list[str]] = {}
    if labels is not None:
        found["label"] = [labels.get(name, UNLABELLED) for name in index.names]
        if all(label == UNLABELLED for label in found["label"]):
            raise InputError(
                f"{settings.labels} names no image of {index.root}.",
                f"Give paths relative to that folder, such as {index.name(0)}.",
            )
    folders = _folders(index.names)
    if len(set(folders)) > 1:
        found["folder"] = folders
    if settings.clusters is not None:
        draw = numpy_generator(settings.seed, Purpose.CLUSTERS, settings.clusters)  # as `simclr clusters` does
        found["cluster"] = [str(number + 1) for number in k_means(index.h, settings.clusters, draw).tolist()]
    return found


def _folders(names: Sequence[str]) -> list[str]:
    """The folder of each image, at the first level that tells images apart."""
    parts = [name.split("/")[:-1] for name in names]
    level = 0
    while all(len(part) > level for part in parts) and len({part[level] for part in parts}) == 1:
        level += 1
    return ["/".join(part[: level + 1]) or TOP for part in parts]


def _in_words(settings: MapSettings, explained: float | None) -> str:
    if settings.layout == "tsne":
        return "Placed by t-SNE: neighbors are alike; how far groups are from one another says little."
    if explained is None:
        return "Their vectors are all the same."
    return f"Placed by the two directions in which their vectors differ most: {100 * explained:.0f} % of the variance."
