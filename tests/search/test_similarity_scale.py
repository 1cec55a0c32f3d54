"""The similarity scale against counting."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_cli.search.similarity_scale import PERCENT_LEVELS, measure_scale


def unit(rows: int, seed: int) -> np.ndarray:
    h = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def test_levels_rise_from_0_to_100_and_are_fine_at_the_top() -> None:
    assert PERCENT_LEVELS[0] == 0 and PERCENT_LEVELS[-1] == 100 and (np.diff(PERCENT_LEVELS) > 0).all()
    assert np.diff(PERCENT_LEVELS).max() <= 1 + 1e-9 and (PERCENT_LEVELS > 99.9).sum() > 200


def test_percentages_equal_counting() -> None:
    sample, first = unit(400, 0), unit(200, 1)
    second = first + 0.3 * unit(200, 2)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    scale = measure_scale(sample, first, second)
    random = (sample @ sample.T)[np.triu_indices(400, 1)]
    views = (first * second).sum(axis=1)
    assert (scale.random_pairs, scale.view_pairs) == (len(random), 200)
    for similarity in np.linspace(-0.9, 1.0, 39):
        assert scale.above_random(similarity) == pytest.approx(100 * (random < similarity).mean(), abs=0.5)
        assert scale.above_views(similarity) == pytest.approx(100 * (views < similarity).mean(), abs=1.0)
    top = float(np.quantile(random, 0.9998))
    assert scale.above_random(top) == pytest.approx(99.98, abs=0.005)
    for percent in (1, 50, 99, 99.95):
        assert scale.view_quantile(percent) == pytest.approx(float(np.quantile(views, percent / 100)), abs=0.01)


def test_equal_pairs_are_not_below_each_other() -> None:
    equal = np.repeat(unit(1, 0), 30, axis=0)
    scale = measure_scale(equal, equal, equal)
    value = float(scale.random[0])
    assert scale.above_random(value) == 0 and scale.above_views(value) == 0
    assert scale.above_random(value + 0.01) == 100 and scale.above_random(value - 0.01) == 0


def test_without_pairs_nothing_counts_as_similar() -> None:
    scale = measure_scale(unit(1, 0), unit(0, 0), unit(0, 0))
    assert scale.above_random(1.0) == 0 and scale.above_views(1.0) == 0 and scale.view_quantile(50) > 1


def test_percentages_of_few_pairs_are_limited_by_their_number() -> None:
    sample = unit(5, 3)  # ten pairs
    similarity = sample @ sample.T
    scale = measure_scale(sample, sample, sample)
    highest = float(similarity[np.triu_indices(5, 1)].max())
    assert scale.above_random(highest) == pytest.approx(90) and scale.above_random(highest - 5e-7) == pytest.approx(90)
    assert scale.above_random(highest - 1e-3) <= 90 and scale.above_random(highest + 1e-3) == 100
