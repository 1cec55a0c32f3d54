"""The main job on a folder of labeled images: pretrain, embed, probe and similar, as a user runs them.

    python benchmarks/main_job.py TRAIN --test TEST [--epochs 30] [-- further options of pretrain]

Prints one JSON object: images/s, first and last loss, kNN and linear probe of the trained and the untrained encoder,
seconds of each command as a process, and the number of skipped images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine


def run_simclr(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run a command, and return its result and its seconds as a process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "simclr_cli", *arguments, "--json"]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(process.stdout), round(time.perf_counter() - start, 1)


def main() -> None:
    """Run the commands and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--test", required=True)
    parser.add_argument("--epochs", default="30")
    parser.add_argument("further", nargs="*")
    args = parser.parse_args()
    query = next(path for path in sorted(Path(args.test).rglob("*")) if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        runs = ["--runs", str(Path(folder) / "runs")]
        trained, pretrain_s = run_simclr(
            "pretrain", args.train, "--weights", "none", "--epochs", args.epochs, *runs, *args.further
        )
        embedded, embed_s = run_simclr("embed", "--out", str(Path(folder) / "vecs.npy"), *runs)
        probed, probe_s = run_simclr("probe", args.train, "--test", args.test, *runs)
        similar, similar_s = run_simclr("similar", str(query), *runs)
    pretrain_keys = ("epochs", "images", "skipped", "first_loss", "last_loss", "images_per_second", "seconds")
    result = {
        **describe_machine(),
        "plan": {choice["name"]: choice["value"] for choice in trained["plan"]["choices"]},
        "estimated_s": trained["plan"]["seconds"],
        "pretrain": {key: trained[key] for key in pretrain_keys},
        "embed": {key: embedded[key] for key in ("rows", "dimensions", "skipped", "images_per_second")},
        "probe": {key: probed[key] for key in ("train_images", "test_images", "chance", "skipped", "scores")},
        "similar": {
            "searched": similar["searched"],
            "top": [hit["path"] for hit in similar["queries"][0]["neighbors"][:3]],
        },
        "process_s": {"pretrain": pretrain_s, "embed": embed_s, "probe": probe_s, "similar": similar_s},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
