"""The nearest neighbors of all rows against a full sort."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_cli.engine import nearest as search
from simclr_cli.engine.nearest import find_neighbors


@pytest.mark.parametrize("count", [1, 2, 9, 700])
def test_only_the_row_itself_is_excluded(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "NEIGHBOR_BLOCK_ROWS", 64)
    monkeypatch.setattr(search, "FIRST_STEP_COLUMNS", 8)
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(count, 6)).astype(np.float32)
    vectors[count // 2 :] = vectors[0]  # more equal rows than neighbors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    calls: list[tuple[int, int]] = []
    similarities, places = find_neighbors(vectors, 5, progress=lambda *done: calls.append(done))
    assert places.shape == similarities.shape == (count, min(5, count - 1))
    assert count == 1 or calls[-1] == (count, count)
    whole = vectors @ vectors.T
    for row in range(count):
        assert row not in places[row] and len(set(places[row].tolist())) == places.shape[1]
        others = np.sort(np.delete(whole[row], row))[::-1][: places.shape[1]]
        np.testing.assert_allclose(similarities[row], others, atol=1e-5)
        np.testing.assert_allclose(whole[row, places[row]], similarities[row], atol=1e-5)
