"""Training on a GPU: the metrics of a CPU, and no wait for the GPU within a step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_in import needs_stand_in, run_on_gpu
from workers.gpu_trainings import CASES, train_all

from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder

pytestmark = needs_stand_in
WORKERS = Path(__file__).parents[1] / "workers"


def run_worker(name: str, folder: Path, *arguments: str | Path, computed: bool) -> str:
    """Run a worker on the GPU in place of the command, and return its output."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{WORKERS / name}" "$@"\n')
    python.chmod(0o755)
    done = run_on_gpu(*arguments, computed=computed, python=python)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_no_step_waits_for_the_gpu_and_the_loss_takes_the_memory_that_is_planned(tmp_path: Path) -> None:
    found = json.loads(run_worker("gpu_steps.py", tmp_path, computed=False))
    assert len(found["waits"]) == 6 and not any(found["waits"].values()), found["waits"]
    for kind, images, peak, estimate in found["memory"]:
        assert peak <= estimate + 2**26 and estimate <= 2 * peak, (kind, images)  # matrix products have 32 MiB each


def flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [x for part in value.values() for x in flatten(part)]
    return [] if value is None else [value]


def test_float32_training_has_the_metrics_of_a_cpu(images: Path, tmp_path: Path) -> None:
    run_worker("gpu_trainings.py", tmp_path, images, tmp_path, "cuda:0", computed=True)
    train_all(images, tmp_path, "cpu")
    for name in CASES:
        on_gpu, on_cpu = (read_epochs(RunFolder(tmp_path / f"{name}-{device}")) for device in ("cuda:0", "cpu"))
        assert len(on_gpu) == 2
        for row, expected in zip(on_gpu, on_cpu, strict=True):
            for timed in (row, expected):
                del timed["seconds"], timed["images_per_second"]
            assert row.keys() == expected.keys()
            assert flatten(row) == pytest.approx(flatten(expected), rel=1e-6), name
