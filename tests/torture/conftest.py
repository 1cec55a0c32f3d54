"""How often, and where figures go: a short form in CI, the full one by SIMCLR_TORTURE=full (docs/reliability.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("SIMCLR_TORTURE") == "full"


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """`times(short, full)`: how often to do it."""
    return lambda short, full: full if FULL else short


@pytest.fixture(scope="session")
def figure() -> Callable[[str, Any], None]:
    """`figure(name, value)`: a result of this run, a line of JSON in the file $SIMCLR_FIGURES, if that is set."""

    def keep(name: str, value: Any) -> None:
        if file := os.environ.get("SIMCLR_FIGURES"):
            with Path(file).open("a") as stream:
                stream.write(json.dumps({"figure": name, "value": value, "full": FULL}) + "\n")

    return keep
