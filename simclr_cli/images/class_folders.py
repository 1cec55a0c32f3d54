"""Class folders: the class of each image by its folder, within folders that wrap all images."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from simclr_cli.core.text import format_count, join_first

# Words of the names of splits, such as train2017, test_set and seg_train; a split is no class.
SPLITS = {
    "train": "train|training|trainval",
    "test": "val|valid|validation|test|testing|eval|evaluation|dev|holdout|pred|query|gallery",
    "unlabeled": "unlabell?ed",
    "fold": "fold|split",
}
PLAIN_WORDS = frozenset("set data dataset images imgs".split())
MAX_WRAPPING_FOLDERS = 8  # in each other
MAX_STRAY_SHARE = 0.1  # of the images, outside of the class folders; one is always allowed
MIN_LABELED_SHARE = 0.5  # of the images, in classes of at least two


@dataclass(frozen=True)
class ClassFolders:
    """Classes of images by their folders."""

    labels: tuple[str | None, ...]  # (N,) class of each image, or None
    reason: str = ""  # for images without a class; "" if there are no two folders at all
    splits: tuple[str, ...] = ()  # folders that are splits, not classes

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; none if the folders do not look like classes."""
        return tuple(sorted({label for label in self.labels if label is not None}))

    def describe(self, root: Path) -> str:
        """Return why there are no classes, as a part of a sentence."""
        return f"the folders in {root} do not look like classes" + (f": {self.reason}" if self.reason else "")


@dataclass
class _Level:
    """The folders at one level, and the images that lie in none of the classes, by row."""

    folders: dict[str, list[int]] = field(default_factory=dict)  # two or more images each
    unlabeled: list[int] = field(default_factory=list)  # in a folder of this name
    single: list[int] = field(default_factory=list)  # alone in their folder
    stray: list[int] = field(default_factory=list)  # in no folder


def normalize_class(name: str) -> str:
    """Return the name of a class in one form of Unicode: macOS writes another one."""
    return unicodedata.normalize("NFC", name)


def find_class_folders(names: Sequence[str]) -> ClassFolders:
    """Return the class of each image: the name of its folder at the first level with two or more large folders.

    A folder is large if it holds at least two images. Levels with one large folder only wrap the others. Folders with
    names of splits (train, test) are not classes. Few images may lie outside; they and those of small folders have no
    class.

    Args:
        names: relative paths, with "/".
    """
    rows, depth, stray, unlabeled = list(range(len(names))), 0, list[int](), list[int]()
    while True:
        level = _sort_into_folders(names, rows, depth)
        stray, unlabeled = stray + level.stray, unlabeled + level.unlabeled
        if len(level.folders) != 1 or depth == MAX_WRAPPING_FOLDERS:
            break
        stray, (rows,), depth = stray + level.single, level.folders.values(), depth + 1
    labels: list[str | None] = [None] * len(names)
    if len(level.folders) < 2:
        return ClassFolders(tuple(labels))
    if are_splits(level.folders):
        splits = tuple(sorted(level.folders))
        return ClassFolders(tuple(labels), f"{join_first(splits)} are splits, not classes", splits)
    if problem := _find_problem(names, level, stray, len(unlabeled)):
        return ClassFolders(tuple(labels), problem)
    for folder, members in level.folders.items():
        for row in members:
            labels[row] = folder
    reasons = [
        f"{format_count(len(members), 'image')} {words} ({join_first([names[row] for row in members])})"
        for members, words in ((stray, "outside of the class folders"), (level.single, "alone in a folder"))
        if members
    ]
    if unlabeled:
        reasons.append(f"{format_count(len(unlabeled), 'image')} in a folder of unlabeled images")
    return ClassFolders(tuple(labels), "; ".join(reasons))


def _find_problem(names: Sequence[str], level: _Level, stray: Sequence[int], unlabeled: int) -> str:
    """Return why two or more folders do not look like classes; "" if they do."""
    if len(stray) > max(1, MAX_STRAY_SHARE * len(names)):
        number = f"{len(stray):,} of {format_count(len(names), 'image')}"
        return f"{number} lie outside of the class folders, such as {names[stray[0]]}"
    if sum(map(len, level.folders.values())) < MIN_LABELED_SHARE * (len(names) - unlabeled):
        return f"most images are alone in their folder, such as {names[level.single[0]]}"
    return ""


def match_class_folders(names: Sequence[str], classes: Collection[str]) -> Mapping[str, str]:
    """Return the class of each image by name, if its folder at one level has the name of a class.

    It is the level at which most images are in a class.
    """
    parts = [[normalize_class(part) for part in name.split("/")[:-1][: MAX_WRAPPING_FOLDERS + 1]] for name in names]
    best: dict[str, str] = {}
    for depth in range(max(map(len, parts), default=0)):
        folders = ((name, part[depth]) for name, part in zip(names, parts, strict=True) if len(part) > depth)
        labels = {name: folder for name, folder in folders if folder in classes}
        best = max(best, labels, key=len)
    return best


def are_splits(folders: Collection[str]) -> bool:
    """Return whether folders are the splits of a data set: all by their whole names, or train and test among them."""
    kinds = [_find_split(folder) for folder in folders]
    whole = {kind for kind, is_whole in kinds if is_whole}
    if {"train", "test"} <= whole or all(is_whole for _, is_whole in kinds):
        return True
    return all(kind for kind, _ in kinds) and {"train", "test"} <= {kind for kind, _ in kinds}


def _find_split(folder: str) -> tuple[str | None, bool]:
    """Return the kind of split that a folder's name has a word of, and whether it has no other word."""
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", folder)]
    kinds = [kind for word in words for kind, pattern in SPLITS.items()
             if re.fullmatch(f"(?:{pattern})(?:{'|'.join(PLAIN_WORDS)})?", word)]  # fmt: skip
    others = [word for word in words if word not in PLAIN_WORDS]
    return (kinds[0], len(others) == len(kinds)) if kinds else (None, False)


def _sort_into_folders(names: Sequence[str], rows: Sequence[int], depth: int) -> _Level:
    level, folders = _Level(), dict[str, list[int]]()
    for row in rows:
        parts = names[row].split("/", depth + 1)
        if len(parts) - 1 > depth:
            folders.setdefault(normalize_class(parts[depth]), []).append(row)
        else:
            level.stray.append(row)
    for folder, members in folders.items():
        if _find_split(folder) == ("unlabeled", True):
            level.unlabeled += members
        elif len(members) < 2:
            level.single += members
        else:
            level.folders[folder] = members
    return level
