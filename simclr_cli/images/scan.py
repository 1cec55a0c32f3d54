"""Taking the census of a folder: which of its files are images; what headers said is remembered."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from simclr_cli.core.errors import InputError, MachineError, check_reachable
from simclr_cli.core.files import write_json
from simclr_cli.images.cache_location import HEADERS, cache_of
from simclr_cli.images.census import Census, ImageFile, SkippedImage
from simclr_cli.images.decode import FORMATS, MAX_PIXELS, Header, UnusableImage, looks_like, read_header
from simclr_cli.images.decode_pool import apart_many
from simclr_cli.images.threads import count_workers, each

NEVER = -1  # a time of change that no file has: what is entered with it is not remembered
AT_ONCE = 32  # files whose headers a decoder is asked for together
VERSION = 1  # of what is remembered of a census

# Names that promise an image: a file called so whose content is none is skipped by name, not passed over.
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .pfm .heic .heif".split()
)
# TIFF inside, but what Pillow finds there is the camera's thumbnail.
CAMERA_RAW = frozenset(".dng .nef .cr2 .cr3 .arw .orf .rw2 .pef .srw .raf".split())


def take_census(
    root: Path, *, workers: int | None = None, progress: Callable[[int, int], None] = lambda *_: None
) -> Census:
    """Walk a folder and read the header of every file that could be an image.

    Headers read before are remembered in the user's cache folder, and not read again while a file's size and time of
    change are the same: then a census costs one look at each file's status.

    Hidden files and folders are passed over; links to files are followed, links to folders are not (so that no loop
    can be). Order is that of the relative paths' bytes, always.

    Args:
        progress: called with (files looked at, files in all).

    Raises:
        InputError: no such folder, not a folder, no right to read it, or not one image in it.
        MachineError: the disk or the network share that holds it fails.
    """
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise InputError(f"{root} is a file, not a folder.", "Give the folder that holds the images.")
        if not os.access(root, os.R_OK | os.X_OK):
            raise InputError(f"The folder {root} may not be read by this user.", "Change its rights, or give another.")
    except FileNotFoundError:
        raise InputError(f"There is no folder {root}.", "Check the path; the folder of images comes first.") from None
    except OSError as error:
        check_reachable(error, root)
        raise InputError(
            f"The folder {root} cannot be read: {error.strerror}.", "Change its rights, or give another."
        ) from None
    names = sorted(_walk(root), key=os.fsencode)
    remembered = _remembered(root)
    workers = count_workers(workers)
    headers = apart_many(read_header, workers)

    def look_at(some: Sequence[str]) -> list[ImageFile | UnusableImage | None]:
        glances = [(name, _glance(root / name, remembered.get(name))) for name in some]
        read = iter(headers([(root / name,) for name, glance in glances if isinstance(glance, os.stat_result)]))
        return [
            _judged(name, glance, next(read)) if isinstance(glance, os.stat_result) else glance
            for name, glance in glances
        ]

    parts = [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]
    looked = (one for part in each(look_at, parts, workers) if not isinstance(part, UnusableImage) for one in part)
    found = {}
    for done, (name, one) in enumerate(zip(names, looked, strict=True), start=1):
        found[name] = one
        progress(done, len(names))
    images = tuple(one for one in found.values() if isinstance(one, ImageFile))
    skipped = tuple(SkippedImage(name, one.reason) for name, one in found.items() if isinstance(one, UnusableImage))
    census = Census(root, images, skipped, len(found) - len(images) - len(skipped))
    if not images:
        raise InputError(f"There is no image in {root}: {_what_was_found(census)}.", "Give a folder of images.")
    if tuple(remembered.values()) != images:
        _remember(census)
    return census


def _remembered(root: Path) -> dict[str, ImageFile]:
    """The images that the last census found, by name; none if that is not known, or damaged."""
    file = cache_of(root) / HEADERS
    try:
        kept = json.loads(file.read_bytes())
        images = [ImageFile(*fields) for fields in kept["images"]]
        if kept["version"] != VERSION or not all(_believable(image) for image in images):
            return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    with contextlib.suppress(OSError):  # another user's
        os.utime(file)  # `simclr cache` says when it was used
    return {image.name: image for image in images}


def _believable(image: ImageFile) -> bool:
    figures = (image.height, image.width, image.bytes, image.modified_ns)
    words = isinstance(image.name, str) and image.format in FORMATS
    return words and all(type(x) is int for x in figures) and 0 < image.height * image.width <= MAX_PIXELS


def _remember(census: Census) -> None:
    content = {"version": VERSION, "folder": str(census.root.resolve()),
               "images": [list(vars(image).values()) for image in census.images]}  # fmt: skip
    with contextlib.suppress(MachineError):  # a census does not need it
        write_json(cache_of(census.root) / HEADERS, content)


def _walk(root: Path) -> Iterator[str]:
    """Relative names of all files but hidden ones. A folder that may not be read is yielded itself, and skipped."""
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            entries = list(os.scandir(root / prefix))
        except OSError as error:
            check_reachable(error, root / prefix)
            yield prefix.rstrip("/")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _glance(path: Path, remembered: ImageFile | None) -> ImageFile | os.stat_result | UnusableImage | None:
    """What can be said of a file unread: None if it cannot be an image; its status if its header is to be read."""
    if path.suffix.lower() in CAMERA_RAW:
        return UnusableImage("camera raw is not supported (export it as JPEG or TIFF)")
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            linked = path.is_symlink()
            return UnusableImage("a link to a folder is not followed" if linked else "no right to read this folder")
        if not stat.S_ISREG(status.st_mode):
            return None  # a pipe or a device: reading could hang
        if remembered and (remembered.bytes, remembered.modified_ns) == (status.st_size, status.st_mtime_ns):
            return remembered
        if path.suffix.lower() not in EXTENSIONS:
            with path.open("rb") as stream:
                return status if looks_like(stream.read(32)) else None
    except FileNotFoundError:
        return UnusableImage("a broken link")
    except OSError as error:  # no right to read, a loop of links, ...
        check_reachable(error, path)
        return UnusableImage((error.strerror or str(error)).lower())
    return status


def _judged(name: str, status: os.stat_result, header: Header | UnusableImage) -> ImageFile | UnusableImage | None:
    """An image, or None for a file that is none and does not claim to be; else UnusableImage."""
    if isinstance(header, UnusableImage):
        return header if Path(name).suffix.lower() in EXTENSIONS else None  # a text that begins with "BM"
    return ImageFile(name, header.format, header.height, header.width, status.st_size, status.st_mtime_ns)


def _what_was_found(census: Census) -> str:
    parts = [f"{census.others} other files"] if census.others else []
    if census.skipped:
        reason, count = Counter(entry.reason for entry in census.skipped).most_common(1)[0]
        parts.append(f"{len(census.skipped)} skipped (most often: {reason}, {count} times)")
    return " and ".join(parts) or "it is empty"
