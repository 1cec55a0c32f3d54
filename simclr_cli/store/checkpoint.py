"""Everything a resume needs, in one .safetensors file: weights, optimizer state, position; the newest whole wins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from simclr_cli.errors import RunError
from simclr_cli.files import make_folder, write_bytes
from simclr_cli.reading import check_tensors, check_version, parse_json

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run, after a whole number of steps."""

    step: int  # updates done, over all epochs
    model: dict[str, Tensor]
    optimizer: dict[str, Any]  # torch's state_dict
    metrics: list[dict[str, Any]]  # of the epochs done
    losses: list[float]  # of the steps done in the epoch under way


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
        "optimizer_numbers": numbers,
        "optimizer_groups": checkpoint.optimizer["param_groups"],
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    description["tensors_digest"] = _digest_tensors(plain)  # safetensors itself has no checksum
    data = to_safetensors(plain, metadata={"simclr": json.dumps(description)})
    target = folder / f"step-{checkpoint.step:09d}.safetensors"
    write_bytes(target, data)
    for older in folder.glob("step-*.safetensors"):
        if older != target:
            older.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None if the run was stopped before its first.

    Raises:
        RunError: there are checkpoints, and none can be read; or one of a newer format.
    """
    files = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in files:
        try:
            return _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged: an older one may stand
    if files:
        raise RunError(f"The checkpoint {files[0]} is damaged.", "Train again under another --run.")
    return None


def _read(path: Path) -> Checkpoint:
    check_tensors(path)
    with safe_open(path, framework="pt") as stored:
        description = check_version(parse_json(stored.metadata()["simclr"], finite=False), FORMAT_VERSION, path)
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    if _digest_tensors(tensors) != description["tensors_digest"]:
        raise ValueError(f"{path}: its tensors are not what was saved")
    state: dict[int, dict[str, Any]] = {}
    for index, numbers in description["optimizer_numbers"].items():
        state.setdefault(int(index), {}).update(numbers)
    model: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "model":
            model[rest] = tensor
        else:
            index, key = rest.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
    return Checkpoint(
        step=int(description["step"]),
        model=model,
        optimizer={"state": state, "param_groups": description["optimizer_groups"]},
        metrics=list(description["metrics"]),
        losses=list(description["losses"]),
    )


def _digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
