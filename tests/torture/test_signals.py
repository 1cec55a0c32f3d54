"""Ctrl-C, SIGTERM and SIGUSR1 at any moment of commands that run as processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from simclr_cli.api import PretrainSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.store.checkpoint import load_checkpoint

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("clock")]

TIMEOUT_SECONDS = 600  # of a test that is about to fail
IMAGES = 48
# One step per epoch, which takes one thread longer than the time limit of a stop.
LONG_STEPS = "--backbone resnet18 --image-size 128 --batch-size 48 --micro-batch 48 --epochs 6 --group-by none".split()
STOP_MESSAGE = "Stopping (again: at once)"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}

Figure = Callable[[str, Any], None]
Times = Callable[[int, int], int]


class Command:
    """A running command, and the times of its messages."""

    def __init__(self, *arguments: Any, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "simclr_cli", *map(str, arguments)],
            cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[tuple[float, str]] = []
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.lines.extend((time.monotonic(), line) for line in stream)

    def wait_until(self, is_met: Callable[[], object]) -> None:
        """Wait for a condition, or for the end."""
        start = time.monotonic()
        while self.process.poll() is None and not is_met():
            assert time.monotonic() - start < TIMEOUT_SECONDS, self.read_output()
            time.sleep(0.005)

    def handles_sigterm(self) -> bool:
        """Return whether the process handles SIGTERM, as the kernel reports it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
        return match is not None and bool(int(match.group(1), 16) >> (signal.SIGTERM - 1) & 1)

    def find_message(self, words: str) -> float | None:
        """Return the time of the first line with these words."""
        return next((seconds for seconds, line in self.lines if words in line), None)

    def read_output(self) -> str:
        return "".join(line for _, line in self.lines)

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(timeout=TIMEOUT_SECONDS)
        self.listener.join()
        return code


