"""Application of one function to many items by several threads, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from simclr_cli.core.hardware import count_cores
from simclr_cli.images.formats import UnusableImage

T = TypeVar("T")
R = TypeVar("R")


def count_workers(workers: int | None = None, process_count: int = 1) -> int:
    """Return the number of threads for each process: `workers`, or one for each core that this process may use.

    Args:
        process_count: processes that share the machine, and so the workers; 0 workers stay 0.
    """
    if workers == 0:
        return 0
    return max(1, (workers or count_cores()) // process_count)


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], workers: int
) -> Generator[R | UnusableImage, None, None]:
    """Yield `function(item)` of each item in order, computed by `workers` threads (0: one for each core).

    An UnusableImage is yielded, not raised. At most eight items per worker are in flight, so memory stays bounded.
    """
    workers = workers or count_workers()
    yield from prefetch(partial(catch_unusable, function), items, 8 * workers, workers)


def prefetch(function: Callable[[T], R], items: Iterable[T], count: int, workers: int = 1) -> Generator[R, None, None]:
    """Yield `function(item)` of each item in order, computed by threads up to `count` items ahead of the consumer."""
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        in_flight = deque(pool.submit(function, item) for item in islice(remaining, count))
        try:
            while in_flight:
                in_flight.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield in_flight.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def chunk_by_size(
    items: Iterable[T], size: Callable[[T], int], max_items: int, max_size: int
) -> Generator[list[T], None, None]:
    """Yield the items in order, in lists of up to `max_items` and `max_size` in total; a larger item is alone."""
    chunk: list[T] = []
    chunk_size = 0
    for item in items:
        if chunk and (len(chunk) >= max_items or chunk_size + size(item) > max_size):
            yield chunk
            chunk, chunk_size = [], 0
        chunk.append(item)
        chunk_size += size(item)
    if chunk:
        yield chunk


def catch_unusable(function: Callable[..., R], *arguments: Any) -> R | UnusableImage:
    """Return the result of a function, or the UnusableImage that it raises."""
    try:
        return function(*arguments)
    except UnusableImage as unusable:
        return unusable
