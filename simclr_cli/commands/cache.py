"""What is kept of folders of images to be quicker the next time: show it, or clear it."""

from __future__ import annotations

from pathlib import Path

from simclr_cli.api import CacheResult, CacheSettings
from simclr_cli.core.events import Report, silent
from simclr_cli.images.cache_location import cache_of, cache_root, clear, list_caches


def cache(settings: CacheSettings, *, report: Report = silent) -> CacheResult:
    """Show what is kept, of one folder or of all; or delete it.

    Raises:
        MachineError: it cannot be deleted.
    """
    wanted = None if settings.images is None else str(cache_of(settings.images))
    kept = tuple(cache for cache in list_caches() if wanted in (None, cache.path))
    if settings.clear:
        for cache in kept:
            clear(Path(cache.path))
    return CacheResult(str(cache_root()), settings.clear, sum(cache.bytes for cache in kept), kept)
