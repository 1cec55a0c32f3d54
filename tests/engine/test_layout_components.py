"""Principal components against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.engine import layout as projection
from simclr_cli.engine.layout import compute_principal_components


def rows(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw rows of length 1 around five directions."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(5, width))
    drawn = centers[np.arange(count) % 5] + 0.4 * rng.normal(size=(count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dimensions", [2, 3, 24])
def test_components_are_those_of_scikit_learn(dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.decomposition import PCA

    monkeypatch.setattr(projection, "BLOCK_ROWS", 64)  # 300 rows in five blocks, the last one short
    vectors = rows(300, 24)
    places, explained = compute_principal_components(vectors, dimensions)
    oracle = PCA(dimensions, svd_solver="full").fit(vectors.astype(np.float64))
    expected = oracle.transform(vectors.astype(np.float64))
    signs = np.sign((places * expected).sum(0))
    np.testing.assert_allclose(places, expected * signs, atol=1e-6)
    assert explained == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-9)
    assert places.dtype == np.float32


def test_signs_do_not_depend_on_the_order_of_the_rows() -> None:
    vectors = rows(200, 16)
    order = np.random.default_rng(1).permutation(200)
    np.testing.assert_allclose(
        compute_principal_components(vectors, 2)[0][order],
        compute_principal_components(vectors[order], 2)[0],
        atol=1e-5,
    )


@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 4), (6, 1)])
def test_few_rows_and_one_dimension(count: int, width: int) -> None:
    vectors = rows(count, width) if width > 1 else np.ones((count, 1), np.float32)
    places, explained = compute_principal_components(vectors, 2)
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert explained is None if count == 1 or width == 1 else explained == pytest.approx(1)


def test_equal_rows_have_one_position_and_no_variance() -> None:
    places, explained = compute_principal_components(np.tile(rows(1, 8), (20, 1)), 2)
    assert explained is None and np.abs(places).max() < 1e-6
