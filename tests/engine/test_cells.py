"""Cells hold every row once; looking into all of them is exact search; the recall is what counting says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simclr_cli.engine.cells import Cells, make_cells, nearest_of, recall
from simclr_cli.engine.search import nearest

ROWS, COUNT = 600, 20


class Held:
    """An array that gives rows by place, as an index does."""

    def __init__(self, h: NDArray[np.float32]) -> None:
        self.h, self.shape = h, h.shape

    def __len__(self) -> int:
        return len(self.h)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return self.h[rows]

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.h[places]


@pytest.fixture(scope="module")
def held() -> Held:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((COUNT, 8))[rng.integers(0, COUNT, ROWS)] + 0.3 * rng.standard_normal((ROWS, 8))
    return Held((h / np.linalg.norm(h, axis=1, keepdims=True)).astype(np.float32))


@pytest.fixture(scope="module")
def cells(held: Held) -> Cells:
    return make_cells(held, COUNT, torch.Generator().manual_seed(0))


def test_every_row_is_in_the_cell_of_its_nearest_centre(held: Held, cells: Cells) -> None:
    assert sorted(cells.members.tolist()) == list(range(ROWS))
    labels = (held.h @ cells.centres.T).argmax(axis=1)
    for cell in range(COUNT):
        members = cells.members[cells.starts[cell] : cells.starts[cell + 1]]
        np.testing.assert_array_equal(members, np.flatnonzero(labels == cell))


def test_same_seed_same_cells(held: Held, cells: Cells) -> None:
    again = make_cells(held, COUNT, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(again.centres, cells.centres)
    np.testing.assert_array_equal(again.members, cells.members)


def test_all_cells_are_exact_search(held: Held, cells: Cells) -> None:
    for query in held.h[:20]:
        similarities, places = nearest_of(held, cells.near(query, COUNT), query, 10)
        exact, where = nearest(held, query[None], 10)
        np.testing.assert_allclose(similarities, exact[0], atol=1e-6)
        assert set(places) == set(where[0])


def test_recall_is_that_of_counting_and_grows_to_one(held: Held, cells: Cells) -> None:
    queries = np.arange(0, ROWS, 10)
    similarity = held.h[queries] @ held.h.T
    similarity[np.arange(len(queries)), queries] = -2
    exact = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
    found = []
    for probed in (1, 2, 4, COUNT):
        counted = np.mean([np.isin(truth, cells.near(held.h[query], probed)).mean()
                           for query, truth in zip(queries, exact, strict=True)])  # fmt: skip
        assert recall(held, cells, queries, exact, probed) == pytest.approx(counted)
        found.append(counted)
    assert found == sorted(found) and found[0] < 1 and found[-1] == 1
