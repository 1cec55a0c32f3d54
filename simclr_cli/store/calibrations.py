"""similarity.json beside the vectors: what similarities mean there (engine/calibration.py), kept with what it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simclr_cli.files import write_json
from simclr_cli.reading import check_version, read_json

FORMAT_VERSION = 1


def similarity_file(vectors: Path) -> Path:
    """Where it lies, in the folder of the vectors."""
    return vectors / "similarity.json"


def write_calibration(vectors: Path, *, model_digest: str, pictures: int, content: Mapping[str, Any]) -> None:
    """Keep it: for this model, and about so many pictures."""
    kept = {"format_version": FORMAT_VERSION, "model_digest": model_digest, "pictures": pictures, **content}
    write_json(similarity_file(vectors), kept)


def read_calibration(vectors: Path, *, model_digest: str) -> dict[str, Any] | None:
    """What was kept for this model; None if there is nothing that could be used: it is made again.

    Raises:
        RunError: of a newer version, which is left as it is.
    """
    file = similarity_file(vectors)
    try:
        kept = check_version(read_json(file), FORMAT_VERSION, file)
    except (OSError, ValueError):
        return None
    return kept if kept.get("model_digest") == model_digest else None
