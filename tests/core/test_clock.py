"""The system clock may be set back or forward: no duration and no cache decision depends on it."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simclr_cli
from simclr_cli.images.cache import decode_images
from simclr_cli.images.scan import take_census

PACKAGE = Path(simclr_cli.__file__).parent
# Ages of files, which have the clock's time themselves (an unfinished file that looks young stays); the times in event
# files; and the week of the last use of a stored image, by which unused ones are removed.
WALL_CLOCK = {"core/files.py", "store/history.py", "images/pixel_store.py"}
DAY = 86_400


def test_durations_are_measured_by_monotonic_clocks() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"time.time", "time.time_ns", "time.localtime"}:
                found.add(path.relative_to(PACKAGE).as_posix())
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {alias.name for alias in node.names} & {"time", "time_ns"}, path
    assert found == WALL_CLOCK


@pytest.mark.parametrize("away", [-400 * DAY, 400 * DAY])
def test_an_image_that_changed_under_another_clock_is_decoded_again(tmp_path: Path, away: int) -> None:
    """Modification times are compared for equality, never for order."""
    path = tmp_path / "a.png"
    for seed in (1, 2):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        if seed == 2:
            os.utime(path, (time.time() + away,) * 2)
        decoded = decode_images(take_census(tmp_path, workers=0), 8, workers=0, progress=lambda *_: None)
        pixels = decoded.read(np.array([0]))
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    (other_folder / "a.png").write_bytes(path.read_bytes())
    fresh = decode_images(take_census(other_folder, workers=0), 8, workers=0, progress=lambda *_: None)
    assert np.array_equal(pixels, fresh.read(np.array([0])))
