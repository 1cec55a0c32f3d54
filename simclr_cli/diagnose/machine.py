"""Checks of what is installed and of what the machine gives: facts, and what follows from them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from simclr_cli.api.manage import Diagnosis, diagnose
from simclr_cli.core.events import gigabytes
from simclr_cli.core.hardware import core_quota, count_cores, free_ram, free_shared_memory, shared_memory_wanted

OURS = "simclr-cli"
PYTHON = shlex.quote(sys.executable)
PIP = f"{PYTHON} -m pip install" if find_spec("pip") else f"uv pip install --python {PYTHON}"
if (Path(sys.prefix) / "pipx_metadata.json").is_file():  # pipx may have made this environment by uv
    PIP = f"pipx runpip {OURS} install"
ANSWER_WITHIN_S = 120  # on a slow disk importing torch takes its time
OLDEST_DRIVER = 525  # of NVIDIA, for which there is a build of a torch that is new enough
# Measured: importing torch, torchvision and timm takes 0.84 GB; training by default on a CPU (resnet18, 64 px) 1.7 GB.
LEAST_BYTES, ENOUGH_BYTES = 1_000_000_000, 2_000_000_000
OPEN_FILES, OPEN_FILES_PER_CORE = 64, 8  # at most


class Requirement(NamedTuple):
    """What an installed package requires of another."""

    by: str
    name: str
    version: str  # >=2.10
    installed: str


@dataclass(frozen=True)
class TorchFacts:
    """What torch says of itself and of the GPUs."""

    version: str = ""
    cuda: str | None = None  # that it is built for
    threads: int = 0
    gpus: tuple[str, ...] = ()  # names
    gpu_errors: tuple[str, ...] = ()  # of each, why a first computation fails; or ""
    no_gpu: str = ""  # why it finds none although it is built for CUDA
    error: str = ""  # why it, or torchvision, cannot be imported


@dataclass(frozen=True)
class MachineFacts:
    """What is installed, and what this process may use."""

    requirements: tuple[Requirement, ...]
    torch: TorchFacts
    cores: int
    memory: int  # bytes free
    core_quota: float | None = None  # cores whose time its container may use; None: no limit
    shared_memory: int | None = None  # bytes free in /dev/shm; None where there is none
    open_files: int = -1  # that it may have; -1: no limit known
    driver: str = ""  # of NVIDIA; "?" where its version is not known, "" where there is none
    visible_gpus: str | None = None  # CUDA_VISIBLE_DEVICES


def machine_facts(torch: TorchFacts) -> MachineFacts:
    """Collect the facts of this machine."""
    try:
        import resource

        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # Windows
        open_files = -1
    try:
        driver = (re.search(r"\d{3}(\.\d+)+", Path("/proc/driver/nvidia/version").read_text()) or ["?"])[0]
    except OSError:
        driver = "?" if Path("/dev/nvidia0").exists() else ""
    return MachineFacts(
        tuple(_requirements()), torch, count_cores(), free_ram(), core_quota(), free_shared_memory(), open_files,
        driver, os.environ.get("CUDA_VISIBLE_DEVICES"),
    )  # fmt: skip


def _requirements() -> Iterator[Requirement]:
    """Find what simclr requires in any case, and which torch torchvision was built for."""
    for by in (OURS, "torchvision"):
        for text in [text for found in distributions(name=by) for text in found.requires or []]:
            if required := re.fullmatch(r"([\w.-]+) ?\(?((?:>=|==)[\d.]+)\)?", text):
                installed = next((found.version for found in distributions(name=required[1])), "none")
                yield Requirement(by, required[1], required[2], installed)


def ask_torch() -> TorchFacts:
    """Ask torch in a process of its own: a broken one takes its process along."""
    # -P: nothing in the current folder is taken for a module
    command = [sys.executable, "-P", "-m", __name__]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER_WITHIN_S)
        facts: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
        facts |= {name: tuple(fact) for name, fact in facts.items() if isinstance(fact, list)}
        return TorchFacts(**facts)
    except subprocess.TimeoutExpired:
        return TorchFacts(error=f"no answer within {ANSWER_WITHIN_S} s")
    except (IndexError, ValueError):
        *_, last = f"its process ended with {answer.returncode}", *answer.stderr.strip().splitlines()
        return TorchFacts(error=last)


def _answer() -> TorchFacts:
    try:
        import torch
        import torchvision  # noqa: F401  # fails where it was built for another torch
    except Exception as error:  # whatever a broken library raises
        line, _, _ = str(error).partition("\n")
        return TorchFacts(error=f"{type(error).__name__}: {line}")
    gpus, gpu_errors, no_gpu = [], [], ""
    try:
        if torch.version.cuda:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        no_gpu, _, _ = str(error).partition("\n")
    for number in range(len(gpus)):
        try:  # torch may have no kernels for it, or another process may have it for itself
            torch.ones(1, device=f"cuda:{number}").add_(1).item()
            gpu_errors.append("")
        except RuntimeError as error:
            gpu_errors.append(str(error).partition("\n")[0])
    version, cuda, threads = torch.__version__, torch.version.cuda, torch.get_num_threads()
    return TorchFacts(version, cuda, threads, tuple(gpus), tuple(gpu_errors), no_gpu)


def check_packages(facts: MachineFacts) -> Iterator[Diagnosis]:
    """Diagnose what is installed."""
    for one in facts.requirements:
        there, required = _numbers(one.installed), _numbers(one.version)
        if there[: len(required)] == required or (there > required and one.version.startswith(">=")):
            continue
        what = f"{one.by} requires {one.name}{one.version}, and {one.installed} is installed."
        if one.by == OURS:
            name = "missing package" if one.installed == "none" else "old package"
            yield diagnose(name, what, f"{PIP} --upgrade '{one.name}{one.version}'")
        else:
            yield diagnose("mismatched torchvision", what, f"{PIP} --upgrade torch torchvision")
    if facts.torch.error:
        what = f"torch and torchvision cannot be imported ({facts.torch.error})."
        yield diagnose("broken torch", what, f"{PIP} --force-reinstall torch torchvision")


def _numbers(version: str) -> tuple[int, ...]:
    """Return (2, 10, 0) of 2.10.0+cpu."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def check_gpus(facts: MachineFacts) -> Iterator[Diagnosis]:
    """Diagnose a GPU that torch does not use, or cannot compute on."""
    torch, driver = facts.torch, facts.driver
    # uv finds out which build of torch this driver runs
    install = f"uv pip install --python {PYTHON} --reinstall torch torchvision --torch-backend auto"
    if driver and torch.version and not torch.gpus:
        built = f"built for CUDA {torch.cuda}" if torch.cuda else "built without CUDA"
        reason = f": {torch.no_gpu}" if torch.no_gpu else ""
        what = f"torch {torch.version}, {built}, does not use the NVIDIA GPU (driver {driver}){reason}."
        if not torch.cuda:
            yield diagnose("CPU-only torch", what, install)
        elif facts.visible_gpus is not None and facts.visible_gpus.strip() in ("", "-1"):
            what = f"CUDA_VISIBLE_DEVICES is {facts.visible_gpus!r}, which hides every GPU of this machine."
            yield diagnose("hidden GPU", what, "unset CUDA_VISIBLE_DEVICES")
        elif driver != "?" and _numbers(driver) < (OLDEST_DRIVER,):
            yield diagnose("old driver", what, "sudo ubuntu-drivers install")
        else:
            yield diagnose("unused GPU", what, install)
    for number, (gpu, error) in enumerate(zip(torch.gpus, torch.gpu_errors, strict=True)):
        what = f"torch {torch.version} cannot compute on GPU {number}, {gpu} ({error})."
        if "no kernel image" in error:
            yield diagnose("unsupported GPU", what, install)
        elif error:
            yield diagnose("failing GPU", what, "nvidia-smi  # shows its state, and what uses it")


