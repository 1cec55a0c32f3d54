"""The clock may be set back or forward: nothing that is measured, and nothing that is trusted, goes by it."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simclr_cli
from simclr_cli.images.cache import decode_once
from simclr_cli.images.scan import take_census

PACKAGE = Path(simclr_cli.__file__).parent
# Ages of files, which bear the clock's time themselves (a stray that looks young stays), the times in event files, and
# the week in which a stored image was last asked for, by which those go that nobody asks for.
WALL_CLOCK = {"core/files.py", "store/history.py", "images/pixel_store.py"}
DAY = 86_400


def test_durations_are_of_clocks_that_only_go_forward() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"time.time", "time.time_ns", "time.localtime"}:
                found.add(path.relative_to(PACKAGE).as_posix())
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {alias.name for alias in node.names} & {"time", "time_ns"}, path
    assert found == WALL_CLOCK


@pytest.mark.parametrize("away", [-400 * DAY, 400 * DAY])
def test_a_image_that_changed_under_another_clock_is_seen(tmp_path: Path, away: int) -> None:
    """Times of change are compared for being the same, never for being later."""
    path = tmp_path / "a.png"
    for seed in (1, 2):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        if seed == 2:
            os.utime(path, (time.time() + away,) * 2)
        found = decode_once(take_census(tmp_path, workers=0), 8, workers=0, progress=lambda *_: None)
        pixels = found.read(np.array([0]))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.png").write_bytes(path.read_bytes())
    fresh = decode_once(take_census(alone, workers=0), 8, workers=0, progress=lambda *_: None)
    assert np.array_equal(pixels, fresh.read(np.array([0])))
