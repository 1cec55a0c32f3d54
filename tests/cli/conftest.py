"""The command in process and as a process, and one small run for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer.testing
from PIL import Image

from simclr_cli.cli.app import app

COLOURS = ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")
TINY = "--backbone test_resnet --image-size 32 --batch-size 8 --epochs 1 --blur 0".split()


class Answer(NamedTuple):
    """What a command gave back."""

    code: int
    stdout: str
    stderr: str


def plain(text: str) -> str:
    """Text without escape codes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture(autouse=True)
def neutral_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No colours asked for or forbidden by the surroundings; signal handlers as they were afterwards.

    A command that runs in this process and is to stop is given all the time it takes: its end would be that of pytest.
    """
    monkeypatch.setattr("simclr_cli.cli.stopping.PATIENCE", 600)
    for name in COLOURS:
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def simclr() -> Callable[..., Answer]:
    """`simclr("embed", ...)` in this process."""

    def run(*arguments: object) -> Answer:
        result = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="simclr")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, plain(result.stdout), plain(result.stderr))

    return run


@pytest.fixture
def installed() -> Callable[..., Answer]:
    """`installed("embed", ..., cwd=...)`: the command that pip put on the path, as a process of its own."""

    def run(*arguments: object, cwd: Path | None = None, **environment: str) -> Answer:
        result = subprocess.run(
            [script(), *(os.fsencode(str(argument)) for argument in arguments)],
            cwd=cwd, capture_output=True, timeout=300, env={**os.environ, **environment},
        )  # fmt: skip
        return Answer(result.returncode, result.stdout.decode(), result.stderr.decode())

    return run


@pytest.fixture(scope="session")
def command() -> str:
    """The path of the installed command."""
    return script()


def script() -> str:
    return str(Path(sysconfig.get_path("scripts")) / "simclr")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small pictures in two classes; not to be changed."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    for i in range(24):
        kind = "light" if i % 2 else "dark"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        low, high = (128, 256) if i % 2 else (0, 128)
        blocks = np.random.default_rng(i).integers(low, high, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / kind / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that holds one finished run, `photos`; not to be changed."""
    from simclr_cli.settings import PretrainSettings
    from simclr_cli.verbs.pretrain import pretrain

    runs = tmp_path_factory.mktemp("trained") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(tmp_path_factory.mktemp("cache")))
        pretrain(
            PretrainSettings(images=photos, runs=runs, backbone="test_resnet", image_size=32, batch_size=8, epochs=1)
        )
    return runs


@pytest.fixture
def tiny() -> list[str]:
    """Options for a training of a second."""
    return list(TINY)