def find_children(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


@pytest.fixture(autouse=True)
def share_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", str(cache))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start_command() -> Iterator[Callable[..., Command]]:
    """Return `start_command("embed", ..., cwd=...)`; all commands are killed at the end."""
    commands: list[Command] = []

    def start(*arguments: Any, cwd: Path) -> Command:
        commands.append(Command(*arguments, cwd=cwd))
        return commands[-1]

    yield start
    for command in commands:
        command.process.kill()
        command.wait()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of 128 px in two classes."""
    folder = tmp_path_factory.mktemp("images") / "images"
    for i in range(IMAGES):
        kind = "light" if i % 2 else "dark"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        low, high = (128, 256) if i % 2 else (0, 128)
        blocks = np.random.default_rng(i).integers(low, high, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(folder / kind / f"{i:02d}.png")
    return folder


@pytest.fixture
def check_seconds(times: Times, figure: Figure) -> Iterator[Callable[[str, float, float], None]]:
    """Return `check_seconds(name, seconds, limit)`, which also records all seconds of a name as a figure.

    The full form, which runs on an idle machine, has the real limit; the short form has five times that.
    """
    measured: dict[str, list[float]] = {}

    def check(name: str, seconds: float, limit: float) -> None:
        measured.setdefault(name, []).append(seconds)
        assert seconds < limit * times(5, 1), (name, seconds)

    yield check
    for name, seconds in measured.items():
        figure(name, {"n": len(seconds), "median": statistics.median(seconds), "most": max(seconds)})


def test_an_unfinished_long_step_is_not_saved_and_repeated_on_resume(
    start_command: Callable[..., Command],
    check_seconds: Callable[[str, float, float], None],
    times: Times,
    figure: Figure,
    images: Path,
    tmp_path: Path,
) -> None:
    """Each stop is in the middle of a step; the resumed run ends with the weights of an undisturbed one."""
    options = [*LONG_STEPS, "--checkpoint-seconds", 9999]
    checkpoints = tmp_path / "simclr-runs" / "stopped" / "checkpoint"
    done = 0
    for number in [signal.SIGTERM, signal.SIGINT, signal.SIGTERM][: times(1, 3)]:
        arguments = ["--resume"] if done else [images, *options]
        command = start_command("pretrain", *arguments, "--run", "stopped", "--checkpoint-seconds", 9999, cwd=tmp_path)
        command.wait_until(lambda command=command: command.find_message("  loss "))  # an epoch has finished
        time.sleep(0.3)  # into the next epoch
        command.process.send_signal(number)
        sent = time.monotonic()
        assert command.wait() == CODES[number], command.read_output()
        message_time = command.find_message(STOP_MESSAGE)
        assert message_time is not None and "Traceback" not in command.read_output()
        check_seconds("seconds to a word, in a long step", message_time - sent, 1)
        check_seconds("seconds to the end, in a long step", time.monotonic() - sent, 5)
        saved = load_checkpoint(checkpoints)
        assert (
            saved is not None and f"Stopped after step {saved.step} of 6; all of it is saved." in command.read_output()
        )
        assert saved.step > done
        done = saved.step
    if times(0, 1):
        assert start_command("pretrain", "--resume", "--run", "stopped", cwd=tmp_path).wait() == 0
        assert start_command("pretrain", images, *options, "--run", "undisturbed", cwd=tmp_path).wait() == 0
        for file in ("encoder/model.safetensors", "projection_head.safetensors"):
            one, other = (load_file(tmp_path / "simclr-runs" / run / file) for run in ("stopped", "undisturbed"))
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        figure("stopped in the middle of steps, the same weights in the end", True)


def test_signals_at_random_moments(
    start_command: Callable[..., Command],
    check_seconds: Callable[[str, float, float], None],
    times: Times,
    figure: Figure,
    images: Path,
    tmp_path: Path,
) -> None:
    """During imports, census, decoding, training, evaluation, export, embedding and k-means."""
    tiny = {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "epochs": 1}
    run = Path(pretrain(PretrainSettings(images=images, runs=tmp_path / "simclr-runs", run="tiny", **tiny)).run)
    commands: list[list[Any]] = [
        ["pretrain", images, "--run", "r", *LONG_STEPS],
        ["embed", images, "--run", "tiny", "--out", "vectors.npy"],
        ["probe", images, "--run", "tiny"],
        ["similar", images / "dark" / "00.png", "--run", "tiny"],
        ["clusters", "--run", "tiny", "--out", "clusters.csv"],
    ]
    chance = random.Random(7)
    lengths: dict[str, float] = {}  # undisturbed seconds of each command; guessed in the short form
    stopped = 0
    count = times(2, 30)
    for case, arguments in zip(range(count), itertools.cycle(commands), strict=False):
        verb = arguments[0]
        for folder in (tmp_path / "simclr-runs" / "r", run / "vectors"):
            shutil.rmtree(folder, ignore_errors=True)
        if times(0, 1) and verb not in lengths:
            command = start_command(*arguments, cwd=tmp_path)
            command.wait_until(command.handles_sigterm)
            start = time.monotonic()
            assert command.wait() == 0, command.read_output()
            lengths[verb] = time.monotonic() - start
            shutil.rmtree(tmp_path / "simclr-runs" / "r", ignore_errors=True)
            shutil.rmtree(run / "vectors", ignore_errors=True)
        number, twice = chance.choice(list(CODES)), case % 3 == 2
        command = start_command(*arguments, cwd=tmp_path)
        command.wait_until(command.handles_sigterm)
        time.sleep(chance.uniform(0, lengths.get(verb, 4)))
        sent = time.monotonic()
        command.process.send_signal(number)
        if twice:
            command.wait_until(lambda command=command: command.find_message(STOP_MESSAGE))
            sent_again = time.monotonic()
            command.process.send_signal(number)
        code = command.wait()
        ended = time.monotonic()
        message_time = command.find_message(STOP_MESSAGE)
        assert "Traceback" not in command.read_output(), command.read_output()
        if message_time is None:  # it was finished and about to exit
            assert code in (0, -number, CODES[number]), command.read_output()
            continue
        assert code in (0, CODES[number]), command.read_output()
        stopped += 1
        check_seconds("seconds to a word, at random moments", message_time - sent, 2)  # it may still be importing
        if twice:
            check_seconds("seconds to the end, after the second signal", ended - sent_again, 1)
        else:
            check_seconds("seconds to the end, at random moments", ended - sent, 5)
        checkpoints = tmp_path / "simclr-runs" / "r" / "checkpoint"
        if checkpoints.exists():
            assert load_checkpoint(checkpoints) is not None or not any(checkpoints.iterdir())
        for output in ("vectors.npy", "clusters.csv"):
            (tmp_path / output).unlink(missing_ok=True)
    for arguments in commands[1:] if times(0, 1) else []:
        assert start_command(*arguments, cwd=tmp_path).wait() == 0
    figure("signals at random moments", {"sent": count, "before the end": stopped})
    assert stopped


@pytest.mark.parametrize("twice", [False, True])
def test_the_main_process_saves_and_ends_several_processes(
    twice: bool,
    start_command: Callable[..., Command],
    check_seconds: Callable[[str, float, float], None],
    times: Times,
    images: Path,
    tmp_path: Path,
) -> None:
    if not times(0, 1):
        pytest.skip("full form only; tests/cli/test_processes.py stops processes between steps")
    options = [*LONG_STEPS, "--run", "r", "--devices", 2, "--checkpoint-seconds", 9999]
    command = start_command("pretrain", images, *options, cwd=tmp_path)
    command.wait_until(lambda: command.find_message("  loss "))
    children = find_children(command.process.pid)
    assert len(children) >= 2
    time.sleep(0.3)
    command.process.send_signal(signal.SIGUSR1)
    command.wait_until(lambda: command.find_message("Saved at step 1."))
    command.process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    command.wait_until(lambda: command.find_message(STOP_MESSAGE))
    if twice:
        command.process.send_signal(signal.SIGINT)
        sent = time.monotonic()
    assert command.wait() == 130, command.read_output()
    case, limit = ("after the second signal", 1) if twice else ("in a long step", 5)
    check_seconds(f"seconds to the end of two processes, {case}", time.monotonic() - sent, limit)
    time.sleep(0.5)  # a killed process ends a moment later
    assert not [child for child in children if is_running(child)]
    assert command.read_output().count(STOP_MESSAGE) == 1 and command.read_output().count("Saved at step") == 1
    saved = load_checkpoint(tmp_path / "simclr-runs" / "r" / "checkpoint")
    assert saved is not None and saved.step >= 1


def test_sigusr1_saves_during_a_long_step_and_the_run_continues(
    start_command: Callable[..., Command], times: Times, images: Path, tmp_path: Path
) -> None:
    if not times(0, 1):
        pytest.skip("full form only; tests/cli/test_signals.py has a quick one")
    command = start_command("pretrain", images, *LONG_STEPS, "--run", "r", "--checkpoint-seconds", 9999, cwd=tmp_path)
    command.wait_until(lambda: command.find_message("  loss "))
    time.sleep(0.3)
    command.process.send_signal(signal.SIGUSR1)
    command.wait_until(lambda: command.find_message("Saved at step 1."))
    saved = load_checkpoint(tmp_path / "simclr-runs" / "r" / "checkpoint")
    assert saved is not None and saved.step == 1 and command.process.poll() is None
    assert command.wait() == 0
