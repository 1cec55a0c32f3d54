"""The nearest others of all rows against a full sort."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_cli.engine import nearest as search
from simclr_cli.engine.nearest import nearest_others


@pytest.mark.parametrize("count", [1, 2, 9, 700])
def test_they_leave_out_only_the_row_itself(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 64)
    monkeypatch.setattr(search, "FIRST_STEP", 8)
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(count, 6)).astype(np.float32)
    vectors[count // 2 :] = vectors[0]  # more copies of one another than are asked for
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    told: list[tuple[int, int]] = []
    similarities, places = nearest_others(vectors, 5, progress=lambda *done: told.append(done))
    assert places.shape == similarities.shape == (count, min(5, count - 1))
    assert count == 1 or told[-1] == (count, count)
    whole = vectors @ vectors.T
    for row in range(count):
        assert row not in places[row] and len(set(places[row].tolist())) == places.shape[1]
        others = np.sort(np.delete(whole[row], row))[::-1][: places.shape[1]]
        np.testing.assert_allclose(similarities[row], others, atol=1e-5)
        np.testing.assert_allclose(whole[row, places[row]], similarities[row], atol=1e-5)
