"""Held-out pictures and the share of labels that is used: by class, by seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from simclr_cli.verbs.splits import stratified, with_labels

LABELS = np.repeat(np.arange(5), [1, 3, 10, 40, 200])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_every_class_gives_its_share_of_labels_and_at_least_one(share: float) -> None:
    used = with_labels(LABELS, share, seed=1)
    for number, size in Counter(LABELS.tolist()).items():
        count = int(used[np.equal(LABELS, number)].sum())
        assert count >= 1 and abs(count - share * size) <= max(0.5, 1 - share * size)
    assert share < 1 or used.all()


def test_labels_drawn_follow_from_the_seed_and_lie_within_a_larger_share() -> None:
    small, large, other = with_labels(LABELS, 0.1, 7), with_labels(LABELS, 0.4, 7), with_labels(LABELS, 0.1, 8)
    np.testing.assert_array_equal(small, with_labels(LABELS, 0.1, 7))
    assert (small != other).any() and not (small & ~large).any()


def test_draw_has_a_stream_of_its_own() -> None:
    """Or else the labels used would be those that the split has held out first."""
    even = np.repeat(np.arange(4), 100)
    overlap = (with_labels(even, 0.2, 3) & stratified(even, 0.2, 3)).sum()
    assert 4 <= overlap <= 30  # 16 by chance
