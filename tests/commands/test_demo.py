"""The demo command, from drawing to the comparison, on few images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import DemoSettings
from simclr_cli.commands import demo as demo_module
from simclr_cli.commands.demo import demo
from simclr_cli.core.errors import Interrupted
from simclr_cli.core.events import Note
from simclr_cli.images.synthetic import CLASSES


def test_demo_runs_to_the_end_and_draws_only_once(
    tmp_path: Path, no_trial: None, checksum: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DemoSettings(out=tmp_path / "demo", count=100, epochs=1, image_size=8)
    said: list[Any] = []
    result = demo(settings, report=said.append)
    drawn = tmp_path / "demo" / "images-100-seed-0"
    assert Note(f"Drawing 100 images of {len(CLASSES)} patterns in {drawn}.") in said
    assert (result.folder, result.images, result.classes) == (str(tmp_path / "demo"), 100, CLASSES)
    assert [score.representation for score in result.scores] == ["trained", "untrained", "raw pixels"]
    assert all(0 <= value <= 100 for score in result.scores for value in (score.knn_20.top_1, score.knn_200.top_1))
    assert len(result.query.neighbors) == 5 and result.pretrain is not None and result.pretrain.finished
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "images-100-seed-0",
        "images-100-seed-0.json",
        "runs",
    ]
    before = checksum(drawn)
    monkeypatch.setattr(demo_module, "draw_images", lambda *_, **__: pytest.fail("drawn again"))
    again = demo(settings)
    assert checksum(drawn) == before
    assert again.scores == result.scores
    assert Path(again.query.neighbors[0].path) == Path(result.query.neighbors[0].path)


def test_interrupted_drawing_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tmp_path / "images-100-seed-0" / "bricks"
    half.mkdir(parents=True)
    (half / "0000.png").write_bytes(b"half")

    def stop(*_: object, **__: object) -> None:
        raise Interrupted("Stopped by Ctrl-C.", "Nothing was lost; type the command again.")

    monkeypatch.setattr(demo_module, "pretrain", stop)
    with pytest.raises(Interrupted):
        demo(DemoSettings(out=tmp_path, count=100))
    assert (half / "0000.png").stat().st_size > 4 and sum(path.is_file() for path in tmp_path.rglob("*/*")) == 100
