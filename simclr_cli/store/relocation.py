"""A file moved to where there is none, durably, also to another file system: at any moment it is whole in one place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from simclr_cli.atomic import TEMPORARY_PREFIX, ensure_folder, give_name, sync_folder
from simclr_cli.digests import digest_file


def relocate(source: Path, target: Path) -> None:
    """Move a file to where there is none, durably, also to another file system.

    At any moment the whole file is in its old place, or in its new one, or in both.

    Raises:
        OSError: the system refused, or (FileExistsError) something is there.
    """
    ensure_folder(target.parent)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    temporary.unlink(missing_ok=True)  # of one that was killed
    try:
        os.link(source, target)  # a rename would overwrite
    except FileExistsError:
        raise
    except OSError:  # another file system, or one that knows no links
        _copy(source, temporary)
        give_name(temporary, target)
    sync_folder(target.parent)
    source.unlink()
    sync_folder(source.parent)


def _copy(source: Path, target: Path) -> None:
    """A durable copy with the same times and rights, compared with what it is a copy of."""
    try:
        with source.open("rb") as stream, target.open("xb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copystat(source, target)
        if digest_file(target) != digest_file(source):
            raise OSError(errno.EIO, "what was written is not what was read", str(target))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
