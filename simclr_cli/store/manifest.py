"""The manifest of a finished run: the checksum of every file that training made, written once, before encoder/ appears.

    {"format_version": 1, "checksum": SHA-256 of "files", "files": {"encoder/config.json": SHA-256, ...}}

What commands make of a finished run later, such as its report and its vectors, is not in it: they make it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import check_version, checksum_file, is_within, parse_json, read_bytes

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LISTED = (
    "config.json", "images.json", "skipped.json", "metrics.jsonl", "speed.jsonl", "outcome.json",
    "projection_head.safetensors", "checkpoint/step-*", "encoder-*-epochs*/**/*",
)  # fmt: skip


class Damaged(RunError):
    """A manifest that is missing, or not as it was written."""


def write_manifest(run: Path, encoder: Path) -> None:
    """Write the manifest of a run that is about to be finished.

    Args:
        encoder: the folder that becomes encoder/.

    Raises:
        MachineError: the system refused.
    """
    listed = {file.relative_to(run).as_posix(): file for pattern in LISTED for file in run.glob(pattern)}
    listed |= {f"encoder/{file.relative_to(encoder).as_posix()}": file for file in encoder.rglob("*")}
    checksums = {name: checksum_file(file) for name, file in listed.items() if file.is_file()}
    write_bytes(run / MANIFEST, _encode(checksums))


def read_manifest(run: Path) -> dict[str, str]:
    """Return the checksum of each file that the manifest of a run lists, by its relative path.

    Raises:
        Damaged: it is missing, or one bit of it is not as it was written.
        RunError: of a newer version.
    """
    file = run / MANIFEST
    try:
        data = read_bytes(file)
        content = check_version(parse_json(data), FORMAT_VERSION, file)
        checksums = {str(name): str(checksum) for name, checksum in content["files"].items()}
        if _encode(checksums) != data:  # to the byte: a flipped bit may leave the same JSON
            raise ValueError("its own checksum differs")
        if not all(map(is_within, checksums)):
            raise ValueError("it names files outside the run")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{file} cannot be read ({error}).", "Restore it from a copy.") from None
    return checksums


def _encode(checksums: Mapping[str, str]) -> bytes:
    files = dict(sorted(checksums.items()))
    checksum = hashlib.sha256(json.dumps(files).encode("ascii")).hexdigest()
    content = {"format_version": FORMAT_VERSION, "checksum": checksum, "files": files}
    return (json.dumps(content, indent=1) + "\n").encode("ascii")
