"""All pairs above a threshold against the product of all rows, for rows of several kinds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.engine import nearest as search
from simclr_cli.engine.nearest import _compute_outlines, find_similar_pairs


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def rows_of(kind: str, count: int = 200, width: int = 120) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((count, width))
    if kind == "clusters":  # a few directions hold most of the length, and all rows lean to one side, as after a ReLU
        noise = np.abs(rng.standard_normal((9, width))[rng.integers(0, 9, count)]) + 0.2 * noise
    elif kind == "near-duplicates":
        noise[120:] = noise[:80] + 0.2 * noise[120:]
    elif kind == "all equal":
        noise[:] = noise[0]
    elif kind == "axes":
        noise = np.eye(width)[np.arange(count) % 7]
    return unit(noise)


@pytest.fixture(params=["outlines", "whole"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set blocks of few rows, with outlines of a few dimensions or of all."""
    monkeypatch.setattr(search, "PAIR_BLOCK_ROWS", 48)
    monkeypatch.setattr(search, "OUTLINE_DIMENSIONS", 20 if request.param == "outlines" else 60)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["noise", "clusters", "near-duplicates", "all equal", "axes"])
@pytest.mark.parametrize("threshold", [-1.0, 0.8, 0.95])
def test_pairs_are_those_of_all_products(kind: str, threshold: float) -> None:
    rows = rows_of(kind)
    products = rows.astype(np.float64) @ rows.T.astype(np.float64)
    found = np.full(products.shape, np.nan)
    for i, j, similarity in find_similar_pairs(rows, threshold):
        assert (i < j).all() and (similarity >= threshold).all() and np.isnan(found[i, j]).all()
        found[i, j] = similarity
    there = ~np.isnan(found)
    np.testing.assert_allclose(found[there], products[there], atol=1e-5)
    surely, perhaps = (np.triu(products >= threshold + by, 1) for by in (1e-6, -1e-6))
    assert (surely <= there).all() and (there <= perhaps).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["noise", "clusters", "near-duplicates", "all equal", "axes"])
def test_a_product_of_outlines_is_never_less_than_that_of_the_rows(kind: str) -> None:
    rows = rows_of(kind)
    outlines = _compute_outlines(rows).double().numpy()
    assert ((rows.astype(np.float64) @ rows.T.astype(np.float64)) - outlines @ outlines.T).max() < search.ROUNDING / 2


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_of_no_rows(count: int) -> None:
    assert list(find_similar_pairs(np.ones((count, 1), np.float32), -1)) == []
