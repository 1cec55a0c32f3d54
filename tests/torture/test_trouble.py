"""Out of memory, by a limit on the address space: an error with a remedy, and no unfinished files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.long

# The command, in a process that may allocate so many MB after all imports.
LIMITED = """
import resource, sys
from pathlib import Path
from simclr_cli.core.hardware import limit_openmp_spinning
limit_openmp_spinning()
import simclr_cli.commands.embed, simclr_cli.commands.probe, simclr_cli.commands.pretrain
from simclr_cli.cli.app import app
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 10**6, resource.RLIM_INFINITY))
app(sys.argv[2:], prog_name="simclr")
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 64 images in two folders."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    for i in range(64):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is of Linux")
@pytest.mark.parametrize(("verb", "megabytes"), [("embed", 1200), ("embed", 600), ("probe", 600)])
def test_out_of_memory(
    verb: str,
    megabytes: int,
    photos: Path,
    tmp_path: Path,
    times: Callable[[int, int], int],
    figure: Callable[[str, Any], None],
) -> None:
    if verb == "probe" and times(0, 1) == 0:
        pytest.skip("in the full form only")
    arguments = [verb, str(photos), "--encoder", "random:test_resnet", "--image-size", "1024", "--batch-size", "64"]
    command = [sys.executable, "-c", LIMITED, str(megabytes), *arguments]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in process.stderr
    if megabytes == 1200:  # enough for the pixels of a batch, which is computed in parts
        assert process.returncode == 0, process.stderr
        assert np.load(tmp_path / "vecs.npy").shape == (64, 96)
        return
    assert process.returncode == 5, process.stderr
    assert "The memory of this machine is too small" in process.stderr and "--batch-size 16" in process.stderr
    assert list(tmp_path.iterdir()) == []
    figure(f"out of memory: exit code of {verb}", process.returncode)
