"""Fixtures of the torture tests: a short form in CI, the full form by SIMCLR_TORTURE=full (docs/reliability.md)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import PretrainSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.errors import Interrupted
from simclr_cli.core.events import EpochDone, Event

FULL = os.environ.get("SIMCLR_TORTURE") == "full"


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """Return `times(short, full)`, which returns the number of repetitions."""
    return lambda short, full: full if FULL else short


@pytest.fixture(scope="session")
def figure() -> Callable[[str, Any], None]:
    """Return `figure(name, value)`, which appends a result as JSON to the file $SIMCLR_FIGURES, if that is set."""

    def record(name: str, value: Any) -> None:
        if file := os.environ.get("SIMCLR_FIGURES"):
            with Path(file).open("a") as stream:
                stream.write(json.dumps({"figure": name, "value": value, "full": FULL}) + "\n")

    return record


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return `forks(arguments, cwd, ...)`, which runs the command in a fork (workers/commands.py).

    The answer also has `said`, the output of the command. Its code is None if the command was killed.
    """
    if sys.platform != "linux":
        pytest.skip("commands run as forks on Linux only")
    out = tmp_path_factory.mktemp("output") / "output"

    def run(arguments: Sequence[str], cwd: Path, **more: Any) -> dict[str, Any]:
        job = {"arguments": list(arguments), "cwd": str(cwd), "env": {**os.environ, "SIMCLR_CACHE": "cache"}, **more}
        with socket.socket(socket.AF_UNIX) as connection, out.open("w") as stream, Path(os.devnull).open() as nothing:
            connection.connect(os.environ["SIMCLR_TEST_COMMANDS"])
            socket.send_fds(connection, [b"x"], [nothing.fileno(), stream.fileno(), stream.fileno()])
            with connection.makefile("rw") as lines:
                lines.write(json.dumps(job) + "\n")
                lines.flush()
                lines.readline()  # the id of its process
                answer: dict[str, Any] = json.loads(lines.readline())
        code = answer["code"] if answer["code"] >= 0 else None
        return {**answer, "code": code, "said": out.read_text(errors="replace")}

    return run


@pytest.fixture(scope="session")
def furnish(forks: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return `furnish()`, which resets a folder with images, runs and files of every kind; always the same path."""
    base = tmp_path_factory.mktemp("furnished")
    work, template = base / "work", base / "template"
    for folder, count in (("pics", 15), ("more", 4)):
        for i in range(count):
            kind = work / folder / ("light" if i % 2 else "dark")
            kind.mkdir(parents=True, exist_ok=True)
            low = 128 * (i % 2)
            blocks = np.random.default_rng([i, count]).integers(low, low + 128, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(kind / f"{i:02d}.png")
    shutil.copy(work / "pics/light/01.png", work / "pics/light/copy.png")
    (work / "out").mkdir()
    tiny = "--backbone test_resnet --image-size 32 --batch-size 8 --blur 0 --workers 1".split()
    on = ("--run", "a", "--workers", "1")
    for arguments in (
        ("pretrain", "pics", "--run", "a", "--epochs", "1", *tiny),
        ("outliers", *on),
        ("outliers", "more", *on),  # its embeddings are in the cache
        ("finetune", "pics", *on, "--epochs", "1", "--out", "out/classifier"),
        *(("embed", "more", *on, "--out", f"out/v.{end}") for end in ("npy", "csv")),
        ("embed", "more", *on, "--out", "out/s.npy", "--shards", "2"),
    ):
        answer = forks(arguments, work)
        assert answer["code"] == 0, answer["said"]

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise Interrupted("Stopped.", "Go on.")

    settings = PretrainSettings(
        images=work / "pics", runs=work / "simclr-runs", run="stopped", backbone="test_resnet", image_size=32,
        batch_size=8, epochs=2, blur=0, workers=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setenv("SIMCLR_CACHE", str(work / "cache"))
        pretrain(settings, report=stop)
    shutil.copytree(work, template)

    def reset() -> Path:
        shutil.rmtree(work)
        shutil.copytree(template, work)
        return work

    return reset
