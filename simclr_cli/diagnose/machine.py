"""Checks of the installation and the machine: collected facts, and a diagnosis of each fault."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from simclr_cli.api.manage import Diagnosis, diagnose
from simclr_cli.core.hardware import (
    ON_WINDOWS,
    count_cores,
    estimate_shared_memory,
    find_nvidia_driver,
    get_core_quota,
    get_free_ram,
    get_free_shared_memory,
)
from simclr_cli.core.text import format_gigabytes, format_variable, quote_words

DISTRIBUTION = "simclr-cli"
PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"
PYTHON = quote_words(sys.executable)


def _choose_pip(python: str = PYTHON, *, has_pip: bool = find_spec("pip") is not None) -> str:
    """Return the command that installs packages for this Python, a quoted word."""
    if not has_pip:
        return f"uv pip install --python {python}"
    # PowerShell takes a quoted first word for text, and cmd knows no & before it. Any pip installs for any Python.
    return f"pip --python {python} install" if python.startswith('"') else f"{python} -m pip install"


PIP = _choose_pip()
if (Path(sys.prefix) / "pipx_metadata.json").is_file():  # pipx may use uv
    PIP = f"pipx runpip {DISTRIBUTION} install"
TORCH_TIMEOUT_S = 120  # importing torch from a slow disk is slow
MIN_DRIVER = 525  # of NVIDIA; no build of a supported torch runs on older ones
# Measured: importing torch, torchvision and timm takes 0.84 GB, training on a CPU by default (resnet18, 64 px) 1.7 GB.
MIN_MEMORY_BYTES, ADVISED_MEMORY_BYTES = 1_000_000_000, 2_000_000_000
MAX_OPEN_FILES, MAX_OPEN_FILES_PER_CORE = 64, 8


class Requirement(NamedTuple):
    """A version that an installed package requires of another package."""

    by: str
    name: str
    version: str  # >=2.10
    installed: str


@dataclass(frozen=True)
class TorchFacts:
    """The build of torch, and its GPUs."""

    version: str = ""
    cuda: str | None = None  # of the build
    threads: int = 0
    gpus: tuple[str, ...] = ()  # names
    gpu_faults: tuple[Sequence[str], ...] = ()  # of each: nothing, or the name of its fault and the reason
    no_gpu: str = ""  # the error if a CUDA build finds none
    error: str = ""  # of the import of torch or torchvision


@dataclass(frozen=True)
class MachineFacts:
    """The installed packages, and the resources of this process."""

    requirements: tuple[Requirement, ...]
    torch: TorchFacts
    cores: int
    memory: int  # bytes free
    core_quota: float | None = None  # of its container, in cores; None: no limit
    shared_memory: int | None = None  # bytes free in /dev/shm; None where there is none
    open_files: int = -1  # the limit; -1: unknown
    driver: str = ""  # of NVIDIA; "?": of unknown version; "": none
    visible_gpus: str | None = None  # CUDA_VISIBLE_DEVICES


def collect_machine_facts(torch: TorchFacts) -> MachineFacts:
    """Collect the facts of this machine."""
    open_files = -1
    if sys.platform != "win32":
        import resource

        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MachineFacts(
        tuple(_requirements()), torch, count_cores(), get_free_ram(), get_core_quota(), get_free_shared_memory(),
        open_files, find_nvidia_driver(), os.environ.get("CUDA_VISIBLE_DEVICES"),
    )  # fmt: skip


def _requirements() -> Iterator[Requirement]:
    """Yield the requirements of simclr without extras, and the torch that torchvision was built for."""
    for by in (DISTRIBUTION, "torchvision"):
        texts = [text for distribution in distributions(name=by) for text in distribution.requires or []]
        if by == DISTRIBUTION and not texts and PROJECT_FILE.is_file():  # run from its source
            texts = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["project"]["dependencies"]
        for text in texts:
            if required := re.fullmatch(r"([\w.-]+) ?\(?((?:>=|==)[\d.]+)\)?", text):
                installed = next((package.version for package in distributions(name=required[1])), "none")
                yield Requirement(by, required[1], required[2], installed)


def inspect_torch() -> TorchFacts:
    """Import torch in another process, which a broken torch may crash, and return its facts."""
    # -P: modules are not imported from the current folder
    command = [sys.executable, "-P", "-m", __name__]
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TORCH_TIMEOUT_S)
        facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        facts |= {name: tuple(fact) for name, fact in facts.items() if isinstance(fact, list)}
        return TorchFacts(**facts)
    except subprocess.TimeoutExpired:
        return TorchFacts(error=f"no answer within {TORCH_TIMEOUT_S} s")
    except (IndexError, ValueError):
        *_, last = f"its process ended with {process.returncode}", *process.stderr.strip().splitlines()
        return TorchFacts(error=last)


def _import_torch() -> TorchFacts:
    try:
        import torch
        import torchvision  # noqa: F401  # fails if it was built for another torch

        from simclr_cli.encode.device import find_fault, get_gpu_name, list_gpus
    except Exception as error:  # whatever a broken library raises
        line, _, _ = str(error).partition("\n")
        return TorchFacts(error=f"{type(error).__name__}: {line}")
    names, faults, no_gpu = [], [], ""
    try:
        if torch.version.cuda:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        for gpu in list_gpus():
            names.append(get_gpu_name(gpu))
            faults.append(find_fault(gpu) or ())
    except (RuntimeError, AssertionError) as error:
        no_gpu, _, _ = str(error).partition("\n")
    version, cuda, threads = torch.__version__, torch.version.cuda, torch.get_num_threads()
    return TorchFacts(version, cuda, threads, tuple(names), tuple(faults), no_gpu)


def check_packages(facts: MachineFacts) -> Iterator[Diagnosis]:
    """Diagnose missing, old and broken packages."""
    for by, name, version, installed in facts.requirements:
        actual, required = _parse_version(installed), _parse_version(version)
        if actual[: len(required)] == required or (actual > required and version.startswith(">=")):
            continue
        what = f"{by} requires {name}{version}, but {installed} is installed."
        if by == DISTRIBUTION:
            fault = "missing package" if installed == "none" else "old package"
            yield diagnose(fault, what, f"{PIP} --upgrade {quote_words(name + version)}")
        else:
            yield diagnose("mismatched torchvision", what, f"{PIP} --upgrade torch torchvision")
    if facts.torch.error:
        what = f"torch and torchvision cannot be imported ({facts.torch.error})."
        yield diagnose("broken torch", what, f"{PIP} --force-reinstall torch torchvision")


def _parse_version(version: str) -> tuple[int, ...]:
    """Return (2, 10, 0) for 2.10.0+cpu."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def check_gpus(facts: MachineFacts) -> Iterator[Diagnosis]:
    """Diagnose a GPU that torch does not use, or cannot compute on."""
    torch, driver = facts.torch, facts.driver
    # uv chooses the build of torch for this driver
    install = f"uv pip install --python {PYTHON} --reinstall torch torchvision --torch-backend auto"
    if driver and torch.version and not torch.gpus:
        build = f"built for CUDA {torch.cuda}" if torch.cuda else "built without CUDA"
        reason = f": {torch.no_gpu}" if torch.no_gpu else ""
        what = f"torch {torch.version}, {build}, does not use the NVIDIA GPU (driver {driver}){reason}."
        if not torch.cuda:
            yield diagnose("CPU-only torch", what, install)
        elif facts.visible_gpus is not None and facts.visible_gpus.strip() in ("", "-1"):
            what = f"CUDA_VISIBLE_DEVICES is {facts.visible_gpus!r}, which hides every GPU of this machine."
            yield diagnose("hidden GPU", what, format_variable("CUDA_VISIBLE_DEVICES"))
        elif driver != "?" and _parse_version(driver) < (MIN_DRIVER,):
            yield diagnose("old driver", what, "sudo ubuntu-drivers install")
        else:
            yield diagnose("unused GPU", what, install)
    update = f"{PIP} --upgrade torch torchvision  # and update the system and the driver of the GPU"
    state = "nvidia-smi  # shows its state and processes" if driver else update
    commands = {"unsupported GPU": install, "failing GPU": state, "disagreeing GPU": update}
    for number, (gpu, fault) in enumerate(zip(torch.gpus, torch.gpu_faults, strict=True)):
        if fault:
            name, reason = fault
            what = f"torch {torch.version} does not use GPU {number}, {gpu}: {reason}."
            yield diagnose(name, what, commands[name])


