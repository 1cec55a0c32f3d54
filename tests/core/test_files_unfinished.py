"""Unfinished files, and when they are removed."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.core.files import (
    ABANDONED_SECONDS,
    TEMPORARY_PREFIX,
    make_folder,
    remove_strays,
    sync_folder,
    temporary_beside,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_that_cannot_be_opened_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any) -> int:
        raise PermissionError(13, "as on Windows")

    monkeypatch.setattr(os, "open", deny)
    sync_folder(tmp_path)


def litter(folder: Path) -> list[str]:
    """An unfinished file, folder and link, and two that only look so; the names of the last two."""
    (folder / f"{TEMPORARY_PREFIX}{'a' * 16}").write_bytes(b"half")
    (folder / f"{TEMPORARY_PREFIX}{'b' * 16}").mkdir()
    (folder / f"{TEMPORARY_PREFIX}{'b' * 16}" / "half").write_bytes(b"half")
    (folder / f"{TEMPORARY_PREFIX}{'c' * 16}").symlink_to(folder)
    for name in (others := [".simclr-tmp", "mine"]):
        (folder / name).write_bytes(b"whole")
    return others


def test_what_has_not_changed_for_a_day_goes_with_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of change counts, which no copying of times sets back."""
    others = litter(tmp_path)
    os.utime(tmp_path / f"{TEMPORARY_PREFIX}{'a' * 16}", (1, 1))
    before, now = names(tmp_path), time.time()
    for later, left in ((ABANDONED_SECONDS - 60, before), (ABANDONED_SECONDS + 60, others)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        make_folder(tmp_path)
        assert names(tmp_path) == left


def test_under_a_lock_it_goes_at_once(tmp_path: Path) -> None:
    others = litter(tmp_path)
    remove_strays(tmp_path, 0)
    remove_strays(tmp_path / "not there", 0)
    assert names(tmp_path) == others


def test_temporaries_are_known_by_their_names(tmp_path: Path) -> None:
    one, other = (temporary_beside(tmp_path / "a") for _ in range(2))
    assert one != other and one.parent == tmp_path
