"""How often, and where figures go: a short form in CI, the full one by SIMCLR_TORTURE=full (docs/reliability.md)."""

from __future__ import annotations

import json
import os
import shutil
import socket
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
    """`times(short, full)`: how often to do it."""
    return lambda short, full: full if FULL else short


@pytest.fixture(scope="session")
def figure() -> Callable[[str, Any], None]:
    """`figure(name, value)`: a result of this run, a line of JSON in the file $SIMCLR_FIGURES, if that is set."""

    def keep(name: str, value: Any) -> None:
        if file := os.environ.get("SIMCLR_FIGURES"):
            with Path(file).open("a") as stream:
                stream.write(json.dumps({"figure": name, "value": value, "full": FULL}) + "\n")

    return keep


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """`forks(arguments, cwd, ...)`: the command in a fork of a process that has imported it (workers/commands.py).

    Its answer has `said` besides: what the command printed. Its code is None if it was killed.
    """
    out = tmp_path_factory.mktemp("said") / "said"

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
    """`furnish()`: a folder with images, runs and files of every kind, as it was at first; always the same path."""
    base = tmp_path_factory.mktemp("furnished")
    work, kept = base / "work", base / "kept"
    for folder, count in (("pics", 15), ("more", 4)):
        for i in range(count):
            kind = work / folder / ("light" if i % 2 else "dark")
            kind.mkdir(parents=True, exist_ok=True)
            low = 128 * (i % 2)
            blocks = np.random.default_rng([i, count]).integers(low, low + 128, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(kind / f"{i:02d}.png")
    shutil.copy(work / "pics/light/01.png", work / "pics/light/copy.png")
    tiny = "--backbone test_resnet --image-size 32 --batch-size 8 --blur 0 --workers 1".split()
    on = ("--run", "a", "--workers", "1")
    for arguments in (
        ("pretrain", "pics", "--run", "a", "--epochs", "1", *tiny),
        ("outliers", *on),
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
    shutil.copytree(work, kept)

    def again() -> Path:
        shutil.rmtree(work)
        shutil.copytree(kept, work)
        return work

    return again
