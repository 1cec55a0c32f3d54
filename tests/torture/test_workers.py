"""Decoders that are killed, stopped or stuck, and killed commands: all continue, or end, within 30 seconds."""

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
from simclr_cli.images.cache import decode_images
from simclr_cli.images.decode import decode_squashed
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census

pytestmark = [
    pytest.mark.long, pytest.mark.xdist_group("clock"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]  # fmt: skip

# A decoder that stops or hangs on each file whose name says so.
STUCK = """
import os, signal, sys, time
sys.path[:] = sys.argv[1:]
from simclr_cli.images import decode_worker as decoder

sound = decoder._run_call

def outcome(function, path, *arguments):
    if "stop" in path:
        os.kill(os.getpid(), signal.SIGSTOP)
    if "hang" in path:
        time.sleep(1000)
    return sound(function, path, *arguments)

decoder._run_call = outcome
decoder.main()
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """End all decoders before and after the test."""
    decoders._end_all()
    yield
    decoders._end_all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write 40 images that take some hundredths of a second each."""
    (tmp_path / "images").mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(pixels).save(tmp_path / f"images/{i:02}.png", compress_level=1)
    return tmp_path / "images"


def find_children(parent: int) -> list[int]:
    """Return the running children of a process."""
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent_id = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent_id) == parent and state != "Z":
            children.append(int(status.parent.name))
    return children


def test_killed_decoders_lose_no_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    times: Callable[[int, int], int], figure: Callable[[str, Any], None],
) -> None:  # fmt: skip
    """Kill decoders at random moments of decoding a folder, repeatedly."""
    census = take_census(folder, workers=2)
    expected = [decode_squashed(folder / image.name, 12) for image in census.images]
    chance, kills, rounds = np.random.default_rng(0), 0, times(2, 20)

    def kill_sometimes(*_: int) -> None:
        nonlocal kills
        if decoders._decoders and chance.random() < 0.1:
            os.kill(decoders._decoders[0].process.pid, signal.SIGKILL)
            kills += 1

    start, lost = time.monotonic(), 0
    for i in range(rounds):
        monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / f"cache-{i}"))
        decoded = decode_images(census, 8, workers=2, progress=kill_sometimes)
        # An image whose decoder was killed twice in a row is skipped by name.
        assert all("killed (SIGKILL)" in entry.reason for entry in decoded.census.skipped)
        lost += len(decoded.census.skipped)
        for image, pixels in zip(decoded.census.images, decoded.read(np.arange(len(decoded))), strict=True):
            assert (pixels.transpose(1, 2, 0) == expected[int(image.name[:2])]).all()
    assert kills >= rounds and lost <= kills / 2
    figure("decoders: killed while decoding a folder", kills)
    figure("decoders: images lost by that", lost)
    figure("decoders: seconds a folder of 40, with that", round((time.monotonic() - start) / rounds, 1))


@pytest.mark.parametrize("name", ["stop", "hang"])
def test_a_stuck_decoder_skips_one_image_within_its_time_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, times: Callable[[int, int], int],
    figure: Callable[[str, Any], None], name: str,
) -> None:  # fmt: skip
    """The full form has the real time limits, CI shorter ones."""
    (folder / "03.png").rename(folder / f"{name}.png")
    census = take_census(folder, workers=0)
    monkeypatch.setattr(decoders, "PROGRAM", STUCK)
    decoders._end_all()
    isolate(decode_squashed, 1)(folder / "00.png", 8)  # starts before the shorter limit
    allowed = times(1, decoders.WALL_SECONDS)
    monkeypatch.setattr(decoders, "WALL_SECONDS", allowed)
    monkeypatch.setattr(decoders, "PROCESSOR_SECONDS", times(1, decoders.PROCESSOR_SECONDS))
    start = time.monotonic()
    decoded = decode_images(census, 8, workers=2, progress=lambda *_: None)
    seconds = time.monotonic() - start
    ((lost, reason),) = [(entry.name, entry.reason) for entry in decoded.census.skipped]
    assert lost == f"{name}.png" and reason.startswith("decoding it took over ") and len(decoded) == 39
    assert seconds < 3 * (allowed + 5) + 30  # tried alone once more; the machine may be busy
    figure(f"decoders: seconds until a folder with one image that makes them {name} is decoded", round(seconds, 1))


def test_a_stopped_decoder_is_replaced_within_its_time_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    """The next image takes the time limit, and is decoded by another decoder."""
    isolate(decode_squashed, 1)(folder / "00.png", 8)
    monkeypatch.setattr(decoders, "WALL_SECONDS", times(1, decoders.WALL_SECONDS))
    os.kill(decoders._decoders[0].process.pid, signal.SIGSTOP)
    start = time.monotonic()
    assert (isolate(decode_squashed, 1)(folder / "01.png", 8) == decode_squashed(folder / "01.png", 8)).all()
    figure("decoders: seconds until one that is stopped is replaced", round(time.monotonic() - start, 1))
    assert time.monotonic() - start < decoders.WALL_SECONDS + 35  # 5 more on a machine that is not busy


@pytest.mark.parametrize("moment", ["waiting", "decoding", "stuck"])
def test_a_killed_command_leaves_no_decoder(
    folder: Path, tmp_path: Path, figure: Callable[[str, Any], None], moment: str
) -> None:
    program = f"""
        import sys, time
        from pathlib import Path
        from simclr_cli.images import decode_pool as decoders
        from simclr_cli.images.decode import decode_squashed
        from simclr_cli.images.threads import map_in_order
        decoders.PROGRAM = {STUCK!r}
        if {moment!r} == "waiting":
            decoders.isolate(decode_squashed, 1)(Path({str(folder / "00.png")!r}), 8)
        print("ready", flush=True)
        names = {["hang.png"] * 4 if moment == "stuck" else [f"{i:02}.png" for i in range(40)] * 50!r}
        if {moment!r} != "waiting":
            decode = decoders.isolate(decode_squashed, 2)
            list(map_in_order(lambda name: decode(Path({str(folder)!r}) / name, 8), names, 2))
        time.sleep(1000)
    """
    command = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    with command.stdout as output:
        assert output.readline() == "ready\n"
    deadline = time.monotonic() + 60
    while not (decoder_ids := find_children(command.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    decoder_ids = find_children(command.pid)
    assert decoder_ids
    command.kill()
    command.wait()
    start = time.monotonic()
    while any(Path(f"/proc/{child}").exists() for child in decoder_ids) and time.monotonic() < start + 60:
        time.sleep(0.02)
    seconds = time.monotonic() - start
    assert not any(Path(f"/proc/{child}").exists() for child in decoder_ids)
    figure(f"decoders: seconds that they outlive a command killed while {moment}", round(seconds, 2))
    assert seconds < 20  # 5 on a machine that is not busy


def test_the_memory_of_a_decoder_is_limited(folder: Path) -> None:
    """A decoder that allocates more than its share crashes."""
    code = "decoder._run_call = lambda *_: bytearray(2**46)"
    program = decoders.PROGRAM.replace("from simclr_cli.images.decode_worker import main; main()",
        f"from simclr_cli.images import decode_worker as decoder; {code}; decoder.main()")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "PROGRAM", program)
        with pytest.raises(UnusableImage, match=r"crashed on it \(exit code 1\)"):
            isolate(decode_squashed, 1)(folder / "00.png", 8)
