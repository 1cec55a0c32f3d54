"""What torch says of itself and of the GPUs, asked in a process of its own: a broken one takes its process along."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PATIENCE = 120  # seconds: on a slow disk importing torch takes its time


@dataclass(frozen=True)
class TorchFacts:
    """Of torch and torchvision as they can be imported here."""

    error: str = ""  # why one of them cannot be
    version: str = ""
    cuda: str | None = None  # that it is built for
    gpus: tuple[str, ...] = ()  # names
    free: tuple[int, ...] = ()  # bytes of each one's memory
    unsupported: tuple[str, ...] = ()  # kinds of those that it has no kernels for: sm_120
    no_gpu: str = ""  # why it finds none although it is built for CUDA
    threads: int = 0  # that it computes with
    triton: bool = False
    openmp: tuple[str, ...] = ()  # libraries that are loaded


def torch_facts() -> TorchFacts:
    """Ask; what cannot be asked is an error."""
    # -P: nothing in the current folder is taken for a module
    typed = [sys.executable, "-P", "-m", __name__]
    try:
        asked = subprocess.run(typed, capture_output=True, text=True, timeout=PATIENCE, errors="replace")
        if asked.returncode == 0:
            told: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
            told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
            return TorchFacts(**told)
    except subprocess.TimeoutExpired:
        return TorchFacts(error=f"no answer within {PATIENCE} s")
    except (OSError, ValueError, IndexError, TypeError) as error:
        return TorchFacts(error=str(error))
    words = asked.stderr.strip().splitlines() or [f"ended with {asked.returncode}"]
    return TorchFacts(error=words[-1])


def _facts() -> TorchFacts:
    try:
        import torch
        import torchvision  # noqa: F401  # finds out whether it goes with this torch
    except Exception as error:  # whatever a broken library raises
        return TorchFacts(error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    gpus, free, unsupported, no_gpu = [], [], [], ""
    if torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            kinds = torch.cuda.get_arch_list()
            for i in range(torch.cuda.device_count()):
                gpus.append(torch.cuda.get_device_name(i))
                major, minor = torch.cuda.get_device_capability(i)
                if not any(_runs_on(kind, major, minor) for kind in kinds):
                    unsupported.append(f"sm_{major}{minor}")
                free.append(torch.cuda.mem_get_info(i)[0])
        except (RuntimeError, AssertionError) as error:
            no_gpu = str(error).splitlines()[0]
    return TorchFacts(
        "", torch.__version__, torch.version.cuda, tuple(gpus), tuple(free), tuple(unsupported), no_gpu,
        torch.get_num_threads(), find_spec("triton") is not None, _openmp(),
    )  # fmt: skip


def _runs_on(kind: str, major: int, minor: int) -> bool:
    """Whether kernels of a kind (sm_86, compute_90) run on a GPU of this capability."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", kind)
    if found is None:
        return False
    built = (int(found[2]), int(found[3]))
    return built <= (major, minor) and (found[1] == "compute" or built[0] == major)


def _openmp() -> tuple[str, ...]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found.update(re.findall(r"/\S*/lib(?:gomp|omp|iomp5)\S*", Path("/proc/self/maps").read_text()))
    return tuple(sorted({str(Path(library).resolve()) for library in found}))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_facts())) + "\n")
