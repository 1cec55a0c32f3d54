"""Many items by several threads: results in order, unusable images among them, few in flight."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.threads import chunk_by_size, count_workers, map_in_order


def test_workers_are_shared_but_for_none_at_all() -> None:
    cores = count_workers(None)
    assert cores >= 1 and count_workers(None, process_count=2 * cores) == 1
    assert [count_workers(6, process_count) for process_count in (1, 2, 4, 9)] == [6, 3, 1, 1]
    assert count_workers(0) == count_workers(0, process_count=3) == 0


def test_without_workers_there_is_a_thread_a_core() -> None:
    names = list(map_in_order(lambda _: threading.current_thread().name, range(200), workers=0))
    assert 1 <= len(set(names)) <= count_workers() and threading.current_thread().name not in names


@pytest.mark.parametrize(
    ("sizes", "max_items", "chunks"),
    [
        ([1] * 7, 3, [[1, 1, 1], [1, 1, 1], [1]]),
        ([4, 4, 4, 11, 1, 30, 2], 9, [[4, 4], [4], [11], [1], [30], [2]]),
        ([4, 6, 5], 9, [[4, 6], [5]]),
        ([1, 2], 0, [[1], [2]]),
        ([], 3, []),
    ],
)
def test_chunks_are_neither_too_long_nor_too_large(sizes: list[int], max_items: int, chunks: list[list[int]]) -> None:
    assert list(chunk_by_size(sizes, lambda size: size, max_items, 10)) == chunks


def test_map_keeps_the_order_whatever_ends_first() -> None:
    def slowest_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    assert list(map_in_order(slowest_first, range(60), workers=4)) == [number * number for number in range(60)]


def test_map_yields_unusable_images_and_continues() -> None:
    def odd_only(number: int) -> int:
        if number % 2 == 0:
            raise UnusableImage(f"{number} is even")
        return number

    found = list(map_in_order(odd_only, range(6), workers=2))
    assert [str(result) for result in found] == ["0 is even", "1", "2 is even", "3", "4 is even", "5"]
    assert [isinstance(result, UnusableImage) for result in found] == [True, False] * 3


def test_map_raises_any_other_error() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda number: 1 // number, [2, 1, 0, 3], workers=2))


def test_map_of_nothing_is_nothing() -> None:
    assert list(map_in_order(lambda number: number, [], workers=2)) == []


def test_map_takes_few_items_ahead_of_what_is_used() -> None:
    taken = 0

    def many() -> Iterator[int]:
        nonlocal taken
        while taken < 5_000:  # an end all the same, lest a failure never ends
            taken += 1
            yield taken

    results = map_in_order(lambda number: number, many(), workers=2)
    for used in range(1, 50):
        assert next(results) == used
        assert taken <= used + 8 * 2
    results.close()  # type: ignore[attr-defined]


def test_map_stops_when_it_is_closed() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def wait(number: int) -> int:
        calls.append(number)
        if number:
            gate.wait(10)
        return number

    results = map_in_order(wait, itertools.count(), workers=2)
    assert next(results) == 0
    threading.Timer(0.05, gate.set).start()
    results.close()  # type: ignore[attr-defined]
    assert len(calls) <= 1 + 2 * 2  # those under way end, those waiting never begin
    assert sum(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()) == 0
