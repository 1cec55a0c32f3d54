"""Exact search beside faiss, and an index of a million rows: opened, asked, added to.

    python benchmarks/search.py [--rows 1000000] [--rounds 5] [--peer-python PYTHON] [--run RUN --query FILE]

The peer's Python has faiss-cpu. It is handed the same vectors in a file, searches them in the same minutes, one round
of each arm in turn, and says seconds by faiss's IndexFlatIP, stock and tuned (distance_compute_blas_threshold = 1).

search      seconds of the ten nearest, for one query and for 64, and how many times as fast as faiss
open        seconds, after imports, from opening the run's index to the names of the first query's ten nearest
add         seconds to add the vectors of 10,000 images, durably
compare     seconds to find out which images of a census the index has, all of them but 10,000, and their contents
first       with --run: seconds, after imports, of `simclr similar FILE --no-update` with that run's encoder, index of
            so many rows: encoder, index, query embedded, search

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
from machine import describe_machine, spread

from simclr_cli.engine.nearest import nearest
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.search.library import differences, places_by_content
from simclr_cli.store.index import IMAGE, Index, Rows, append, read_index, save
from simclr_cli.store.models import read_description

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
from simclr_cli.engine.nearest import nearest
from simclr_cli.store.index import read_index
query = np.load(sys.argv[2])[:1]
began = time.perf_counter()
index = read_index(Path(sys.argv[1]), model_checksum="0" * 64)
similarity, places = nearest(index.h, query, 10)
names = [index.name(int(place)) for place in places[0]]
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


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Random rows of length 1."""
    h = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def as_rows(h: np.ndarray, start: int) -> Rows:
    """Rows of an index, of images that there are not."""
    count = len(h)
    images = np.zeros(count, IMAGE)
    images["checksum"] = np.random.default_rng(start).integers(0, 256, (count, 32), dtype=np.uint8)
    images["bytes"] = images["modified_ns"] = np.arange(start, start + count)
    images["size"] = 64
    return Rows(h, [f"folder-{i // 1000:04}/image-{i:08}.jpg" for i in range(start, start + count)], images)


def extended(index: Index, rows: Rows) -> Index:
    """An index with some more rows, as an update leaves it."""
    return save(append(index, rows).settled(np.empty(0, np.int64), [], index.root))


def ours_and_faiss(index: Index, vectors: Path, queries: Path, python: str, rounds: int) -> dict[str, Any]:
    """Seconds of every arm, in turn; and whether they find the same."""
    asked = np.load(queries)
    with subprocess.Popen(
        [python, "-c", PEER, str(vectors), str(queries)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        described = json.loads(peer.stdout.readline())

        def faiss(count: int, kind: str) -> tuple[float, np.ndarray]:
            peer.stdin.write(f"{count} {kind}\n")
            peer.stdin.flush()
            seconds, found = json.loads(peer.stdout.readline())
            return seconds, np.array(found)

        def ours(count: int) -> tuple[float, np.ndarray]:
            began = time.perf_counter()
            found = nearest(index.h, asked[:count], TOP)[1]
            return time.perf_counter() - began, found

        told: dict[str, Any] = {"faiss": described}
        for count in (1, 64):
            times: dict[str, list[float]] = {"simclr": [], "stock": [], "tuned": []}
            same = []
            for _ in range(rounds + 1):  # the first one warms up
                own, found = ours(count)
                times["simclr"].append(own)
                for kind in ("stock", "tuned"):
                    seconds, theirs = faiss(count, kind)
                    times[kind].append(seconds)
                    same.append(float((theirs == found).mean()))
            times = {arm: seconds[1:] for arm, seconds in times.items()}
            told[f"{count} queries"] = {
                "seconds": {arm: spread(seconds) for arm, seconds in times.items()},
                "times_as_fast": {
                    kind: spread([a / b for a, b in zip(times[kind], times["simclr"], strict=True)])
                    for kind in ("stock", "tuned")
                },
                "same_places": min(same),
            }
        peer.stdin.close()
    return told


def first_query(run: Path, query: Path, rows: int, rounds: int, where: Path) -> dict[str, Any]:
    """The whole verb on a copy of a run whose index has so many random rows instead of its own."""
    copy = Path(shutil.copytree(run, where / run.name, ignore=shutil.ignore_patterns("checkpoint")))
    checksum = read_description(copy / "encoder" / "config.json", "")["simclr"]["model_checksum"]
    own = read_index(copy / "vectors", model_checksum=checksum)
    assert own is not None
    index = Index(own.folder, str(copy), checksum, WIDTH, similarity=own.similarity)
    extended(index, as_rows(unit(np.random.default_rng(3), rows), 0))
    told = [
        json.loads(subprocess.check_output([sys.executable, "-c", FIRST, str(copy), str(query)])) for _ in range(rounds)
    ]
    return {"searched": told[0][1], "seconds": spread([one[0] for one in told])}


def compared(index: Index, rounds: int) -> dict[str, Any]:
    """Seconds of comparing an index with a census in which 10,000 images are new."""
    new = [ImageFile(f"new/{i}.jpg", "JPEG", 64, 64, 1, 1) for i in range(10_000)]
    old = [ImageFile(name, "JPEG", 64, 64, *status) for name, status in
           zip(index.names, index.images[["bytes", "modified_ns"]].tolist(), strict=True)]  # fmt: skip
    census, times = Census(Path(index.root), tuple(sorted(old + new, key=lambda one: one.name)), (), 0), []
    for _ in range(rounds):
        read = read_index(index.folder, model_checksum=MODEL)
        assert read is not None
        began = time.perf_counter()
        assert len(differences(read, census).new) == 10_000
        assert len(places_by_content(read)) > 0
        times.append(time.perf_counter() - began)
    return spread(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--query", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as where:
        folder, queries = Path(where) / "index", Path(where) / "queries.npy"
        np.save(queries, unit(rng, 64))
        index = Index(folder, "/nowhere", MODEL, WIDTH)
        index = extended(index, as_rows(unit(rng, args.rows), 0))
        vectors = Path(where) / "vectors.npy"
        np.save(vectors, index.h[:])
        told: dict[str, Any] = {"rows": args.rows, "width": WIDTH}
        told["search"] = ours_and_faiss(index, vectors, queries, args.peer_python, args.rounds)
        vectors.unlink()
        opened = [
            json.loads(subprocess.check_output([sys.executable, "-c", OPEN, str(folder), str(queries)]))
            for _ in range(args.rounds)
        ]
        told["open_seconds"] = spread(opened)
        adding = []
        for turn in range(args.rounds):
            added = as_rows(unit(rng, 10_000), args.rows + turn * 10_000)
            began = time.perf_counter()
            read = read_index(folder, model_checksum=MODEL)
            assert read is not None
            extended(read, added)
            adding.append(time.perf_counter() - began)
        told["add_seconds"] = spread(adding)
        told["compare_seconds"] = compared(read, args.rounds)
        if args.run:
            told["first_query"] = first_query(args.run, args.query, args.rows, args.rounds, Path(where))
    print(json.dumps({**told, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
