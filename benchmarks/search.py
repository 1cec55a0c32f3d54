"""Exact search against faiss, and an index of a million rows: open, search, add, compare.

    python benchmarks/search.py [--rows 1000000] [--rounds 5] [--peer-python PYTHON] [--run RUN --query FILE]

The peer's Python has faiss-cpu. It searches the same vectors from a file, one round of each arm in turn, with faiss's
IndexFlatIP, stock and tuned (distance_compute_blas_threshold = 1).

search      seconds to find the ten nearest rows of one query and of 64, and the speed-up over faiss
open        seconds, after imports, from opening the run's index to the names of the first query's ten nearest
add         seconds to add the vectors of 10,000 images, durably
compare     seconds to compare the index with a census in which 10,000 images are new
first       with --run: seconds, after imports, of `simclr similar FILE --no-update` with that run's encoder and an
            index of so many rows: load encoder and index, embed the query, search

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, summarize

from simclr_cli.engine.nearest import find_nearest
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.search.update import find_changes, find_places_by_checksum
from simclr_cli.store.index import IMAGE, Index, Rows
from simclr_cli.store.index_files import append_rows, read_index, save_index
from simclr_cli.store.models import read_config

WIDTH, TOP, MODEL = 512, 10, "0" * 64

PEER = """
import json, sys, time
import faiss, numpy as np
vectors, queries = (np.load(path, mmap_mode="r") for path in sys.argv[1:])
index = faiss.IndexFlatIP(vectors.shape[1])
for start in range(0, len(vectors), 100_000):
    index.add(np.ascontiguousarray(vectors[start:start + 100_000]))
queries = np.ascontiguousarray(queries)
stock = faiss.cvar.distance_compute_blas_threshold
print(json.dumps({"version": faiss.__version__, "threads": faiss.omp_get_max_threads()}), flush=True)
for line in sys.stdin:
    count, kind = line.split()
    faiss.cvar.distance_compute_blas_threshold = 1 if kind == "tuned" else stock
    began = time.perf_counter()
    found = index.search(queries[: int(count)], 10)[1]
    print(json.dumps([time.perf_counter() - began, found.tolist()]), flush=True)
"""

OPEN = """
import json, sys, time
from pathlib import Path
import numpy as np
from simclr_cli.engine.nearest import find_nearest
from simclr_cli.store.index_files import read_index
query = np.load(sys.argv[2])[:1]
began = time.perf_counter()
index = read_index(Path(sys.argv[1]), model_checksum="0" * 64)
similarity, places = find_nearest(index.h, query, 10)
names = [index.get_name(int(place)) for place in places[0]]
print(json.dumps(time.perf_counter() - began))
"""


FIRST = """
import json, sys, time
from pathlib import Path
import simclr_cli.cli.app, simclr_cli.commands.similar
from simclr_cli import SimilarSettings, similar
settings = SimilarSettings(queries=(Path(sys.argv[2]),), run=sys.argv[1], no_update=True)
began = time.perf_counter()
found = similar(settings)
print(json.dumps([time.perf_counter() - began, found.searched, len(found.queries[0].neighbors)]))
"""


def create_unit_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Create random unit rows."""
    h = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def create_index_rows(h: np.ndarray, start: int) -> Rows:
    """Create rows of an index, of images that do not exist."""
    count = len(h)
    images = np.zeros(count, IMAGE)
    images["checksum"] = np.random.default_rng(start).integers(0, 256, (count, 32), dtype=np.uint8)
    images["bytes"] = images["modified_ns"] = np.arange(start, start + count)
    images["size"] = 64
    return Rows(h, [f"folder-{i // 1000:04}/image-{i:08}.jpg" for i in range(start, start + count)], images)


def extend_index(index: Index, rows: Rows) -> Index:
    """Append rows to an index, as an update does."""
    return save_index(append_rows(index, rows).finish_update(np.empty(0, np.int64), [], index.root))


