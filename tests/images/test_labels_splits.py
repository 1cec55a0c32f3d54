"""Splits of labeled images: held-out images, folds, and the labels used."""

from collections import Counter

import numpy as np
import pytest

from simclr_cli.images.labels import assign_folds, draw_labels, split_stratified


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_split_holds_out_the_share_of_every_class_and_never_all_of_one(share: float) -> None:
    labels = np.repeat(np.arange(5), [2, 3, 10, 40, 100])
    held_out = split_stratified(labels, share, seed=1)
    for number, size in Counter(labels.tolist()).items():
        count = int(held_out[labels == number].sum())
        assert 1 <= count <= size - 1
        assert abs(count - share * size) <= 1


def test_split_follows_from_the_seed() -> None:
    labels = np.repeat(np.arange(4), 25)
    np.testing.assert_array_equal(split_stratified(labels, 0.2, 7), split_stratified(labels, 0.2, 7))
    assert (split_stratified(labels, 0.2, 7) != split_stratified(labels, 0.2, 8)).any()


def test_split_of_a_class_of_one_keeps_it_for_training() -> None:
    assert split_stratified(np.array([0, 1, 1]), 0.5, 0).tolist()[0] is False


def test_folds_have_their_part_of_every_class() -> None:
    labels = np.repeat(np.arange(4), [3, 10, 25, 52])
    folds = assign_folds(labels, 5, seed=0)
    for number in range(4):
        counts = np.bincount(folds[labels == number], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 1
    np.testing.assert_array_equal(folds, assign_folds(labels, 5, seed=0))


@pytest.mark.parametrize(("wanted", "expected"), [(0.1, [1, 1, 2, 5]), (1.0, [3, 10, 20, 52]), (5, [3, 5, 5, 5])])
def test_labels_are_drawn_of_every_class(wanted: float | int, expected: list[int]) -> None:
    labels = np.repeat(np.arange(4), [3, 10, 20, 52])
    used = draw_labels(labels, wanted, seed=0, draw=0)
    assert np.bincount(labels[used]).tolist() == expected
    other = draw_labels(labels, wanted, seed=0, draw=1)
    assert (used != other).any() or used.all()


LABELS = np.repeat(np.arange(5), [1, 3, 10, 40, 200])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_every_class_gives_its_share_of_labels_and_at_least_one(share: float) -> None:
    used = draw_labels(LABELS, share, seed=1, draw=0)
    for number, size in Counter(LABELS.tolist()).items():
        count = int(used[np.equal(LABELS, number)].sum())
        assert count >= 1 and abs(count - share * size) <= max(0.5, 1 - share * size)
    assert share < 1 or used.all()


def test_labels_drawn_follow_from_the_seed_and_lie_within_a_larger_share() -> None:
    small, large, other = draw_labels(LABELS, 0.1, 7, 0), draw_labels(LABELS, 0.4, 7, 0), draw_labels(LABELS, 0.1, 8, 0)
    np.testing.assert_array_equal(small, draw_labels(LABELS, 0.1, 7, 0))
    assert (small != other).any() and not (small & ~large).any()


def test_draw_has_a_stream_of_its_own() -> None:
    """Or else the labels used would be those that the split has held out first."""
    even = np.repeat(np.arange(4), 100)
    overlap = (draw_labels(even, 0.2, 3, 0) & split_stratified(even, 0.2, 3)).sum()
    assert 4 <= overlap <= 30  # 16 by chance
