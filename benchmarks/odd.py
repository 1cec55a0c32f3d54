"""What `outliers` and `clusters` take for many vectors: seconds, and the most memory.

    python benchmarks/odd.py [--rows 100000] [--width 512] [--clusters 50] [--part outliers|k-means|number]

Vectors of 200 groups in a space of 64 of the dimensions, with a little noise in all of them, read from a memory map.
Each part runs in a process of its own, so that its peak is its own (the pages of the map that are in memory count as
well). Linux only. Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine  # before torch: see there

# isort: split
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from simclr_cli.commands.clusters import CHOOSING
from simclr_cli.engine.clustering import best_number, k_means, sampled, similarity_to_centre, try_numbers
from simclr_cli.engine.outliers import oddness

PARTS = ("outliers", "k-means", "number")
GROUPS, INNER, BLOCK = 200, 64, 10_000


def write_vectors(file: Path, rows: int, width: int) -> None:
    """(rows, width) float32 of length 1."""
    draw = np.random.default_rng(0)
    middle, axes = draw.normal(size=(GROUPS, INNER)), draw.normal(size=(INNER, width)) / width**0.5
    with file.open("wb") as stream:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            inner = middle[draw.integers(0, GROUPS, count)] + 0.7 * draw.normal(size=(count, INNER))
            h = inner @ axes + 0.1 * draw.normal(size=(count, width))
            stream.write((h / np.linalg.norm(h, axis=1, keepdims=True)).astype("<f4").tobytes())


def measure(part: str, file: Path, rows: int, width: int, clusters: int) -> dict[str, float | int]:
    """One part, in this process."""
    vectors = np.memmap(file, "<f4", "c", shape=(rows, width))
    began, told = time.perf_counter(), {}
    if part == "outliers":
        oddness(vectors, 10)
    elif part == "k-means":
        labels = k_means(vectors, clusters, np.random.default_rng(0))
        similarity = similarity_to_centre(vectors, labels)
        told = {"clusters": int(labels.max()) + 1, "mean_similarity": round(float(similarity.mean()), 4)}
    else:
        sample = sampled(vectors, CHOOSING, np.random.default_rng(0))
        chosen = best_number(try_numbers(sample, np.random.default_rng))
        told = {"clusters": chosen.clusters if chosen else 1}
    seconds = round(time.perf_counter() - began, 2)
    status = Path("/proc/self/status").read_text()  # getrusage would count what this process was before it began
    return {"seconds": seconds, "peak_mb": int(status.split("VmHWM:")[1].split()[0]) // 1024, **told}


def main() -> None:
    """All parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 100_000), ("width", 512), ("clusters", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file is not None:
        print(json.dumps(measure(given.part, given.file, given.rows, given.width, given.clusters)))
        return
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "h.f4"
        write_vectors(file, given.rows, given.width)
        shape = [f"--{name}={getattr(given, name)}" for name in ("rows", "width", "clusters")]
        found = {
            part: json.loads(
                subprocess.run(
                    [sys.executable, __file__, *shape, "--part", part, "--file", str(file)],
                    stdout=subprocess.PIPE, check=True,
                ).stdout
            )
            for part in ([given.part] if given.part else PARTS)
        }  # fmt: skip
    print(json.dumps({"rows": given.rows, "width": given.width, **found, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
