"""pictures.json: which pictures a run is of, by name, size and time of change, and when they became others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import MOST_OF_LIST, check_version, is_within, read_json
from simclr_cli.store.run import RunFolder

FORMAT_VERSION = 1


@dataclass(frozen=True)
class KeptPictures:
    """The files that a run is of, those that could not be decoded included."""

    files: Mapping[str, tuple[int, int]]  # size in bytes and time of change in ns, by relative path
    changes: Sequence[Mapping[str, int]]  # how many were added, removed and changed, each time, and after which epoch


def write_pictures(run: RunFolder, kept: KeptPictures) -> None:
    """Write pictures.json."""
    files = [[name, *status] for name, status in kept.files.items()]
    content = {"format_version": FORMAT_VERSION, "changes": list(kept.changes), "files": files}
    write_bytes(run.pictures_file, json.dumps(content).encode("ascii"))


def read_pictures(run: RunFolder) -> KeptPictures:
    """The pictures that a run is of.

    Raises:
        RunError: missing, damaged, or of a newer version; or a name that leads out of a folder.
    """
    try:
        content = read_json(run.pictures_file, MOST_OF_LIST)
        check_version(content, FORMAT_VERSION, run.pictures_file)
        files = {name: (bytes_, modified_ns) for name, bytes_, modified_ns in content["files"]}
        if not all(isinstance(n, str) and is_within(n) and type(a) is type(b) is int for n, (a, b) in files.items()):
            raise ValueError("it names what is no picture of a folder")
        return KeptPictures(files, [dict(change) for change in content["changes"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{run.pictures_file} cannot be read ({error}).", "Train under another --run.") from None
