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

PATIENCE = 600  # seconds, of a test that is about to fail
IMAGES = 48
# One step an epoch, which takes one thread longer than a command has to stop by itself.
LONG_STEPS = "--backbone resnet18 --image-size 128 --batch-size 48 --micro-batch 48 --epochs 6 --group-by none".split()
WORD = "Stopping (again: at once)"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}

Figure = Callable[[str, Any], None]
Times = Callable[[int, int], int]


class Command:
    """A command that runs, and when it said what."""

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

    def until(self, met: Callable[[], object]) -> None:
        """Wait for something, or for the end."""
        began = time.monotonic()
        while self.process.poll() is None and not met():
            assert time.monotonic() - began < PATIENCE, self.talk()
            time.sleep(0.005)

    def listens(self) -> bool:
        """Whether it has begun to handle SIGTERM, as the kernel says."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
        return found is not None and bool(int(found.group(1), 16) >> (signal.SIGTERM - 1) & 1)

    def says(self, words: str) -> float | None:
        """When it said so."""
        return next((when for when, line in self.lines if words in line), None)

    def talk(self) -> str:
        return "".join(line for _, line in self.lines)

    def end(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=PATIENCE)
        self.listener.join()
        return code


def children_of(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended; who inherits it may take its time to bury it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


@pytest.fixture(autouse=True)
def one_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", str(cache))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def begin() -> Iterator[Callable[..., Command]]:
    """`begin("embed", ..., cwd=...)`: a Command, gone in the end."""
    begun: list[Command] = []

    def start(*arguments: Any, cwd: Path) -> Command:
        begun.append(Command(*arguments, cwd=cwd))
        return begun[-1]

    yield start
    for command in begun:
        command.process.kill()
        command.end()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 128 px in two classes."""
    folder = tmp_path_factory.mktemp("images") / "images"
    for i in range(IMAGES):
        kind = "light" if i % 2 else "dark"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        low, high = (128, 256) if i % 2 else (0, 128)
        blocks = np.random.default_rng(i).integers(low, high, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(folder / kind / f"{i:02d}.png")
    return folder


@pytest.fixture
def within(times: Times, figure: Figure) -> Iterator[Callable[[str, float, float], None]]:
    """`within(name, seconds, promised)`: kept as a figure of all of that name.

    The full form, which runs alone on its machine, holds us to the promise; beside other work five times that must do.
    """
    seen: dict[str, list[float]] = {}

    def note(name: str, seconds: float, promised: float) -> None:
        seen.setdefault(name, []).append(seconds)
        assert seconds < promised * times(5, 1), (name, seconds)

    yield note
    for name, seconds in seen.items():
        figure(name, {"n": len(seconds), "median": statistics.median(seconds), "most": max(seconds)})


def test_a_long_step_is_left_out_of_what_is_saved_and_done_again(
    begin: Callable[..., Command],
    within: Callable[[str, float, float], None],
    times: Times,
    figure: Figure,
    images: Path,
    tmp_path: Path,
) -> None:
    """Each stop is in the middle of a step; resumed each time, the run ends at the weights of an undisturbed one."""
    options = [*LONG_STEPS, "--checkpoint-seconds", 9999]
    checkpoints = tmp_path / "simclr-runs" / "stopped" / "checkpoint"
    done = 0
    for number in [signal.SIGTERM, signal.SIGINT, signal.SIGTERM][: times(1, 3)]:
        again = ["--resume"] if done else [images, *options]
        command = begin("pretrain", *again, "--run", "stopped", "--checkpoint-seconds", 9999, cwd=tmp_path)
        command.until(lambda command=command: command.says("  loss "))  # an epoch is done
        time.sleep(0.3)  # into the next one
        command.process.send_signal(number)
        sent = time.monotonic()
        assert command.end() == CODES[number], command.talk()
        word = command.says(WORD)
        assert word is not None and "Traceback" not in command.talk()
        within("seconds to a word, in a long step", word - sent, 1)
        within("seconds to the end, in a long step", time.monotonic() - sent, 5)
        saved = load_checkpoint(checkpoints)
        assert saved is not None and f"Stopped after step {saved.step} of 6; all of it is saved." in command.talk()
        assert saved.step > done
        done = saved.step
    if times(0, 1):
        assert begin("pretrain", "--resume", "--run", "stopped", cwd=tmp_path).end() == 0
        assert begin("pretrain", images, *options, "--run", "calm", cwd=tmp_path).end() == 0
        for file in ("encoder/model.safetensors", "projection_head.safetensors"):
            one, other = (load_file(tmp_path / "simclr-runs" / run / file) for run in ("stopped", "calm"))
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        figure("stopped in the middle of steps, the same weights in the end", True)


def test_signals_at_random_moments(
    begin: Callable[..., Command],
    within: Callable[[str, float, float], None],
    times: Times,
    figure: Figure,
    images: Path,
    tmp_path: Path,
) -> None:
    """Imports, census, decoding, training, evaluation, export, embedding, k-means: whatever it is doing."""
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
    lengths: dict[str, float] = {}  # of each command, undisturbed; the short form takes a guess
    stopped = 0
    count = times(2, 30)
    for case, arguments in zip(range(count), itertools.cycle(commands), strict=False):
        verb = arguments[0]
        for made in (tmp_path / "simclr-runs" / "r", run / "vectors"):
            shutil.rmtree(made, ignore_errors=True)
        if times(0, 1) and verb not in lengths:
            command = begin(*arguments, cwd=tmp_path)
            command.until(command.listens)
            began = time.monotonic()
            assert command.end() == 0, command.talk()
            lengths[verb] = time.monotonic() - began
            shutil.rmtree(tmp_path / "simclr-runs" / "r", ignore_errors=True)
            shutil.rmtree(run / "vectors", ignore_errors=True)
        number, twice = chance.choice(list(CODES)), case % 3 == 2
        command = begin(*arguments, cwd=tmp_path)
        command.until(command.listens)
        time.sleep(chance.uniform(0, lengths.get(verb, 4)))
        sent = time.monotonic()
        command.process.send_signal(number)
        if twice:
            command.until(lambda command=command: command.says(WORD))
            sent_again = time.monotonic()
            command.process.send_signal(number)
        code = command.end()
        ended = time.monotonic()
        word = command.says(WORD)
        assert "Traceback" not in command.talk(), command.talk()
        if word is None:  # it had done what it was to do, and was on its way out
            assert code in (0, -number, CODES[number]), command.talk()
            continue
        assert code in (0, CODES[number]), command.talk()
        stopped += 1
        within("seconds to a word, at random moments", word - sent, 2)  # it may be in its imports
        if twice:
            within("seconds to the end, after the second signal", ended - sent_again, 1)
        else:
            within("seconds to the end, at random moments", ended - sent, 5)
        begun = tmp_path / "simclr-runs" / "r"
        if (begun / "checkpoint").exists():
            assert load_checkpoint(begun / "checkpoint") is not None or not any((begun / "checkpoint").iterdir())
        for left in ("vectors.npy", "clusters.csv"):
            (tmp_path / left).unlink(missing_ok=True)
    for arguments in commands[1:] if times(0, 1) else []:
        assert begin(*arguments, cwd=tmp_path).end() == 0
    figure("signals at random moments", {"sent": count, "before the end": stopped})
    assert stopped


@pytest.mark.parametrize("twice", [False, True])
def test_several_processes_are_saved_and_ended_by_the_first(
    twice: bool,
    begin: Callable[..., Command],
    within: Callable[[str, float, float], None],
    times: Times,
    images: Path,
    tmp_path: Path,
) -> None:
    if not times(0, 1):
        pytest.skip("full form only; tests/cli/test_processes.py stops processes between steps")
    options = [*LONG_STEPS, "--run", "r", "--devices", 2, "--checkpoint-seconds", 9999]
    command = begin("pretrain", images, *options, cwd=tmp_path)
    command.until(lambda: command.says("  loss "))
    children = children_of(command.process.pid)
    assert len(children) >= 2
    time.sleep(0.3)
    command.process.send_signal(signal.SIGUSR1)
    command.until(lambda: command.says("Saved at step 1."))
    command.process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    command.until(lambda: command.says(WORD))
    if twice:
        command.process.send_signal(signal.SIGINT)
        sent = time.monotonic()
    assert command.end() == 130, command.talk()
    how, promised = ("after the second signal", 1) if twice else ("in a long step", 5)
    within(f"seconds to the end of two processes, {how}", time.monotonic() - sent, promised)
    time.sleep(0.5)  # who was killed is gone a moment later
    assert not [child for child in children if runs(child)]
    assert command.talk().count(WORD) == 1 and command.talk().count("Saved at step") == 1
    saved = load_checkpoint(tmp_path / "simclr-runs" / "r" / "checkpoint")
    assert saved is not None and saved.step >= 1


def test_sigusr1_saves_a_long_step_and_the_run_goes_on(
    begin: Callable[..., Command], times: Times, images: Path, tmp_path: Path
) -> None:
    if not times(0, 1):
        pytest.skip("full form only; tests/cli/test_signals.py has a quick one")
    command = begin("pretrain", images, *LONG_STEPS, "--run", "r", "--checkpoint-seconds", 9999, cwd=tmp_path)
    command.until(lambda: command.says("  loss "))
    time.sleep(0.3)
    command.process.send_signal(signal.SIGUSR1)
    command.until(lambda: command.says("Saved at step 1."))
    saved = load_checkpoint(tmp_path / "simclr-runs" / "r" / "checkpoint")
    assert saved is not None and saved.step == 1 and command.process.poll() is None
    assert command.end() == 0
