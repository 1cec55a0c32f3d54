"""Manifest of a finished run: the checksum of every file of training, written once, before encoder/ appears.

    {"format_version": 1, "checksum": SHA-256 of "files", "files": {"encoder/config.json": SHA-256, ...}}

Files that later commands create from a finished run, such as its report and vectors, are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import check_version, checksum_file, is_safe_path, parse_json, read_bytes

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FILE_PATTERNS = (
    "config.json", "images.json", "skipped.json", "metrics.jsonl", "speed.jsonl", "outcome.json",
    "projection_head.safetensors", "checkpoint/step-*", "encoder-*-epochs*/**/*", "start/*",
)  # fmt: skip


class ManifestError(RunError):
    """A manifest that is missing or damaged."""


def write_manifest(run: Path, encoder: Path) -> None:
    """Write the manifest of a run that is about to finish.

    Args:
        encoder: temporary folder that becomes encoder/.

    Raises:
        MachineError: the file cannot be written.
    """
    files = {file.relative_to(run).as_posix(): file for pattern in FILE_PATTERNS for file in run.glob(pattern)}
    files |= {f"encoder/{file.relative_to(encoder).as_posix()}": file for file in encoder.rglob("*")}
    checksums = {name: checksum_file(file) for name, file in files.items() if file.is_file()}
    write_bytes(run / MANIFEST, _encode(checksums))


def read_manifest(run: Path) -> dict[str, str]:
    """Return the checksum of each file in the manifest of a run, by relative path.

    Raises:
        ManifestError: missing, or damaged even by one bit.
        RunError: of a newer version.
    """
    file = run / MANIFEST
    try:
        data = read_bytes(file)
        content = check_version(parse_json(data), FORMAT_VERSION, file)
        checksums = {str(name): str(checksum) for name, checksum in content["files"].items()}
        if _encode(checksums) != data:  # compare bytes: a flipped bit may leave the same JSON
            raise ValueError("its own checksum differs")
        if not all(map(is_safe_path, checksums)):
            raise ValueError("it names files outside the run")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{file} cannot be read ({error}).", "Restore it from a backup.") from None
    return checksums


def _encode(checksums: Mapping[str, str]) -> bytes:
    files = dict(sorted(checksums.items()))
    checksum = hashlib.sha256(json.dumps(files).encode("ascii")).hexdigest()
    content = {"format_version": FORMAT_VERSION, "checksum": checksum, "files": files}
    return (json.dumps(content, indent=1) + "\n").encode("ascii")
