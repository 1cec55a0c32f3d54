"""Batches: the order is a function of (seed, epoch), every image comes once, all batches are full."""

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.errors import InputError
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.core.world import World
from simclr_cli.images import loader as module
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.loader import PREFETCHED_PARTS, RESIDENT_SHARE, BatchLoader, free_gpu_memory
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import prefetch

CPU = torch.device("cpu")
PATIENCE = 30  # seconds, of a test that is about to fail


def pixels_of(rows: NDArray[np.int64], side: int = 4) -> NDArray[np.uint8]:
    """Return the pixels (n, 3, side, side) of images (n,), all different among the first 65,536."""
    channels = np.stack([rows % 256, rows // 256 % 256, 7 * rows % 256], axis=1)
    return np.broadcast_to(channels[:, :, None, None], (len(rows), 3, side, side)).astype(np.uint8)


def decoded(count: int, side: int = 4) -> DecodedImages:
    """Image i as drawn by `pixels_of`, of the true size (i + 1, 2 i + 1), the last one first in two files."""
    images = tuple(ImageFile(f"{i:05}.png", "PNG", i + 1, 2 * i + 1, 9, 1) for i in range(count))
    sizes = np.array([(image.height, image.width) for image in images], dtype=np.int64)
    backwards = np.arange(count)[::-1]
    pixels = pixels_of(backwards, side)
    maps = (pixels[: count // 3].copy(), pixels[count // 3 :].copy())
    for file in maps:
        file.flags.writeable = False
    return DecodedImages(Census(Path("/p"), images, (), 0), side, sizes, backwards.copy(), maps, 2)


class Watched(DecodedImages):
    """Decoded images that call `before` before every reading."""

    before: Callable[[], None]

    def read(self, images: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.before()
        return super().read(images)


def watched(given: DecodedImages, before: Callable[[], None]) -> Watched:
    result = Watched(**vars(given))
    object.__setattr__(result, "before", before)
    return result


def batches_of(given: DecodedImages, size: int = 8, seed: int = 3) -> BatchLoader:
    return BatchLoader(given, size, seed, CPU)


def made_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the CPU has a GPU's memory."""
    monkeypatch.setattr(module, "free_gpu_memory", lambda _: 2**40)


@dataclass(frozen=True)
class Whole:
    """A batch with the pixels of all its micro-batches."""

    step: int
    rows: NDArray[np.int64]
    pixels: Tensor
    sizes: Tensor


def run(batches: BatchLoader, start: int, stop: int, most: int | None = None) -> Generator[Whole, None, None]:
    """Load batches with all their pixels, and assert that the second pass has the same."""
    with contextlib.closing(batches.load(start, stop, most)) as coming:
        for batch in coming:
            parts = [next(batch.pixels) for _ in batch.micro_batches]
            assert [len(pixels) for pixels in parts] == [part.stop - part.start for part in batch.micro_batches]
            assert all(torch.equal(pixels, next(batch.pixels)) for pixels in parts[:-1])
            yield Whole(batch.step, batch.rows, torch.cat(parts), batch.sizes)


def same(one: Whole, other: Whole) -> bool:
    return (
        one.step == other.step
        and one.rows.tolist() == other.rows.tolist()
        and torch.equal(one.pixels, other.pixels)
        and torch.equal(one.sizes, other.sizes)
    )


def all_same(some: list[Whole], others: list[Whole]) -> bool:
    return len(some) == len(others) and all(same(one, other) for one, other in zip(some, others, strict=True))


def never() -> None:
    raise AssertionError("read again")


# Order


def test_order_is_a_permutation_of_all_images() -> None:
    batches = batches_of(decoded(50))
    for epoch in range(3):
        assert sorted(batches.epoch_order(epoch).tolist()) == list(range(50))


@pytest.mark.parametrize("seed", [0, 3, 2**40])
def test_order_is_the_permutation_of_its_seed_and_epoch(seed: int) -> None:
    batches = batches_of(decoded(50), seed=seed)
    for epoch in (0, 1, 7, 1):
        assert (batches.epoch_order(epoch) == create_numpy_generator(seed, Purpose.ORDER, epoch).permutation(50)).all()


def test_order_follows_from_seed_and_epoch_only() -> None:
    first, second = batches_of(decoded(50)), batches_of(decoded(50), 20)
    list(run(first, 0, 6))  # what ran before does not matter, nor the size of batches
    np.random.default_rng().random(5)
    orders = [tuple(first.epoch_order(epoch)) for epoch in range(4)]
    assert orders == [tuple(second.epoch_order(epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert tuple(batches_of(decoded(50), seed=4).epoch_order(0)) not in orders


# Steps


def test_each_image_comes_once_an_epoch() -> None:
    batches = batches_of(decoded(48))
    assert batches.steps_per_epoch == 6
    for epoch in range(3):
        rows = np.concatenate([batch.rows for batch in run(batches, 6 * epoch, 6 * epoch + 6)])
        assert sorted(rows.tolist()) == list(range(48))
        assert (rows == create_numpy_generator(3, Purpose.ORDER, epoch).permutation(48)).all()


def test_steps_are_counted_through_all_epochs() -> None:
    batches = batches_of(decoded(50))
    whole = list(run(batches, 0, 18))
    assert [batch.step for batch in whole] == list(range(18))
    for epoch in range(3):
        rows = np.concatenate([batch.rows for batch in whole[6 * epoch : 6 * epoch + 6]])
        assert (rows == create_numpy_generator(3, Purpose.ORDER, epoch).permutation(50)[:48]).all()


def test_batch_holds_the_pixels_and_sizes_of_its_rows() -> None:
    for step, batch in enumerate(run(batches_of(decoded(20), 5), 0, 8)):
        assert batch.step == step
        assert (batch.rows.dtype, batch.pixels.dtype, batch.sizes.dtype) == (np.int64, torch.uint8, torch.int64)
        assert batch.pixels.shape == (5, 3, 4, 4)
        assert (batch.pixels.numpy() == pixels_of(batch.rows)).all()
        assert (batch.sizes.numpy() == np.stack([batch.rows + 1, 2 * batch.rows + 1], axis=1)).all()


@pytest.mark.parametrize("start", range(13))
def test_run_begun_anywhere_gives_the_batches_that_remain(start: int) -> None:
    batches = batches_of(decoded(50))
    whole, rest = list(run(batches, 0, 12)), list(run(batches_of(decoded(50)), start, 12))
    assert len(rest) == 12 - start
    assert all_same(whole[start:], rest)


@pytest.mark.parametrize("stop", range(5))
def test_run_ends_before_its_stop(stop: int) -> None:
    batches = batches_of(decoded(50))
    assert all_same(list(run(batches, 0, stop)), list(run(batches, 0, 12))[:stop])
    assert list(run(batches, stop, stop)) == []


@pytest.mark.parametrize(("count", "size", "steps"), [(50, 8, 6), (8, 8, 1), (7, 8, 0), (15, 2, 7)])
def test_there_is_no_partial_batch(count: int, size: int, steps: int) -> None:
    batches = batches_of(decoded(count), size)
    assert batches.steps_per_epoch == steps
    assert [len(batch.rows) for batch in run(batches, 0, 2 * steps)] == [size] * 2 * steps


def test_what_one_epoch_leaves_over_comes_in_another() -> None:
    left_over = [set(range(9)) - set(batch.rows.tolist()) for batch in run(batches_of(decoded(9)), 0, 12)]
    assert len(set().union(*left_over)) > 3


@pytest.mark.parametrize("resident", [False, True])
def test_change_to_a_batch_affects_no_other(monkeypatch: pytest.MonkeyPatch, resident: bool) -> None:
    if resident:
        made_resident(monkeypatch)
    given = decoded(20)
    batches = batches_of(given, 5)
    expected = list(run(batches, 0, 4))
    spoiled = []
    for batch in run(batches, 0, 4):
        spoiled.append(same(batch, expected[batch.step]))
        batch.pixels.zero_()
        batch.sizes.zero_()
    assert spoiled == [True] * 4
    assert all_same(list(run(batches, 0, 4)), expected)
    assert (given.read(np.arange(20)) == pixels_of(np.arange(20))).all()


# Prefetching


def test_next_batches_are_made_while_one_is_at_work_and_no_more_than_that() -> None:
    made, used, most = 0, 0, 0
    enough = threading.Condition()

    def count() -> None:
        nonlocal made, most
        with enough:
            made += 1
            most = max(most, made - used)
            enough.notify_all()

    with contextlib.closing(run(batches_of(watched(decoded(50), count)), 0, 12)) as coming:
        for batch in coming:
            with enough:
                used += 1
                wanted = min(batch.step + 1 + PREFETCHED_PARTS, 12)
                assert enough.wait_for(lambda wanted=wanted: made >= wanted, PATIENCE), "not prefetched"  # type: ignore[misc]
    assert (made, used) == (12, 12)
    assert PREFETCHED_PARTS >= 1 and most <= PREFETCHED_PARTS + 1


def test_nothing_is_read_before_the_first_batch_is_asked_for() -> None:
    batches = batches_of(watched(decoded(50), never))
    threads = set(threading.enumerate())
    run(batches, 0, 12).close()
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize("taken", [1, 2, 5, 12])
def test_closing_early_leaves_no_thread_and_reads_no_more(taken: int) -> None:
    made = 0

    def count() -> None:
        nonlocal made
        made += 1

    threads = set(threading.enumerate())
    batches = batches_of(watched(decoded(50), count))
    coming = run(batches, 0, 12)
    some = [next(coming) for _ in range(taken)]
    assert len(set(threading.enumerate()) - threads) == 1
    coming.close()
    assert set(threading.enumerate()) == threads
    assert taken <= made <= min(taken + PREFETCHED_PARTS, 12)
    assert all_same(some + list(run(batches, taken, 12)), list(run(batches, 0, 12)))  # nothing is used up


def test_run_to_the_end_leaves_no_thread() -> None:
    threads = set(threading.enumerate())
    list(run(batches_of(decoded(50)), 0, 12))
    assert set(threading.enumerate()) == threads


def test_error_of_whoever_uses_the_batches_leaves_no_thread() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        with contextlib.closing(run(batches_of(decoded(50)), 0, 12)) as coming:
            for batch in coming:
                _ = 1 // (batch.step - 2)
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_error_in_reading_comes_up_at_its_step_and_leaves_no_thread(failing: int) -> None:
    made = 0

    def fail() -> None:
        nonlocal made
        made += 1
        if made == failing:
            raise InputError("0.png can no longer be decoded.", "Bring it back.")

    threads = set(threading.enumerate())
    steps = []
    with pytest.raises(InputError, match=r"0\.png"):
        for batch in run(batches_of(watched(decoded(50), fail)), 0, 12):
            steps.append(batch.step)  # noqa: PERF401
    assert steps == list(range(failing - 1))
    assert set(threading.enumerate()) == threads


# Images that are decoded at each reading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i:02}.png")
    return tmp_path / "images"


def opened(folder: Path, rows: int) -> DecodedImages:
    """Open the cache with room for so many images."""
    return decode_images(take_census(folder), 8, workers=2, progress=lambda *_: None, budget=rows * 3 * 12 * 12)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 11])
def test_batches_are_the_same_whether_images_are_stored_or_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int, resident: bool
) -> None:
    nothing = opened(folder, 0)
    assert nothing.stored_count == 0
    streamed = list(run(batches_of(nothing, 3), 0, 6))  # two epochs
    some = opened(folder, rows)
    assert some.stored_count == rows
    if resident:
        made_resident(monkeypatch)
    assert all_same(list(run(batches_of(some, 3), 0, 6)), streamed)


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_image_that_can_no_longer_be_decoded_is_an_input_error_that_names_it(folder: Path, harm: str) -> None:
    batches = batches_of(opened(folder, 3), 3)
    lost = folder / "07.png"  # not among the first three, which are stored
    if harm == "gone":
        lost.unlink()
    else:
        lost.write_bytes(lost.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"07\.png can no longer be used") as caught:
        list(run(batches, 0, 12))
    assert caught.value.exit_code == 3


def test_image_that_can_no_longer_be_decoded_leaves_no_thread(folder: Path) -> None:
    batches = batches_of(opened(folder, 0), 3)
    (folder / "07.png").unlink()
    threads = set(threading.enumerate())
    with pytest.raises(InputError) as caught:
        list(run(batches, 0, 12))
    assert set(threading.enumerate()) == threads, caught.value


def test_image_that_is_stored_may_go(folder: Path) -> None:
    batches = batches_of(opened(folder, 11), 3)
    expected = list(run(batches, 0, 6))
    for path in folder.iterdir():
        path.unlink()
    assert all_same(list(run(batches, 0, 6)), expected)


# Resident on the device


@pytest.mark.parametrize(("count", "side"), [(50, 4), (1024, 2), (2500, 1)])
def test_resident_images_give_the_same_batches_and_are_read_once(
    monkeypatch: pytest.MonkeyPatch, count: int, side: int
) -> None:
    streamed = batches_of(decoded(count, side))
    assert streamed.resident_pixels is None
    steps = min(2 * streamed.steps_per_epoch, 30)
    expected = list(run(streamed, 0, steps))
    made_resident(monkeypatch)
    given = watched(decoded(count, side), lambda: None)
    resident = batches_of(given)
    assert resident.resident_pixels is not None
    assert (resident.resident_pixels.numpy() == pixels_of(np.arange(count), side)).all()
    object.__setattr__(given, "before", never)
    assert all_same(list(run(resident, 0, steps)), expected)
    assert all_same(list(run(resident, 5, steps)), expected[5:])


def test_images_are_resident_only_within_their_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    given = decoded(50)
    for free, fits in ((given.bytes / RESIDENT_SHARE + 8, True), (given.bytes / RESIDENT_SHARE - 8, False), (0, False)):
        monkeypatch.setattr(module, "free_gpu_memory", lambda _, free=free: int(free))
        assert (batches_of(given).resident_pixels is not None) == fits


def test_cpu_has_no_memory_of_its_own() -> None:
    assert free_gpu_memory(CPU) == 0


# In micro-batches, and shared out among processes


def parts_of(batch: int, most: int | None, count: int) -> list[tuple[slice, ...]]:
    given = decoded(40)
    groups = [ProcessGroup(World(rank, count)) for rank in range(count)]
    return [BatchLoader(given, batch, 3, CPU, group).micro_batches(most) for group in groups]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("batch", [7, 8, 9, 24, 31])
def test_micro_batches_cover_the_batch_in_order_evenly_and_equally_many_per_process(
    batch: int, most: int | None, count: int
) -> None:
    everyone = parts_of(batch, most, count)
    assert [i for parts in everyone for part in parts for i in range(batch)[part]] == list(range(batch))
    assert len({len(parts) for parts in everyone}) == 1
    sizes = [part.stop - part.start for parts in everyone for part in parts]
    assert min(sizes) >= 1 and max(max(p.stop - p.start for p in ps) - min(p.stop - p.start for p in ps)
                                   for ps in everyone) <= 1  # fmt: skip
    # More than asked for only where one process has an image more than another, which has none to give.
    assert most is None or max(sizes) <= max(most, -(-batch // count) - batch // count + 1)
    assert most is not None or len(everyone[0]) == 1


@pytest.mark.parametrize("most", [1, 3, 4, 7])
def test_micro_batches_hold_the_same_images_as_the_batch(most: int) -> None:
    batches = batches_of(decoded(50))
    assert all_same(list(run(batches, 2, 9, most)), list(run(batches, 2, 9)))


def test_processes_share_out_the_batches_of_one() -> None:
    given = decoded(50)
    alone = list(run(batches_of(given), 0, 8))
    everyone = [list(run(BatchLoader(given, 8, 3, CPU, ProcessGroup(World(rank, 3))), 0, 8, 2)) for rank in range(3)]
    for step, whole in enumerate(alone):
        assert torch.equal(torch.cat([mine[step].pixels for mine in everyone]), whole.pixels)
        assert all((mine[step].rows == whole.rows).all() for mine in everyone)


@pytest.mark.parametrize("rows", [0, 4, 11])
def test_images_without_room_are_decoded_once_a_step_in_micro_batches_too(
    folder: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = opened(folder, rows)
    expected = list(run(batches_of(given, 6), 0, 3))
    read = []
    given = watched(given, lambda: read.append(1))
    assert all_same(list(run(batches_of(given, 6), 0, 3, 2)), expected)
    assert len(read) == (3 * 3 if rows < 11 else 3 * (3 + 2))  # stored ones are read again, which costs nothing


def test_prefetch_yields_results_in_order_and_raises_errors() -> None:
    assert list(prefetch(lambda x: 1 / x, [1, 2, 4], 2)) == [1, 0.5, 0.25]
    assert list(prefetch(str, [], 2)) == []
    coming = prefetch(lambda x: 1 / x, [1, 0], 2)
    assert next(coming) == 1
    with pytest.raises(ZeroDivisionError):
        next(coming)
