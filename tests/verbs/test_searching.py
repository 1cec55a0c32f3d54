"""Beyond millions the nearest cells are looked into: held to exact search, while pictures come and go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.engine.search import nearest
from simclr_cli.events import Event, Note
from simclr_cli.store.cells import read_cells
from simclr_cli.store.index import Index, read_index, update
from simclr_cli.store.rows import Rows, named
from simclr_cli.verbs import searching
from simclr_cli.verbs.searching import search

MODEL = "a" * 64
CENTRES = np.random.default_rng(9).standard_normal((30, 8))


def rows(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    h = CENTRES[rng.integers(0, 30, count)] + 0.3 * rng.standard_normal((count, 8))
    h = (h / np.linalg.norm(h, axis=1, keepdims=True)).astype(np.float32)
    blob, ends = named([f"{seed}/{i}.png" for i in range(count)])
    zeros = np.zeros(count, np.int64)
    return Rows(h, blob, ends, zeros, zeros, np.zeros((count, 32), np.uint8), np.ones((count, 2), np.int32))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setattr(searching, "CELLS_FROM", 1000)
    return update(Index(tmp_path, "/p", MODEL, 8), np.empty(0, np.int64), rows(2000, 0), [], "/p")


def ask(index: Index, report: list[Event] | None = None, exact: bool = False) -> tuple[float, NDArray[np.int64]]:
    """The share of the true ten nearest of 50 queries that is found, and what was found."""
    queries = rows(50, 77).h
    said: list[Event] = [] if report is None else report
    similarities, places = search(index, queries, 10, None, exact=exact, report=said.append)
    _, where = nearest(index.h, queries, 10)
    assert (np.diff(similarities, axis=1) <= 0).all()
    for row, at, query in zip(similarities, places, queries, strict=True):
        np.testing.assert_allclose(row, index.h.take(at) @ query, atol=1e-6)  # every similarity is the true one
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(where, places, strict=True)])), places


def test_recall_is_said_when_cells_are_made_and_kept(index: Index) -> None:
    said: list[Event] = []
    share, _ = ask(index, said)
    notes = [event.text for event in said if isinstance(event, Note)]
    assert "into 88 cells" in notes[0] and "of the true ten nearest" in notes[1] and "--exact" in notes[1]
    kept = read_cells(index.folder, index.segments)
    assert kept is not None and kept.recall >= 0.98 and kept.probed < 88 and share >= 0.95
    again: list[Event] = []
    assert ask(index, again)[0] == share and again == []


def test_exact_compares_all_and_makes_no_cells(index: Index) -> None:
    assert ask(index, exact=True)[0] == 1
    assert not (index.folder / "cells.safetensors").exists()


def test_cells_stay_right_when_pictures_come_and_go(index: Index) -> None:
    ask(index)
    before = (index.folder / "cells.safetensors").read_bytes()
    index = update(index, np.arange(0, 600, 3), rows(300, 5), [], "/p")
    assert len(index.segments) == 2 and len(index) == 2100
    share, places = ask(index)
    assert share >= 0.95 and places.max() >= 1800  # newer ones are found too
    again = read_index(index.folder, model_digest=MODEL)
    assert again is not None
    np.testing.assert_array_equal(ask(again)[1], places)
    assert (index.folder / "cells.safetensors").read_bytes() == before
    index = update(index, np.empty(0, np.int64), rows(900, 6), [], "/p")  # too much that is new
    assert ask(index)[0] >= 0.95 and (index.folder / "cells.safetensors").read_bytes() != before


def test_within_some_only_all_are_compared(index: Index) -> None:
    among = np.random.default_rng(0).random(2000) < 0.05
    query = rows(1, 3).h
    found = search(index, query, 5, among, exact=False, report=lambda _: None)
    np.testing.assert_array_equal(found[1], nearest(index.h, query, 5, among)[1])


def test_more_than_the_cells_hold(index: Index) -> None:
    _, places = search(index, rows(2, 3).h, 1900, None, exact=False, report=lambda _: None)
    assert places.shape == (2, 1900)


@pytest.mark.parametrize("damage", ["cut", "of other rows", "garbage"])
def test_damaged_cells_are_made_anew(index: Index, damage: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    share, _ = ask(index)
    file = index.folder / "cells.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "garbage":
        file.write_bytes(b"garbage")
    else:
        other = update(
            Index(tmp_path_factory.mktemp("other"), "/p", MODEL, 8), np.empty(0, np.int64), rows(2000, 8), [], "/p"
        )
        ask(other)
        file.write_bytes((other.folder / "cells.safetensors").read_bytes())
    assert read_cells(index.folder, index.segments) is None and ask(index)[0] == share
