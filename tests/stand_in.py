"""Simclr on an emulated GPU, for tests of what only runs on one.

The program that `SIMCLR_STAND_IN_GPU` names runs `simclr ARGUMENTS` on a stand-in for CUDA devices: torch's own CUDA
build, whose memory, streams and errors are real, and whose kernels do nothing or, after `--computed`, are computed on
the CPU. The variables SIMCLR_STAND_IN_ with CAPABILITY (6.1), MEMORY (bytes of each device: 4e9,80e9) and
FORBID_FLOAT64 (1, as on Apple's GPUs) describe it. Without it these tests are skipped.
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
    *arguments: str | Path,
    computed: bool = False,
    folder: Path | None = None,
    python: str | Path = sys.executable,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command on the stand-in.

    Args:
        computed: compute the kernels.
        folder: the working directory.
        python: the program that is Python on the stand-in, the variable PYTHON.
        environment: CAPABILITY, MEMORY, FORBID_FLOAT64.
    """
    root = Path(__file__).parents[1]
    described = {f"SIMCLR_STAND_IN_{name}": value for name, value in environment.items()}
    variables = os.environ | {"PYTHON": str(python), "PYTHONPATH": str(root)} | described
    command = [PROGRAM, *(["--computed"] if computed else []), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables, timeout=240)
