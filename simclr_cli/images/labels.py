"""Labels of images by class folders or by a table, and their splits: held-out images, folds, draws of labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api.probe import LabeledSettings
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report, progress, silent
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.core.text import format_count, join_first
from simclr_cli.images.census import Census
from simclr_cli.images.class_folders import match_class_folders
from simclr_cli.images.label_table import match_labels, report_similar_labels
from simclr_cli.images.scan import describe_unused_files, take_census


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
    """Read the images of a folder and their labels, and the held-out images if they lie elsewhere.

    Raises:
        InputError: no labels, fewer than two classes, or one of two folders contains the other.
    """
    if settings.test is not None:
        train, test = root.resolve(), settings.test.resolve()
        if test.is_relative_to(train) or train.is_relative_to(test):
            raise InputError(
                f"--test {settings.test} overlaps the folder of training images, {root}.",
                "Use two folders apart from each other, or no --test: a part of the images is held out then.",
            )
    census = _take_census(root, workers, report)
    census, labels = label_images(census, settings.labels, report)
    if settings.test is None:
        split = f"stratified, {settings.test_fraction:.0%} held out by seed {settings.seed}"
        return LabeledImages(census, labels, None, split)
    test_census, test_labels = label_held_out_images(
        _take_census(settings.test, workers, report), frozenset(labels.values()), report
    )
    return LabeledImages(census, {**labels, **test_labels}, test_census, f"held out in {settings.test}")


def _take_census(root: Path, workers: int, report: Report) -> Census:
    census = take_census(root, workers=workers, progress=progress(report, "reading headers"))
    if census.skipped or census.other_files:
        report(Note(f"Not used in {root}: {describe_unused_files(census)}.", warning=bool(census.skipped)))
    return census


def label_images(
    census: Census, table: Path | None = None, report: Report = silent
) -> tuple[Census, Mapping[str, str]]:
    """Return the labeled images of a census and their classes by name: by the table, if any, else by the folders.

    Raises:
        InputError: no labels, or fewer than two classes.
    """
    names = [image.name for image in census.images]
    if table is not None:
        labels = match_labels(table, census.root, names, report)
        if len(set(labels.values())) < 2:
            raise InputError(f"{table} gives all images one class.", "Add labels of a second class.")
    elif not census.classes:
        problem = census.class_folders.describe(census.root)
        raise InputError(
            f"{problem[0].upper()}{problem[1:]}.",
            "Use the folder of one split, and set --test to that of another, or set --labels FILE.csv."
            if census.class_folders.splits
            else "Sort the images into a folder per class, with two or more classes of two or more images each, or set "
            "--labels FILE.csv.",
        )
    else:
        labels = {name: label for name, label in zip(names, census.labels, strict=True) if label is not None}
        if census.class_folders.reason:
            report(Note(f"Images without a class are not used: {census.class_folders.reason}.", warning=True))
    report_similar_labels(labels, report)
    return _select_images(census, labels), labels


def label_held_out_images(
    census: Census, classes: frozenset[str], report: Report = silent
) -> tuple[Census, Mapping[str, str]]:
    """Return the held-out images of the classes and their classes by name, by folders, which may hold a single image.

    Raises:
        InputError: several splits, or no more than half of the images are in folders of the classes.
    """
    if census.class_folders.splits:  # one of them may be that of the training images
        raise InputError(f"In {census.root}, {census.class_folders.reason}.", "Set --test to the folder of one split.")
    names = [image.name for image in census.images]
    labels = match_class_folders(names, classes)
    if unknown := [name for name in names if name not in labels]:
        known = join_first(sorted(classes), most=8)
        number = f"{len(unknown):,} of {format_count(len(names), 'image')}"
        what = f"None of the classes {known} fits {number} in {census.root}: {join_first(unknown)}."
        if 2 * len(labels) <= len(names):
            raise InputError(what, "Sort the held-out images into folders with the names of the classes.")
        report(Note(f"{what} Those are not used.", warning=True))
    return _select_images(census, labels), labels


def _select_images(census: Census, labels: Mapping[str, str]) -> Census:
    return replace(census, images=tuple(image for image in census.images if image.name in labels))


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
