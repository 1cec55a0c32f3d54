"""config.json: what a run is. Its settings as resolved and why, the versions it was made by, its images in figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.core.events import Choice
from simclr_cli.store.models import read_description
from simclr_cli.store.run import RunFolder

NOT_KEPT = (
    "resume", "accept_changes", "dry_run", "runs", "cache_gb", "devices", "checkpoint_seconds", "tensorboard",
)  # of the command, not of the run  # fmt: skip
ABSENT = {"held_out": 0, "turn": 0.0}  # what runs did from before there were these settings


@dataclass(frozen=True)
class RunInfo:
    """All of it, read once by the command that needs it."""

    settings: ResolvedSettings  # those of NOT_KEPT at their defaults; the folder of images may have gone
    census: Mapping[str, Any]  # Census.summary, after decoding
    versions: Mapping[str, str | None]  # of simclr, python and libraries, by name
    choices: tuple[Choice, ...] = ()  # the plan's
    extended: tuple[int, ...] = ()  # the epochs that it was to have before it was given more
    image_changes: Sequence[Mapping[str, int]] = ()  # see store.pictures

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
            "picture_changes": list(self.image_changes),
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
            tuple(content.get("picture_changes", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise RunError(f"{run.config_file} does not hold a run's settings ({error}).", "Train again.") from None
