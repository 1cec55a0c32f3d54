"""The map command: an interactive map of a folder of images, on which similar images are close."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simclr_cli.api import MapResult, MapSettings
from simclr_cli.core.errors import require_extra
from simclr_cli.core.events import Note, Report, progress, silent
from simclr_cli.core.files import prepare_folder, write_bytes
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.core.text import format_count
from simclr_cli.engine.clustering import k_means
from simclr_cli.engine.layout import compute_principal_components, compute_tsne, count_tsne_neighbors, order_along_curve
from simclr_cli.engine.nearest import find_neighbors
from simclr_cli.images.label_table import match_labels, read_labels, report_similar_labels
from simclr_cli.images.thumbnails import make_thumbnails
from simclr_cli.pages.images import choose_thumbnail_side, choose_thumbnail_step, pack_sprites
from simclr_cli.pages.map import NEIGHBORS_PER_IMAGE, ImageMap, render_map
from simclr_cli.search.library import open_index, open_library
from simclr_cli.store.index import Index

NO_LABEL = "(no label)"
TOP_FOLDER = "(top folder)"


def map(settings: MapSettings, *, report: Report = silent) -> MapResult:
    """Write the page with the map of a folder of images.

    Raises:
        SimclrError: one of its subclasses, with what to do next.
    """
    started = time.monotonic()
    if settings.layout == "tsne":  # before long work, as the labels
        require_extra("openTSNE", "map", "--layout tsne")
    if settings.labels is not None:
        read_labels(settings.labels)
    prepare_folder(settings.out.absolute().parent)
    library = open_library(settings, report)
    index, _ = open_index(library, report)
    image_map, explained = lay_out(index, settings, collect_groupings(index, settings, report), report)
    side, step = choose_thumbnail_side(len(image_map.names)), choose_thumbnail_step(len(image_map.names))
    paths = [image_map.root / name for name in image_map.names[::step]]
    on_progress = progress(report, "making thumbnails")
    thumbnails = make_thumbnails(paths, side, library.workers, oversampling=2, progress=on_progress)
    sheets = list(pack_sprites(thumbnails, side))
    if missing := sum(int((sheet.shapes[:, 0] == 0).sum()) for sheet in sheets):
        report(Note(f"No thumbnail of {format_count(missing, 'image')}, which cannot be decoded now.", warning=True))
    lead = f"{format_count(len(image_map.names), 'image')}. {_describe_layout(settings, explained)}"
    lead = f"{lead} {library.caution}".strip()
    page = render_map(f"Map of {library.images.resolve().name}", lead, image_map, sheets, side, step).encode("utf-8")
    write_bytes(settings.out, page)
    return MapResult(
        folder=str(library.images),
        encoder=library.loaded.name,
        out=str(settings.out),
        images=len(image_map.names),
        layout=settings.layout,
        explained=explained,
        groupings=tuple(image_map.groupings),
        bytes=len(page),
        seconds=time.monotonic() - started,
    )


def lay_out(
    index: Index, settings: MapSettings, groupings: Mapping[str, Sequence[str]], report: Report
) -> tuple[ImageMap, float | None]:
    """Compute the position and the nearest neighbors of each image.

    Args:
        groupings: the choices of colors: a label for each place in the index.

    Returns:
        The map, and the explained share of the variance, or None if the positions are no principal components.

    Raises:
        MachineError: the layout needs a library that is not installed.
    """
    positions, explained = compute_principal_components(index.h, 2)
    count = max(NEIGHBORS_PER_IMAGE, count_tsne_neighbors(len(index)) if settings.layout == "tsne" else 0)
    similarities, neighbors = find_neighbors(index.h, count, progress=progress(report, "finding neighbors"))
    if settings.layout == "tsne":
        report(Note("Computing the layout by t-SNE."))
        positions, explained = compute_tsne(similarities, neighbors, positions), None
    order = order_along_curve(positions)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    names = index.names
    image_map = ImageMap(
        root=Path(index.root),
        names=[names[i] for i in order],
        positions=positions[order],
        similarities=similarities[order, :NEIGHBORS_PER_IMAGE],
        neighbors=rank[neighbors[order, :NEIGHBORS_PER_IMAGE]],
        groupings={name: [labels[i] for i in order] for name, labels in groupings.items()},
    )
    return image_map, explained


def collect_groupings(index: Index, settings: MapSettings, report: Report = silent) -> dict[str, list[str]]:
    """Return the choices of colors: a label for each place in the index.

    Raises:
        InputError: a table that cannot be used, or of other images.
    """
    groupings: dict[str, list[str]] = {}
    if settings.labels is not None:
        labels = match_labels(settings.labels, Path(index.root), index.names, report)
        report_similar_labels(labels, report)
        groupings["label"] = [labels.get(name, NO_LABEL) for name in index.names]
    folders = _find_folders(index.names)
    if len(set(folders)) > 1:
        groupings["folder"] = folders
    if settings.clusters is not None:  # the same as those of `simclr clusters`
        generator = create_numpy_generator(settings.seed, Purpose.CLUSTERS, settings.clusters)
        groupings["cluster"] = [str(label + 1) for label in k_means(index.h, settings.clusters, generator).tolist()]
    return groupings


def _find_folders(names: Sequence[str]) -> list[str]:
    """Return the folder of each image, down to the first level at which they differ."""
    parts = [name.split("/")[:-1] for name in names]
    level = 0
    while all(len(part) > level for part in parts) and len({part[level] for part in parts}) == 1:
        level += 1
    return ["/".join(part[: level + 1]) or TOP_FOLDER for part in parts]


def _describe_layout(settings: MapSettings, explained: float | None) -> str:
    if settings.layout == "tsne":
        return "Layout by t-SNE: nearby images are similar; distances between groups mean little."
    if explained is None:
        return "All embeddings are equal."
    return f"Layout by the first two principal components: {100 * explained:.0f} % of the variance."
