"""Everything that only a GPU can tell, in one run of at most 520 seconds.

    mkdir -p .data && cp CIFAR_ARCHIVE .data/cifar10.tar.xz       # train/<class>/* and test/<class>/*, JPEG or PNG
    find PHOTOS -name '*.jpg' | head -n 900 | tar -cf .data/photos.tar -T -
    python3 benchmarks/gpu.py --out OUT [--data .data] [--only PART ...] [--seconds 520] [--device cuda] [--small]

Runs from the source tree with the Python that has torch; nothing is installed. Each part is a process that is killed at
its limit, and has one file, OUT/PART.json, renewed with every figure: a part that dies keeps what it had, and the
others stand. Parts named by --only have no limit but --seconds. --small rehearses it on a slow device.

facts        30 s  versions, GPU, what torch was built for, /dev/shm; the output of `simclr doctor`
agreement    50 s  GPU against CPU, without TF32: views, h, loss, gradient, a training step; micro-batches; bfloat16
command     100 s  `simclr pretrain` on CIFAR-10 as typed; SIGUSR1, SIGINT, --resume; metrics of an undisturbed run;
                   `embed`; the plan for the photos
memory       50 s  NT-Xent at N = 4,096 and 65,536, in blocks of two sizes; ResNet-50, batch 256, in 5 % of the memory
steps       200 s  ResNet-18 at 32 px and ResNet-50 at 224 px, compiled or not: training, its step on one resident batch
                   (synthetic), plain eager torch, and a loop with torchvision's views in a DataLoader; peak memory
cifar        rest  CIFAR-10, ResNet-18, as many epochs as fit: kNN and linear, of the trained and untrained encoder
speed              only by name: minutes to 85 % by kNN on CIFAR-10
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

TOTAL_SECONDS = 520
LIMITS = {"facts": 30, "agreement": 50, "command": 100, "memory": 50, "steps": 200, "cifar": TOTAL_SECONDS}
ONLY_BY_NAME = ["speed"]
END_SECONDS = 4  # kept for the last file
UNPACK_SECONDS = 60
LOG_CHARACTERS = 3000  # of the end of what a part printed
ROOT = Path(__file__).parents[1]
# Where simplejpeg is missing, Pillow decodes. It notices less damage, and no figure here depends on its speed.
SIMPLEJPEG = """
import io
import numpy
from PIL import Image

def decode_jpeg(data, colorspace="RGB", strict=True, **_):
    try:
        image = Image.open(io.BytesIO(data)).convert("L" if colorspace == "GRAY" else colorspace)
    except OSError as error:
        raise ValueError(str(error)) from None
    pixels = numpy.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
