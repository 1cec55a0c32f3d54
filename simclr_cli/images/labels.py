"""Which picture is of which class: from the class folders, or from a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from simclr_cli.api.probe import LabelledSettings
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Report, progress
from simclr_cli.core.names import as_cell
from simclr_cli.core.safe_read import check_file
from simclr_cli.images.census import Census
from simclr_cli.images.scan import take_census


@dataclass(frozen=True)
class LabelledImages:
    """The labelled images of a folder, and those held out."""

    census: Census  # of the labelled ones
    labels: Mapping[str, str]  # class by name, of both
    held_out: Census | None = None  # None: some of the others are
    split: str = ""  # how they are set apart, in words

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes in the order of their names."""
        return tuple(sorted(set(self.labels.values())))


def read_labelled(root: Path, settings: LabelledSettings, workers: int, report: Report) -> LabelledImages:
    """Take the census of a folder and its labels, and of the held-out images if they lie elsewhere."""
    census, labels = labelled(
        take_census(root, workers=workers, progress=progress(report, "reading headers")), settings.labels
    )
    if settings.test is None:
        split = f"stratified, {settings.test_fraction:.0%} held out by seed {settings.seed}"
        return LabelledImages(census, labels, None, split)
    tests = take_census(settings.test, workers=workers)
    labels = {**labels, **labelled_like(tests, frozenset(labels.values()))}
    return LabelledImages(census, labels, tests, f"held out in {settings.test}")


def labelled(census: Census, table: Path | None = None) -> tuple[Census, Mapping[str, str]]:
    """The labelled pictures of a census and their classes by name: by the table, if any, else by the folders.

    Raises:
        InputError: no labels, or fewer than two classes.
    """
    if table is None:
        if not census.classes:
            raise InputError(
                f"The folders in {census.root} do not look like classes: every picture must lie in a folder named for "
                "its class, with at least two pictures in each of at least two.",
                "Give such a folder (of train and test: the one, and the other with --test), or --labels FILE.csv.",
            )
        return census, dict(zip((picture.name for picture in census.pictures), census.labels, strict=True))
    given = read_labels(table)
    names = [picture.name for picture in census.pictures]
    found = {name: given.get(name) or given.get(as_cell(name)) for name in names}  # as it is, or as our tables have it
    labels = {name: label for name, label in found.items() if label is not None}
    pictures = tuple(picture for picture in census.pictures if picture.name in labels)
    if not pictures:
        raise InputError(
            f"{table} names no picture of {census.root}.",
            f"Give paths relative to that folder, such as {census.pictures[0].name}.",
        )
    if len(set(labels.values())) < 2:
        raise InputError(f"{table} gives all pictures one class.", "Give at least two classes.")
    return replace(census, pictures=pictures), labels


def labelled_like(census: Census, classes: frozenset[str]) -> Mapping[str, str]:
    """Classes of held-out pictures by name, by folders that are taken at their word: one may hold a single picture.

    Raises:
        InputError: a picture outside a class folder, or of a class that is not among `classes`.
    """
    for picture in census.pictures:
        if picture.name.split("/")[0] not in classes or "/" not in picture.name:
            raise InputError(
                f"{picture.name} in {census.root} lies in none of the classes {', '.join(sorted(classes)[:8])}.",
                "Sort the held-out pictures into folders named as the others are.",
            )
    return dict(zip((picture.name for picture in census.pictures), census.labels, strict=True))


def read_labels(table: Path) -> dict[str, str]:
    """A CSV with the columns path and label -> label by path.

    Raises:
        InputError: it cannot be read, lacks a column or a value, or gives a path two labels.
    """
    labels: dict[str, str] = {}
    try:
        check_file(table)
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            if "path" not in columns or "label" not in columns:
                found = ", ".join(columns) or "none"
                raise InputError(f"{table} has the columns {found}.", "Name two of them path and label.")
            for row in reader:
                path, name = row["path"], row["label"]
                if not path or not name:
                    raise InputError(
                        f"{table} lacks a path or a label in line {reader.line_num}.", "Fill it in or take it out."
                    )
                if labels.setdefault(path, name) != name:
                    raise InputError(f"{table} gives {path} two labels, {labels[path]} and {name}.", "Leave one.")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read ({error}).", "Give a CSV with columns path and label.") from None
    return labels
