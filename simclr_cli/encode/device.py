"""The device to compute on: the one that is named, or else the first GPU that computes as the CPU does, or the CPU."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import warnings
from functools import cache
from typing import Literal, NamedTuple

import torch

from simclr_cli.core.errors import MachineError, SimclrError, first_line
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import write_json
from simclr_cli.core.hardware import find_nvidia_driver
from simclr_cli.core.safe_read import read_json
from simclr_cli.core.world import SINGLE_PROCESS, World
from simclr_cli.images.cache_location import locate_gpu_checks

GPU_TYPES = ("cuda", "mps", "xpu")
NO_KERNEL_MESSAGES = ("no kernel image", "named symbol not found", "not compatible with the current PyTorch")


class GpuFault(NamedTuple):
    """Fault of a GPU, which is not used unless it is named."""

    name: Literal["unsupported GPU", "failing GPU", "disagreeing GPU"]  # the last one computes, but wrongly
    reason: str  # continues "because"


def resolve_device(name: str | None, world: World = SINGLE_PROCESS, report: Report = silent) -> torch.device:
    """Return the named device, or else the first GPU without a fault, or the CPU.

    With several processes, each uses its own NVIDIA GPU. They must not differ in kind, so a fault is an error then.

    Raises:
        MachineError: the device cannot compute, or is unavailable on this machine.
    """
    if name is None:
        return _choose_device(world, report)
    device = torch.device(name)
    if world.world_size > 1 and device.type == "cuda":
        device = _get_own_gpu(world)
    elif world.world_size > 1 and device.type != "cpu":
        raise MachineError(f"Only one process can compute on {device}.", "Use one, or --device cpu.")
    if device.type != "cpu" and (fault := find_fault(device)) is not None:
        if fault.name != "disagreeing GPU":
            raise MachineError(f"The device {device} cannot be used here: {fault.reason}.", "Try --device cpu.")
        report(Note(f"The device {device} is used as named, although {fault.reason}.", warning=True))
    return device


def _choose_device(world: World, report: Report) -> torch.device:
    gpus = list_gpus()
    if world.world_size > 1:
        if not gpus or gpus[0].type != "cuda":
            return torch.device("cpu")
        gpu = _get_own_gpu(world)
        if fault := find_fault(gpu):
            raise MachineError(
                f"Process {world.rank} of {world.world_size} cannot use its GPU, {gpu}, because {fault.reason}.",
                "Run simclr doctor, or use the CPU: --device cpu.",
            )
        return gpu
    said = set()  # of several equal GPUs once
    for gpu in gpus:
        if not (fault := find_fault(gpu)):
            return torch.device(gpu.type) if gpu == gpus[0] else gpu
        text = f"{get_gpu_name(gpu)} is not used, because {fault.reason}. simclr doctor says what to do."
        if text not in said:
            report(Note(text, warning=True))
        said.add(text)
    return torch.device("cpu")


def _get_own_gpu(world: World) -> torch.device:
    """Return the GPU of this process; srun --gpus-per-task=1 shows each process one, which is its first."""
    is_alone = "SLURM_LOCALID" in os.environ and len(list_gpus()) == 1
    return torch.device("cuda", 0 if is_alone else world.local_rank)


def list_gpus() -> list[torch.device]:
    """Return the GPUs of this machine that torch knows, which may not work; all are of one type."""
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if gpu is None or gpu.type not in GPU_TYPES:
        return []
    return [torch.device(gpu.type, number) for number in range(torch.accelerator.device_count())]


def get_gpu_name(gpu: torch.device) -> str:
    """Return the name of a GPU, such as "NVIDIA GeForce GTX 1080"; of one that does not answer, its number."""
    try:
        if gpu.type == "mps":
            return str(torch.backends.mps.get_name())
        return str(torch.get_device_module(gpu).get_device_name(gpu))
    except (RuntimeError, AssertionError):
        return str(gpu)


@cache
def find_fault(gpu: torch.device) -> GpuFault | None:
    """Find out whether a GPU can compute, and computes as the CPU does; return its fault, or None.

    The comparison takes about a second. That a GPU agrees is kept in the cache, for this torch, system and driver.
    """
    with warnings.catch_warnings(action="ignore"):  # torch's, of GPUs that it has no kernels for
        try:
            if reason := _explain_missing_kernels(gpu):
                return GpuFault("unsupported GPU", reason)
            torch.ones(1, device=gpu).add_(1).item()  # fails if another process has it for itself, or it is broken
            difference = _compare(gpu)
        except Exception as error:  # every device fails in its own way
            is_unsupported = any(message in str(error) for message in NO_KERNEL_MESSAGES)
            reason = f"torch cannot compute on it ({first_line(error)})"
            return GpuFault("unsupported GPU" if is_unsupported else "failing GPU", reason)
    return GpuFault("disagreeing GPU", difference) if difference else None


def _explain_missing_kernels(gpu: torch.device) -> str:
    """Return a reason if torch was built for other compute capabilities of NVIDIA's GPUs than this one's, or ""."""
    if gpu.type != "cuda" or torch.version.cuda is None:
        return ""
    found = (re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", arch) for arch in torch.cuda.get_arch_list())
    built = sorted((int(arch[2]), int(arch[3]), arch[1]) for arch in found if arch)
    major, minor = torch.cuda.get_device_capability(gpu)
    # code of its major version, not of a later minor one; or PTX, which the driver compiles, of any earlier version
    fits = ((a, b) <= (major, minor) and (a == major or kind == "compute") for a, b, kind in built)
    if not built or any(fits):
        return ""
    (first, first_minor, _), (last, last_minor, _) = built[0], built[-1]
    return (
        f"its compute capability is {major}.{minor}, and this build of torch is for {first}.{first_minor} to "
        f"{last}.{last_minor}"
    )


def _compare(gpu: torch.device) -> str:
    """Return what differs from the CPU, or "". The GPUs that agree are kept in the cache."""
    key = f"{get_gpu_name(gpu)}, torch {torch.__version__}, {platform.platform()}, {find_nvidia_driver()}"
    agreeing: list[str] = []
    with contextlib.suppress(SimclrError, OSError, ValueError):  # no cache, or a damaged file
        known = read_json(locate_gpu_checks())
        agreeing = [str(key) for key in known] if isinstance(known, list) else []
    if key in agreeing:
        return ""
    from simclr_cli.engine.agreement import compare_with_cpu  # not at the top: it imports timm, which is slow

    if difference := compare_with_cpu(gpu):
        return difference
    with contextlib.suppress(SimclrError, OSError):
        write_json(locate_gpu_checks(), [*agreeing, key])
    return ""