"""


def save_json(file: Path, figures: Mapping[str, Any]) -> None:
    """Replace a file by figures, and have them on the disk; NaN and infinity become strings."""
    text = json.dumps(json.loads(json.dumps(figures), parse_constant=str), indent=1)
    temporary = file.with_suffix(".tmp")
    with temporary.open("w") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def run_part(file: Path, command: Sequence[str], limit: float, environment: Mapping[str, str]) -> bool:
    """Run the process of a part, which writes `file`; add how it ended.

    Args:
        limit: seconds, at which it is killed with all the processes that it started.

    Returns:
        Whether it ended by itself with exit code 0.
    """
    start, ended = time.monotonic(), "interrupted"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit)
            ended = "finished" if code == 0 else f"signal {-code}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = "killed at its limit"
        finally:  # also on Ctrl-C
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.seek(0)
            end = {} if ended == "finished" else {"log": log.read().decode(errors="replace")[-LOG_CHARACTERS:]}
            figures = json.loads(file.read_text()) if file.exists() else {}
            seconds = round(time.monotonic() - start, 1)
            save_json(file, {"ended": ended, "seconds": seconds, "limit": round(limit, 1), **figures, **end})
            file.with_suffix(".tmp").unlink(missing_ok=True)  # of a process that was killed while it wrote
    return ended == "finished"


def unpack(data: Path, name: str, work: Path) -> Path:
    """Return the folder of images called `name`, unpacked if it is an archive; it may not exist."""
    found = sorted(data.resolve().glob(f"{name}*"))
    if not found or found[0].is_dir():
        return found[0] if found else data / name
    folder = work / name
    folder.mkdir()
    commands = (
        ["tar", "-xf", str(found[0]), "-C", str(folder)],  # several times faster than Python
        [sys.executable, "-m", "tarfile", "--filter", "data", "-e", str(found[0]), str(folder)],
    )
    with contextlib.suppress(subprocess.TimeoutExpired):  # the parts that need it say that it is missing
        for command in commands:
            with contextlib.suppress(subprocess.CalledProcessError, OSError):
                subprocess.run(command, timeout=UNPACK_SECONDS, check=True, stderr=subprocess.DEVNULL)
                break
    inner = next(folder.rglob("train"), folder) if folder.exists() else folder
    return inner.parent if inner.name == "train" else folder


def create_environment(work: Path) -> dict[str, str]:
    """Return the environment of the parts: they import the source tree, and write in the work folder only."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if importlib.util.find_spec("simplejpeg") is None:
        (work / "modules").mkdir()
        (work / "modules" / "simplejpeg.py").write_text(SIMPLEJPEG)
        paths.append(str(work / "modules"))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1", "SIMCLR_CACHE": str(work / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }  # fmt: skip


def interrupt(*_: Any) -> NoReturn:
    """End at the first signal; from then on there is only the last file to write."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the parts one after the other; return 0 if all of them finished."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(".data"))
    parser.add_argument("--only", nargs="+", choices=[*LIMITS, *ONLY_BY_NAME])
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    args.out.mkdir(parents=True, exist_ok=True)
    all_finished = True
    work = Path(tempfile.mkdtemp(prefix="simclr-gpu-"))
    try:
        environment = create_environment(work)
        # The first import of torch reads gigabytes, meanwhile; no part should pay for it.
        imports = subprocess.Popen([sys.executable, "-c", "import torch, torchvision, timm"], stderr=subprocess.DEVNULL)
        cifar, photos = unpack(args.data, "cifar", work), unpack(args.data, "photos", work)
        with contextlib.suppress(subprocess.TimeoutExpired):
            imports.wait(max(0, UNPACK_SECONDS - (time.monotonic() - start)))
        imports.kill()
        print(f"unpacked, and torch imported, in {time.monotonic() - start:.0f} s", flush=True)
        for name in [name for name in [*LIMITS, *ONLY_BY_NAME] if name in (args.only or LIMITS)]:
            file = (args.out / f"{name}.json").resolve()
            file.unlink(missing_ok=True)  # of an earlier run
            seconds = args.seconds - END_SECONDS - (time.monotonic() - start)
            seconds = seconds if args.only else min(LIMITS[name], seconds)
            command = [
                sys.executable, str(Path(__file__).with_name("gpu_part.py")), name, "--file", str(file),
                "--cifar", str(cifar), "--photos", str(photos), "--work", str(work), "--device", args.device,
                "--seconds", str(seconds), *(["--small"] if args.small else []),
            ]  # fmt: skip
            if seconds <= 0:
                save_json(file, {"ended": "not started: no time was left"})
                all_finished = False
                continue
            all_finished &= run_part(file, command, seconds, environment)
            figures = json.loads(file.read_text())
            print(f"{name}: {figures['ended']} in {figures['seconds']} s of {figures['limit']}", flush=True)
    finally:  # removing 60,000 files may take minutes
        remove = ["sh", "-c", 'rm -rf "$1" >/dev/null 2>&1 &', "sh", str(work)]
        subprocess.run(remove, start_new_session=True)
    print(f"{time.monotonic() - start:.0f} s in all", flush=True)
    return 0 if all_finished else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
