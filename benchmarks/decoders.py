"""Decoding in worker processes against threads: building the cache, and a first census.

    python benchmarks/decoders.py PHOTOS [--rounds 7]

PHOTOS is a folder of small photos (about 400 px); larger ones are made of them as in decoding.py. Both run in turn,
round by round. Prints one JSON object: images/s of both, the ratios, and the seconds to start a worker. The ratios
exclude the start, since a command starts its workers once.
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

from decoding import KINDS, make_images
from machine import describe_machine, summarize

from simclr_cli.images import decode_pool
from simclr_cli.images.cache import decode_images
from simclr_cli.images.decode import read_header
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers


def measure_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure every kind and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    photos, cores = sorted(args.photos.rglob("*.jpg"))[:3000], count_workers()
    start_seconds = []
    for _ in range(args.rounds):
        decode_pool._end_all()
        start_seconds.append(measure_seconds(lambda: isolate(read_header, 1)(photos[0])))
    figures: dict[str, object] = {"seconds_to_start": summarize(start_seconds)}
    with tempfile.TemporaryDirectory() as temp:
        os.environ["SIMCLR_CACHE"] = f"{temp}/cache"

        def compare(folder: Path, work: Callable[[int], object]) -> dict[str, object]:
            """Compare threads of this process with as many worker processes."""
            count = len(list(folder.iterdir()))
            rates: dict[str, list[float]] = {"threads": [], "processes": []}
            work(cores)  # starts the workers, and reads all files from the disk once
            for _ in range(args.rounds):
                for arm, workers in (("threads", 0), ("processes", cores)):
                    shutil.rmtree(f"{temp}/cache", ignore_errors=True)
                    rates[arm].append(count / measure_seconds(lambda workers=workers: work(workers)))  # type: ignore[misc]
            ratios = [ours / theirs for ours, theirs in zip(rates["processes"], rates["threads"], strict=True)]
            return {
                **{arm: summarize(values, 1) for arm, values in rates.items()},
                "processes_over_threads": summarize(ratios),
            }

        for kind, (size, count) in {**KINDS, "400 px": (None, 600)}.items():
            folder = Path(temp) / kind.replace(" ", "")
            make_images(photos, size, count, folder)
            census = take_census(folder)
            figures[kind] = compare(
                folder,
                lambda workers, census=census: decode_images(census, 64, workers=workers, progress=lambda *_: None),
            )
        folder = Path(temp) / "census"
        make_images(photos, None, len(photos), folder)
        figures["census"] = compare(folder, lambda workers: take_census(folder, workers=workers))
    print(json.dumps({**figures, "workers": cores, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
