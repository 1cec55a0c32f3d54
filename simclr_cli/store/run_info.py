"""What describes a run: config.json, and the list of its images."""

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
from simclr_cli.core.safe_read import MOST_OF_LIST, check_version, is_within, read_json
from simclr_cli.store.models import read_description
from simclr_cli.store.run import RunFolder

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ImageList:
    """The files that a run is of, those that could not be decoded included."""

    files: Mapping[str, tuple[int, int]]  # size in bytes and time of change in ns, by relative path
    changes: Sequence[Mapping[str, int]]  # how many were added, removed and changed, each time, and after which epoch


def write_images(run: RunFolder, kept: ImageList) -> None:
    """Write images.json."""
    files = [[name, *status] for name, status in kept.files.items()]
    content = {"format_version": FORMAT_VERSION, "changes": list(kept.changes), "files": files}
    write_bytes(run.images_file, json.dumps(content).encode("ascii"))


def read_images(run: RunFolder) -> ImageList:
    """The images that a run is of.

    Raises:
        RunError: missing, damaged, or of a newer version; or a name that leads out of a folder.
    """
    try:
        content = read_json(run.images_file, MOST_OF_LIST)
        check_version(content, FORMAT_VERSION, run.images_file)
        files = {name: (bytes_, modified_ns) for name, bytes_, modified_ns in content["files"]}
        if not all(isinstance(n, str) and is_within(n) and type(a) is type(b) is int for n, (a, b) in files.items()):
            raise ValueError("it names what is no image of a folder")
        return ImageList(files, [dict(change) for change in content["changes"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{run.images_file} cannot be read ({error}).", "Train under another --run.") from None


NOT_KEPT = (
    "resume", "accept_changes", "dry_run", "runs", "cache_gb", "devices", "checkpoint_seconds", "tensorboard",
)  # of the command, not of the run  # fmt: skip
ABSENT = {"held_out": 0, "rotate": 0.0}  # what runs did from before there were these settings


@dataclass(frozen=True)
class RunInfo:
    """All of it, read once by the command that needs it."""

    settings: ResolvedSettings  # those of NOT_KEPT at their defaults; the folder of images may have gone
    census: Mapping[str, Any]  # Census.summary, after decoding
    versions: Mapping[str, str | None]  # of simclr, python and libraries, by name
    choices: tuple[Choice, ...] = ()  # the plan's
    extended: tuple[int, ...] = ()  # the epochs that it was to have before it was given more
    image_changes: Sequence[Mapping[str, int]] = ()  # see store.images

    def described(self) -> dict[str, Any]:
        """Return what config.json holds, but for the version of its format."""
        versions = dict(self.versions)
        return {
            "simclr_version": versions.pop("simclr", None),
            "python": versions.pop("python", None),
            "versions": versions,
            "settings": {name: value for name, value in self.settings.told().items() if name not in NOT_KEPT},
            "extended": list(self.extended),
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "census": self.census,
            "image_changes": list(self.image_changes),
        }


def read_run_info(run: RunFolder) -> RunInfo:
    """Read a run's config.json.

    Raises:
        RunError: missing, damaged, of a newer version, or settings among it that are none, or are open still.
    """
    content = read_description(run.config_file, "Train a run with: simclr pretrain FOLDER")
    try:
        kept = content["settings"]
        if open_still := [name for name, value in kept.items() if value is None and name != "preset"]:
            raise TypeError(f"{open_still[0]} is open still")
        if "\0" in kept["images"]:
            raise ValueError("its folder of images is none")
        return RunInfo(
            ResolvedSettings(**{**ABSENT, **kept, "images": Path(kept["images"])}),
            dict(content.get("census", {})),
            {"simclr": content.get("simclr_version"), "python": content.get("python"), **content.get("versions", {})},
            tuple(Choice(**choice) for choice in content.get("choices", ())),
            tuple(content.get("extended", ())),
            tuple(content.get("image_changes", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise RunError(f"{run.config_file} does not hold a run's settings ({error}).", "Train again.") from None
