"""Removal of unfinished files."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.core.files import (
    ABANDONED_SECONDS,
    TEMPORARY_PREFIX,
    choose_temporary_path,
    prepare_folder,
    remove_abandoned_files,
    sync_folder,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_that_cannot_be_opened_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any) -> int:
        raise PermissionError(13, "as on Windows")

    monkeypatch.setattr(os, "open", deny)
    sync_folder(tmp_path)


def create_unfinished_files(folder: Path) -> list[str]:
    """Create an unfinished file, folder and link, and two files with similar names; return the last two names."""
    (folder / f"{TEMPORARY_PREFIX}{'a' * 16}").write_bytes(b"half")
    (folder / f"{TEMPORARY_PREFIX}{'b' * 16}").mkdir()
    (folder / f"{TEMPORARY_PREFIX}{'b' * 16}" / "half").write_bytes(b"half")
    (folder / f"{TEMPORARY_PREFIX}{'c' * 16}").symlink_to(folder)
    for name in (kept_names := [".simclr-tmp", "mine"]):
        (folder / name).write_bytes(b"whole")
    return kept_names


def test_files_without_a_change_for_a_day_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ctime counts, which no copying of times sets back."""
    kept_names = create_unfinished_files(tmp_path)
    os.utime(tmp_path / f"{TEMPORARY_PREFIX}{'a' * 16}", (1, 1))
    before, now = names(tmp_path), time.time()
    for later, left in ((ABANDONED_SECONDS - 60, before), (ABANDONED_SECONDS + 60, kept_names)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        prepare_folder(tmp_path)
        assert names(tmp_path) == left


def test_under_a_lock_they_are_removed_at_once(tmp_path: Path) -> None:
    kept_names = create_unfinished_files(tmp_path)
    remove_abandoned_files(tmp_path, 0)
    remove_abandoned_files(tmp_path / "not there", 0)
    assert names(tmp_path) == kept_names


def test_temporary_paths_differ_and_are_in_the_folder(tmp_path: Path) -> None:
    one, other = (choose_temporary_path(tmp_path / "a") for _ in range(2))
    assert one != other and one.parent == tmp_path
