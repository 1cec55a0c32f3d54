"""A run that is stopped at random moments, in every way, and resumed each time, ends as an undisturbed one does."""

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

pytestmark = pytest.mark.long

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
WORKERS = range(PretrainSettings.__dataclass_fields__["workers"].metadata["at_least"], 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "pics"
    draw_images(folder, seed=0, count=100, size=48)  # 6 batches of 16, and 4 that wait
    return folder


def started(log: Path, *options: object, stream: bool) -> subprocess.Popen[bytes]:
    """The command as a process; what it says goes to a file."""
    environment = {**os.environ, "SIMCLR_CACHE": os.environ["SIMCLR_CACHE"] + "-stream"} if stream else None
    typed = [sys.executable, "-m", "simclr_cli", "pretrain", *map(str, options)]
    typed += ["--checkpoint-seconds", "0.1", *(["--cache-gb", "0"] if stream else [])]
    with log.open("ab") as said:
        return subprocess.Popen(typed, stdout=said, stderr=said, env=environment)


def wait_until_training(process: subprocess.Popen[bytes], run: RunFolder, before: int) -> None:
    """Until config.json is another than it was, which is written when all is ready."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and changed(run) == before:
        time.sleep(0.005)


def changed(run: RunFolder) -> int:
    return run.config_file.stat().st_mtime_ns if run.config_file.exists() else 0


def state_of(run: RunFolder) -> dict[str, Any]:
    """Weights, optimizer state, vectors and metrics of a finished run, by name."""
    saved = load_checkpoint(run.checkpoints)
    assert saved is not None
    out = run.path.parent / f"{run.path.name}.npy"
    embed(EmbedSettings(run=run.path.name, runs=run.path.parent, out=out))
    optimizer = {f"optimizer.{i}.{name}": value for i, kept in saved.optimizer["state"].items()
                 for name, value in kept.items()}  # fmt: skip
    return {
        **{f"model.{name}": value for name, value in saved.model.items()}, **optimizer,
        "groups": saved.optimizer["param_groups"], "vectors": torch.from_numpy(np.load(out)),
        "encoder": run.weights_file.read_bytes(), "projector": run.projector_file.read_bytes(),
        "metrics": run.metrics_file.read_bytes(),
    }  # fmt: skip


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_stopped_at_random_moments_a_run_ends_bit_for_bit_as_an_undisturbed_one(
    images: Path, tmp_path: Path, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    wanted, chance, log = times(3, 10), random.Random(0), tmp_path / "log"
    chosen = {"backbone": "test_resnet", "image_size": 40, "batch_size": 16, "epochs": times(6, 40)}
    given = [word for name, value in chosen.items() for word in ("--" + name.replace("_", "-"), value)]
    calm = RunFolder(tmp_path / "calm")
    pretrain(PretrainSettings(images=images, runs=tmp_path, run="calm", **chosen))
    share = sum(row["seconds"] for row in read_epochs(calm)) / (wanted + 1)  # of the training, between two stops

    stops = mid_epoch = 0
    rounds = [RunFolder(tmp_path / "round-1")]
    while stops < wanted:
        run = rounds[-1]
        if run.finished:  # before all its stops, for the machine was quicker than before
            rounds.append(run := RunFolder(tmp_path / f"round-{len(rounds) + 1}"))
        number = STOPS[stops % len(STOPS)]
        workers = WORKERS[(stops + stops // len(STOPS)) % len(WORKERS)]
        before = changed(run)
        what = ["--resume"] if run.begun else [images, *given]
        process = started(
            log, *what, "--runs", tmp_path, "--run", run.path.name, "--workers", workers, stream=stops % 2 == 1
        )
        try:
            wait_until_training(process, run, before)
            time.sleep(chance.uniform(0, 1.6) * share)
            process.send_signal(number)
            code = process.wait(timeout=60)
        finally:
            process.kill()
        if not run.finished:
            assert code == CODES[number], log.read_text()
            stops += 1
            saved = load_checkpoint(run.checkpoints)
            mid_epoch += saved is not None and bool(saved.losses)
    if not rounds[-1].finished:
        pretrain(PretrainSettings(resume=True, runs=tmp_path, run=rounds[-1].path.name))

    expected = state_of(calm)
    different = []
    for run in rounds:
        found = state_of(run)
        assert found.keys() == expected.keys()
        different += [f"{run.path.name}: {name}" for name in expected if not same(found[name], expected[name])]
    figure("resume: stops", stops)
    figure("resume: stops within an epoch, by the checkpoint", mid_epoch)
    figure("resume: bit-identical to the undisturbed run", "no" if different else "yes")
    assert different == []
