"""Result files: a gallery, a table, or the result as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simclr_cli.api import SearchSettings
from simclr_cli.core.events import Report, progress
from simclr_cli.core.files import prepare_folder, write_bytes, write_csv, write_json
from simclr_cli.core.text import Cell, escape_name_for_csv, escape_value_for_csv, format_count
from simclr_cli.images.decode import Pixels
from simclr_cli.images.thumbnails import make_thumbnails
from simclr_cli.pages.gallery import GalleryGroup, GalleryImage, render_gallery
from simclr_cli.pages.images import as_data_uri

THUMBNAIL_SIDE = 320  # px, shown at about half of it, so that it is sharp on fine screens
MAX_PIXELATED_SIDE = 64  # px, up to which an image is enlarged by whole pixels
MAX_IMAGES = 500  # on a page
MAX_THUMBNAIL_BYTES = 16_000_000  # on a page
MIN_IMAGES_PER_GROUP = 8  # rather than fewer, later groups are dropped

Thumbnail = tuple[str | None, bool]  # data: URI, or None if it cannot be decoded; and whether it is pixelated


@dataclass(frozen=True)
class ResultImage:
    """An image of a result."""

    path: str
    caption: str  # such as "0.981: more similar than 99.98 % of random pairs"
    values: Mapping[str, Cell] = field(default_factory=dict)  # further cells of its table row


@dataclass(frozen=True)
class ResultGroup:
    """A group of images of a result."""

    heading: str
    images: tuple[ResultImage, ...]  # in order, without the sample
    lead: str = ""
    sample: ResultImage | None = None  # the query or the best image of the group, shown first and marked
    name: str = ""  # in a table: the path of the query; by default the heading

    @property
    def all_images(self) -> tuple[ResultImage, ...]:
        """The sample, if there is one, and the images."""
        return self.images if self.sample is None else (self.sample, *self.images)


def collect_cells(result: Any) -> dict[str, Cell]:
    """Return the fields of a result's dataclass, but for its path, as table cells."""
    return {name: value for name, value in vars(result).items() if name != "path"}


def prepare_output(settings: SearchSettings, pages_folder: Path, verb: str) -> Path | None:
    """Return the file for the results, and make its folder: --out, or with --open a page in `pages_folder`, or None.

    A command calls it before long work, so that it does not fail only at the end.

    Raises:
        MachineError: the folder cannot be made or written to.
    """
    out = settings.out or (pages_folder / f"{verb}.html" if settings.open else None)
    if out is not None:
        prepare_folder(out.absolute().parent)
    return out


def write_results(
    out: Path, result: Any, title: str, lead: str, groups: Sequence[ResultGroup], *, workers: int, report: Report
) -> None:
    """Write results in the format of the ending of `out`.

    .html: a gallery of the groups. .csv: a row for each image, with its group, its path and its values; names are
    escaped by `text`. .json: the result, as --json prints it.

    Args:
        result: a dataclass of plain values.
        title: of the gallery.
        lead: a sentence or two below it.
        workers: threads that decode images for the gallery.

    Raises:
        MachineError: the file cannot be written.
    """
    extension = out.suffix.lower()
    if extension == ".json":
        return write_json(out, dataclasses.asdict(result))
    if extension == ".csv":
        return _write_table(out, groups)
    return write_bytes(out, build_gallery(title, lead, groups, workers=workers, report=report).encode("utf-8"))


def _write_table(out: Path, groups: Sequence[ResultGroup]) -> None:
    columns = list(dict.fromkeys(name for group in groups for image in group.all_images for name in image.values))
    rows = []
    for group in groups:
        name = escape_name_for_csv(group.name) if group.name else escape_value_for_csv(group.heading)
        for image in group.all_images:
            values = [escape_value_for_csv(image.values.get(column)) for column in columns]
            rows.append([name, escape_name_for_csv(image.path), *values])
    write_csv(out, ["group", "path", *columns], rows)


