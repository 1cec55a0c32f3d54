"""Doing the same to many files by several threads; how many there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from simclr_cli.core.hardware import count_cores
from simclr_cli.images.decode import UnusableImage

T = TypeVar("T")
R = TypeVar("R")


def count_workers(chosen: int | None = None, beside: int = 1) -> int:
    """As set; None: as many as there are cores that this process may use.

    Args:
        beside: how many processes share the machine, and so the workers; 0 workers are not shared.
    """
    if chosen == 0:
        return 0
    return max(1, (chosen or count_cores()) // beside)


def each(function: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R | UnusableImage, None, None]:
    """Apply `function` to items by `workers` threads (0: one a core), results in order.

    A UnusableImage is a result, not an end. A few items a worker are in flight at most, so memory stays bounded.
    """
    workers = workers or count_workers()
    yield from ahead(partial(attempt, function), items, 8 * workers, workers)


def ahead(function: Callable[[T], R], items: Iterable[T], count: int, workers: int = 1) -> Generator[R, None, None]:
    """Apply `function` to items by threads that are up to `count` items ahead of what is used, results in order."""
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        in_flight = deque(pool.submit(function, item) for item in islice(remaining, count))
        try:
            while in_flight:
                in_flight.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield in_flight.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def in_parts(items: Iterable[T], size: Callable[[T], int], most: int, largest: int) -> Generator[list[T], None, None]:
    """Items in order, up to `most` together, and none with others where that would be more than `largest` in size."""
    part: list[T] = []
    whole = 0
    for item in items:
        if part and (len(part) >= most or whole + size(item) > largest):
            yield part
            part, whole = [], 0
        part.append(item)
        whole += size(item)
    if part:
        yield part


def attempt(function: Callable[..., R], *arguments: Any) -> R | UnusableImage:
    """What a function gives, or its unusable."""
    try:
        return function(*arguments)
    except UnusableImage as unusable:
        return unusable
