"""similarity.json beside the vectors: what similarities mean there (engine/calibration.py), kept with what it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simclr_cli.digests import Damaged, read_bound
from simclr_cli.files import write_json

FORMAT_VERSION = 1


def similarity_file(vectors: Path) -> Path:
    """Where it lies, in the folder of the vectors."""
    return vectors / "similarity.json"


def write_calibration(vectors: Path, *, model_digest: str, pictures: int, content: Mapping[str, Any]) -> None:
    """Keep it: for this model, and about so many pictures."""
    kept = {"format_version": FORMAT_VERSION, "model_digest": model_digest, "pictures": pictures, **content}
    write_json(similarity_file(vectors), kept)


def read_calibration(vectors: Path, *, model_digest: str) -> dict[str, Any] | None:
    """What was kept for this model; None if there is nothing that could be used: it is made again."""
    try:
        kept = json.loads(read_bound(similarity_file(vectors)))
        known = kept["format_version"] == FORMAT_VERSION and kept["model_digest"] == model_digest
        return dict(kept) if known else None
    except (OSError, Damaged, ValueError, KeyError, TypeError, RecursionError):
        return None
