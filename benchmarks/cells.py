"""Search in the nearest cells beside comparing all: what making them takes, what they find, how much quicker it is.

    python benchmarks/cells.py [--rows 1000000] [--groups 5000] [--rounds 20]

Vectors of so many groups, each about a random centre. Prints one JSON object; the recall is of 200 other queries than
those by which the number of cells was chosen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe_machine, spread

from simclr_cli.engine.search import nearest
from simclr_cli.events import Note
from simclr_cli.store.index import Index, update
from simclr_cli.store.rows import Rows, named
from simclr_cli.verbs import searching

WIDTH, TOP, SPREAD = 512, 10, 0.03


def grouped(rows: int, centres: np.ndarray, seed: int) -> np.ndarray:
    """Rows of length 1 about the centres."""
    rng = np.random.default_rng(seed)
    h = centres[rng.integers(0, len(centres), rows)]
    h += SPREAD * rng.standard_normal((rows, WIDTH), dtype=np.float32)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    return h


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    searching.CELLS_FROM = 1
    centres = np.random.default_rng(0).standard_normal((args.groups, WIDTH), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    h, queries = grouped(args.rows, centres, 1), grouped(200, centres, 2)
    names, ends = named([f"{i:08}.jpg" for i in range(args.rows)])
    zeros = np.zeros(args.rows, np.int64)
    rows = Rows(h, names, ends, zeros, zeros, np.zeros((args.rows, 32), np.uint8), np.ones((args.rows, 2), np.int32))
    with tempfile.TemporaryDirectory() as where:
        index = update(Index(Path(where), "/nowhere", "0" * 64, WIDTH), np.empty(0, np.int64), rows, [], "/nowhere")
        del h, rows
        said: list[str] = []
        began = time.perf_counter()
        kept = searching.current_cells(
            index, lambda event: said.append(event.text) if isinstance(event, Note) else None
        )
        made = time.perf_counter() - began
        truth = nearest(index.h, queries, TOP)[1]
        times: dict[str, list[float]] = {"cells": [], "all": []}
        for query in queries[: args.rounds]:
            for arm, exact in (("cells", False), ("all", True)):
                began = time.perf_counter()
                searching.search(index, query[None], TOP, None, exact=exact, report=lambda _: None)
                times[arm].append(time.perf_counter() - began)
        found = searching.search(index, queries, TOP, None, exact=False, report=lambda _: None)[1]
        recall = float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)]))
    told = {
        "rows": args.rows, "groups": args.groups, "cells": len(kept.centres), "probed": kept.probed, "said": said,
        "make_seconds": round(made, 1), "recall_of_others": round(recall, 4),
        "seconds_a_query": {arm: spread(seconds, 4) for arm, seconds in times.items()},
    }  # fmt: skip
    print(json.dumps({**told, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
