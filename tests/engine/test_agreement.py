"""How far two divisions agree, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from simclr_cli.engine.agreement import adjusted_rand, contingency, normalised_information


@pytest.mark.parametrize("seed", range(6))
def test_they_are_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    one = draw.integers(0, 2 + seed, 200)
    other = np.where(draw.random(200) < 0.5, one, draw.integers(0, 7, 200))
    table = contingency(one, other)
    there = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    assert there.tolist() == contingency_matrix(one, other).tolist()
    assert adjusted_rand(table) == pytest.approx(adjusted_rand_score(one, other), abs=1e-12)
    assert normalised_information(table) == pytest.approx(normalized_mutual_info_score(one, other), abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other"), [([0, 1, 2, 3], [3, 2, 1, 0]), ([0, 0, 0, 0], [0, 0, 0, 0]), ([0, 0, 0, 0], [0, 1, 2, 3]),
                       ([0], [0]), ([1, 1, 3, 3], [0, 0, 1, 1])],
)  # fmt: skip
def test_at_the_ends_too(one: list[int], other: list[int]) -> None:
    table = contingency(np.array(one), np.array(other))
    assert adjusted_rand(table) == pytest.approx(adjusted_rand_score(one, other))
    assert normalised_information(table) == pytest.approx(normalized_mutual_info_score(one, other))
