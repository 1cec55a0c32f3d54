"""A run folder for one process, and the way on when the disk refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from simclr_cli.core.errors import RunError
from simclr_cli.core.events import silent
from simclr_cli.core.files import TEMPORARY_PREFIX, NotWritten
from simclr_cli.core.locks import LOCK, Busy, locked
from simclr_cli.store.run import RunFolder
from simclr_cli.train.resume import alone


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "runs" / "birds")
    run.write_config({"settings": {}})
    return run


def test_not_where_another_process_trains(begun: RunFolder) -> None:
    with locked(begun.path, silent), pytest.raises(Busy), alone(begun, silent, resumed=True):
        pass
    with alone(begun, silent, resumed=True), pytest.raises(Busy), locked(begun.path, silent):
        pass
    assert not (begun.path / LOCK).exists()


def test_what_a_killed_training_had_not_finished_goes_with_the_next(begun: RunFolder) -> None:
    """Where only a training writes; elsewhere in the run another command may be at work."""
    begun.checkpoints.mkdir()
    half, others = (folder / f"{TEMPORARY_PREFIX}{'a' * 16}" for folder in (begun.checkpoints, begun.path))
    half.write_bytes(b"half")
    others.write_bytes(b"half")
    with alone(begun, silent, resumed=True):
        assert not half.exists() and others.exists()


def test_not_in_a_run_that_was_begun_since_its_name_was_free(begun: RunFolder) -> None:
    with pytest.raises(RunError, match="begun by another process"), alone(begun, silent, resumed=False):
        pass
    assert not (begun.path / LOCK).exists()


def test_what_the_disk_refuses_names_the_command_that_goes_on(begun: RunFolder) -> None:
    with pytest.raises(NotWritten) as caught, alone(begun, silent, resumed=True):
        raise NotWritten("Cannot write x: No space left on device.", "Make room.", forbidden=True)
    assert caught.value.what == "Cannot write x: No space left on device." and caught.value.forbidden
    assert begun.resume_command in caught.value.remedy


def test_there_is_nothing_to_go_on_with_before_it_is_begun(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "birds")
    with pytest.raises(NotWritten) as caught, alone(run, silent, resumed=False):
        raise NotWritten("Cannot write x: No space left on device.", "Make room.")
    assert caught.value.remedy == "Make room."
