"""Search without training: seconds from an empty cache to the first result, and how often a neighbor is of the class.

    python benchmarks/search_at_once.py IMAGES --queries QUERIES [--encoder E] [--image-size 224]

IMAGES and QUERIES are folders of class folders. Runs `simclr similar QUERIES --images IMAGES` as a user does, twice,
the second time with the embeddings that the first one kept. Prints one JSON object: seconds of each, the share of
queries whose nearest neighbor is of their class, and the mean share of the ten nearest that are (precision at 10).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine


def search(arguments: list[str], cache: str) -> tuple[dict[str, Any], float]:
    """Run `simclr similar` as a process with a cache of its own; return its result and its seconds."""
    command = [sys.executable, "-m", "simclr_cli", "similar", *arguments, "--top", "10", "--json"]
    start = time.perf_counter()
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "SIMCLR_CACHE": cache})
    return json.loads(process.stdout), round(time.perf_counter() - start, 1)


def score(result: dict[str, Any]) -> dict[str, float]:
    """Return the share of queries whose nearest neighbor is of their class, and precision at 10, in percent."""
    shares = []
    for query in result["queries"]:
        label = Path(query["query"]).parent.name
        shares.append([Path(hit["path"]).parent.name == label for hit in query["neighbors"]])
    return {
        "nearest_of_class": round(100 * statistics.fmean(hits[0] for hits in shares), 1),
        "precision_at_10": round(100 * statistics.fmean(statistics.fmean(hits) for hits in shares), 1),
    }


def main() -> None:
    """Search twice, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--queries", type=Path, required=True)
    for option in ("--encoder", "--image-size"):
        parser.add_argument(option)
    args = parser.parse_args()
    chosen = {"--encoder": args.encoder, "--image-size": args.image_size}
    options = [word for option, value in chosen.items() if value is not None for word in (option, value)]
    with tempfile.TemporaryDirectory() as cache:
        runs = ["--runs", f"{cache}/runs"]
        first, first_s = search([str(args.queries), "--images", str(args.images), *runs, *options], cache)
        _, second_s = search([str(args.queries), "--images", str(args.images), *runs, *options], cache)
    figures = {"images": first["searched"], "queries": len(first["queries"]), "encoder": first["encoder"]}
    print(json.dumps({**describe_machine(), **figures, "first_s": first_s, "second_s": second_s, **score(first)}))


if __name__ == "__main__":
    main()
