"""Description of a run: config.json and images.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.core.events import Choice
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import MAX_LIST_BYTES, check_version, is_safe_path, read_json
from simclr_cli.store.models import read_config
from simclr_cli.store.run import RunFolder

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ImageList:
    """The image files of a run, including those that could not be decoded."""

    files: Mapping[str, tuple[int, int]]  # size in bytes and modification time in ns, by relative path
    changes: Sequence[Mapping[str, int]]  # number of images added, removed and changed, and after which epoch


def write_image_list(run: RunFolder, image_list: ImageList) -> None:
    """Write images.json."""
    files = [[name, *status] for name, status in image_list.files.items()]
    content = {"format_version": FORMAT_VERSION, "changes": list(image_list.changes), "files": files}
    write_bytes(run.images_file, json.dumps(content).encode("ascii"))


def read_image_list(run: RunFolder) -> ImageList:
    """Read images.json.

    Raises:
        RunError: missing, damaged, of a newer version, or with a name that leads out of the folder.
    """
    try:
        content = read_json(run.images_file, MAX_LIST_BYTES)
        check_version(content, FORMAT_VERSION, run.images_file)
        files = {name: (bytes_, modified_ns) for name, bytes_, modified_ns in content["files"]}
        if not all(isinstance(n, str) and is_safe_path(n) and type(a) is type(b) is int for n, (a, b) in files.items()):
            raise ValueError("it names a file outside the folder of the images")
        return ImageList(files, [dict(change) for change in content["changes"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{run.images_file} cannot be read ({error}).", "Train under another --run.") from None


COMMAND_ONLY_SETTINGS = (
    "resume", "accept_changes", "dry_run", "runs", "cache_gb", "devices", "checkpoint_seconds", "tensorboard",
    "hours", "offline", "accept_license",
)  # not in config.json  # fmt: skip
OLD_RUN_DEFAULTS = {
    "held_out": 0,
    "rotate": 0.0,
    "train": "all",
    "freeze_batch_norm": False,
    "layer_decay": 1.0,
}  # of runs that are older than these settings


@dataclass(frozen=True)
class RunInfo:
    """Content of config.json."""

    settings: ResolvedSettings  # COMMAND_ONLY_SETTINGS have their defaults; the image folder may no longer exist
    census: Mapping[str, Any]  # Census.summary, after decoding
    versions: Mapping[str, str | None]  # of simclr, python and libraries, by name
    choices: tuple[Choice, ...] = ()  # of the plan
    extended: tuple[int, ...] = ()  # the planned epochs before each extension
    image_changes: Sequence[Mapping[str, int]] = ()  # as ImageList.changes

    def to_config(self) -> dict[str, Any]:
        """Return the content of config.json without its format version."""
        versions = dict(self.versions)
        return {
            "simclr_version": versions.pop("simclr", None),
            "python": versions.pop("python", None),
            "versions": versions,
            "settings": {
                name: value for name, value in self.settings.to_json().items() if name not in COMMAND_ONLY_SETTINGS
            },
            "extended": list(self.extended),
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "census": self.census,
            "image_changes": list(self.image_changes),
        }


def read_run_info(run: RunFolder) -> RunInfo:
    """Read a run's config.json.

    Raises:
        RunError: missing, damaged, of a newer version, or with unknown or unresolved settings.
    """
    content = read_config(run.config_file, "Train a run: simclr pretrain FOLDER")
    try:
        settings = content["settings"]
        defaults = {**OLD_RUN_DEFAULTS, "train_size": settings["image_size"]}
        if unresolved := [name for name, value in settings.items() if value is None and name != "preset"]:
            raise TypeError(f"{unresolved[0]} is not resolved")
        if "\0" in settings["images"]:
            raise ValueError("its folder of images is not a path")
        choices = tuple(Choice(**choice) for choice in content.get("choices", ()))
        if not all(isinstance(choice.name, str) for choice in choices):
            raise TypeError("a choice has no name")
        return RunInfo(
            ResolvedSettings(**{**defaults, **settings, "images": Path(settings["images"])}),
            dict(content.get("census", {})),
            {"simclr": content.get("simclr_version"), "python": content.get("python"), **content.get("versions", {})},
            choices,
            tuple(content.get("extended", ())),
            tuple(content.get("image_changes", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise RunError(f"{run.config_file} does not hold a run's settings ({error}).", "Train again.") from None
