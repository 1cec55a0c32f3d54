"""A run stopped at random moments, in every way, and resumed each time, ends like an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simclr_cli.api import EmbedSettings, PretrainSettings
from simclr_cli.commands.embed import embed
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.images.synthetic import draw_images
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder

if sys.platform == "win32":
    pytest.skip("requires SIGKILL", allow_module_level=True)
pytestmark = pytest.mark.long

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
WORKER_COUNTS = range(PretrainSettings.__dataclass_fields__["workers"].metadata["at_least"], 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "pics"
    draw_images(folder, seed=0, count=100, size=48)  # 6 batches of 16, and 4 images left over
    return folder


def start_pretrain(log: Path, *options: object, stream: bool) -> subprocess.Popen[bytes]:
    """Start the command; its output goes to a file."""
    environment = {**os.environ, "SIMCLR_CACHE": os.environ["SIMCLR_CACHE"] + "-stream"} if stream else None
    command = [sys.executable, "-m", "simclr_cli", "pretrain", *map(str, options)]
    command += ["--checkpoint-seconds", "0.1", *(["--cache-gb", "0"] if stream else [])]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def wait_until_training(process: subprocess.Popen[bytes], run: RunFolder, before: int) -> None:
    """Wait until config.json changes, which is written right before training."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and read_config_time(run) == before:
        time.sleep(0.005)


def read_config_time(run: RunFolder) -> int:
    return run.config_file.stat().st_mtime_ns if run.config_file.exists() else 0


def read_state(run: RunFolder) -> dict[str, Any]:
    """Return weights, optimizer state, vectors and metrics of a finished run, by name."""
    saved = load_checkpoint(run.checkpoint_folder)
    assert saved is not None
    out = run.path.parent / f"{run.path.name}.npy"
    embed(EmbedSettings(run=run.path.name, runs=run.path.parent, out=out))
    optimizer = {f"optimizer.{i}.{name}": value for i, state in saved.optimizer["state"].items()
                 for name, value in state.items()}  # fmt: skip
    return {
        **{f"model.{name}": value for name, value in saved.model.items()}, **optimizer,
        "groups": saved.optimizer["param_groups"], "vectors": torch.from_numpy(np.load(out)),
        "encoder": run.weights_file.read_bytes(), "projector": run.projection_head_file.read_bytes(),
        "metrics": run.metrics_file.read_bytes(),
    }  # fmt: skip


def is_same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_run_stopped_at_random_moments_is_bit_identical_to_an_undisturbed_one(
    images: Path, tmp_path: Path, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    stop_count, chance, log = times(3, 10), random.Random(0), tmp_path / "log"
    settings = {"backbone": "test_resnet", "image_size": 40, "batch_size": 16, "epochs": times(6, 40)}
    options = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), value)]
    undisturbed = RunFolder(tmp_path / "undisturbed")
    pretrain(PretrainSettings(images=images, runs=tmp_path, run="undisturbed", **settings))
    interval = sum(row["seconds"] for row in read_epochs(undisturbed)) / (
        stop_count + 1
    )  # seconds of training between two stops

    stops = mid_epoch = 0
    rounds = [RunFolder(tmp_path / "round-1")]
    while stops < stop_count:
        run = rounds[-1]
        if run.is_finished:  # before all its stops
            rounds.append(run := RunFolder(tmp_path / f"round-{len(rounds) + 1}"))
        number = STOP_SIGNALS[stops % len(STOP_SIGNALS)]
        workers = WORKER_COUNTS[(stops + stops // len(STOP_SIGNALS)) % len(WORKER_COUNTS)]
        before = read_config_time(run)
        arguments = ["--resume"] if run.is_started else [images, *options]
        process = start_pretrain(
            log, *arguments, "--runs", tmp_path, "--run", run.path.name, "--workers", workers, stream=stops % 2 == 1
        )
        try:
            wait_until_training(process, run, before)
            time.sleep(chance.uniform(0, 1.6) * interval)
            process.send_signal(number)
            code = process.wait(timeout=60)
        finally:
            process.kill()
        if not run.is_finished:
            assert code == CODES[number], log.read_text()
            stops += 1
            saved = load_checkpoint(run.checkpoint_folder)
            mid_epoch += saved is not None and bool(saved.losses)
    if not rounds[-1].is_finished:
        pretrain(PretrainSettings(resume=True, runs=tmp_path, run=rounds[-1].path.name))

    expected = read_state(undisturbed)
    different = []
    for run in rounds:
        state = read_state(run)
        assert state.keys() == expected.keys()
        different += [f"{run.path.name}: {name}" for name in expected if not is_same(state[name], expected[name])]
    figure("resume: stops", stops)
    figure("resume: stops within an epoch, by the checkpoint", mid_epoch)
    figure("resume: bit-identical to the undisturbed run", "no" if different else "yes")
    assert different == []
