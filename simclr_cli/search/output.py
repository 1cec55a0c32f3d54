"""What was found goes into a file: a gallery to look at, a table, or the result as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simclr_cli.api import FindSettings
from simclr_cli.core.events import Report, progress
from simclr_cli.core.files import make_folder, write_bytes, write_csv, write_json
from simclr_cli.core.text import Cell, as_cell, as_words, count
from simclr_cli.images.decode import Pixels
from simclr_cli.images.thumbnails import each_thumbnail
from simclr_cli.pages.gallery import Found, Part, gallery_page
from simclr_cli.pages.images import as_data_uri
from simclr_cli.store.run import RunFolder

SIDE = 320  # px of a thumbnail, shown at about half of it, so that it is sharp on fine screens
BY_PIXELS = 64  # px up to which an image is shown as it is, enlarged by whole pixels
MOST = 500  # images on a page
MOST_BYTES = 16_000_000  # of their thumbnails
LEAST = 8  # images of a group, before groups are left out


@dataclass(frozen=True)
class Entry:
    """An image that was found."""

    path: str  # as the result has it
    words: str  # below the image, such as "0.981: closer than 99.98 % of random pairs"
    values: Mapping[str, Cell] = field(default_factory=dict)  # further cells of its row of the table


@dataclass(frozen=True)
class Group:
    """Images that belong together."""

    heading: str
    entries: tuple[Entry, ...]  # those to see first, first
    lead: str = ""
    sample: Entry | None = None  # not among the entries: the query or the best copy, which stands first and is marked

    @property
    def images(self) -> tuple[Entry, ...]:
        """All of them, the sample first."""
        return self.entries if self.sample is None else (self.sample, *self.entries)


def cells(found: Any) -> dict[str, Cell]:
    """The values of a dataclass of the result as further cells of its row; its path is there already."""
    return {name: value for name, value in vars(found).items() if name != "path"}


def page_of(settings: FindSettings, run: RunFolder, verb: str) -> Path | None:
    """Where what was found goes: --out, or with --open alone a page in the run's folder, or nowhere.

    Its folder is made, so that a verb that asks before long work does not work in vain.

    Raises:
        MachineError: the folder cannot be made or written to.
    """
    out = settings.out or (run.pages / f"{verb}.html" if settings.open else None)
    if out is not None:
        make_folder(out.absolute().parent)
    return out


def write_found(
    out: Path, result: Any, title: str, lead: str, groups: Sequence[Group], *, workers: int, report: Report
) -> None:
    """Write what was found as the ending of `out` says.

    .html: a gallery of the groups. .csv: a row an image, of its group, its path and its values, as `names` writes
    them. .json: the result, as --json prints it.

    Args:
        result: a dataclass of plain values.
        title: of the gallery.
        lead: a sentence or two below it.
        workers: threads that decode images for the gallery.

    Raises:
        MachineError: the system refused.
    """
    kind = out.suffix.lower()
    if kind == ".json":
        return write_json(out, dataclasses.asdict(result))
    if kind == ".csv":
        columns = list(dict.fromkeys(name for group in groups for entry in group.images for name in entry.values))
        rows = (
            [as_words(group.heading), as_cell(entry.path), *(as_words(entry.values.get(name)) for name in columns)]
            for group in groups
            for entry in group.images
        )
        return write_csv(out, ["group", "path", *columns], rows)
    return write_bytes(out, gallery_of(title, lead, groups, workers=workers, report=report).encode("utf-8"))


def gallery_of(title: str, lead: str, groups: Sequence[Group], *, workers: int, report: Report) -> str:
    """The page: of every group as many images as there is room for, and a word where that is not all."""
    total = sum(len(group.images) for group in groups)
    level = share([len(group.images) for group in groups], MOST)
    chosen = [group.images[:level] for group in groups]
    folder = common_folder([entry.path for group in groups for entry in group.entries])
    thumbnails = _thumbnails([Path(entry.path) for entries in chosen for entry in entries][:MOST], workers, report)
    parts: list[Part] = []
    for group, entries in zip(groups, chosen, strict=True):
        if entries and not thumbnails:
            break
        made, thumbnails = thumbnails[: len(entries)], thumbnails[len(entries) :]
        found = tuple(_found(entry, folder, *one) for entry, one in zip(entries, made, strict=False))
        parts.append(Part(group.heading, group.lead, found, len(group.images), marked=group.sample is not None))
    shown = sum(len(part.images) for part in parts)
    words = [lead, f"Names are paths below {folder}." if folder is not None else ""]
    if shown < total:
        among = f" in {len(parts):,} of {count(len(groups), 'group')}" if len(parts) < len(groups) else ""
        words.append(
            f"This page shows {shown:,} of {count(total, 'image')}{among}; "
            "an --out that ends in .csv or .json has them all."
        )
    return gallery_page(title, " ".join(word for word in words if word), parts)


def share(sizes: Sequence[int], most: int) -> int:
    """How many images of each group there is room for if all groups are treated alike; LEAST at the least."""
    left = most
    for done, size in enumerate(sorted(sizes)):
        if size * (len(sizes) - done) > left:
            return max(LEAST, left // (len(sizes) - done))
        left -= size
    return max(sizes, default=0)


def common_folder(paths: Sequence[str]) -> Path | None:
    """The deepest folder that all of these files are in; None where that says nothing."""
    try:
        folder = Path(os.path.commonpath([Path(path).absolute().parent for path in paths]))
    except ValueError:  # none at all, or on several drives
        return None
    return folder if len(folder.parts) > 1 else None


def _found(entry: Entry, folder: Path | None, uri: str | None, by_pixels: bool) -> Found:
    path = Path(entry.path).absolute()
    label = str(path.relative_to(folder)) if folder is not None and path.is_relative_to(folder) else entry.path
    return Found(entry.path, label, path.as_uri(), uri, entry.words, by_pixels)


def _thumbnails(paths: Sequence[Path], workers: int, report: Report) -> list[tuple[str | None, bool]]:
    """data: URIs, None for what cannot be decoded, and whether they are very small; as many as MOST_BYTES hold."""

    def shown(pixels: Pixels) -> tuple[str, bool]:
        by_pixels = max(pixels.shape[:2]) <= BY_PIXELS
        return as_data_uri(pixels, only_jpeg=not by_pixels), by_pixels

    made: list[tuple[str | None, bool]] = []
    room = MOST_BYTES
    tell = progress(report, "making the gallery")
    with closing(each_thumbnail(paths, SIDE, workers, make=shown, progress=tell)) as thumbnails:
        for one in thumbnails:
            made.append(one or (None, False))
            room -= len(made[-1][0] or "")
            if room < 0:
                return made[:-1]
    return made
