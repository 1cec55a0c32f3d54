"""A model in a folder, as timm's `local-dir:` has it: config.json, model.safetensors, its card; whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import move, temporary_beside, write_bytes, write_json
from simclr_cli.core.safe_read import check_tensors, check_version, checksum_file, read_json

FORMAT_VERSION = 1


def write_model(
    folder: Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: str,
    *,
    before: Callable[[Path], object] = lambda _: None,
) -> str:
    """A folder in timm's `local-dir:` layout, whole or not at all; it must not be there yet.

    Args:
        before: called with the temporary folder, when all is in it and it has not taken its place.

    Returns:
        The model's checksum: SHA-256 of model.safetensors.
    """
    whole = temporary_beside(folder)
    try:
        write_bytes(whole / "model.safetensors", to_safetensors(plain(state), metadata={"format": "pt"}))
        checksum = checksum_file(whole / "model.safetensors")
        write_json(whole / "config.json", {**config, "simclr": {**config["simclr"], "model_checksum": checksum}})
        write_bytes(whole / "README.md", card.encode("utf-8"))
        before(whole)
        move(whole, folder)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return checksum


def read_model(folder: Path, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json of such a folder, and the weights, which must be those that it was written for.

    Raises:
        RunError: missing, damaged, or of a newer version; `remedy` says what to do about its config.json.
    """
    config = read_description(folder / "config.json", remedy)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RunError(f"There is no {weights}.", remedy)
    if checksum_file(weights) != config.get("simclr", {}).get("model_checksum"):
        raise RunError(
            f"{weights} is not what was saved: its checksum differs.", "Restore it from a copy, or train again."
        )
    return config, read_weights(weights)


def read_description(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object that says its format version.

    Raises:
        RunError: missing, not JSON, or of a version that this simclr does not know.
    """
    try:
        content = read_json(path)
        # In an encoder's config.json timm's words stand around ours.
        check_version(content.get("simclr", content) if isinstance(content, dict) else None, FORMAT_VERSION, path)
    except FileNotFoundError:
        raise RunError(f"There is no {path}.", remedy) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}).", remedy) from None
    return dict(content)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        RunError: missing, or not such a file.
    """
    try:
        check_tensors(path)
        return load_file(path)
    except FileNotFoundError:
        raise RunError(f"There is no file of weights {path}.", "Check the path.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is not a whole .safetensors file ({error}).", "Give one that is.") from None


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a file takes them: on the CPU, contiguous, without graph."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
