"""History of epochs: read back completely; times are only in speed.jsonl."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.core.errors import RunError
from simclr_cli.store.history import TIMING_KEYS, read_epochs, write_epochs
from simclr_cli.store.run import RunFolder


def rows(seconds: float = 1.5) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "loss": 1 / (i + 3), "images_per_second": 9 / seconds, "seconds": seconds,
         "validation": {"view_retrieval_accuracy": 1 / 7} if i % 2 else None, "note": os.fsdecode(b"caf\xe9\xff")}
        for i in range(1, 4)
    ]  # fmt: skip


def test_rows_are_read_back_and_each_line_is_one_object(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    assert read_epochs(run) == []
    write_epochs(run, rows())
    assert read_epochs(run) == rows()
    write_epochs(run, rows()[:2])  # as after resuming from an earlier epoch
    assert read_epochs(run) == rows()[:2]
    for file in (run.metrics_file, run.speed_file):
        lines = file.read_bytes()
        assert lines.isascii() and lines.endswith(b"\n") and len(lines.splitlines()) == 2
    assert [list(json.loads(line)) for line in run.speed_file.read_text().splitlines()] == [["epoch", *TIMING_KEYS]] * 2


def test_times_change_no_byte_of_the_metrics(tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    write_epochs(one, rows(1.5))
    write_epochs(other, rows(7.0))
    assert one.metrics_file.read_bytes() == other.metrics_file.read_bytes()
    assert one.speed_file.read_bytes() != other.speed_file.read_bytes()


def test_times_may_have_more_or_fewer_epochs_than_the_metrics(tmp_path: Path) -> None:
    """As after a kill between the two writes."""
    run = RunFolder(tmp_path)
    write_epochs(run, rows())
    metrics = run.metrics_file.read_bytes()
    write_epochs(run, rows()[:2])
    run.metrics_file.write_bytes(metrics)
    without = {name: value for name, value in rows()[2].items() if name not in TIMING_KEYS}
    assert read_epochs(run) == [*rows()[:2], without]
    run.speed_file.unlink()
    assert [row["loss"] for row in read_epochs(run)] == [row["loss"] for row in rows()]


@pytest.mark.parametrize("content", [b"{", b"3\n", b'{"loss": 1}\n', b'{"epoch": "1"}\n', b"\xff\n"])
@pytest.mark.parametrize("file", ["metrics.jsonl", "speed.jsonl"])
def test_a_damaged_file_is_an_error(tmp_path: Path, file: str, content: bytes) -> None:
    run = RunFolder(tmp_path)
    write_epochs(run, rows())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(RunError, match=rf"{file} cannot be read"):
        read_epochs(run)
