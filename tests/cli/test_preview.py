"""`simclr preview` from the command line."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_preview_prints_reasons_and_path(simclr: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    code, stdout, stderr = simclr("preview", photos, "--preset", "aerial", "--out", out, "--count", 2)
    assert (code, stdout) == (0, f"{out}\n") and out.is_file()
    assert "the preset aerial: " in stderr and f"Next: simclr pretrain {photos} --preset aerial\n" in stderr
    assert "of the crops" in stderr or "No crop" in stderr


def test_next_command_has_the_given_options(simclr: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    typed = ("--crop-min", "0.3", "--image-size", "32", "--seed", "4", "--rotate", "0.5")
    _, _, stderr = simclr("preview", photos, "--out", out, "--count", 1, *typed)
    assert f"simclr pretrain {photos} --image-size 32 --crop-min 0.3 --rotate 0.5\n" in stderr


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("form", ["--json", "--debug"])
def test_open_shows_the_sheet_in_the_browser(
    simclr: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, form: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or there)
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = simclr("preview", photos, "--out", "a b.html", "--open", "--count", 1, form)
    assert code == 0 and opened == [(tmp_path / "a b.html").as_uri()]
    assert ("Open the page yourself" in stderr) == (not there)
    assert form != "--json" or json.loads(stdout)["out"] == "a b.html"


def test_nothing_is_opened_without_open(
    simclr: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("opened"))
    assert simclr("preview", photos, "--out", tmp_path / "a.html", "--count", 1).code == 0
