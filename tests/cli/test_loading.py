"""torch's library is loaded while other threads run, and whatever cannot be is left to torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simclr_cli.cli import loading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch is loaded as it comes")

ORDER = """
import sys
from pathlib import Path
from simclr_cli.cli import loading
load, seen = loading.load, []
def watched(folder):
    seen.append(load(folder))
    assert "torch" not in sys.modules and "libtorch_python.so" in Path("/proc/self/maps").read_text()
    return seen[-1]
loading.load = watched
loading.load_torch_unlocked()
import json, numpy
assert not seen
import torch
assert seen == [[True, True]] and torch.ones(2).sum() == 2
assert not any(isinstance(finder, loading._First) for finder in sys.meta_path)
"""


def test_it_is_there_before_torch_begins_and_only_for_torch() -> None:
    subprocess.run([sys.executable, "-c", ORDER], check=True)


def test_both_libraries_are_where_they_are_looked_for() -> None:
    assert loading.load(Path(torch.__file__).parent / "lib") == [True, True]


def test_what_is_not_there_is_left_to_torch(tmp_path: Path) -> None:
    (tmp_path / "libtorch_python.so").write_bytes(b"no library")
    assert loading.load(tmp_path) == [False, False]


def test_where_torch_is_imported_already_nothing_is_done() -> None:
    before = list(sys.meta_path)
    loading.load_torch_unlocked()
    assert sys.meta_path == before
