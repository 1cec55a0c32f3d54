"""cells.safetensors beside the vectors: which rows lie in which cell (engine/cells.py), and of which files they are.

Rows are counted through those files, so that cells stay right when pictures go, and when others come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from simclr_cli.files import write_bytes
from simclr_cli.reading import check_tensors, check_version, parse_json
from simclr_cli.store.segments import Segment

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class KeptCells:
    """Cells, and what is known of them."""

    centres: NDArray[np.float32]  # (C, D)
    starts: NDArray[np.int64]  # (C + 1,)
    members: NDArray[np.int64]  # (M,) rows counted through the files
    digests: tuple[str, ...]  # of the files
    probed: int  # cells to look into
    recall: float  # share of the true ten nearest that these hold


def write_cells(folder: Path, cells: KeptCells) -> None:
    """Keep them.

    Raises:
        MachineError: no right to write, or no space.
    """
    told = {"format_version": FORMAT_VERSION, "digests": cells.digests, "probed": cells.probed, "recall": cells.recall}
    tensors: dict[str, NDArray[Any]] = {"centres": cells.centres, "starts": cells.starts, "members": cells.members}
    write_bytes(folder / "cells.safetensors", save(tensors, metadata={"simclr": json.dumps(told)}))


def read_cells(folder: Path, segments: Sequence[Segment]) -> KeptCells | None:
    """The cells of the first of these files; None where there are none, or they cannot be used: they are made anew.

    Raises:
        RunError: of a newer version, which is left as it is.
    """
    path = folder / "cells.safetensors"
    try:
        check_tensors(path)
        with safe_open(path, framework="numpy") as file:
            told = check_version(parse_json((file.metadata() or {})["simclr"]), FORMAT_VERSION, path)
            centres, starts, members = (file.get_tensor(name) for name in ("centres", "starts", "members"))
        kept = KeptCells(centres, starts, members, tuple(told["digests"]), int(told["probed"]), float(told["recall"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError):
        return None
    covered = segments[: len(kept.digests)]
    same = tuple(segment.digest for segment in covered) == kept.digests and len(covered) > 0
    fits = kept.centres.ndim == 2 and len(covered) > 0 and kept.centres.shape[1] == covered[0].rows.h.shape[1]
    return kept if same and fits and _whole(kept, sum(len(segment.rows) for segment in covered)) else None


def _whole(kept: KeptCells, rows: int) -> bool:
    """Whether the parts fit one another."""
    shapes = kept.starts.shape == (len(kept.centres) + 1,) and kept.members.ndim == 1 and len(kept.centres) > 0
    kinds = [str(part.dtype) for part in (kept.centres, kept.starts, kept.members)] == ["float32", "int64", "int64"]
    if not (shapes and kinds and 0 < kept.probed <= len(kept.centres) and np.isfinite(kept.centres).all()):
        return False
    ordered = kept.starts[0] == 0 and kept.starts[-1] == len(kept.members) and bool((np.diff(kept.starts) >= 0).all())
    return ordered and (len(kept.members) == 0 or bool(kept.members.min() >= 0 and kept.members.max() < rows))
