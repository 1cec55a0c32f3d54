"""Groups of images: by a pattern in their names, by equal content, and joined pair by pair (as by scipy)."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from simclr_cli.images.groups import group_images, join_equal, join_pairs, match_names
from simclr_cli.images.scan import take_census


def sets_of(ids: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(ids == one).tolist()) for one in np.unique(ids)}


def scene(seed: int, side: int = 96) -> Image.Image:
    """Draw an image with large shapes, different for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = rng.integers(0, side, 4).tolist()
        draw.rectangle((x, y, x + w // 2, y + h // 2), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make 0: a scene, 1: its duplicate, 2: a smaller JPEG of it, 3 and 4: other scenes, 5: a duplicate of 4."""
    place = tmp_path / "pics"
    (place / "z").mkdir(parents=True)
    scene(1).save(place / "a1_x.png")
    shutil.copy(place / "a1_x.png", place / "a2_y.png")
    scene(1).resize((80, 80)).save(place / "b1_x.jpg", quality=80)
    scene(2).save(place / "b2_y.png")
    scene(3).save(place / "b3.png")
    shutil.copy(place / "b3.png", place / "z" / "c1_x.png")
    return place


@pytest.mark.parametrize(
    ("pattern", "duplicates", "expected"),
    [
        ("", "exact", {(0, 1), (2,), (3,), (4, 5)}),
        ("^[ab]", "keep", {(0, 1), (2, 3, 4), (5,)}),
        (r"_(\w)\.", "keep", {(0, 2, 5), (1, 3), (4,)}),
        (r"_(\w)\.", "exact", {(0, 1, 2, 3, 4, 5)}),  # duplicates join both sets of names, and the rest with them
        ("nowhere", "keep", {(0,), (1,), (2,), (3,), (4,), (5,)}),
    ],
)
def test_groups_are_what_belongs_together(
    folder: Path, pattern: str, duplicates: Any, expected: set[tuple[int]]
) -> None:
    ids = group_images(take_census(folder), pattern, duplicates, 2)
    assert ids is not None and ids.dtype == np.int64
    assert sets_of(ids) == {frozenset(some) for some in expected}


def test_default_settings_make_no_groups(folder: Path) -> None:
    assert group_images(take_census(folder), "", "keep", 2) is None


def test_file_deleted_after_decoding_is_no_duplicate(folder: Path) -> None:
    census = take_census(folder)
    (folder / "a2_y.png").unlink()
    ids = group_images(census, "", "exact", 2)
    assert ids is not None and sets_of(ids) == {frozenset(some) for some in ((0,), (1,), (2,), (3,), (4, 5))}


def test_names_are_searched_in_the_whole_relative_path(folder: Path) -> None:
    assert list(match_names(take_census(folder), "^z/")) == [(5, "z/")]
    assert dict(match_names(take_census(folder), "(q)?b"))[2] == ""  # a group that took no part


def components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return the least member of each one's component, by scipy."""
    i, j = np.array(list(pairs), np.int64).reshape(-1, 2).T
    labels = connected_components(coo_array((np.ones(len(i)), (i, j)), (count, count)), directed=False)[1].tolist()
    return [labels.index(label) for label in labels]


@pytest.mark.parametrize("pairs", [0, 1, 30, 60, 400])
def test_many_pairs_are_joined_as_by_scipy(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    ids, seen = np.arange(100), []
    for _ in range(3):
        i, j = rng.integers(0, 100, (2, pairs))
        join_pairs(ids, i, j)
        seen += zip(i.tolist(), j.tolist(), strict=True)
        assert ids.tolist() == components(100, seen)


def test_whatever_has_the_same_key_is_joined() -> None:
    ids = np.arange(6)
    join_pairs(ids, np.array([0]), np.array([5]))
    join_equal(ids, [(1, "a"), (3, "b"), (4, "a"), (5, "b")])
    assert ids.tolist() == [0, 1, 2, 0, 1, 0]
    join_equal(ids, [])
    assert ids.tolist() == [0, 1, 2, 0, 1, 0]
