"""Order of system calls: a file is written, synced, renamed, and then its folder is synced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.core.locks import LOCK_FILE

pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("strace") is None, reason="requires strace")]

CALLS = "open,openat,creat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2"
PRETRAIN = (
    "pretrain pics --run new --epochs 1 --backbone test_resnet --image-size 32 --batch-size 8 --workers 1".split()
)


class Call(NamedTuple):
    """A successful system call."""

    name: str
    arguments: str
    files: list[Path]  # below the traced folder, in order


def parse_calls(trace: Path, work: Path) -> Iterator[Call]:
    """Yield the calls on files below `work`, in the order in which they ended."""
    unfinished: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, text = line.split(maxsplit=1)
        if text.endswith(" <unfinished ...>"):
            unfinished[thread] = text.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            text = unfinished.pop(thread, "") + text[resumed.end() :]
        if match := re.fullmatch(r"(\w+)\((.*)\)\s+= \d+.*", text):
            files = [Path(file) for file in re.findall(rf'[<"]({re.escape(str(work))}/[^">]*)[>"]', match[2])]
            if files:
                yield Call(match[1], match[2], files)


def test_files_are_written_synced_renamed_and_their_folders_synced(
    furnish: Callable[[], Path], tmp_path: Path, figure: Callable[[str, Any], None]
) -> None:
    """Every file of a training, and the folder of its encoder."""
    work = furnish()
    subprocess.run(
        ["strace", "-f", "-y", "-s", "4096", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", tmp_path / "trace",
         sys.executable, "-m", "simclr_cli", *PRETRAIN, "--runs", str(work / "simclr-runs")],
        cwd=work, env={**os.environ, "SIMCLR_CACHE": str(work / "cache")}, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    calls = list(parse_calls(tmp_path / "trace", work))
    renamed = []
    for i, call in enumerate(calls):
        if (
            call.name.startswith("open")
            and re.search("O_WRONLY|O_RDWR", call.arguments)
            and "O_TMPFILE" not in call.arguments
        ):
            name = call.files[0].name
            assert name == LOCK_FILE or name.startswith(TEMPORARY_PREFIX), f"{call.files[0]} is written in place"
        if not call.name.startswith("rename"):
            continue
        source, target = call.files
        earlier_calls = [
            other.name for other in calls[:i] if other.files[0] == source and not other.name.startswith("open")
        ]
        assert source.name.startswith(TEMPORARY_PREFIX) and earlier_calls[-1:] == ["fsync"], (
            f"{target} was renamed before it was synced"
        )
        after = next(other for other in calls[i + 1 :] if other.name.startswith(("rename", "fsync")))
        assert (after.name, after.files) == ("fsync", [target.parent]), f"the folder of {target} was not synced"
        renamed.append(target.relative_to(work).as_posix())
    run = "simclr-runs/new"
    expected = {f"{run}/{name}" for name in ("config.json", "skipped.json", "metrics.jsonl", "outcome.json", "encoder",
                                             "projection_head.safetensors", "report.html")}  # fmt: skip
    assert expected < set(renamed) and any(name.startswith(f"{run}/checkpoint/step-") for name in renamed)
    figure("writes: renames in order", len(renamed))
