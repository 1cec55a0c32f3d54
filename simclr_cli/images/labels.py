"""Labels of images by class folders or a table, and which images are held out."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api.probe import LabeledSettings
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Report, progress
from simclr_cli.core.safe_read import check_file
from simclr_cli.core.seeds import Purpose, numpy_generator
from simclr_cli.core.text import as_cell
from simclr_cli.images.census import Census
from simclr_cli.images.scan import take_census


@dataclass(frozen=True)
class LabeledImages:
    """The labeled images of a folder, and those held out."""

    census: Census  # of the labeled ones
    labels: Mapping[str, str]  # class by name, of both
    held_out: Census | None = None  # None: some of the others are
    split: str = ""  # how they are set apart, in words

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes in the order of their names."""
        return tuple(sorted(set(self.labels.values())))


def read_labelled(root: Path, settings: LabeledSettings, workers: int, report: Report) -> LabeledImages:
    """Take the census of a folder and its labels, and of the held-out images if they lie elsewhere."""
    census, labels = labeled(
        take_census(root, workers=workers, progress=progress(report, "reading headers")), settings.labels
    )
    if settings.test is None:
        split = f"stratified, {settings.test_fraction:.0%} held out by seed {settings.seed}"
        return LabeledImages(census, labels, None, split)
    tests = take_census(settings.test, workers=workers)
    labels = {**labels, **labeled_like(tests, frozenset(labels.values()))}
    return LabeledImages(census, labels, tests, f"held out in {settings.test}")


def labeled(census: Census, table: Path | None = None) -> tuple[Census, Mapping[str, str]]:
    """The labeled images of a census and their classes by name: by the table, if any, else by the folders.

    Raises:
        InputError: no labels, or fewer than two classes.
    """
    if table is None:
        if not census.classes:
            raise InputError(
                f"The folders in {census.root} do not look like classes: every image must lie in a folder named for "
                "its class, with at least two images in each of at least two.",
                "Give such a folder (of train and test: the one, and the other with --test), or --labels FILE.csv.",
            )
        return census, dict(zip((image.name for image in census.images), census.labels, strict=True))
    given = read_labels(table)
    names = [image.name for image in census.images]
    found = {name: given.get(name) or given.get(as_cell(name)) for name in names}  # as it is, or as our tables have it
    labels = {name: label for name, label in found.items() if label is not None}
    images = tuple(image for image in census.images if image.name in labels)
    if not images:
        raise InputError(
            f"{table} names no image of {census.root}.",
            f"Give paths relative to that folder, such as {census.images[0].name}.",
        )
    if len(set(labels.values())) < 2:
        raise InputError(f"{table} gives all images one class.", "Give at least two classes.")
    return replace(census, images=images), labels


def labeled_like(census: Census, classes: frozenset[str]) -> Mapping[str, str]:
    """Classes of held-out images by name, by folders that are taken at their word: one may hold a single image.

    Raises:
        InputError: an image outside a class folder, or of a class that is not among `classes`.
    """
    for image in census.images:
        if image.name.split("/")[0] not in classes or "/" not in image.name:
            raise InputError(
                f"{image.name} in {census.root} lies in none of the classes {', '.join(sorted(classes)[:8])}.",
                "Sort the held-out images into folders named as the others are.",
            )
    return dict(zip((image.name for image in census.images), census.labels, strict=True))


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


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) which rows are held out: of every class the share, rounded, at least one and never all; by seed."""
    generator = numpy_generator(seed, Purpose.SPLIT)
    held_out = np.zeros(len(labels), dtype=bool)
    for rows in _by_class(labels, generator):
        held_out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return held_out


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return the same, of which there must be some.

    Raises:
        InputError: no class has two images.
    """
    held_out = stratified(labels, share, seed)
    if not held_out.any():
        raise InputError("No class has two images, so none can be held out.", "Label more, or give --test FOLDER.")
    return held_out


def folds_of(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """(N,) in 0..count-1: folds that each have their part of every class."""
    generator = numpy_generator(seed, Purpose.SPLIT, 1)
    rows = np.concatenate(list(_by_class(labels, generator)))  # all classes in one row, so that folds are of one size
    folds = np.empty(len(labels), dtype=np.int64)
    folds[rows] = np.arange(len(rows)) % count
    return folds


def some_labels(labels: NDArray[np.int64], wanted: float | int, seed: int, draw: int) -> NDArray[np.bool_]:
    """(N,) which labels are used: of every class a share (a float) or so many (an int), at least one, at most all.

    Less of the same seed and draw lies within more, so that two of them differ by what was added only. For a share the
    paper draws as many of each class (B.5; ImageNet's are nearly of one size); here classes keep their shares.
    """
    generator = numpy_generator(seed, Purpose.LABELS, draw)
    used = np.zeros(len(labels), dtype=bool)
    for rows in _by_class(labels, generator):
        used[rows[: max(1, round(wanted * len(rows)) if isinstance(wanted, float) else wanted)]] = True
    return used


def _by_class(labels: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each class, shuffled."""
    for one in np.unique(labels):
        yield generator.permutation(np.flatnonzero(labels == one))
