"""Model folders in timm's `local-dir:` layout: config.json, model.safetensors and a model card.

Torch is imported where tensors are read or written only: a command finds its run before it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import choose_temporary_path, rename, write_bytes, write_json
from simclr_cli.core.safe_read import (
    MAX_WEIGHTS_HEADER_BYTES,
    check_safetensors_header,
    check_version,
    checksum_file,
    has_checksum,
    read_json,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
CLASSIFIER_REMEDY = "Create a classifier with: simclr finetune FOLDER"


def write_model(
    folder: Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: str,
    *,
    before_rename: Callable[[Path], object] = lambda _: None,
) -> str:
    """Write a model folder, completely or not at all; it must not exist yet.

    Args:
        before_rename: called with the complete temporary folder.

    Returns:
        The model's checksum: SHA-256 of model.safetensors.
    """
    temporary = choose_temporary_path(folder)
    try:
        write_bytes(temporary / "model.safetensors", encode_tensors(state, {"format": "pt"}))
        checksum = checksum_file(temporary / "model.safetensors")
        write_json(temporary / "config.json", {**config, "simclr": {**config["simclr"], "model_checksum": checksum}})
        write_bytes(temporary / "README.md", card.encode("utf-8"))
        before_rename(temporary)
        rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return checksum


def read_model(folder: Path, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json of a model folder and its weights, whose checksum must match.

    Args:
        remedy: of the error if config.json is unusable.

    Raises:
        RunError: missing, damaged, or of a newer version.
    """
    config = read_config(folder / "config.json", remedy)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RunError(f"There is no {weights}.", remedy)
    if not has_checksum(weights, config.get("simclr", {}).get("model_checksum")):
        raise RunError(f"{weights} is damaged: its checksum differs.", "Restore it from a backup, or train again.")
    return config, read_weights(weights)


def read_config(path: Path, remedy: str) -> dict[str, Any]:
    """Return a JSON object with a format version.

    Raises:
        RunError: missing, not JSON, or of an unknown version.
    """
    try:
        content = read_json(path)
        # In an encoder's config.json our keys are below timm's; one that timm wrote has none.
        own = content.get("simclr", content) if isinstance(content, dict) else None
        if own is None or own is not content or "pretrained_cfg" not in own:
            check_version(own, FORMAT_VERSION, path)
    except FileNotFoundError:
        raise RunError(f"There is no {path}.", remedy) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}).", remedy) from None
    return dict(content)


def parse_class_names(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Parse the names of the classes in config.json of a classifier, the file at `path`, in the order of the outputs.

    Raises:
        RunError: the file has none.
    """
    names = config.get("label_names")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        problem = f"{path} names no classes, so it does not describe a classifier."
        raise RunError(problem, CLASSIFIER_REMEDY)
    return tuple(names)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file.

    Raises:
        RunError: missing, not a .safetensors file, or with values that are not finite.
    """
    from safetensors.torch import load_file

    check_weights_file(path)
    try:
        check_safetensors_header(path, MAX_WEIGHTS_HEADER_BYTES)
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is not a complete .safetensors file ({error}).", "Use another file.") from None
    for name, tensor in state.items():
        if not tensor.float().isfinite().all():
            raise RunError(f"{path} is unusable: {name} has values that are not finite.", "Use another file.")
    return state


def check_weights_file(path: Path) -> None:
    """Raise RunError if there is no file of weights at `path`."""
    if not path.exists():
        raise RunError(f"There is no weights file {path}.", "Check the path.")


def encode_tensors(state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return the content of a .safetensors file."""
    from safetensors.torch import save

    return save(detach_tensors(state), metadata)


def detach_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors for a file: on the CPU, contiguous, detached."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