def check_limits(facts: MachineFacts) -> Iterator[Diagnosis]:
    """Diagnose too little memory, too few open files, too many threads."""
    gpus, threads, quota = len(facts.torch.gpus), facts.torch.threads, facts.core_quota
    if facts.memory < ADVISED_MEMORY_BYTES:
        free = format_gigabytes(facts.memory)
        what = f"{free} of memory is free; training by default takes 1.7 GB, importing torch 0.84 GB."
        command = "tasklist" if ON_WINDOWS else "ps -eo rss,pid,comm --sort=-rss | head"
        command += "  # close the largest; in a container, raise its limit"
        yield diagnose("no memory" if facts.memory < MIN_MEMORY_BYTES else "little memory", what, command)
    if facts.shared_memory is not None and facts.shared_memory < (needed := estimate_shared_memory(gpus)):
        free, needs = format_gigabytes(facts.shared_memory), format_gigabytes(needed)
        command = "sudo mount -o remount,size=1G /dev/shm  # in Docker: docker run --shm-size=1g ..."
        yield diagnose("small /dev/shm", f"/dev/shm has {free} free; --devices {gpus} needs up to {needs}.", command)
    if 0 < facts.open_files < (needed := MAX_OPEN_FILES + MAX_OPEN_FILES_PER_CORE * facts.cores):
        what = f"A process may open {facts.open_files} files; on {facts.cores} cores simclr opens up to {needed}."
        yield diagnose("few open files", what, f"ulimit -n {max(1024, needed)}")
    if quota is not None and threads > (cores := max(1, int(quota))):
        what = f"The container may use {quota:g} of {facts.cores} cores, but torch uses {threads} threads."
        yield diagnose("crowded cores", what, f"export OMP_NUM_THREADS={cores}  # and add --workers {cores}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_import_torch())) + "\n")
