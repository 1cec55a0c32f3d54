"""Wall and processor time of the computations of `clusters`, `map` and `probe` on many vectors.

    OMP_NUM_THREADS=1 python benchmarks/clustering.py [--rows 100000] [--width 512]

The vectors are those of odd.py. HDBSCAN gets a twentieth of the rows. Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine  # before torch

# isort: split
import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from odd import write_vectors

from simclr_cli.engine import clustering
from simclr_cli.engine.layout import compute_principal_components
from simclr_cli.engine.probes import fit_probe


def create_parts(vectors: np.memmap, width: int) -> dict[str, Callable[[], Any]]:
    """Return the computations to time, by name."""
    generator = np.random.default_rng
    sample = vectors[: len(vectors) // 20]
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(5_000) % 10
    h = (torch.randn(10, 64, generator=draw)[classes] * 0.25 + torch.randn(5_000, 64, generator=draw)) @ (
        torch.randn(64, width, generator=draw) / 8
    ) + 0.1 * torch.randn(5_000, width, generator=draw)
    return {
        **{f"k-means, {k}": (lambda k=k: clustering.k_means(vectors, k, generator(0))) for k in (20, 50)},
        "the number of clusters": lambda: clustering.score_cluster_counts(
            clustering.sample_rows(vectors, 2_000, generator(0)), generator
        ),
        **{f"{d} components": (lambda d=d: compute_principal_components(vectors, d)) for d in (2, 50)},
        f"hdbscan, {len(sample):,} rows": lambda: clustering.hdbscan(sample, 35),
        "linear probe, 5,000 rows": lambda: fit_probe(
            h.relu(), classes, classes=10, validation=torch.arange(5_000) < 1_000
        ),
    }


def main() -> None:
    """Time each part once, after a small run that loads its imports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "h.f4"
        write_vectors(file, args.rows, args.width)
        vectors = np.memmap(file, "<f4", "c", shape=(args.rows, args.width))
        for run in create_parts(vectors[:2_000], args.width).values():
            run()
        figures = {}
        for name, run in create_parts(vectors, args.width).items():
            start, cpu_start = time.perf_counter(), time.process_time()
            result = run()
            figures[name] = {"seconds": round(time.perf_counter() - start, 2)}
            figures[name]["processor_seconds"] = round(time.process_time() - cpu_start, 2)
            if name.startswith("k-means"):
                figures[name]["mean_similarity"] = round(compute_mean_similarity(vectors, result), 4)
    print(json.dumps({**vars(args), **figures, **describe_machine()}, indent=1))


def compute_mean_similarity(vectors: np.memmap, labels: Any) -> float:
    """Return the mean cosine of rows to the mean direction of their cluster."""
    sums = torch.zeros(int(labels.max()) + 1, vectors.shape[1]).index_add_(
        0, torch.from_numpy(labels), torch.from_numpy(np.asarray(vectors))
    )
    return float(sums.norm(dim=1).sum()) / len(labels)  # of rows of length 1


if __name__ == "__main__":
    main()
