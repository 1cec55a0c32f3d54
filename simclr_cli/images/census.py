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

from simclr_cli.images.class_folders import ClassFolders, find_class_folders

MAX_OTHER_NAMES, MAX_OTHER_KINDS = 100, 20  # of other files in the summary
MAX_UNUSED = 10_000  # other files in the list of a run
USED = "used if its pixels are whole: "  # start of the reason why an image is in that list all the same


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
    note: str = ""  # damage that its pixels do not have


@dataclass(frozen=True)
class SkippedImage:
    """A file that is not used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Census:
    """Files of a folder, sorted by relative path."""

    root: Path
    images: tuple[ImageFile, ...]
    skipped: tuple[SkippedImage, ...]
    other_files: int  # count of files that neither are images nor claim to be, and of system folders
    other_names: tuple[str, ...] = ()  # theirs; that of a folder ends with "/"
    bits: int | None = None  # that all images of 16 bits use, the scale of their values; None: there are none

    @cached_property
    def class_folders(self) -> ClassFolders:
        """The class of each image by its folder."""
        return find_class_folders([image.name for image in self.images])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; none if the folders do not look like classes."""
        return self.class_folders.classes

    @property
    def labels(self) -> tuple[str | None, ...]:
        """Class of each image, or None."""
        return self.class_folders.labels

    @property
    def other_kinds(self) -> dict[str, int]:
        """Number of other files by extension, and of system folders by name, the most frequent first."""
        return dict(Counter(map(_name_kind, self.other_names)).most_common(MAX_OTHER_KINDS))

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

    def list_skipped_and_odd(self) -> list[tuple[str, str]]:
        """Return name and reason of every skipped file, of images with a note, then of the first other files."""
        odd = [(image.name, f"{USED}{image.note}") for image in self.images if image.note]
        other = [
            (name, "system folder (thumbnails, trash)" if name.endswith("/") else "not an image")
            for name in self.other_names[:MAX_UNUSED]
        ]
        return [*((entry.name, entry.reason) for entry in self.skipped), *odd, *other]

    def to_json(self) -> list[Any]:
        """Return the census as JSON values."""
        images = [list(vars(image).values()) for image in self.images]
        skipped = [list(vars(entry).values()) for entry in self.skipped]
        return [str(self.root), images, skipped, self.other_files, self.other_names, self.bits]

    @staticmethod
    def from_json(values: list[Any]) -> Census:
        """Return the census of the values of `to_json`."""
        root, images, skipped, other_files, other_names, bits = values
        image_files, skipped_images = (ImageFile(*v) for v in images), (SkippedImage(*v) for v in skipped)
        return Census(Path(root), tuple(image_files), tuple(skipped_images), other_files, tuple(other_names), bits)

    def summary(self) -> dict[str, Any]:
        """Return the census in numbers, for the plan, the run folder and --json."""
        formats = Counter(image.format for image in self.images)
        reasons = Counter(entry.reason for entry in self.skipped)
        notes = Counter(image.note for image in self.images if image.note)
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
            "unlabeled": sum(label is None for label in self.labels) if self.classes else 0,
            "unlabeled_because": self.class_folders.reason,
            "skipped": len(self.skipped),
            "skipped_because": dict(reasons.most_common()),
            "odd": dict(notes.most_common()),
            "other_files": self.other_files,
            "other_kinds": self.other_kinds,
            "other_names": list(self.other_names[:MAX_OTHER_NAMES]),
            "fingerprint": self.fingerprint,
        }


def _name_kind(name: str) -> str:
    """Return the extension of a file, or the name of a folder with its "/"."""
    if name.endswith("/"):
        return name.rstrip("/").rpartition("/")[2] + "/"
    return Path(name).suffix.lower() or "without extension"
