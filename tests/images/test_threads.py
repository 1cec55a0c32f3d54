"""Many files by several threads: results in order, unusable among them, few in flight."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from simclr_cli.images.decode import UnusableImage
from simclr_cli.images.threads import count_workers, each, in_parts


def test_workers_are_shared_but_for_none_at_all() -> None:
    cores = count_workers(None)
    assert cores >= 1 and count_workers(None, beside=2 * cores) == 1
    assert [count_workers(6, beside) for beside in (1, 2, 4, 9)] == [6, 3, 1, 1]
    assert count_workers(0) == count_workers(0, beside=3) == 0


def test_without_workers_there_is_a_thread_a_core() -> None:
    names = list(each(lambda _: threading.current_thread().name, range(200), workers=0))
    assert 1 <= len(set(names)) <= count_workers() and threading.current_thread().name not in names


@pytest.mark.parametrize(
    ("sizes", "most", "parts"),
    [
        ([1] * 7, 3, [[1, 1, 1], [1, 1, 1], [1]]),
        ([4, 4, 4, 11, 1, 30, 2], 9, [[4, 4], [4], [11], [1], [30], [2]]),
        ([4, 6, 5], 9, [[4, 6], [5]]),
        ([1, 2], 0, [[1], [2]]),
        ([], 3, []),
    ],
)
def test_parts_are_neither_too_many_nor_too_large(sizes: list[int], most: int, parts: list[list[int]]) -> None:
    assert list(in_parts(sizes, lambda size: size, most, 10)) == parts


def test_each_keeps_the_order_whatever_ends_first() -> None:
    def slowest_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    assert list(each(slowest_first, range(60), workers=4)) == [number * number for number in range(60)]


def test_each_hands_on_refusals_and_goes_on() -> None:
    def odd_only(number: int) -> int:
        if number % 2 == 0:
            raise UnusableImage(f"{number} is even")
        return number

    found = list(each(odd_only, range(6), workers=2))
    assert [str(result) for result in found] == ["0 is even", "1", "2 is even", "3", "4 is even", "5"]
    assert [isinstance(result, UnusableImage) for result in found] == [True, False] * 3


def test_each_raises_any_other_error() -> None:
    with pytest.raises(ZeroDivisionError):
        list(each(lambda number: 1 // number, [2, 1, 0, 3], workers=2))


def test_each_of_nothing_is_nothing() -> None:
    assert list(each(lambda number: number, [], workers=2)) == []


def test_each_takes_few_items_ahead_of_what_is_used() -> None:
    taken = 0

    def many() -> Iterator[int]:
        nonlocal taken
        while taken < 5_000:  # an end all the same, lest a failure never ends
            taken += 1
            yield taken

    results = each(lambda number: number, many(), workers=2)
    for used in range(1, 50):
        assert next(results) == used
        assert taken <= used + 8 * 2
    results.close()  # type: ignore[attr-defined]


def test_each_stops_when_it_is_closed() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def wait(number: int) -> int:
        calls.append(number)
        if number:
            gate.wait(10)
        return number

    results = each(wait, itertools.count(), workers=2)
    assert next(results) == 0
    threading.Timer(0.05, gate.set).start()
    results.close()  # type: ignore[attr-defined]
    assert len(calls) <= 1 + 2 * 2  # those under way end, those waiting never begin
    assert sum(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()) == 0
