"""Usage errors come before torch is imported, and show wrong input with unprintable characters escaped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from simclr_cli.cli.app import app

NASTY = "a\nb\x1b[31mc\x07\r\t[bold]d[/bold]\u202egnp.\udcff\u2028\x9b1m"
RAW = ("\x1b[31mc", "\x07", "\r", "\t", "\u202e", "\udcff", "\u2028", "\x9b")
TYPED = [
    [NASTY], [f"--{NASTY}"], ["pretrain", f"--{NASTY}"], ["pretrain", f"-{NASTY}"], ["pretrain", "x", NASTY],
    ["pretrain", "x", "--epochs", NASTY], ["pretrain", "x", "--loss", NASTY], ["pretrain", "x", "--preset", NASTY],
    ["pretrain", NASTY], ["pretrain", "--run", NASTY], ["cache", "a", NASTY], ["similar", f"/{NASTY}"],
    ["similar", "x", f"--top={NASTY}"], ["embed", "--out", NASTY], ["preview", ".", "--out", NASTY],
    ["duplicates", "--restore", NASTY], ["predict", NASTY], ["report", NASTY], ["map", "--runs", NASTY],
]  # fmt: skip


@pytest.mark.parametrize("colors", [{}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}], ids=["plain", "colors"])
@pytest.mark.parametrize("typed", TYPED, ids=range(len(TYPED)))
def test_unprintable_input_is_escaped(typed: list[str], colors: dict[str, str]) -> None:
    result = typer.testing.CliRunner(env=colors).invoke(app, typed, prog_name="simclr")
    assert result.exit_code in (2, 3, 4) and result.output
    assert not [raw for raw in RAW if raw in result.output]


def test_printable_input_is_unchanged(simclr: Callable[..., Any]) -> None:
    assert "größe [x]" in simclr("pretrain", "--größe [x]").stderr


WRONG = {
    "similar x --runs none": 4, "similar nope.png --images here": 3, "similar x --encoder no.safetensors": 4,
    "embed --run none": 4, "embed here --encoder a=no.safetensors": 4, "embed here --out no/v.npy": 2, "embed no": 3,
    "clusters here --run none": 4, "outliers a.txt": 3, "map here --out no/m.html": 2, "map here --labels no.csv": 3,
    "duplicates here --out no/d.csv": 2, "duplicates --kind exact --runs none": 4, "probe here --labels no.csv": 3,
    "finetune here --out here": 4, "predict a.txt --runs none": 4, "predict no.png": 3, "report no": 4,
    "pretrain here": 3, "preview texts": 3, "embed texts --encoder random:x": 3, "similar a.txt --images here": 3,
    "similar texts --images here": 3, "similar x + --images here": 3, "pretrain texts --weights resnet": 2,
    "pretrain here --weights no.safetensors": 4, "pretrain here --device tpu": 2, "probe texts --labels b.csv": 3,
    "embed texts --encoder local-dir:no": 4, "predict a.txt --classifier texts": 4, "duplicates --restore here": 3,
    "duplicates here --move-to here/x": 2, "finetune here --out no/c": 2, "probe here --out no/p": 2,
    "demo --out no/demo": 2, "probe here --labels b.csv --run none": 4, "similar fake.png --images here": 3,
    "pretrain no": 3, "pretrain a.txt": 3, "pretrain --resume": 4, "preview here --out no/p.png": 2,
}  # fmt: skip
RUN_ALL = """
import sys, shlex
from typer.testing import CliRunner
from simclr_cli.cli.app import app
for line in sys.argv[1:]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="simclr")
    print(result.exit_code, "torch" in sys.modules, result.stderr.replace("\\n", " "))
"""


def test_usage_errors_come_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.csv", "fake.png", "texts/fake.jpg"):
        (tmp_path / name).write_text("no image")
    typed = [sys.executable, "-c", RUN_ALL, *WRONG]
    lines = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    for (line, code), said in zip(WRONG.items(), lines, strict=True):
        assert said.startswith(f"{code} False "), (line, said)
    assert len(list(tmp_path.iterdir())) == 5  # nothing was created


@pytest.mark.skipif(sys.platform == "win32", reason="only POSIX shells close streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_in_the_processes_of_devices_either(tmp_path: Path, closed: str) -> None:
    """Their results failed after the training, or went to the other stream."""
    inner = f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(str([sys.stdin, sys.stdout, sys.stderr]))"
    program = (
        "import subprocess, sys; from simclr_cli.cli.app import replace_closed_streams; replace_closed_streams(); "
        f"subprocess.run([sys.executable, '-c', {inner!r}])"
    )
    subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program], check=True)
    assert "None" not in (tmp_path / "told").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="only POSIX shells close streams")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(installed_command: str, closed: str) -> None:
    for arguments in ("--version", "cache", "cache --json"):
        done = subprocess.run(["sh", "-c", f"{installed_command} {arguments} {closed}"], capture_output=True, text=True)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "", False)


def test_without_typer_the_error_is_told_in_words() -> None:
    program = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('simclr_cli', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 5 and result.stderr.startswith("Error: A library is missing or broken: ")
    assert "typer" in result.stderr and result.stderr.endswith("-m pip install --upgrade simclr-cli\n")
