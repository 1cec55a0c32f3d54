"""Unfinished files, and who may remove them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from simclr_cli import atomic, owner
from simclr_cli.atomic import TEMPORARY_PREFIX, sync_folder, temporary_beside
from simclr_cli.files import make_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_that_cannot_be_opened_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any) -> int:
        raise PermissionError(13, "as on Windows")

    monkeypatch.setattr(os, "open", deny)
    sync_folder(tmp_path)


def test_strays_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders; of another machine only after a day."""
    other = "0" * 8 if owner.system() != "0" * 8 else "1" * 8
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    dead, living = f"{ended.pid}-{'a' * 16}", f"{os.getpid()}-{'a' * 16}"
    gone = [f"{TEMPORARY_PREFIX}{owner.system()}-{dead}"]
    stay = [f"{TEMPORARY_PREFIX}{owner.system()}-{living}", f"{TEMPORARY_PREFIX}{other}-{dead}", "mine", ".simclr-tmp"]
    for name in [*gone, *stay]:
        (tmp_path / name).write_bytes(b"half")
    folder = f"{gone[0][:-1]}b"
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "half").write_bytes(b"half")
    make_folder(tmp_path)
    assert names(tmp_path) == sorted(stay)
    later = time.time() + atomic.ABANDONED_SECONDS + 60
    monkeypatch.setattr(time, "time", lambda: later)
    make_folder(tmp_path)
    assert names(tmp_path) == sorted(stay[2:])


def test_temporaries_are_known_by_their_names(tmp_path: Path) -> None:
    assert atomic.TEMPORARY.fullmatch(temporary_beside(tmp_path / "a").name)
    assert temporary_beside(tmp_path / "a") != temporary_beside(tmp_path / "a")
