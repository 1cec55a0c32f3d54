"""`simclr pretrain --tensorboard`: event files with the metrics of the run, also after a resume."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import PretrainSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.errors import Interrupted, MachineError
from simclr_cli.core.events import EpochDone, Event
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder


def read(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.event_folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_events_are_the_metrics_over_a_resume(trained: Any, train: Callable[..., Any], tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise Interrupted("Stopped by Ctrl-C.", "")

    with pytest.raises(Interrupted):
        train(trained.images, epochs=3, tensorboard=True, report=stop)
    pretrain(PretrainSettings(resume=True, runs=tmp_path / "runs", tensorboard=True))
    run = RunFolder(tmp_path / "runs" / "pics")
    rows = read_epochs(run)
    found = read(run)
    for tag in ("loss", "learning_rate", "images_per_second", "seconds"):
        assert found[tag] == [(row["epoch"], pytest.approx(row[tag], rel=1e-6)) for row in rows]
    assert len(rows) == 3


def test_without_the_switch_there_are_none(trained: Any) -> None:
    assert not trained.run.event_folder.exists()


def test_without_the_library_nothing_is_begun(
    trained: Any, train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    events: list[Event] = []
    with pytest.raises(MachineError, match="tensorboard"):
        train(trained.images, tensorboard=True, report=events.append)
    assert events == [] and not (tmp_path / "runs").exists()