def check_limits(facts: MachineFacts) -> Iterator[Diagnosis]:
    """Diagnose too little memory, too few open files, too many threads."""
    gpus, threads, quota = len(facts.torch.gpus), facts.torch.threads, facts.core_quota
    if facts.memory < ENOUGH_BYTES:
        what = f"{gigabytes(facts.memory)} of memory is free; training by default takes 1.7 GB, importing torch 0.84."
        command = "ps -eo rss,pid,comm --sort=-rss | head  # end what takes most; a container: raise its limit"
        yield diagnose("no memory" if facts.memory < LEAST_BYTES else "little memory", what, command)
    if facts.shared_memory is not None and facts.shared_memory < (needed := shared_memory_wanted(gpus)):
        free, needs = gigabytes(facts.shared_memory), gigabytes(needed)
        command = "sudo mount -o remount,size=1G /dev/shm  # in Docker: docker run --shm-size=1g ..."
        yield diagnose("small /dev/shm", f"/dev/shm has {free} free; --devices {gpus} takes up to {needs}.", command)
    if 0 < facts.open_files < (needed := OPEN_FILES + OPEN_FILES_PER_CORE * facts.cores):
        what = f"A process may open {facts.open_files} files; on {facts.cores} cores simclr opens up to {needed}."
        yield diagnose("few open files", what, f"ulimit -n {max(1024, needed)}")
    if quota is not None and threads > (cores := max(1, int(quota))):
        what = f"The container may use {quota:g} of {facts.cores} cores, and torch computes with {threads} threads."
        yield diagnose("crowded cores", what, f"export OMP_NUM_THREADS={cores}  # and add --workers {cores}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_answer())) + "\n")
