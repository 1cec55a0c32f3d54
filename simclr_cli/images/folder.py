"""The census of a folder: which files are pictures, their labels by class folders, what was refused and why."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from simclr_cli.errors import InputError, MachineError
from simclr_cli.files import write_json
from simclr_cli.images.caches import HEADERS, cache_of
from simclr_cli.images.decode import FORMATS, MAX_PIXELS, Header, Refusal, looks_like, read_header
from simclr_cli.images.decoders import apart_many
from simclr_cli.images.workers import count_workers, each
from simclr_cli.trouble import unreachable

NEVER = -1  # a time of change that no file has: what is entered with it is not remembered
AT_ONCE = 32  # files whose headers a decoder is asked for together
VERSION = 1  # of what is remembered of a census

# Names that promise a picture: a file called so whose content is none is refused by name, not passed over.
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .pfm .heic .heif".split()
)
# TIFF inside, but what Pillow finds there is the camera's thumbnail.
CAMERA_RAW = frozenset(".dng .nef .cr2 .cr3 .arw .orf .rw2 .pef .srw .raf".split())
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
            "short_side": {"least": shorts[0], "median": shorts[len(shorts) // 2], "most": shorts[-1]}
            if shorts
            else None,
            "classes": list(self.classes),
            "refused": len(self.refused),
            "refused_because": dict(reasons.most_common()),
            "other_files": self.others,
            "fingerprint": self.fingerprint,
        }


def take_census(
    root: Path, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Census:
    """Walk a folder and read the header of every file that could be a picture.

    Headers read before are remembered in the user's cache folder, and not read again while a file's size and time of
    change are the same: then a census costs one look at each file's status.

    Hidden files and folders are passed over; links to files are followed, links to folders are not (so that no loop
    can be). Order is that of the relative paths' bytes, always.

    Args:
        progress: called with (files looked at, files in all).

    Raises:
        InputError: no such folder, not a folder, no right to read it, or not one picture in it.
        MachineError: the disk or the network share that holds it fails.
    """
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise InputError(f"{root} is a file, not a folder.", "Give the folder that holds the pictures.")
        if not os.access(root, os.R_OK | os.X_OK):
            raise InputError(f"The folder {root} may not be read by this user.", "Change its rights, or give another.")
    except FileNotFoundError:
        raise InputError(f"There is no folder {root}.", "Check the path; the folder of pictures comes first.") from None
    except OSError as error:
        _check_reachable(error, root)
        raise InputError(
            f"The folder {root} cannot be read: {error.strerror}.", "Change its rights, or give another."
        ) from None
    names = sorted(_walk(root), key=os.fsencode)
    pictures: list[Picture] = []
    refused: list[Refused] = []
    others = 0
    remembered = _remembered(root)
    workers = count_workers(workers)
    headers = apart_many(read_header, workers)

    def look_at(some: Sequence[str]) -> list[Picture | Refusal | None]:
        glances = [(name, _glance(root / name, remembered.get(name))) for name in some]
        read = iter(headers([(root / name,) for name, glance in glances if isinstance(glance, os.stat_result)]))
        return [
            _judged(name, glance, next(read)) if isinstance(glance, os.stat_result) else glance
            for name, glance in glances
        ]

    parts = [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]
    looked = (one for part in each(look_at, parts, workers) if not isinstance(part, Refusal) for one in part)
    for done, (name, found) in enumerate(zip(names, looked, strict=True), start=1):
        if isinstance(found, Picture):
            pictures.append(found)
        elif isinstance(found, Refusal):
            refused.append(Refused(name, found.reason))
        else:
            others += 1
        if progress:
            progress(done, len(names))
    census = Census(root, tuple(pictures), tuple(refused), others)
    if not pictures:
        raise InputError(f"There is no picture in {root}: {_what_was_found(census)}.", "Give a folder of pictures.")
    if len(remembered) != len(pictures) or any(remembered.get(picture.name) != picture for picture in pictures):
        _remember(census)
    return census


def _remembered(root: Path) -> dict[str, Picture]:
    """The pictures that the last census found, by name; none if that is not known, or damaged."""
    file = cache_of(root) / HEADERS
    try:
        kept = json.loads(file.read_bytes())
        if kept["version"] != VERSION:
            return {}
        pictures = [Picture(*fields) for fields in kept["pictures"]]
        if not all(_believable(picture) for picture in pictures):
            return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    with contextlib.suppress(OSError):  # another user's
        os.utime(file)  # `simclr cache` says when it was used
    return {picture.name: picture for picture in pictures}


def _believable(picture: Picture) -> bool:
    figures = (picture.height, picture.width, picture.bytes, picture.modified_ns)
    words = isinstance(picture.name, str) and picture.format in FORMATS
    return words and all(type(x) is int for x in figures) and 0 < picture.height * picture.width <= MAX_PIXELS


def _remember(census: Census) -> None:
    content = {"version": VERSION, "folder": str(census.root.resolve()),
               "pictures": [list(vars(picture).values()) for picture in census.pictures]}  # fmt: skip
    with contextlib.suppress(MachineError):  # a census does not need it
        write_json(cache_of(census.root) / HEADERS, content)


def _walk(root: Path) -> Iterator[str]:
    """Relative names of all files but hidden ones. A folder that may not be read is yielded itself, and refused."""
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            entries = list(os.scandir(root / prefix))
        except OSError as error:
            _check_reachable(error, root / prefix)
            yield prefix.rstrip("/")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _check_reachable(error: OSError, path: Path) -> None:
    """Raise MachineError for what is the disk's fault or the share's: the pictures there are not to be left out."""
    if (machine := unreachable(error, path)) is not None:
        raise machine from None


def _glance(path: Path, remembered: Picture | None) -> Picture | os.stat_result | Refusal | None:
    """What can be said of a file unread: None if it cannot be a picture; its status if its header is to be read."""
    if path.suffix.lower() in CAMERA_RAW:
        return Refusal("camera raw is not supported (export it as JPEG or TIFF)")
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            linked = path.is_symlink()
            return Refusal("a link to a folder is not followed" if linked else "no right to read this folder")
        if not stat.S_ISREG(status.st_mode):
            return None  # a pipe or a device: reading could hang
        if remembered and (remembered.bytes, remembered.modified_ns) == (status.st_size, status.st_mtime_ns):
            return remembered
        if path.suffix.lower() not in EXTENSIONS:
            with path.open("rb") as stream:
                return status if looks_like(stream.read(32)) else None
    except FileNotFoundError:
        return Refusal("a broken link")
    except OSError as error:  # no right to read, a loop of links, ...
        _check_reachable(error, path)
        return Refusal((error.strerror or str(error)).lower())
    return status


def _judged(name: str, status: os.stat_result, header: Header | Refusal) -> Picture | Refusal | None:
    """A picture, or None for a file that is none and does not claim to be; else Refusal."""
    if isinstance(header, Refusal):
        return header if Path(name).suffix.lower() in EXTENSIONS else None  # a text that begins with "BM"
    return Picture(name, header.format, header.height, header.width, status.st_size, status.st_mtime_ns)


def _what_was_found(census: Census) -> str:
    parts = [f"{census.others} other files"] if census.others else []
    if census.refused:
        reason, count = Counter(entry.reason for entry in census.refused).most_common(1)[0]
        parts.append(f"{len(census.refused)} refused (most often: {reason}, {count} times)")
    return " and ".join(parts) or "it is empty"
