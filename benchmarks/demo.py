"""`simclr demo` at several seeds: does the trained encoder win clearly at any of them, and in what time?

    python benchmarks/demo.py [--seeds 0 1 2]

Each demo is a whole process of its own. Prints one JSON object: kNN (k = 20) in percent for the trained encoder, the
untrained one and raw pixels, the margin over the better of these, and the process's seconds.
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
            began = time.perf_counter()
            command = [sys.executable, "-m", "simclr_cli", "demo", "--json", "--seed", str(seed)]
            shown = subprocess.run([*command, "--out", str(Path(folder) / "demo")], stdout=subprocess.PIPE, check=True)
            took = time.perf_counter() - began
        knn = {score["representation"]: score["knn_20"]["top_1"] for score in json.loads(shown.stdout)["scores"]}
        margin = knn["trained"] - max(knn["untrained"], knn["raw pixels"])
        rows.append({"seed": seed, "process_s": round(took, 1), **knn, "margin": round(margin, 2)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(json.dumps({"n": len(rows), **describe_machine(), "demos": rows}, indent=1))


if __name__ == "__main__":
    main()
