"""Decoders that are killed, stopped or stuck, and commands that are killed: all goes on, or ends, within 30 seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.images import decode_pool as decoders
from simclr_cli.images.cache import decode_once
from simclr_cli.images.decode import UnusableImage, squashed
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.scan import take_census

pytestmark = [
    pytest.mark.long, pytest.mark.xdist_group("clock"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are seen by /proc"),
]  # fmt: skip

# A decoder that does to itself what a file's name says, each time that it is asked for that file.
STUCK = """
import os, signal, sys, time
sys.path[:] = sys.argv[2:]
from simclr_cli.images import decode_worker as decoder

sound = decoder._outcome

def outcome(function, path, *arguments):
    if "stop" in path:
        os.kill(os.getpid(), signal.SIGSTOP)
    if "hang" in path:
        time.sleep(1000)
    return sound(function, path, *arguments)

decoder._outcome = outcome
decoder.main()
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No decoder from before, and none left."""
    decoders._end_all()
    yield
    decoders._end_all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images that take some hundredths of a second each."""
    (tmp_path / "images").mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(pixels).save(tmp_path / f"images/{i:02}.png", compress_level=1)
    return tmp_path / "images"


def children(parent: int) -> list[int]:
    """Processes whose parent it is."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, of = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(of) == parent and state != "Z":
            found.append(int(status.parent.name))
    return found


def test_killed_decoders_cost_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    times: Callable[[int, int], int], figure: Callable[[str, Any], None],
) -> None:  # fmt: skip
    """From outside, at random moments of decoding a folder, again and again."""
    census = take_census(folder, workers=2)
    expected = [squashed(folder / image.name, 12) for image in census.images]
    chance, kills, rounds = np.random.default_rng(0), 0, times(2, 20)

    def strike(*_: int) -> None:
        nonlocal kills
        if decoders._all and chance.random() < 0.1:
            os.kill(decoders._all[0].process.pid, signal.SIGKILL)
            kills += 1

    began, lost = time.monotonic(), 0
    for i in range(rounds):
        monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / f"cache-{i}"))
        decoded = decode_once(census, 8, workers=2, progress=strike)
        # One that was struck twice in a row is told by its name.
        assert all("killed (SIGKILL)" in entry.reason for entry in decoded.census.skipped)
        lost += len(decoded.census.skipped)
        for image, pixels in zip(decoded.census.images, decoded.read(np.arange(len(decoded))), strict=True):
            assert (pixels.transpose(1, 2, 0) == expected[int(image.name[:2])]).all()
    assert kills >= rounds and lost <= kills / 2
    figure("decoders: killed while decoding a folder", kills)
    figure("decoders: images lost by that", lost)
    figure("decoders: seconds a folder of 40, with that", round((time.monotonic() - began) / rounds, 1))


@pytest.mark.parametrize("name", ["stop", "hang"])
def test_a_stuck_decoder_costs_one_image_within_its_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, times: Callable[[int, int], int],
    figure: Callable[[str, Any], None], name: str,
) -> None:  # fmt: skip
    """By its own time limit in the full form; by a shorter one in CI."""
    (folder / "03.png").rename(folder / f"{name}.png")
    census = take_census(folder, workers=0)
    monkeypatch.setattr(decoders, "PROGRAM", STUCK)
    decoders._end_all()
    apart(squashed, 1)(folder / "00.png", 8)  # started in its own time
    allowed = times(1, decoders.SECONDS)
    monkeypatch.setattr(decoders, "SECONDS", allowed)
    began = time.monotonic()
    decoded = decode_once(census, 8, workers=2, progress=lambda *_: None)
    seconds = time.monotonic() - began
    ((lost, reason),) = [(entry.name, entry.reason) for entry in decoded.census.skipped]
    assert lost == f"{name}.png" and reason.startswith("decoding it took over ") and len(decoded) == 39
    assert seconds < 2 * (allowed + 5) + 30  # tried twice; the machine may be busy
    figure(f"decoders: seconds until a folder with one image that makes them {name} is decoded", round(seconds, 1))


def test_a_stopped_decoder_recovers_within_its_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    """Stopped from outside while it waits: the next image costs the time limit, and is decoded by another one."""
    apart(squashed, 1)(folder / "00.png", 8)
    monkeypatch.setattr(decoders, "SECONDS", times(1, decoders.SECONDS))
    os.kill(decoders._all[0].process.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert (apart(squashed, 1)(folder / "01.png", 8) == squashed(folder / "01.png", 8)).all()
    figure("decoders: seconds until one that is stopped is replaced", round(time.monotonic() - began, 1))
    assert time.monotonic() - began < 60  # 30 on a machine that is not busy


@pytest.mark.parametrize("moment", ["waiting", "decoding", "stuck"])
def test_a_killed_command_leaves_no_decoder(
    folder: Path, tmp_path: Path, figure: Callable[[str, Any], None], moment: str
) -> None:
    program = f"""
        import sys, time
        from pathlib import Path
        from simclr_cli.images import decode_pool as decoders
        from simclr_cli.images.decode import squashed
        from simclr_cli.images.threads import each
        decoders.PROGRAM = {STUCK!r}
        if {moment!r} == "waiting":
            decoders.apart(squashed, 1)(Path({str(folder / "00.png")!r}), 8)
        print("ready", flush=True)
        names = {["hang.png"] * 4 if moment == "stuck" else [f"{i:02}.png" for i in range(40)] * 50!r}
        if {moment!r} != "waiting":
            list(each(lambda name: decoders.apart(squashed, 2)(Path({str(folder)!r}) / name, 8), names, 2))
        time.sleep(1000)
    """
    command = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    with command.stdout as said:
        assert said.readline() == "ready\n"
    until = time.monotonic() + 60
    while not (own := children(command.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    own = children(command.pid)
    assert own
    command.kill()
    command.wait()
    began = time.monotonic()
    while any(Path(f"/proc/{child}").exists() for child in own) and time.monotonic() < began + 60:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    assert not any(Path(f"/proc/{child}").exists() for child in own)
    figure(f"decoders: seconds that they outlive a command killed while {moment}", round(seconds, 2))
    assert seconds < 20  # 5 on a machine that is not busy


def test_a_decoder_that_floods_its_memory_is_refused_and_not_the_machine(folder: Path) -> None:
    """An image may claim what it likes: past its share a decoder gets no more."""
    code = "decoder._outcome = lambda *_: bytearray(2**46)"
    program = decoders.PROGRAM.replace("from simclr_cli.images.decode_worker import main; main()",
        f"from simclr_cli.images import decode_worker as decoder; {code}; decoder.main()")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "PROGRAM", program)
        with pytest.raises(UnusableImage, match=r"crashed on it \(exit code 1\)"):
            apart(squashed, 1)(folder / "00.png", 8)
