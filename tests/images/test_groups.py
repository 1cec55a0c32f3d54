"""Groups of pictures: by a pattern in their names, by equal content, by nearly equal hashes (against all pairs)."""

import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simclr_cli.images.cache import DecodedPictures, decode_once
from simclr_cli.images.folder import take_census
from simclr_cli.images.groups import NEAR_BITS, Groups, by_name, group, hashes, join_pairs, near


def opened(folder: Path) -> DecodedPictures:
    return decode_once(take_census(folder), 32, workers=2, progress=lambda *_: None)


def sets_of(ids: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(ids == one).tolist()) for one in np.unique(ids)}


def scene(seed: int, side: int = 96) -> Image.Image:
    """A picture with large shapes, unlike those of other seeds."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = rng.integers(0, side, 4).tolist()
        draw.rectangle((x, y, x + w // 2, y + h // 2), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """0: a scene, 1: its copy, 2: it as a smaller JPEG, 3 and 4: other scenes, 5: a copy of 4 in a subfolder."""
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
    ("pattern", "copies", "expected"),
    [
        ("", "exact", {(0, 1), (2,), (3,), (4, 5)}),
        ("", "near", {(0, 1, 2), (3,), (4, 5)}),
        ("^[ab]", "keep", {(0, 1), (2, 3, 4), (5,)}),
        (r"_(\w)\.", "keep", {(0, 2, 5), (1, 3), (4,)}),
        (r"_(\w)\.", "exact", {(0, 1, 2, 3, 4, 5)}),  # by the copies both sets of names are one, and the rest with them
        ("nowhere", "keep", {(0,), (1,), (2,), (3,), (4,), (5,)}),
    ],
)
def test_groups_are_what_belongs_together(folder: Path, pattern: str, copies: Any, expected: set[tuple[int]]) -> None:
    ids = group(opened(folder), pattern, copies)
    assert ids is not None and ids.dtype == np.int64
    assert sets_of(ids) == {frozenset(some) for some in expected}


def test_without_a_wish_there_are_no_groups(folder: Path) -> None:
    assert group(opened(folder), "", "keep") is None


def test_a_file_that_went_after_decoding_is_no_copy(folder: Path) -> None:
    pictures = opened(folder)
    (folder / "a2_y.png").unlink()
    ids = group(pictures, "", "exact")
    assert ids is not None and sets_of(ids) == {frozenset(some) for some in ((0,), (1,), (2,), (3,), (4, 5))}


def test_names_are_searched_in_the_whole_relative_path(folder: Path) -> None:
    assert list(by_name(take_census(folder), "^z/")) == [(5, "z/")]
    assert dict(by_name(take_census(folder), "(q)?b"))[2] == ""  # a group that took no part


def test_hashes_are_those_of_the_library(folder: Path) -> None:
    from imagehash import phash

    pictures, told = opened(folder), []
    found = hashes(pictures, lambda *counts: told.append(counts))
    assert told == [(i, 6) for i in range(1, 7)]
    for i in range(6):
        pixels = pictures.read(np.array([i]))[0].transpose(1, 2, 0)
        assert f"{found[i]:016x}" == str(phash(Image.fromarray(pixels)))


@pytest.mark.parametrize("bits", [0, 1, NEAR_BITS, 9])
@pytest.mark.parametrize("seed", range(4))
def test_near_hashes_are_joined_as_by_all_pairs(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**63, 40, dtype=np.uint64)
    for _ in range(60):  # relatives of those, a few bits away
        flips = rng.choice(64, rng.integers(0, 12), replace=False)
        found = np.append(found, found[rng.integers(len(found))] ^ np.uint64(sum(1 << int(bit) for bit in flips)))
    ours, theirs = Groups(len(found)), Groups(len(found))
    for i, j in near(found, bits):
        assert int(found[i] ^ found[j]).bit_count() <= bits
        ours.join(i, j)
    for i, j in combinations(range(len(found)), 2):
        if int(found[i] ^ found[j]).bit_count() <= bits:
            theirs.join(i, j)
    assert (ours.ids() == theirs.ids()).all()
    assert len(np.unique(ours.ids())) < len(found) or bits == 0


@pytest.mark.parametrize("pairs", [0, 1, 30, 60, 400])
def test_many_pairs_are_joined_as_one_by_one(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    ids, expected = np.arange(100), Groups(100)
    for _ in range(3):
        i, j = rng.integers(0, 100, (2, pairs))
        join_pairs(ids, i, j)
        for a, b in zip(i.tolist(), j.tolist(), strict=True):
            expected.join(a, b)
        assert (ids == expected.ids()).all()


def test_many_equal_hashes_take_no_time(benchmark_seconds: Callable[[Callable[[], Any]], float]) -> None:
    """A folder of blank pages: a hundred thousand, not ten thousand million comparisons."""
    assert benchmark_seconds(lambda: list(near(np.zeros(100_000, np.uint64)))) < 5


@pytest.fixture
def benchmark_seconds() -> Callable[[Callable[[], Any]], float]:
    import time

    def seconds(function: Callable[[], Any]) -> float:
        began = time.process_time()
        function()
        return time.process_time() - began

    return seconds
