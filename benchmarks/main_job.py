"""The main job on a folder of labeled images: pretrain, embed, probe, similar, each as a user types it.

    python benchmarks/main_job.py TRAIN --test TEST [--epochs 30] [-- further options of pretrain]

Prints one JSON object: images/s, first and last loss, kNN and linear probe trained against untrained, seconds of each
command as a whole process, and what was left out.
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


def simclr(*arguments: str) -> tuple[dict[str, Any], float]:
    """The result of a command, and its seconds as a whole process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "simclr_cli", *arguments, "--json"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(shown.stdout), round(time.perf_counter() - began, 1)


def main() -> None:
    """Run the commands and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--test", required=True)
    parser.add_argument("--epochs", default="30")
    parser.add_argument("further", nargs="*")
    given = parser.parse_args()
    query = next(path for path in sorted(Path(given.test).rglob("*")) if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        runs = ["--runs", str(Path(folder) / "runs")]
        trained, pretrain_s = simclr("pretrain", given.train, "--epochs", given.epochs, *runs, *given.further)
        embedded, embed_s = simclr("embed", "--out", str(Path(folder) / "vecs.npy"), *runs)
        probed, probe_s = simclr("probe", given.train, "--test", given.test, *runs)
        found, similar_s = simclr("similar", str(query), *runs)
    kept = ("epochs", "images", "skipped", "first_loss", "last_loss", "images_per_second", "seconds")
    result = {
        **describe_machine(),
        "plan": {choice["name"]: choice["value"] for choice in trained["plan"]["choices"]},
        "estimated_s": trained["plan"]["seconds"],
        "pretrain": {key: trained[key] for key in kept},
        "embed": {key: embedded[key] for key in ("rows", "dimensions", "skipped", "images_per_second")},
        "probe": {key: probed[key] for key in ("train_images", "test_images", "chance", "skipped", "scores")},
        "similar": {
            "searched": found["searched"],
            "top": [hit["path"] for hit in found["queries"][0]["neighbors"][:3]],
        },
        "process_s": {"pretrain": pretrain_s, "embed": embed_s, "probe": probe_s, "similar": similar_s},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
