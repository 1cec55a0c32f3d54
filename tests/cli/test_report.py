"""`simclr report`: says where the page is, and opens it when asked."""

from __future__ import annotations

import dataclasses
import json
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import ReportResult


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the browser was asked to open."""
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda page: asked.append(page) or True)
    return asked


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The page, as if the verb had made it."""
    page = tmp_path / "a b" / "report.html"
    result = ReportResult(str(page.parent), str(page), True, 400_000)
    monkeypatch.setattr("simclr_cli.commands.report.report", lambda *_, **__: result)
    return page


def test_the_path_is_data_and_nothing_is_opened_unasked(
    simclr: Callable[..., Any], opened: list[str], made: Path
) -> None:
    code, stdout, stderr = simclr("report")
    assert (code, stdout, opened) == (0, f"{made}\n", []) and "0.4 MB" in stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_open_opens_the_file(simclr: Callable[..., Any], opened: list[str], made: Path, options: tuple[str]) -> None:
    assert simclr("report", "--open", *options)[0] == 0
    assert opened == [made.as_uri()] and "a%20b" in opened[0]


def test_json_has_the_keys_of_the_result(simclr: Callable[..., Any], made: Path) -> None:
    result = json.loads(simclr("report", "--json")[1])
    assert list(result) == [field.name for field in dataclasses.fields(ReportResult)] and result["out"] == str(made)


@pytest.mark.parametrize("failure", [False, webbrowser.Error("none")])
def test_without_a_browser_the_path_is_said(
    simclr: Callable[..., Any], made: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    def fail(_: str) -> bool:
        if failure:
            raise failure
        return False

    monkeypatch.setattr(webbrowser, "open", fail)
    code, _, stderr = simclr("report", "--open")
    assert code == 0 and "no browser" in stderr and str(made) in stderr.replace("\n", "")
