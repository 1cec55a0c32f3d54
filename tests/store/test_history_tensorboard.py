"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.store.history import EventFiles, scalars

HEALTH = {"alignment": 0.5, "uniformity": -2.0, "images": 64, "held_out": True}


def row(epoch: int, **values: Any) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 4.0 / epoch, "seconds": 3.0, "validation": None, "knn_accuracy": None, **values}


def accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = accumulated(folder)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def wanted(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    tags: dict[str, list[tuple[int, float]]] = {}
    for one in rows:
        for tag, value in scalars(one):
            tags.setdefault(tag, []).append((one["epoch"], pytest.approx(value)))
    return tags


def write(folder: Path, rows: list[dict[str, Any]], since: int) -> None:
    """As a start does that does the epochs after `since`."""
    files = EventFiles(folder, print)
    for done in range(since + 1, len(rows) + 1):
        files.write(rows[:done])
    files.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [row(1), row(2, validation=HEALTH, knn_accuracy=51.0), row(3)]
    write(tmp_path, rows, 0)
    assert read(tmp_path) == wanted(rows)
    assert set(read(tmp_path)) == {"loss", "seconds", "knn_accuracy", "validation/alignment", "validation/uniformity"}


def test_epochs_of_before_are_as_far_apart_as_they_took(tmp_path: Path) -> None:
    files = EventFiles(tmp_path, print)
    files.write([row(1), row(2, seconds=7.0), row(3, seconds=None), row(4, seconds=0.5)])
    files.close()
    ended = [event.wall_time for event in accumulated(tmp_path).Scalars("loss")]
    assert [late - early for early, late in itertools.pairwise(ended)] == pytest.approx([7, 0, 0.5], abs=1e-3)
    assert ended[-1] == pytest.approx(time.time(), abs=60)


def test_epochs_done_again_after_a_stop_count_once(tmp_path: Path) -> None:
    """Five epochs are written, the checkpoint is of the third."""
    write(tmp_path, [row(epoch) for epoch in range(1, 6)], 0)
    again = [row(epoch) for epoch in (1, 2, 3)] + [row(epoch, loss=9.0) for epoch in (4, 5, 6)]
    write(tmp_path, again, 3)
    assert read(tmp_path) == wanted(again)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_start_that_wrote_no_events_is_made_up_for(tmp_path: Path) -> None:
    rows = [row(epoch) for epoch in range(1, 7)]
    write(tmp_path, rows[:2], 0)
    write(tmp_path, rows, 4)  # epochs 3 and 4 were done without
    assert read(tmp_path) == wanted(rows)


def test_a_refusal_is_complained_of_once_and_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("no folder")
    said: list[str] = []
    files = EventFiles(tmp_path / "events", said.append)
    for epoch in (1, 2):
        files.write([row(1), row(epoch)])
    files.close()
    assert len(said) == 1 and said[0].startswith(f"Event files are no longer written to {tmp_path / 'events'}: ")


def test_a_start_that_does_no_epoch_writes_nothing(tmp_path: Path) -> None:
    EventFiles(tmp_path / "events", print).close()
    assert not (tmp_path / "events").exists()
