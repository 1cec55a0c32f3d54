"""No command on local data opens a connection, as traced by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli import COMMAND_NAMES

pytestmark = pytest.mark.long

# All commands in one process, because each would import torch again under strace.
PROGRAM = """
import sys
from simclr_cli.cli.app import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["simclr", *line.split("\\t")]
    try:
        main()
    except SystemExit as ended:
        print(ended.code or 0, line.split("\\t")[0], flush=True)
"""
TINY = "--backbone test_resnet --weights none --image-size 32 --batch-size 8 --epochs 1".split()
COMMANDS: dict[str, list[str]] = {
    "preview": ["images", "--out", "views.html"],
    "pretrain": ["images", "--run", "r", *TINY],
    "embed": ["--out", "vectors.npy"],
    "probe": ["images"],
    "finetune": ["images", "--epochs", "1", "--batch-size", "8"],
    "predict": ["images"],
    "similar": ["images/dark/00.png"],
    "duplicates": [],
    "outliers": ["images", "--encoder", "random:test_resnet", "--image-size", "32"],
    "clusters": [],
    "map": [],
    "report": [],
    "check": [],
    "doctor": [],
    "cache": [],
    "demo": ["--out", "demo", "--count", "100", "--epochs", "1", "--image-size", "16"],
}


@pytest.fixture
def traceable(tmp_path: Path) -> None:
    """Skip the test without strace, or where it is not allowed to trace."""
    if shutil.which("strace") is None:
        pytest.skip("requires strace (apt-get install strace)")
    if subprocess.run(["strace", "-o", tmp_path / "t", "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")


def trace_program(program: str, stdin: str, cwd: Path) -> tuple[str, list[str]]:
    """Return the output of a Python program, and the internet socket calls of it and its children."""
    trace = cwd / "trace.txt"
    answer = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-e", "trace=socket,connect", "-o", trace, sys.executable, "-c", program],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=900,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},  # must not be the reason
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    calls = trace.read_text(errors="replace").splitlines()
    return answer.stdout + answer.stderr, [call for call in calls if "AF_INET" in call]


@pytest.mark.usefixtures("traceable")
def test_a_connection_is_detected(tmp_path: Path) -> None:
    """Otherwise the next test would prove nothing."""
    program = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    _, calls = trace_program(program, "", tmp_path)
    assert [call for call in calls if "connect(" in call] and [call for call in calls if "socket(" in call]


@pytest.mark.usefixtures("traceable")
def test_no_command_opens_a_socket_of_the_internet(
    times: Callable[[int, int], int], figure: Callable[[str, Any], None], tmp_path: Path
) -> None:
    for i in range(24):
        folder = tmp_path / "images" / ("light" if i % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        low, high = (128, 256) if i % 2 else (0, 128)
        blocks = np.random.default_rng(i).integers(low, high, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{i:02d}.png")
    verbs = set(COMMAND_NAMES)
    assert verbs <= COMMANDS.keys()
    if not times(0, 1):
        verbs.remove("demo")  # runs the same commands again
    lines = "".join("\t".join([verb, *COMMANDS[verb]]) + "\n" for verb in COMMANDS if verb in verbs)
    output, calls = trace_program(PROGRAM, lines, tmp_path)
    for verb in verbs:
        assert re.search(rf"^0 {verb}$", output, re.MULTILINE), (verb, output)
    assert calls == []
    figure("commands without a socket of the internet", len(verbs))
