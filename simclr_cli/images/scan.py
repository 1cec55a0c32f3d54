"""Scan of a folder for its census: which files are images; headers are read once and cached."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from simclr_cli.core.errors import InputError, raise_if_unreachable
from simclr_cli.core.text import describe_other_files
from simclr_cli.images.census import Census, ImageFile, SkippedImage
from simclr_cli.images.decode import Header, read_header
from simclr_cli.images.decode_pool import isolate_batch
from simclr_cli.images.formats import (
    CAMERA_RAW,
    CostlyUnusable,
    UnusableImage,
    detect_format,
)
from simclr_cli.images.header_cache import CostlyFile, KnownFile, read_cached_headers, write_cached_headers
from simclr_cli.images.threads import count_workers, map_in_order
from simclr_cli.images.unsupported import START_BYTES, find_unsupported_format, is_system_folder

UNKNOWN_TIME = -1  # a modification time that no file has, so that the next scan reads the file again
FILES_PER_REQUEST = 32  # whose headers a decoder reads together

# Of image files: one without an image is listed as skipped; a file of another name is only counted.
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .pfm .heic .heif".split()
)
# TIFF inside, in which Pillow finds only the camera's thumbnail.
CAMERA_RAW_EXTENSIONS = frozenset(".dng .nef .cr2 .cr3 .arw .orf .rw2 .pef .srw .raf".split())


Scanned = KnownFile | UnusableImage | None


def take_census(
    root: Path, *, workers: int | None = None, progress: Callable[[int, int], None] = lambda *_: None
) -> Census:
    """Scan a folder and read the header of every file that could be an image.

    Headers are cached in the user's cache folder and not read again while a file's size and modification time are the
    same: then a census costs one status call for each file. Skipped files are read again, unless that took long.

    Hidden files and folders are ignored, and so is the content of system folders, such as thumbnails and trash. Links
    to files are followed, links to folders are not, so that no loop is possible. The order is that of the relative
    paths' bytes.

    Args:
        progress: called with (files scanned, files in total).

    Raises:
        InputError: no such folder, not a folder, no permission to read it, or no image in it.
        MachineError: the disk or the network share fails.
    """
    check_folder(root)
    names = sorted(_walk(root), key=os.fsencode)
    cached = read_cached_headers(root)
    results: dict[str, Scanned] = {}
    scanned = _scan_files(root, names, cached, count_workers(workers))
    for done, (name, result) in enumerate(zip(names, scanned, strict=True), start=1):
        results[name] = result
        progress(done, len(names))
    images = tuple(result for result in results.values() if isinstance(result, ImageFile))
    skipped = tuple(
        SkippedImage(name, result.reason)
        for name, result in results.items()
        if isinstance(result, UnusableImage | CostlyFile)
    )
    other_names = tuple(name for name, result in results.items() if result is None)
    bits = max((image.bits for image in images), default=0) or None
    census = Census(root, images, skipped, len(other_names), other_names, bits)
    if not images:
        raise InputError(f"There is no image in {root}: {describe_unused_files(census)}.", "Use a folder of images.")
    known = [result for result in results.values() if isinstance(result, KnownFile)]
    if list(cached.values()) != known:
        write_cached_headers(root, known)
    return census


def check_folder(root: Path) -> None:
    """Check that a folder of images can be read.

    Raises:
        InputError: no such folder, not a folder, or no permission to read it.
        MachineError: the disk or the network share fails.
    """
    remedy = "Change its permissions, or use another folder."
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise InputError(f"{root} is a file, not a folder.", "Use the folder that holds the images.")
        if not os.access(root, os.R_OK | os.X_OK):
            raise InputError(f"This user has no permission to read the folder {root}.", remedy)
    except FileNotFoundError:
        raise InputError(f"There is no folder {root}.", "Check the path; the folder of images comes first.") from None
    except OSError as error:
        raise_if_unreachable(error, root)
        raise InputError(f"The folder {root} cannot be read: {error.strerror}.", remedy) from None


def check_images(root: Path) -> None:
    """Check that a folder has a file that could be an image; read no more than the start of the files up to the first.

    Raises:
        InputError, MachineError: see take_census.
    """
    check_folder(root)
    if not any(could_be_image(root / name) for name in _walk(root) if not name.endswith("/")):
        take_census(root)


def could_be_image(path: Path) -> bool:
    """Return whether a regular file starts as an image does."""
    try:
        status = path.stat()
        return stat.S_ISREG(status.st_mode) and status.st_size > 0 and detect_format(_read_start(path)[:32]) is not None
    except OSError:
        return False


def _scan_files(root: Path, names: Sequence[str], cached: Mapping[str, KnownFile], workers: int) -> Iterator[Scanned]:
    """Yield for each file the image, the reason why it is unusable, or None if it is not an image."""
    read_headers = isolate_batch(read_header, workers)

    def scan_part(part: Sequence[str]) -> list[Scanned]:
        checked = [(name, None if name.endswith("/") else _check_file(root / name, cached.get(name))) for name in part]
        paths = [(root / name,) for name, result in checked if isinstance(result, os.stat_result)]
        headers = iter(read_headers(paths))
        return [
            _image_from_header(root, name, result, next(headers)) if isinstance(result, os.stat_result) else result
            for name, result in checked
        ]

    parts = [names[i : i + FILES_PER_REQUEST] for i in range(0, len(names), FILES_PER_REQUEST)]
    for results in map_in_order(scan_part, parts, workers):
        assert not isinstance(results, UnusableImage)
        yield from results


def _walk(root: Path) -> Iterator[str]:
    """Yield the relative names of all files but hidden ones.

    Of an unreadable folder it is its own, of a system folder its own with a "/".
    """
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            entries = list(os.scandir(root / prefix))
        except OSError as error:
            raise_if_unreachable(error, root / prefix)
            yield prefix.rstrip("/")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                name = f"{prefix}{entry.name}/"
                if is_system_folder(entry.name):
                    yield name
                else:
                    folders.append(name)
            else:
                yield prefix + entry.name


def _check_file(path: Path, cached: KnownFile | None) -> Scanned | os.stat_result:
    """Return what is known of a file without its header; its status if the header decides; None if not an image."""
    if path.suffix.lower() in CAMERA_RAW_EXTENSIONS:
        return UnusableImage(CAMERA_RAW)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            is_link = path.is_symlink()
            return UnusableImage(
                "a link to a folder is not followed" if is_link else "no permission to read this folder"
            )
        if not stat.S_ISREG(status.st_mode):
            return None  # a pipe or a device: reading could hang
        if cached and (cached.bytes, cached.modified_ns) == (status.st_size, status.st_mtime_ns):
            return cached
        if path.suffix.lower() not in EXTENSIONS:
            # An empty file may also be /proc/kmsg, which never ends.
            start = _read_start(path) if status.st_size else b""
            return status if detect_format(start[:32]) else _describe_unsupported(path, start)
    except FileNotFoundError:
        return UnusableImage("a broken link")
    except OSError as error:  # no permission to read it, a loop of links, ...
        raise_if_unreachable(error, path)
        return UnusableImage((error.strerror or str(error)).lower())
    return status


def _image_from_header(root: Path, name: str, status: os.stat_result, header: Header | UnusableImage) -> Scanned:
    """Return the image, the reason why it is unusable, or None if neither the content nor the name is an image's."""
    if isinstance(header, CostlyUnusable):
        return CostlyFile(name, header.reason, status.st_size, status.st_mtime_ns)
    if isinstance(header, UnusableImage):
        with contextlib.suppress(OSError):
            if unsupported := _describe_unsupported(root / name, _read_start(root / name)):
                return unsupported
        is_known = Path(name).suffix.lower() in EXTENSIONS or header.reason == CAMERA_RAW
        return header if is_known else None  # a text that begins with "BM"
    size = (header.height, header.width)
    return ImageFile(name, header.format, *size, status.st_size, status.st_mtime_ns, header.bits, header.note)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(START_BYTES)


def _describe_unsupported(path: Path, start: bytes) -> UnusableImage | None:
    name = find_unsupported_format(path.name, start)
    return UnusableImage(f"{name} is not supported (convert it to JPEG or PNG)") if name else None


def describe_unused_files(census: Census) -> str:
    """Return the other and the skipped files in figures; "it is empty" if there are none."""
    parts = [describe_other_files(census.other_files, census.other_kinds)] if census.other_files else []
    if census.skipped:
        reason, count = Counter(entry.reason for entry in census.skipped).most_common(1)[0]
        parts.append(f"{len(census.skipped)} skipped (most often: {reason}, {count} times)")
    return " and ".join(parts) or "it is empty"
