"""Run info: read back as written; an incomplete config.json is an error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import RunError
from simclr_cli.core.events import Choice
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import COMMAND_ONLY_SETTINGS, RunInfo, read_run_info

INFO = RunInfo(
    settings=ResolvedSettings(
        images=Path("/gone/caf\udce9"), image_size=40, crop_min=0.08, color_strength=1.0, grayscale=0.2, flip=0.5,
        rotate=0.0,
        blur=0.5, workers=2, run="r", backbone="resnet18", batch_size=16, micro_batch=16, held_out=3, epochs=2,
        temperature=0.1, weights="none", loss="nt-xent", train="all", freeze_batch_norm=False, train_size=40,
        optimizer="adamw", learning_rate=0.002, lr_rule="none", weight_decay=0.01, layer_decay=1.0, warmup_epochs=0,
        precision="float32", compile="off", device="cpu",
    ),
    census={"images": 48, "classes": ["a", "b"]},
    versions={"simclr": "0.1.0", "python": "3.12.1", "torch": "2.10.0"},
    choices=(Choice("epochs", "2", "as set"),),
    extended=(1,),
    image_changes=({"after_epochs": 1, "added": 2},),
)  # fmt: skip


def test_it_is_read_back_as_written(tmp_path: Path) -> None:
    """Also if the folder of the images and the initial weights do not exist, and its name is not UTF-8."""
    weights = dataclasses.replace(INFO.settings, weights="gone/lr=0.1/encoder/model.safetensors")
    for info in (INFO, dataclasses.replace(INFO, settings=weights)):
        RunFolder(tmp_path).write_config(info.to_config())
        assert read_run_info(RunFolder(tmp_path)) == info


def test_settings_of_the_command_are_not_saved(tmp_path: Path) -> None:
    command = {"runs": Path("elsewhere"), "resume": True, "accept_changes": True, "dry_run": True, "cache_gb": 3.0}
    settings = dataclasses.replace(INFO.settings, **command, devices=4, checkpoint_seconds=1.0, tensorboard=True)
    RunFolder(tmp_path).write_config(dataclasses.replace(INFO, settings=settings).to_config())
    assert not set(COMMAND_ONLY_SETTINGS) & json.loads(RunFolder(tmp_path).config_file.read_bytes())["settings"].keys()
    assert read_run_info(RunFolder(tmp_path)) == INFO


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("settings"), "settings"),
        (lambda content: content["settings"].pop("images"), "images"),
        (lambda content: content["settings"].update(epochs=None), "epochs is not resolved"),
        (lambda content: content["settings"].update(epochs=0), "--epochs is 0"),
        (lambda content: content["settings"].update(color="red"), "color"),
        (lambda content: content.update(settings=[1]), "list"),
        (lambda content: content.update(choices=[{"name": "epochs"}]), "missing"),
        (lambda content: content.update(census=3), "int"),
    ],
)
def test_an_incomplete_config_is_an_error(tmp_path: Path, change: Any, words: str) -> None:
    run = RunFolder(tmp_path)
    run.write_config(INFO.to_config())
    content = json.loads(run.config_file.read_bytes())
    change(content)
    run.write_config(content)
    with pytest.raises(RunError, match="does not hold a run's settings") as caught:
        read_run_info(run)
    assert words in caught.value.problem
