"""Accuracy and time of `simclr demo` at several seeds.

    python benchmarks/demo.py [--seeds 0 1 2]

Each demo is one process. Prints one JSON object: kNN (k = 20) in percent for the trained encoder, the untrained
encoder and raw pixels, the margin over the better of the last two, and the seconds of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine


def main() -> None:
    """Run the demos and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    rows = []
    for seed in parser.parse_args().seeds:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            command = [sys.executable, "-m", "simclr_cli", "demo", "--json", "--seed", str(seed)]
            process = subprocess.run(
                [*command, "--out", str(Path(folder) / "demo")], stdout=subprocess.PIPE, check=True
            )
            seconds = time.perf_counter() - start
        knn = {score["representation"]: score["knn_20"]["top_1"] for score in json.loads(process.stdout)["scores"]}
        margin = knn["trained"] - max(knn["untrained"], knn["raw pixels"])
        rows.append({"seed": seed, "process_s": round(seconds, 1), **knn, "margin": round(margin, 2)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(json.dumps({"n": len(rows), **describe_machine(), "demos": rows}, indent=1))


if __name__ == "__main__":
    main()
