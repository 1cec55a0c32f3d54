"""What a folder holds: its pictures, their classes by folders, what was refused and why."""

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
class Picture:
    """A file that says it is a picture; not yet decoded."""

    name: str  # relative to the folder, with "/"; bytes that are not UTF-8 as surrogates
    format: str
    height: int  # upright, px
    width: int
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Refused:
    """A file that is not used, and why."""

    name: str
    reason: str


def classes_of(names: Sequence[str]) -> tuple[str, ...]:
    """The folders that pictures lie in, sorted, if they look like classes; else none.

    They do when every picture lies in a subfolder, there are at least two of these at the first level, each with at
    least two pictures, and they are not called train, test and the like.

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
    pictures: tuple[Picture, ...]
    refused: tuple[Refused, ...]
    others: int  # files that neither are pictures nor claim to be

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names, sorted, if the folders look like classes; else none."""
        return classes_of([picture.name for picture in self.pictures])

    @property
    def labels(self) -> list[str]:
        """The class of each picture; only where there are classes."""
        return [picture.name.split("/")[0] for picture in self.pictures]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every picture's name, size in bytes and time of change."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(os.fsencode(picture.name))
            digest.update(f"\0{picture.bytes}\0{picture.modified_ns}\0".encode())
        return digest.hexdigest()

    def path(self, picture: Picture) -> Path:
        """Where a picture's file is."""
        return self.root / picture.name

    def without(self, refused: Sequence[Refused]) -> Census:
        """The census after decoding has refused some more."""
        names = {entry.name for entry in refused}
        return replace(
            self,
            pictures=tuple(picture for picture in self.pictures if picture.name not in names),
            refused=tuple(sorted((*self.refused, *refused), key=lambda entry: os.fsencode(entry.name))),
        )

    def told(self) -> list[Any]:
        """All of it as JSON can hold it; `retold` reads it."""
        pictures = [list(vars(picture).values()) for picture in self.pictures]
        refused = [list(vars(entry).values()) for entry in self.refused]
        return [str(self.root), pictures, refused, self.others]

    @staticmethod
    def retold(told: list[Any]) -> Census:
        """The census that `told` told of."""
        root, pictures, refused, others = told
        return Census(Path(root), tuple(Picture(*p) for p in pictures), tuple(Refused(*r) for r in refused), others)

    def summary(self) -> dict[str, Any]:
        """The census in figures, for the plan, the run folder and --json."""
        formats = Counter(picture.format for picture in self.pictures)
        reasons = Counter(entry.reason for entry in self.refused)
        shorts = sorted(min(picture.height, picture.width) for picture in self.pictures)
        return {
            "folder": str(self.root),
            "pictures": len(self.pictures),
            "bytes": sum(picture.bytes for picture in self.pictures),
            "formats": dict(formats.most_common()),
            "short_side": {"least": shorts[0], "median": shorts[len(shorts) // 2], "most": shorts[-1]},
            "classes": list(self.classes),
            "refused": len(self.refused),
            "refused_because": dict(reasons.most_common()),
            "other_files": self.others,
            "fingerprint": self.fingerprint,
        }
