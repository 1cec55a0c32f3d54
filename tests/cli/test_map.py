"""`simclr map` from the command line."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_map_prints_its_groupings_and_path(simclr: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.html"
    code, stdout, stderr = simclr("map", "--runs", trained, "--clusters", 3, "--out", out)
    assert (code, stdout) == (0, f"{out}\n") and out.is_file()
    assert "Map of 24 images, colored by folder or cluster: " in stderr


def test_map_as_json_and_in_the_browser(
    simclr: Callable[..., Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    out = tmp_path / "a map.html"
    code, stdout, _ = simclr("map", "--runs", trained, "--out", out, "--json", "--open")
    result = json.loads(stdout)
    assert code == 0 and opened == [out.as_uri()]
    assert (result["out"], result["images"], result["layout"]) == (str(out), 24, "pca")
    assert 0 < result["explained"] <= 1 and result["bytes"] == out.stat().st_size
