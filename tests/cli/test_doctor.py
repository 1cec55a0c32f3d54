"""Output of `simclr doctor`: the worst fault first, each command whole on a line of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simclr_cli.api import Diagnosis, DoctorResult
from simclr_cli.cli.console import Reporter
from simclr_cli.cli.output import Output
from simclr_cli.cli.show_results import show_doctor
from simclr_cli.diagnose.machine import TorchFacts

COMMAND = "uv pip install --python /a/long/path/of/some/python --force-reinstall torch torchvision --torch-backend auto"
FAULT = Diagnosis(
    "broken torch", "fault", "torch cannot be \x1b[31mimported, " + "because " * 20 + "it is.", "Why.", COMMAND
)
ADVICE = Diagnosis("newer run", "advice", "A run.", "It is newer.", "pipx upgrade simclr-cli")


def shown(result: DoctorResult, *, terminal: bool) -> tuple[str, str]:
    """Return (stdout, stderr), 80 columns wide."""
    output, reporter = Output(), Reporter(io.StringIO())
    output.console = Console(file=io.StringIO(), width=80, force_terminal=terminal, no_color=True, highlight=False)
    show_doctor(result, reporter, output)
    return output.console.file.getvalue(), reporter.console.file.getvalue()  # type: ignore[attr-defined]


def test_commands_are_whole_and_all_else_fits_into_80_columns() -> None:
    out, err = shown(DoctorResult(("2 cores",), 26, (FAULT, ADVICE)), terminal=True)
    lines = [line.rstrip() for line in out.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()]
    assert f"  $ {COMMAND}" in lines and "  $ pipx upgrade simclr-cli" in lines
    assert all(len(line) <= 80 for line in lines if not line.startswith("  $"))
    assert lines[0].startswith("fault: broken torch. torch cannot be \\x1b[31mimported")
    assert err == "2 cores\n1 fault found.\n"


@pytest.mark.parametrize(
    ("diagnoses", "words"),
    [((), "No fault found (26 kinds"), ((ADVICE,), "No fault found (26 kinds")],
)
def test_no_fault_is_reported(diagnoses: tuple[Diagnosis, ...], words: str) -> None:
    out, err = shown(DoctorResult((), 26, diagnoses), terminal=True)
    assert words in err and bool(out) == bool(diagnoses)


def test_a_log_has_a_line_for_each(simclr: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.diagnose.machine.inspect_torch", lambda: TorchFacts(error="a broken library"))
    code, stdout, stderr = simclr("doctor", "--runs", tmp_path)
    lines = [line.split("\t") for line in stdout.splitlines()]
    assert code == 5 and lines[0] == ["grade", "name", "what", "why", "command"]
    assert lines[1][:2] == ["fault", "broken torch"] and all(len(line) == 5 for line in lines)
    assert "1 fault found." in stderr
