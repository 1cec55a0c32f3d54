"""A disk that is really full: old files stay, the error names the needed bytes, and the run resumes with free space."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from simclr_cli.api import EmbedSettings, PretrainSettings
from simclr_cli.commands.embed import embed
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import EpochDone, Event, Note, silent
from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.run import RunFolder
from simclr_cli.store.vectors import read_vectors

pytestmark = pytest.mark.long

DISK_MIB = 24  # ; a checkpoint of the small encoder takes 4.8 MB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(16):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def fill(disk: Path, *, free: int) -> None:
    """Fill the disk except for `free` bytes."""
    status = os.statvfs(disk)
    with (disk / "filler").open("wb") as stream:
        stream.write(bytes(status.f_bavail * status.f_frsize - free))


def settings(photos: Path, runs: Path, **more: Any) -> PretrainSettings:
    tiny = {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "epochs": 3, "workers": 1}
    return PretrainSettings(**{"images": photos, "runs": runs, "run": "r", "checkpoint_seconds": 0.0, **tiny, **more})


def test_training_stops_with_its_last_checkpoint_and_resumes_to_the_same_weights(
    disk: Path, photos: Path, tmp_path: Path
) -> None:
    def report(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            fill(disk, free=1_000_000)

    with pytest.raises(MachineError) as caught:
        pretrain(settings(photos, disk / "runs"), report=report)
    run = RunFolder(disk / "runs/r")
    match = re.search(r"needs ([0-9.]+) MB, ([0-9.]+) (MB|kB) free", caught.value.problem)
    assert match and float(match[1]) == pytest.approx(4.8, abs=0.2) and caught.value.exit_code == 5, (
        caught.value.problem
    )
    assert run.resume_command in caught.value.remedy
    checkpoint = load_checkpoint(run.checkpoint_folder)
    assert checkpoint is not None and checkpoint.step == 3  # the one before the end of the second epoch
    assert not list(disk.rglob(f"{TEMPORARY_PREFIX}*"))

    (disk / "filler").unlink()
    pretrain(PretrainSettings(runs=disk / "runs", run="r", resume=True), report=silent)
    undisturbed = pretrain(settings(photos, tmp_path / "runs"), report=silent)
    one, other = load_file(run.weights_file), load_file(RunFolder(Path(undisturbed.run)).weights_file)
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_old_vectors_stay(disk: Path, photos: Path, tmp_path: Path) -> None:
    result = pretrain(settings(photos, tmp_path / "runs", epochs=1), report=silent)
    embed_settings = EmbedSettings(images=photos, runs=tmp_path / "runs", out=disk / "v.npy", workers=1)
    before = embed(embed_settings)
    old = (disk / "v.npy").read_bytes()
    fill(disk, free=0)
    with pytest.raises(MachineError, match="No space left on device"):
        embed(embed_settings)
    assert (disk / "v.npy").read_bytes() == old and result.model_checksum == before.model_checksum
    assert len(read_vectors(disk / "v.npy", model_checksum=before.model_checksum).rows) == 16


def test_a_nearly_full_disk_gives_a_warning_before_the_first_epoch(disk: Path, photos: Path) -> None:
    fill(disk, free=5_000_000)
    events: list[Event] = []
    pretrain(settings(photos, disk / "runs", dry_run=True), report=events.append)
    (note,) = (
        event for event in events if isinstance(event, Note) and event.warning and "Saving this run" in event.text
    )
    assert re.search(r"needs 9\.[0-9] MB, and (4\.9|5\.0) MB are free", note.text), note.text