def compare_with_faiss(index: Index, vectors: Path, queries: Path, python: str, rounds: int) -> dict[str, Any]:
    """Time every arm in turn, and compare the rows that they find."""
    query_rows = np.load(queries)
    with subprocess.Popen(
        [python, "-c", PEER, str(vectors), str(queries)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        peer_info = json.loads(peer.stdout.readline())

        def faiss(count: int, kind: str) -> tuple[float, np.ndarray]:
            peer.stdin.write(f"{count} {kind}\n")
            peer.stdin.flush()
            seconds, rows_found = json.loads(peer.stdout.readline())
            return seconds, np.array(rows_found)

        def ours(count: int) -> tuple[float, np.ndarray]:
            start = time.perf_counter()
            rows_found = find_nearest(index.h, query_rows[:count], TOP)[1]
            return time.perf_counter() - start, rows_found

        figures: dict[str, Any] = {"faiss": peer_info}
        for count in (1, 64):
            times: dict[str, list[float]] = {"simclr": [], "stock": [], "tuned": []}
            same_shares = []
            for _ in range(rounds + 1):  # the first is warm-up
                own, rows_found = ours(count)
                times["simclr"].append(own)
                for kind in ("stock", "tuned"):
                    seconds, peer_rows = faiss(count, kind)
                    times[kind].append(seconds)
                    same_shares.append(float((peer_rows == rows_found).mean()))
            times = {arm: seconds[1:] for arm, seconds in times.items()}
            figures[f"{count} queries"] = {
                "seconds": {arm: summarize(seconds) for arm, seconds in times.items()},
                "times_as_fast": {
                    kind: summarize([a / b for a, b in zip(times[kind], times["simclr"], strict=True)])
                    for kind in ("stock", "tuned")
                },
                "same_places": min(same_shares),
            }
        peer.stdin.close()
    return figures


def time_first_query(run: Path, query: Path, rows: int, rounds: int, work: Path) -> dict[str, Any]:
    """Time the command on a copy of a run whose index holds random rows."""
    copy = Path(shutil.copytree(run, work / run.name, ignore=shutil.ignore_patterns("checkpoint")))
    checksum = read_config(copy / "encoder" / "config.json", "")["simclr"]["model_checksum"]
    own = read_index(copy / "vectors", model_checksum=checksum)
    assert own is not None
    index = Index(own.folder, str(copy), checksum, WIDTH, similarity=own.similarity)
    extend_index(index, create_index_rows(create_unit_rows(np.random.default_rng(3), rows), 0))
    results = [
        json.loads(subprocess.check_output([sys.executable, "-c", FIRST, str(copy), str(query)])) for _ in range(rounds)
    ]
    return {"searched": results[0][1], "seconds": summarize([result[0] for result in results])}


def time_comparison(index: Index, rounds: int) -> dict[str, Any]:
    """Time the comparison of an index with a census in which 10,000 images are new."""
    new = [ImageFile(f"new/{i}.jpg", "JPEG", 64, 64, 1, 1) for i in range(10_000)]
    old = [ImageFile(name, "JPEG", 64, 64, *status) for name, status in
           zip(index.names, index.images[["bytes", "modified_ns"]].tolist(), strict=True)]  # fmt: skip
    census, times = Census(Path(index.root), tuple(sorted(old + new, key=lambda one: one.name)), (), 0), []
    for _ in range(rounds):
        read = read_index(index.folder, model_checksum=MODEL)
        assert read is not None
        start = time.perf_counter()
        assert len(find_changes(read, census).new) == 10_000
        assert len(find_places_by_checksum(read)) > 0
        times.append(time.perf_counter() - start)
    return summarize(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--query", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as work:
        folder, queries = Path(work) / "index", Path(work) / "queries.npy"
        np.save(queries, create_unit_rows(rng, 64))
        index = Index(folder, "/nowhere", MODEL, WIDTH)
        index = extend_index(index, create_index_rows(create_unit_rows(rng, args.rows), 0))
        vectors = Path(work) / "vectors.npy"
        np.save(vectors, index.h[:])
        figures: dict[str, Any] = {"rows": args.rows, "width": WIDTH}
        figures["search"] = compare_with_faiss(index, vectors, queries, args.peer_python, args.rounds)
        vectors.unlink()
        open_seconds = [
            json.loads(subprocess.check_output([sys.executable, "-c", OPEN, str(folder), str(queries)]))
            for _ in range(args.rounds)
        ]
        figures["open_seconds"] = summarize(open_seconds)
        add_seconds = []
        for round_index in range(args.rounds):
            added = create_index_rows(create_unit_rows(rng, 10_000), args.rows + round_index * 10_000)
            start = time.perf_counter()
            read = read_index(folder, model_checksum=MODEL)
            assert read is not None
            extend_index(read, added)
            add_seconds.append(time.perf_counter() - start)
        figures["add_seconds"] = summarize(add_seconds)
        figures["compare_seconds"] = time_comparison(read, args.rounds)
        if args.run:
            figures["first_query"] = time_first_query(args.run, args.query, args.rows, args.rounds, Path(work))
    print(json.dumps({**figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
