"""Which picture goes into which step: a function of (seed, epoch), every picture once, full batches only."""

from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_cli.images.batches import Batch, Batches
from simclr_cli.images.cache import DecodedPictures
from simclr_cli.images.folder import Census, Picture


def decoded(count: int) -> DecodedPictures:
    """Picture i has the value i in all its pixels, and the true size (i + 1, 2 i + 1)."""
    pictures = tuple(Picture(f"{i:03}.png", "PNG", i + 1, 2 * i + 1, 9, 1) for i in range(count))
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 4, 4)).copy()
    sizes = np.array([(picture.height, picture.width) for picture in pictures], dtype=np.int64)
    return DecodedPictures(Census(Path("/p"), pictures, (), 0), pixels, sizes)


def same(one: Batch, other: Batch) -> bool:
    return one.step == other.step and all(
        torch.equal(getattr(one, part), getattr(other, part)) for part in ("rows", "pixels", "sizes")
    )


def test_order_is_a_permutation_of_all_pictures() -> None:
    batches = Batches(decoded(50), 8, seed=3)
    for epoch in range(3):
        assert sorted(batches.order(epoch).tolist()) == list(range(50))


def test_order_follows_from_seed_and_epoch_alone() -> None:
    first, second = Batches(decoded(50), 8, seed=3), Batches(decoded(50), 20, seed=3)
    list(first.epoch(0))  # what ran before does not matter, nor the size of batches
    np.random.default_rng().random(5)
    orders = [tuple(first.order(epoch)) for epoch in range(4)]
    assert orders == [tuple(second.order(epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert tuple(Batches(decoded(50), 8, seed=4).order(0)) not in orders


def test_each_picture_comes_once_an_epoch() -> None:
    batches = Batches(decoded(48), 8, seed=0)
    assert batches.steps_per_epoch == 6
    rows = torch.cat([batch.rows for batch in batches.epoch(5)])
    assert sorted(rows.tolist()) == list(range(48)) and rows.tolist() == batches.order(5).tolist()


def test_batch_holds_the_pixels_and_sizes_of_its_rows() -> None:
    for step, batch in enumerate(Batches(decoded(20), 5, seed=1).epoch(0)):
        assert batch.step == step
        assert (batch.rows.dtype, batch.pixels.dtype) == (torch.int64, torch.uint8)
        assert batch.pixels.shape == (5, 3, 4, 4)
        assert (batch.pixels == batch.rows[:, None, None, None]).all()
        assert torch.equal(batch.sizes, torch.stack([batch.rows + 1, 2 * batch.rows + 1], dim=1))


@pytest.mark.parametrize("start", range(7))
def test_epoch_begun_in_the_middle_gives_the_batches_that_remain(start: int) -> None:
    batches = Batches(decoded(50), 8, seed=7)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start=start))
    assert len(rest) == len(whole) - start == 6 - start
    assert all(same(one, other) for one, other in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize(("count", "size", "steps"), [(50, 8, 6), (8, 8, 1), (7, 8, 0), (15, 2, 7)])
def test_there_is_no_partial_batch(count: int, size: int, steps: int) -> None:
    batches = Batches(decoded(count), size, seed=0)
    assert batches.steps_per_epoch == steps
    assert [len(batch.rows) for batch in batches.epoch(0)] == [size] * steps


def test_what_one_epoch_leaves_over_comes_in_another() -> None:
    batches = Batches(decoded(9), 8, seed=0)
    left_over = [set(range(9)) - set(next(batches.epoch(epoch)).rows.tolist()) for epoch in range(12)]
    assert len(set().union(*left_over)) > 3


def test_memory_map_is_read_and_not_written(tmp_path: Path) -> None:
    given = decoded(10)
    given.pixels.tofile(tmp_path / "pixels.u8")
    mapped = np.memmap(tmp_path / "pixels.u8", np.uint8, "r", shape=given.pixels.shape)
    batch = next(Batches(DecodedPictures(given.census, mapped, given.sizes), 4, seed=0).epoch(0))
    kept = batch.pixels.clone()
    batch.pixels.zero_()
    assert (mapped == given.pixels).all() and (kept == batch.rows[:, None, None, None]).all()
