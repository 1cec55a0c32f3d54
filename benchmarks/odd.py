"""Time and peak memory of `outliers` and `clusters` on many vectors.

    python benchmarks/odd.py [--rows 100000] [--width 512] [--clusters 50] [--part outliers|k-means|number]

The vectors form 200 groups in a space of 64 dimensions, with some noise in all dimensions, in a memory map. Each part
is one process, since the peak is that of a process (with the pages of the map in memory). Linux only. Prints one JSON
object.
"""

from __future__ import annotations

from machine import describe_machine  # before torch

# isort: split
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from simclr_cli.commands.clusters import MAX_SAMPLED_IMAGES
from simclr_cli.engine.clustering import (
    choose_cluster_count,
    compute_center_similarity,
    k_means,
    sample_rows,
    score_cluster_counts,
)
from simclr_cli.engine.outliers import score_outliers

PARTS = ("outliers", "k-means", "number")
GROUPS, INNER, BLOCK = 200, 64, 10_000


def write_vectors(file: Path, rows: int, width: int) -> None:
    """Write (rows, width) float32 unit rows."""
    rng = np.random.default_rng(0)
    centers, axes = rng.normal(size=(GROUPS, INNER)), rng.normal(size=(INNER, width)) / width**0.5
    with file.open("wb") as stream:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            inner = centers[rng.integers(0, GROUPS, count)] + 0.7 * rng.normal(size=(count, INNER))
            h = inner @ axes + 0.1 * rng.normal(size=(count, width))
            stream.write((h / np.linalg.norm(h, axis=1, keepdims=True)).astype("<f4").tobytes())


def measure(part: str, file: Path, rows: int, width: int, clusters: int) -> dict[str, float | int]:
    """Measure one part in this process."""
    vectors = np.memmap(file, "<f4", "c", shape=(rows, width))
    start, figures = time.perf_counter(), {}
    if part == "outliers":
        score_outliers(vectors, 10)
    elif part == "k-means":
        labels = k_means(vectors, clusters, np.random.default_rng(0))
        similarity = compute_center_similarity(vectors, labels)
        figures = {"clusters": int(labels.max()) + 1, "mean_similarity": round(float(similarity.mean()), 4)}
    else:
        sample = sample_rows(vectors, MAX_SAMPLED_IMAGES, np.random.default_rng(0))
        chosen = choose_cluster_count(score_cluster_counts(sample, np.random.default_rng))
        figures = {"clusters": chosen.clusters if chosen else 1}
    seconds = round(time.perf_counter() - start, 2)
    status = Path("/proc/self/status").read_text()  # getrusage would include the process before exec
    return {"seconds": seconds, "peak_mb": int(status.split("VmHWM:")[1].split()[0]) // 1024, **figures}


def main() -> None:
    """Measure all parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 100_000), ("width", 512), ("clusters", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.file is not None:
        print(json.dumps(measure(args.part, args.file, args.rows, args.width, args.clusters)))
        return
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "h.f4"
        write_vectors(file, args.rows, args.width)
        shape = [f"--{name}={getattr(args, name)}" for name in ("rows", "width", "clusters")]
        parts = {
            part: json.loads(
                subprocess.run(
                    [sys.executable, __file__, *shape, "--part", part, "--file", str(file)],
                    stdout=subprocess.PIPE, check=True,
                ).stdout
            )
            for part in ([args.part] if args.part else PARTS)
        }  # fmt: skip
    print(json.dumps({"rows": args.rows, "width": args.width, **parts, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
