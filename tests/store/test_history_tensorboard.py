"""Event files, read back by TensorBoard."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.store.history import TensorBoardWriter, flatten_metrics

VALIDATION = {"alignment": 0.5, "uniformity": -2.0, "images": 64, "held_out": True}


def row(epoch: int, **values: Any) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 4.0 / epoch, "seconds": 3.0, "validation": None, "knn_accuracy": None, **values}


def load_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = load_events(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected_scalars(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    tags: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for tag, value in flatten_metrics(row):
            tags.setdefault(tag, []).append((row["epoch"], pytest.approx(value)))
    return tags


def write(folder: Path, rows: list[dict[str, Any]], since: int) -> None:
    """Write as a run does that trains the epochs after `since`."""
    writer = TensorBoardWriter(folder, print)
    for done in range(since + 1, len(rows) + 1):
        writer.write(rows[:done])
    writer.close()


def test_written_scalars_are_read_back(tmp_path: Path) -> None:
    rows = [row(1), row(2, validation=VALIDATION, knn_accuracy=51.0), row(3)]
    write(tmp_path, rows, 0)
    assert read(tmp_path) == expected_scalars(rows)
    assert set(read(tmp_path)) == {"loss", "seconds", "knn_accuracy", "validation/alignment", "validation/uniformity"}


def test_wall_times_of_earlier_epochs_follow_their_durations(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path, print)
    writer.write([row(1), row(2, seconds=7.0), row(3, seconds=None), row(4, seconds=0.5)])
    writer.close()
    ended = [event.wall_time for event in load_events(tmp_path).Scalars("loss")]
    assert [late - early for early, late in itertools.pairwise(ended)] == pytest.approx([7, 0, 0.5], abs=1e-3)
    assert ended[-1] == pytest.approx(time.time(), abs=60)


def test_repeated_epochs_count_once(tmp_path: Path) -> None:
    """Five epochs are written, and training resumes after the third."""
    write(tmp_path, [row(epoch) for epoch in range(1, 6)], 0)
    again = [row(epoch) for epoch in (1, 2, 3)] + [row(epoch, loss=9.0) for epoch in (4, 5, 6)]
    write(tmp_path, again, 3)
    assert read(tmp_path) == expected_scalars(again)
    assert len(list(tmp_path.iterdir())) == 2


def test_epochs_trained_without_events_are_written_later(tmp_path: Path) -> None:
    rows = [row(epoch) for epoch in range(1, 7)]
    write(tmp_path, rows[:2], 0)
    write(tmp_path, rows, 4)  # epochs 3 and 4 had no events
    assert read(tmp_path) == expected_scalars(rows)


def test_a_write_error_gives_one_warning(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.write_text("no folder")
    warnings: list[str] = []
    writer = TensorBoardWriter(folder, warnings.append)
    for epoch in (1, 2):
        writer.write([row(1), row(epoch)])
    writer.close()
    assert len(warnings) == 1 and warnings[0].startswith(
        f"Event files are no longer written to {tmp_path / 'events'}: "
    )


def test_without_epochs_nothing_is_written(tmp_path: Path) -> None:
    TensorBoardWriter(tmp_path / "events", print).close()
    assert not (tmp_path / "events").exists()