def build_gallery(title: str, lead: str, groups: Sequence[ResultGroup], *, workers: int, report: Report) -> str:
    """Return the gallery as HTML: as many images of every group as fit, and a note if that is not all."""
    limit = limit_group_size([len(group.all_images) for group in groups], MAX_IMAGES)
    paths = [Path(image.path) for group in groups for image in group.all_images[:limit]][:MAX_IMAGES]
    thumbnails = _encode_thumbnails(paths, workers, report)
    folder = find_common_folder([image.path for group in groups for image in group.images])
    gallery = _make_gallery_groups(groups, limit, thumbnails, folder)
    notes = [lead, f"Names are paths below {folder}." if folder is not None else "", _describe_limit(groups, gallery)]
    return render_gallery(title, " ".join(note for note in notes if note), gallery)


def _make_gallery_groups(
    groups: Sequence[ResultGroup], limit: int, thumbnails: Sequence[Thumbnail], folder: Path | None
) -> list[GalleryGroup]:
    """Pair the first images of each group with the thumbnails, which may end before the images do."""
    gallery: list[GalleryGroup] = []
    for group in groups:
        images = group.all_images[:limit]
        if images and not thumbnails:
            break
        pairs = zip(images, thumbnails, strict=False)
        shown = tuple(_make_gallery_image(image, folder, *thumbnail) for image, thumbnail in pairs)
        thumbnails, total = thumbnails[len(images) :], len(group.all_images)
        gallery.append(GalleryGroup(group.heading, group.lead, shown, total, has_sample=group.sample is not None))
    return gallery


def _describe_limit(groups: Sequence[ResultGroup], gallery: Sequence[GalleryGroup]) -> str:
    """Return a note if the gallery does not show all images, else ""."""
    total, shown = sum(len(group.all_images) for group in groups), sum(len(group.images) for group in gallery)
    if shown == total:
        return ""
    part = f" in {len(gallery):,} of {format_count(len(groups), 'group')}" if len(gallery) < len(groups) else ""
    return (
        f"This page shows {shown:,} of {format_count(total, 'image')}{part}. "
        "For all of them, use an --out that ends in .csv or .json."
    )


def limit_group_size(sizes: Sequence[int], total: int) -> int:
    """Return how many images of each group fit into the total; at least MIN_IMAGES_PER_GROUP if not all fit."""
    remaining = total
    for done, size in enumerate(sorted(sizes)):
        if size * (len(sizes) - done) > remaining:
            return max(MIN_IMAGES_PER_GROUP, remaining // (len(sizes) - done))
        remaining -= size
    return max(sizes, default=0)


def find_common_folder(paths: Sequence[str]) -> Path | None:
    """Return the deepest folder that contains all of these files, or None if that is the root or there is none."""
    try:
        folder = Path(os.path.commonpath([Path(path).absolute().parent for path in paths]))
    except ValueError:  # no paths, or on several drives
        return None
    return folder if len(folder.parts) > 1 else None


def _make_gallery_image(image: ResultImage, folder: Path | None, uri: str | None, is_pixelated: bool) -> GalleryImage:
    path = Path(image.path).absolute()
    label = str(path.relative_to(folder)) if folder is not None and path.is_relative_to(folder) else image.path
    return GalleryImage(image.path, label, path.as_uri(), uri, image.caption, is_pixelated)


def _encode_thumbnails(paths: Sequence[Path], workers: int, report: Report) -> list[Thumbnail]:
    """Return the thumbnails of the first images, as many as MAX_THUMBNAIL_BYTES hold."""

    def encode(pixels: Pixels) -> tuple[str, bool]:
        is_pixelated = max(pixels.shape[:2]) <= MAX_PIXELATED_SIDE
        return as_data_uri(pixels, only_jpeg=not is_pixelated), is_pixelated

    encoded: list[Thumbnail] = []
    remaining = MAX_THUMBNAIL_BYTES
    on_progress = progress(report, "making the gallery")
    with closing(make_thumbnails(paths, THUMBNAIL_SIDE, workers, convert=encode, progress=on_progress)) as thumbnails:
        for thumbnail in thumbnails:
            uri, is_pixelated = thumbnail or (None, False)
            remaining -= len(uri or "")
            if remaining < 0:
                break
            encoded.append((uri, is_pixelated))
    return encoded
