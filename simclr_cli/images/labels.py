"""Labels of images by class folders or by a table, and their splits: held-out images, folds, draws of labels."""

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
from simclr_cli.core.safe_read import check_regular_file
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.core.text import escape_name_for_csv
from simclr_cli.images.census import Census
from simclr_cli.images.scan import take_census


@dataclass(frozen=True)
class LabeledImages:
    """Labeled images of a folder, and the held-out ones."""

    census: Census  # of the labeled images
    labels: Mapping[str, str]  # class by name, of both censuses
    held_out: Census | None = None  # None: a part of `census` is held out
    split: str = ""  # description of the split

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(sorted(set(self.labels.values())))


def read_labeled_images(root: Path, settings: LabeledSettings, workers: int, report: Report) -> LabeledImages:
    """Read the images of a folder and their labels, and the held-out images if they lie elsewhere."""
    census, labels = label_images(
        take_census(root, workers=workers, progress=progress(report, "reading headers")), settings.labels
    )
    if settings.test is None:
        split = f"stratified, {settings.test_fraction:.0%} held out by seed {settings.seed}"
        return LabeledImages(census, labels, None, split)
    test_census = take_census(settings.test, workers=workers)
    labels = {**labels, **label_held_out_images(test_census, frozenset(labels.values()))}
    return LabeledImages(census, labels, test_census, f"held out in {settings.test}")


def label_images(census: Census, table: Path | None = None) -> tuple[Census, Mapping[str, str]]:
    """Return the labeled images of a census and their classes by name: by the table, if any, else by the folders.

    Raises:
        InputError: no labels, or fewer than two classes.
    """
    if table is None:
        if not census.classes:
            raise InputError(
                f"The folders in {census.root} do not look like classes: every image must be in the folder of its "
                "class, with two or more classes of two or more images each.",
                "Sort the images so (with train and test: use train, and set --test), or set --labels FILE.csv.",
            )
        return census, dict(zip((image.name for image in census.images), census.labels, strict=True))
    label_of = read_labels(table)
    labels = {}
    for image in census.images:
        if label := label_of.get(image.name) or label_of.get(escape_name_for_csv(image.name)):
            labels[image.name] = label
    if not labels:
        raise InputError(
            f"{table} names no image of {census.root}.",
            f"Use paths relative to that folder, such as {census.images[0].name}.",
        )
    if len(set(labels.values())) < 2:
        raise InputError(f"{table} gives all images one class.", "Add labels of a second class.")
    return replace(census, images=tuple(image for image in census.images if image.name in labels)), labels


def label_held_out_images(census: Census, classes: frozenset[str]) -> Mapping[str, str]:
    """Return the classes of held-out images by name, by their folders, which may hold a single image here.

    Raises:
        InputError: an image outside a class folder, or of a class that is not among `classes`.
    """
    for image in census.images:
        if image.name.split("/")[0] not in classes or "/" not in image.name:
            raise InputError(
                f"{image.name} in {census.root} lies in none of the classes {', '.join(sorted(classes)[:8])}.",
                "Sort the held-out images into folders with the names of the classes.",
            )
    return dict(zip((image.name for image in census.images), census.labels, strict=True))


def read_labels(table: Path) -> dict[str, str]:
    """Read a CSV with the columns path and label; return label by path.

    Raises:
        InputError: it cannot be read, lacks a column or a value, or gives a path two labels.
    """
    labels: dict[str, str] = {}
    try:
        check_regular_file(table)
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            if "path" not in columns or "label" not in columns:
                raise InputError(
                    f"{table} has the columns {', '.join(columns) or 'none'}.", "Name two of them path and label."
                )
            for row in reader:
                path, label = row["path"], row["label"]
                if not path or not label:
                    raise InputError(
                        f"{table} lacks a path or a label in line {reader.line_num}.", "Add it, or remove the line."
                    )
                if labels.setdefault(path, label) != label:
                    raise InputError(
                        f"{table} gives {path} two labels, {labels[path]} and {label}.", "Remove one of them."
                    )
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read ({error}).", "Use a CSV with the columns path and label.") from None
    return labels


def split_stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return (N,) which rows are held out by seed: of every class the fraction, rounded, at least one, never all."""
    generator = create_numpy_generator(seed, Purpose.SPLIT)
    held_out = np.zeros(len(labels), dtype=bool)
    for rows in _shuffle_classes(labels, generator):
        held_out[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    return held_out


def hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return (N,) which rows are held out, at least one, as split_stratified.

    Raises:
        InputError: no class has two images.
    """
    held_out = split_stratified(labels, fraction, seed)
    if not held_out.any():
        raise InputError(
            "No class has two images, so none can be held out.", "Label more images, or set --test FOLDER."
        )
    return held_out


def assign_folds(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return (N,) stratified folds in 0..count-1."""
    generator = create_numpy_generator(seed, Purpose.SPLIT, 1)
    # Folds are dealt out over all classes in a row, so that they are of one size.
    rows = np.concatenate(list(_shuffle_classes(labels, generator)))
    folds = np.empty(len(labels), dtype=np.int64)
    folds[rows] = np.arange(len(rows)) % count
    return folds


def draw_labels(labels: NDArray[np.int64], amount: float | int, seed: int, draw: int) -> NDArray[np.bool_]:
    """Return (N,) which labels are used: of every class a fraction (float) or a count (int), at least one.

    A smaller amount of the same seed and draw is a subset of a larger one, so that only the added labels matter. The
    paper draws equal counts (B.5; ImageNet's classes are nearly of one size); a fraction here keeps proportions.
    """
    generator = create_numpy_generator(seed, Purpose.LABELS, draw)
    is_used = np.zeros(len(labels), dtype=bool)
    for rows in _shuffle_classes(labels, generator):
        is_used[rows[: max(1, round(amount * len(rows)) if isinstance(amount, float) else amount)]] = True
    return is_used


def _shuffle_classes(labels: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each class, shuffled."""
    for label in np.unique(labels):
        yield generator.permutation(np.flatnonzero(labels == label))
