"""What a folder holds: its images, their classes by folders, what was skipped and why."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

SPLITS = frozenset("train training val valid validation test testing eval".split())


@dataclass(frozen=True)
class ImageFile:
    """A file that says it is an image; not yet decoded."""

    name: str  # relative to the folder, with "/"; bytes that are not UTF-8 as surrogates
    format: str
    height: int  # upright, px
    width: int
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class SkippedImage:
    """A file that is not used, and why."""

    name: str
    reason: str


def classes_of(names: Sequence[str]) -> tuple[str, ...]:
    """The folders that images lie in, sorted, if they look like classes; else none.

    They do when every image lies in a subfolder, there are at least two of these at the first level, each with at
    least two images, and they are not called train, test and the like.

    Args:
        names: relative paths, with "/".
    """
    counts = Counter(name.split("/")[0] if "/" in name else "" for name in names)
    unlike = "" in counts or len(counts) < 2 or min(counts.values()) < 2
    return () if unlike or SPLITS.issuperset(name.lower() for name in counts) else tuple(sorted(counts))


@dataclass(frozen=True)
class Census:
    """What a folder holds, sorted by relative path."""

    root: Path
    images: tuple[ImageFile, ...]
    skipped: tuple[SkippedImage, ...]
    others: int  # files that neither are images nor claim to be

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names, sorted, if the folders look like classes; else none."""
        return classes_of([image.name for image in self.images])

    @property
    def labels(self) -> list[str]:
        """The class of each image; only where there are classes."""
        return [image.name.split("/")[0] for image in self.images]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every image's name, size in bytes and time of change."""
        checksum = hashlib.sha256()
        for image in self.images:
            checksum.update(os.fsencode(image.name))
            checksum.update(f"\0{image.bytes}\0{image.modified_ns}\0".encode())
        return checksum.hexdigest()

    def path(self, image: ImageFile) -> Path:
        """Where an image's file is."""
        return self.root / image.name

    def without(self, skipped: Sequence[SkippedImage]) -> Census:
        """The census after decoding has skipped some more."""
        names = {entry.name for entry in skipped}
        return replace(
            self,
            images=tuple(image for image in self.images if image.name not in names),
            skipped=tuple(sorted((*self.skipped, *skipped), key=lambda entry: os.fsencode(entry.name))),
        )

    def told(self) -> list[Any]:
        """All of it as JSON can hold it; `retold` reads it."""
        images = [list(vars(image).values()) for image in self.images]
        skipped = [list(vars(entry).values()) for entry in self.skipped]
        return [str(self.root), images, skipped, self.others]

    @staticmethod
    def retold(told: list[Any]) -> Census:
        """The census that `told` told of."""
        root, images, skipped, others = told
        return Census(
            Path(root), tuple(ImageFile(*p) for p in images), tuple(SkippedImage(*r) for r in skipped), others
        )

    def summary(self) -> dict[str, Any]:
        """The census in figures, for the plan, the run folder and --json."""
        formats = Counter(image.format for image in self.images)
        reasons = Counter(entry.reason for entry in self.skipped)
        shorts = sorted(min(image.height, image.width) for image in self.images)
        return {
            "folder": str(self.root),
            "images": len(self.images),
            "bytes": sum(image.bytes for image in self.images),
            "formats": dict(formats.most_common()),
            "short_side": {"least": shorts[0], "median": shorts[len(shorts) // 2], "most": shorts[-1]},
            "classes": list(self.classes),
            "skipped": len(self.skipped),
            "skipped_because": dict(reasons.most_common()),
            "other_files": self.others,
            "fingerprint": self.fingerprint,
        }
