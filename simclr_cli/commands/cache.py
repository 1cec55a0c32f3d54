"""The cache command: list or delete the caches of folders of images."""

from __future__ import annotations

from pathlib import Path

from simclr_cli.api import CacheResult, CacheSettings
from simclr_cli.core.events import Report, silent
from simclr_cli.images.cache_location import cache_root, clear_cache, list_caches, locate_cache


def cache(settings: CacheSettings, *, report: Report = silent) -> CacheResult:
    """List the cache of a folder, or of all folders; with `clear` delete it.

    Raises:
        MachineError: a cache cannot be deleted.
    """
    selected = None if settings.images is None else str(locate_cache(settings.images))
    caches = tuple(cache for cache in list_caches() if selected in (None, cache.path))
    if settings.clear:
        for cache in caches:
            clear_cache(Path(cache.path))
    return CacheResult(str(cache_root()), settings.clear, sum(cache.bytes for cache in caches), caches)
