"""A wait for pictures is told once, and that it is over; any other wait is not."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.cli import stalls
from simclr_cli.cli.console import Face
from simclr_cli.cli.stalls import stalls_told
from simclr_cli.events import Note
from simclr_cli.images import folder
from simclr_cli.verbs.machine_checks import TorchFacts


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "PATIENCE", 0.1)
    monkeypatch.setattr(stalls, "LOOK_EVERY", 0.01)


def reading(seconds: float) -> None:
    """Wait as if in a room that reads pictures."""
    space: dict[str, Any] = {"__name__": "simclr_cli.images.folder", "time": time}
    exec("def read(seconds):\n    time.sleep(seconds)", space)
    space["read"](seconds)


def until(face: Face, words: str) -> None:
    """Until the other thread has said it."""
    for _ in range(500):
        if words in face.talk.file.getvalue():  # type: ignore[attr-defined]
            return
        time.sleep(0.01)
    raise AssertionError(face.talk.file.getvalue())  # type: ignore[attr-defined]


def test_a_stall_is_told_once_and_its_end() -> None:
    face = Face(io.StringIO())
    with stalls_told(face):
        reading(1.0)
        until(face, "It goes on, after")
    said = face.talk.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("No picture has been read for") == 1 and "Ctrl-C stops" in said


def test_other_work_is_no_stall_however_long() -> None:
    face = Face(io.StringIO())
    with stalls_told(face):
        time.sleep(0.5)
    assert face.talk.file.getvalue() == ""  # type: ignore[attr-defined]


def test_events_in_between_are_progress() -> None:
    face = Face(io.StringIO())
    face.quiet = True
    with stalls_told(face):
        for _ in range(50):
            reading(0.01)
            face.report(Note("one more"))
    assert face.talk.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_share_that_stalls_and_comes_back(
    simclr: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = folder._walk

    def slow(root: Path) -> Iterator[str]:
        time.sleep(1.0)
        yield from walk(root)

    monkeypatch.setattr(folder, "_walk", slow)
    monkeypatch.setattr("simclr_cli.verbs.machine_checks.ask_torch", lambda: TorchFacts(version="2.10.0"))
    code, _, stderr = simclr("doctor", photos, "--runs", tmp_path)
    assert code in (0, 5) and "is the disk or the network share that holds them slow, or gone?" in stderr
    assert "24 images" in stderr  # it went on by itself
