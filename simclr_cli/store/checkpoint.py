"""Checkpoints: weights, optimizer state and position of a run, in one .safetensors file each."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import prepare_folder, try_remove_files, write_bytes
from simclr_cli.core.safe_read import check_safetensors_header, check_version, parse_json
from simclr_cli.store.models import encode_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
BLANK_CHECKSUM = "0" * 64  # in the file while its checksum is computed; safetensors itself has no checksum
CHECKSUM_FIELD = re.compile(rb'"checksum":"([0-9a-f]{64})"')
READ_ERRORS = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError)


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after a whole number of steps."""

    step: int  # number of updates, over all epochs
    model: dict[str, Tensor]
    optimizer: dict[str, Any]  # torch's state_dict
    metrics: list[dict[str, Any]]  # of the finished epochs
    losses: list[float]  # of the finished steps of the current epoch
    census_fingerprint: str  # of the images of the current epoch


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove the older ones."""
    from torch import Tensor

    prepare_folder(folder)
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
        "images": checkpoint.census_fingerprint,
        "optimizer_numbers": numbers,
        "optimizer_groups": checkpoint.optimizer["param_groups"],
    }
    data = encode_tensors(tensors, {"simclr": json.dumps(description), "checksum": BLANK_CHECKSUM})
    target = folder / f"step-{checkpoint.step:09d}.safetensors"
    write_bytes(target, _set_checksum(data, hashlib.sha256(data).hexdigest()))
    try_remove_files(*(older for older in folder.glob("step-*.safetensors") if older != target))


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if the run has none.

    Raises:
        RunError: all checkpoints are damaged, or one has a newer format.
    """
    files = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in files:
        try:
            return _read_checkpoint(path)
        except READ_ERRORS:
            continue  # damaged: an older one may be intact
    if files:
        raise RunError(f"The checkpoint {files[0]} is damaged.", "Train again under another --run.")
    return None


def find_last_step(folder: Path) -> int:
    """Return the step of the newest checkpoint by its name, 0 if there is none."""
    numbers = [file.stem.removeprefix("step-") for file in folder.glob("step-*.safetensors")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def is_intact_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint with a valid checksum.

    Raises:
        RunError: of a newer format.
    """
    try:
        _read_checkpoint(path)
    except READ_ERRORS:
        return False
    return True


def _read_checkpoint(path: Path) -> Checkpoint:
    from safetensors.torch import load

    check_safetensors_header(path)
    data = path.read_bytes()
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    description = check_version(parse_json(header["__metadata__"]["simclr"], finite=False), FORMAT_VERSION, path)
    if header["__metadata__"]["checksum"] != hashlib.sha256(_set_checksum(data, BLANK_CHECKSUM)).hexdigest():
        raise ValueError(f"{path} is damaged")
    tensors = load(data)
    state: dict[int, dict[str, Any]] = {}
    for index, numbers in description["optimizer_numbers"].items():
        state.setdefault(int(index), {}).update(numbers)
    model: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, key = name.partition(".")
        if kind == "model":
            model[key] = tensor
        else:
            index, _, key = key.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    return Checkpoint(
        step=int(description["step"]),
        model=model,
        optimizer={"state": state, "param_groups": description["optimizer_groups"]},
        metrics=list(description["metrics"]),
        losses=list(description["losses"]),
        census_fingerprint=str(description["images"]),
    )


def _set_checksum(data: bytes, checksum: str) -> bytes:
    """Replace the checksum in a file."""
    return CHECKSUM_FIELD.sub(f'"checksum":"{checksum}"'.encode(), data, count=1)
