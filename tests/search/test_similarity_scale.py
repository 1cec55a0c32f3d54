"""Where a similarity falls, against counting."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_cli.search.similarity_scale import LEVELS, calibrate


def unit(rows: int, seed: int) -> np.ndarray:
    h = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def test_levels_rise_from_0_to_100_and_are_fine_at_the_top() -> None:
    assert LEVELS[0] == 0 and LEVELS[-1] == 100 and (np.diff(LEVELS) > 0).all()
    assert np.diff(LEVELS).max() <= 1 + 1e-9 and (LEVELS > 99.9).sum() > 200


def test_shares_are_those_of_counting() -> None:
    sample, first = unit(400, 0), unit(200, 1)
    second = first + 0.3 * unit(200, 2)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    found = calibrate(sample, first, second)
    random = (sample @ sample.T)[np.triu_indices(400, 1)]
    views = (first * second).sum(axis=1)
    assert (found.random_pairs, found.view_pairs) == (len(random), 200)
    for similarity in np.linspace(-0.9, 1.0, 39):
        assert found.above_random(similarity) == pytest.approx(100 * (random < similarity).mean(), abs=0.5)
        assert found.above_views(similarity) == pytest.approx(100 * (views < similarity).mean(), abs=1.0)
    top = float(np.quantile(random, 0.9998))
    assert found.above_random(top) == pytest.approx(99.98, abs=0.005)
    for percent in (1, 50, 99, 99.95):
        assert found.views_at(percent) == pytest.approx(float(np.quantile(views, percent / 100)), abs=0.01)


def test_where_all_are_equal_nothing_is_closer_than_anything() -> None:
    one = np.repeat(unit(1, 0), 30, axis=0)
    found = calibrate(one, one, one)
    value = float(found.random[0])
    assert found.above_random(value) == 0 and found.above_views(value) == 0
    assert found.above_random(value + 0.01) == 100 and found.above_random(value - 0.01) == 0


def test_of_no_pairs_nothing_is_called_close() -> None:
    found = calibrate(unit(1, 0), unit(0, 0), unit(0, 0))
    assert found.above_random(1.0) == 0 and found.above_views(1.0) == 0 and found.views_at(50) > 1


def test_few_pairs_say_no_more_than_they_can() -> None:
    sample = unit(5, 3)  # ten pairs
    similarity = sample @ sample.T
    found = calibrate(sample, sample, sample)
    closest = float(similarity[np.triu_indices(5, 1)].max())
    assert found.above_random(closest) == pytest.approx(90) and found.above_random(closest - 5e-7) == pytest.approx(90)
    assert found.above_random(closest - 1e-3) <= 90 and found.above_random(closest + 1e-3) == 100
