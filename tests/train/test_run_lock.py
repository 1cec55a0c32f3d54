"""A run folder for one process, and the way on when the disk refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from simclr_cli.core.errors import RunError
from simclr_cli.core.events import silent
from simclr_cli.core.files import TEMPORARY_PREFIX, WriteError
from simclr_cli.core.locks import LOCK_FILE, FolderLockedError, lock_folder
from simclr_cli.store.run import RunFolder
from simclr_cli.train.resume import lock_run


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "runs" / "birds")
    run.write_config({"settings": {}})
    return run


def test_not_where_another_process_trains(begun: RunFolder) -> None:
    with lock_folder(begun.path, silent), pytest.raises(FolderLockedError), lock_run(begun, silent, resumed=True):
        pass
    with lock_run(begun, silent, resumed=True), pytest.raises(FolderLockedError), lock_folder(begun.path, silent):
        pass
    assert not (begun.path / LOCK_FILE).exists()


def test_what_a_killed_training_had_not_finished_goes_with_the_next(begun: RunFolder) -> None:
    """Files that only a training writes; elsewhere in the run another command may write."""
    begun.checkpoint_folder.mkdir()
    half, others = (folder / f"{TEMPORARY_PREFIX}{'a' * 16}" for folder in (begun.checkpoint_folder, begun.path))
    half.write_bytes(b"half")
    others.write_bytes(b"half")
    with lock_run(begun, silent, resumed=True):
        assert not half.exists() and others.exists()


def test_not_in_a_run_that_was_begun_since_its_name_was_free(begun: RunFolder) -> None:
    with pytest.raises(RunError, match="started by another process"), lock_run(begun, silent, resumed=False):
        pass
    assert not (begun.path / LOCK_FILE).exists()


def test_what_the_disk_refuses_names_the_command_that_goes_on(begun: RunFolder) -> None:
    with pytest.raises(WriteError) as caught, lock_run(begun, silent, resumed=True):
        raise WriteError("Cannot write x: No space left on device.", "Make room.", is_forbidden=True)
    assert caught.value.problem == "Cannot write x: No space left on device." and caught.value.is_forbidden
    assert begun.resume_command in caught.value.remedy


def test_there_is_nothing_to_go_on_with_before_it_is_begun(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "birds")
    with pytest.raises(WriteError) as caught, lock_run(run, silent, resumed=False):
        raise WriteError("Cannot write x: No space left on device.", "Make room.")
    assert caught.value.remedy == "Make room."
