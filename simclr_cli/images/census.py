"""Census of a folder: its images, their classes by folders, the skipped files and why."""

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
    """A file whose header claims an image; not yet decoded."""

    name: str  # relative to the folder, with "/"; bytes that are not UTF-8 as surrogates
    format: str
    height: int  # upright, px
    width: int
    bytes: int
    modified_ns: int
    bits: int = 0  # that samples of 16 bits use, 1 to 16; 0 for other images


@dataclass(frozen=True)
class SkippedImage:
    """A file that is not used, and the reason."""

    name: str
    reason: str


def find_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted names of class folders; none if the folders do not look like classes.

    They do if every image is in a subfolder, there are at least two of these at the first level, and each holds at
    least two images. Folders that are all named train, test and so on are not classes.

    Args:
        names: relative paths, with "/".
    """
    counts = Counter(name.split("/")[0] if "/" in name else "" for name in names)
    if "" in counts or len(counts) < 2 or min(counts.values()) < 2:
        return ()
    return () if SPLITS.issuperset(name.lower() for name in counts) else tuple(sorted(counts))


@dataclass(frozen=True)
class Census:
    """Files of a folder, sorted by relative path."""

    root: Path
    images: tuple[ImageFile, ...]
    skipped: tuple[SkippedImage, ...]
    other_files: int  # count of files that neither are images nor claim to be
    bits: int | None = None  # that all images of 16 bits use, the scale of their values; None: there are none

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; none if the folders do not look like classes."""
        return find_classes([image.name for image in self.images])

    @property
    def labels(self) -> list[str]:
        """Class of each image; only where there are classes."""
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
        """Return the path of an image's file."""
        return self.root / image.name

    def without(self, skipped: Sequence[SkippedImage]) -> Census:
        """Return the census with more skipped files, as after decoding."""
        names = {entry.name for entry in skipped}
        return replace(
            self,
            images=tuple(image for image in self.images if image.name not in names),
            skipped=tuple(sorted((*self.skipped, *skipped), key=lambda entry: os.fsencode(entry.name))),
        )

    def to_json(self) -> list[Any]:
        """Return the census as JSON values."""
        images = [list(vars(image).values()) for image in self.images]
        skipped = [list(vars(entry).values()) for entry in self.skipped]
        return [str(self.root), images, skipped, self.other_files, self.bits]

    @staticmethod
    def from_json(values: list[Any]) -> Census:
        """Return the census of the values of `to_json`."""
        root, images, skipped, other_files, bits = values
        image_files, skipped_images = (ImageFile(*v) for v in images), (SkippedImage(*v) for v in skipped)
        return Census(Path(root), tuple(image_files), tuple(skipped_images), other_files, bits)

    def summary(self) -> dict[str, Any]:
        """Return the census in numbers, for the plan, the run folder and --json."""
        formats = Counter(image.format for image in self.images)
        reasons = Counter(entry.reason for entry in self.skipped)
        short_sides = sorted(min(image.height, image.width) for image in self.images)
        median = short_sides[len(short_sides) // 2]
        return {
            "folder": str(self.root),
            "images": len(self.images),
            "bytes": sum(image.bytes for image in self.images),
            "formats": dict(formats.most_common()),
            "short_side": {"least": short_sides[0], "median": median, "most": short_sides[-1]},
            "bits": self.bits,
            "classes": list(self.classes),
            "skipped": len(self.skipped),
            "skipped_because": dict(reasons.most_common()),
            "other_files": self.other_files,
            "fingerprint": self.fingerprint,
        }
