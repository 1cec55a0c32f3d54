"""Everything a resume needs, in one .safetensors file: weights, optimizer state, position; the newest whole wins."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import discard, make_folder, write_bytes
from simclr_cli.core.safe_read import check_tensors, check_version, parse_json
from simclr_cli.store.models import plain

FORMAT_VERSION = 2
NO_DIGEST = (
    "0" * 64
)  # what stands in place of a file's checksum while that is taken: safetensors itself has no checksum
DIGEST = re.compile(rb'"checksum":"([0-9a-f]{64})"')
UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run, after a whole number of steps."""

    step: int  # updates done, over all epochs
    model: dict[str, Tensor]
    optimizer: dict[str, Any]  # torch's state_dict
    metrics: list[dict[str, Any]]  # of the epochs done
    losses: list[float]  # of the steps done in the epoch under way
    images: str  # the fingerprint of the census that this epoch is of


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove the older ones."""
    make_folder(folder)
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.model.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in checkpoint.optimizer["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    description = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "metrics": checkpoint.metrics,
        "losses": checkpoint.losses,
        "images": checkpoint.images,
        "optimizer_numbers": numbers,
        "optimizer_groups": checkpoint.optimizer["param_groups"],
    }
    data = to_safetensors(plain(tensors), metadata={"simclr": json.dumps(description), "checksum": NO_DIGEST})
    target = folder / f"step-{checkpoint.step:09d}.safetensors"
    write_bytes(target, _with_digest(data, hashlib.sha256(data).hexdigest()))
    discard(*(older for older in folder.glob("step-*.safetensors") if older != target))


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None if the run was stopped before its first.

    Raises:
        RunError: there are checkpoints, and none can be read; or one of a newer format.
    """
    files = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in files:
        try:
            return _read(path)
        except UNREADABLE:
            continue  # damaged: an older one may stand
    if files:
        raise RunError(f"The checkpoint {files[0]} is damaged.", "Train again under another --run.")
    return None


def is_whole_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint, and its tensors are what was saved.

    Raises:
        RunError: of a newer format.
    """
    try:
        _read(path)
    except UNREADABLE:
        return False
    return True


def _read(path: Path) -> Checkpoint:
    check_tensors(path)
    data = path.read_bytes()
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    description = check_version(parse_json(header["__metadata__"]["simclr"], finite=False), FORMAT_VERSION, path)
    if header["__metadata__"]["checksum"] != hashlib.sha256(_with_digest(data, NO_DIGEST)).hexdigest():
        raise ValueError(f"{path} is not what was saved")
    tensors = from_safetensors(data)
    state: dict[int, dict[str, Any]] = {}
    for index, numbers in description["optimizer_numbers"].items():
        state.setdefault(int(index), {}).update(numbers)
    model: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            model[rest] = tensor
        else:
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    return Checkpoint(
        step=int(description["step"]),
        model=model,
        optimizer={"state": state, "param_groups": description["optimizer_groups"]},
        metrics=list(description["metrics"]),
        losses=list(description["losses"]),
        images=str(description["images"]),
    )


def _with_digest(data: bytes, checksum: str) -> bytes:
    """A file with this checksum in the place of its own."""
    return DIGEST.sub(f'"checksum":"{checksum}"'.encode(), data, count=1)
