"""Memory of training by the number of images in the folder.

    python benchmarks/memory.py PHOTOS [--counts 10000 100000] [--steps 20]

Each folder consists of hard links to the photos. Every arm is one process: census, decoding (the first time), and some
steps of ResNet-18 at 64 px and batch 64. Prints one JSON object: the peak memory of the process (MiB) above that after
loading torch. Its own memory includes model and activations. Mapped pages of files are listed separately, since the
system can reclaim them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine

WORK = """
import json, sys, threading, time
from pathlib import Path
from simclr_cli.core.hardware import keep_freed_memory
from simclr_cli.core.errors import Interrupted
from simclr_cli.core.events import StepDone
from simclr_cli.api import PretrainSettings
from simclr_cli.commands.pretrain import pretrain
keep_freed_memory()
images, runs, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def read_memory():
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {line[0]: int(line[1]) / 1024 for line in lines if line[0] in ("RssAnon:", "RssFile:")}
before, done, counted = read_memory(), threading.Event(), 0
most = dict(before)
def sample_memory():
    while not done.wait(0.05):
        for name, value in read_memory().items():
            most[name] = max(most[name], value)
def count_steps(event):
    global counted
    counted += isinstance(event, StepDone)
    if counted == steps:
        raise Interrupted("enough", "")
threading.Thread(target=sample_memory, daemon=True).start()
began = time.perf_counter()
settings = dict(backbone="resnet18", image_size=64, batch_size=64, epochs=1, cache_gb=1000)
try:
    pretrain(PretrainSettings(images=images, runs=runs, weights="none", **settings), report=count_steps)
except Interrupted:
    pass
done.set()
own, mapped = (round(most[name] - before[name]) for name in ("RssAnon:", "RssFile:"))
seconds = round(time.perf_counter() - began)
print(json.dumps({"own_memory_mib": own, "mapped_files_mib": mapped, "steps": counted, "seconds": seconds}))
"""


def main() -> None:
    """Run every arm and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as temp:
        originals = Path(temp) / "originals"
        originals.mkdir()
        for i, path in enumerate(sorted(args.photos.rglob("*.jpg"))):
            shutil.copy(path, originals / f"{i}.jpg")
        files = sorted(originals.iterdir())
        for count in args.counts:
            folder = Path(temp) / str(count)
            for i in range(count):
                part = folder / str(i // 1000)
                if i % 1000 == 0:
                    part.mkdir(parents=True)
                os.link(files[i % len(files)], part / f"{i}.jpg")
            environment = {**os.environ, "SIMCLR_CACHE": f"{temp}/cache"}
            for name in ("first", "again"):
                command = [sys.executable, "-c", WORK, str(folder), f"{temp}/runs-{count}-{name}", str(args.steps)]
                process = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
                figures[f"{count:,} images, {name}"] = json.loads(process.stdout.splitlines()[-1])
    print(json.dumps({**figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
