"""`simclr report` from the command line: the path of the page, and --open."""

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
    """Return the list of addresses that the browser opens."""
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda page: asked.append(page) or True)
    return asked


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace the command by one that returns this page."""
    page = tmp_path / "a b" / "report.html"
    result = ReportResult(str(page.parent), str(page), True, 400_000)
    monkeypatch.setattr("simclr_cli.commands.report.report", lambda *_, **__: result)
    monkeypatch.setattr("simclr_cli.diagnose.inputs.check_inputs", lambda _: None)
    return page


def test_the_path_is_data_and_nothing_is_opened_without_open(
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
def test_without_a_browser_the_path_is_printed(
    simclr: Callable[..., Any], made: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    def fail(_: str) -> bool:
        if failure:
            raise failure
        return False

    monkeypatch.setattr(webbrowser, "open", fail)
    code, _, stderr = simclr("report", "--open")
    assert code == 0 and "No browser" in stderr and str(made) in stderr.replace("\n", "")
