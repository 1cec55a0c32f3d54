"""Fixtures: the command in this process and as a process, and one small run."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer.testing
from PIL import Image

from simclr_cli.cli.app import app

COLORS = ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")
TINY = "--backbone test_resnet --image-size 32 --batch-size 8 --epochs 1 --blur 0".split()


class Answer(NamedTuple):
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


def plain(text: str) -> str:
    """Return text without escape codes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture(autouse=True)
def neutral_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the variables of colors, and restore the signal handlers afterwards.

    A command in this process may take any time to stop, since ending it would end pytest.
    """
    monkeypatch.setattr("simclr_cli.cli.signals.SECONDS_TO_STOP", 600)
    for name in COLORS:
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def simclr() -> Callable[..., Answer]:
    """Return a function that runs a command in this process: `simclr("embed", ...)`."""

    def run(*arguments: object) -> Answer:
        result = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="simclr")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, plain(result.stdout), plain(result.stderr))

    return run


def run_as_process(command: str, *arguments: object, cwd: Path | None = None, **environment: str) -> Answer:
    """Run a command as a process."""
    result = subprocess.run(
        [command, *(os.fsencode(str(argument)) for argument in arguments)],
        cwd=cwd, capture_output=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    stdout, stderr = (text.decode().replace(os.linesep, "\n") for text in (result.stdout, result.stderr))
    return Answer(result.returncode, stdout, stderr)


@pytest.fixture
def installed(installed_command: str) -> Callable[..., Answer]:
    """Return a function that runs the installed command, which takes seconds to import torch."""
    return functools.partial(run_as_process, installed_command)


@pytest.fixture
def forked(command: str) -> Callable[..., Answer]:
    """Return a function that runs the command as a fork of a process that has imported everything."""
    return functools.partial(run_as_process, command)


@pytest.fixture(scope="session")
def installed_command() -> str:
    """Return the path of the installed command."""
    return str(shutil.which("simclr", path=sysconfig.get_path("scripts")))  # with .exe on Windows


@pytest.fixture(scope="session")
def command(installed_command: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a command that runs as a fork (workers/simclr.py) on Linux, else of the installed one."""
    if sys.platform != "linux":
        return installed_command
    client = Path(__file__).parents[1] / "workers" / "simclr.py"
    words = (sys.executable, "-S", str(client), os.environ["SIMCLR_TEST_COMMANDS"])
    script = tmp_path_factory.mktemp("command") / "simclr"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="session")
def photos(once: Callable[..., Path]) -> Path:
    """Return a folder of 24 small images in two classes, for reading only."""

    def make(folder: Path) -> None:
        for i in range(24):
            kind = "light" if i % 2 else "dark"
            (folder / "photos" / kind).mkdir(parents=True, exist_ok=True)
            low, high = (128, 256) if i % 2 else (0, 128)
            blocks = np.random.default_rng(i).integers(low, high, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / "photos" / kind / f"{i:02d}.png")

    return once("photos", make) / "photos"


@pytest.fixture(scope="session")
def trained(photos: Path, once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs with one finished run, `photos`, for reading only."""

    def make(folder: Path) -> None:
        from simclr_cli.api import PretrainSettings
        from simclr_cli.commands.pretrain import pretrain

        tiny = {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "epochs": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMCLR_CACHE", str(folder / "cache"))
            pretrain(PretrainSettings(images=photos, runs=folder / "runs", **tiny))

    return Path(shutil.copytree(once("trained-photos", make) / "runs", tmp_path_factory.mktemp("trained") / "runs"))


@pytest.fixture
def tiny() -> list[str]:
    """Return options for a training of a second."""
    return list(TINY)
