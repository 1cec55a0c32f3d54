"""Usage errors show wrong input with unprintable characters escaped, errors of Typer too."""

from __future__ import annotations

from collections.abc import Callable
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
