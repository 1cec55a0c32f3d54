"""Simclr on an emulated GPU, for tests of what only runs on one.

The program that `SIMCLR_STAND_IN_GPU` names runs `simclr ARGUMENTS` on a stand-in for CUDA devices: torch's own CUDA
build, whose memory, streams and errors are real, and whose kernels do nothing or, after `--computed`, are computed on
the CPU. Without it these tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = os.environ.get("SIMCLR_STAND_IN_GPU", "")
needs_stand_in = pytest.mark.skipif(not PROGRAM, reason="SIMCLR_STAND_IN_GPU names no stand-in for a GPU")


def run_on_gpu(
    *arguments: str | Path, computed: bool = False, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command on the stand-in.

    Args:
        computed: compute the kernels.
        folder: the working directory.
        environment: more variables, for the stand-in.
    """
    root = Path(__file__).parents[1]
    variables = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(root)} | environment
    command = [PROGRAM, *(["--computed"] if computed else []), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables, timeout=120)
