"""Decoding in processes of their own against threads of one: the cache built, and a first census taken.

    python benchmarks/decoders.py PHOTOS [--rounds 7]

PHOTOS is a folder of small photos (about 400 px); the larger ones are made of them as in decoding.py. In turn, round
by round. Prints one JSON object: images/s of both, the ratios, and what starting a decoder takes. A process's
start is not in the figures: it is once for a command.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from decoding import KINDS, make
from machine import describe_machine, spread

from simclr_cli.images import decode_pool as decoders
from simclr_cli.images.cache import decode_once
from simclr_cli.images.decode import read_header
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers


def seconds(work: Callable[[], object]) -> float:
    """That it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure every kind and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    photos, cores = sorted(given.photos.rglob("*.jpg"))[:3000], count_workers()
    starts = []
    for _ in range(given.rounds):
        decoders._end_all()
        starts.append(seconds(lambda: apart(read_header, 1)(photos[0])))
    figures: dict[str, object] = {"seconds_to_start": spread(starts)}
    with tempfile.TemporaryDirectory() as place:
        os.environ["SIMCLR_CACHE"] = f"{place}/cache"

        def compare(folder: Path, work: Callable[[int], object]) -> dict[str, object]:
            """Threads of this process, and as many others."""
            count = len(list(folder.iterdir()))
            rates: dict[str, list[float]] = {"threads": [], "processes": []}
            work(cores)  # started, and all files read from the disk once
            for _ in range(given.rounds):
                for arm, workers in (("threads", 0), ("processes", cores)):
                    shutil.rmtree(f"{place}/cache", ignore_errors=True)
                    rates[arm].append(count / seconds(lambda workers=workers: work(workers)))  # type: ignore[misc]
            ratios = [ours / theirs for ours, theirs in zip(rates["processes"], rates["threads"], strict=True)]
            return {**{arm: spread(found, 1) for arm, found in rates.items()}, "processes_over_threads": spread(ratios)}

        for kind, (size, count) in {**KINDS, "400 px": (None, 600)}.items():
            folder = Path(place) / kind.replace(" ", "")
            make(photos, size, count, folder)
            census = take_census(folder)
            figures[kind] = compare(
                folder,
                lambda workers, census=census: decode_once(census, 64, workers=workers, progress=lambda *_: None),
            )
        folder = Path(place) / "census"
        make(photos, None, len(photos), folder)
        figures["census"] = compare(folder, lambda workers: take_census(folder, workers=workers))
    print(json.dumps({**figures, "workers": cores, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
