"""Whether the GPU that is there is used, and well: each fault a function of what is installed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from simclr_cli.results.diagnosing import Diagnosis
from simclr_cli.verbs.installation import Installation, parts

OLDEST_DRIVER = 525  # of NVIDIA, for which there is a build of a torch that is new enough


def _with_cuda(here: Installation) -> str:
    """What installs a torch that this driver runs: uv finds out which build that is."""
    wanted = shlex.quote("".join(f"{one.name}>={one.floor}" for one in here.packages if one.name == "torch") or "torch")
    where = f"uv pip install --python {shlex.quote(here.executable)}"
    return f"{where} --reinstall {wanted} torchvision --torch-backend auto  # uv itself: pipx install uv"


def cpu_only_torch(here: Installation) -> Iterator[Diagnosis]:
    """On a machine that has a GPU."""
    if here.driver and here.torch.version and not here.torch.cuda:
        yield Diagnosis(
            "CPU-only torch", "advice",
            f"This machine has an NVIDIA GPU (driver {here.driver}); torch {here.torch.version} is built without CUDA.",
            "Everything is computed on the CPU, tens of times slower.", _with_cuda(here),
        )  # fmt: skip


def unused_gpu(here: Installation) -> Iterator[Diagnosis]:
    """torch is built for CUDA and finds no GPU, although there is one."""
    if not (here.driver and here.torch.cuda) or here.torch.gpus:
        return
    if here.hidden is not None and here.hidden.strip() in ("", "-1"):
        yield Diagnosis(
            "hidden GPU", "advice", f"CUDA_VISIBLE_DEVICES is {here.hidden!r}, which hides every GPU of this machine.",
            "Everything is computed on the CPU, tens of times slower.", "unset CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
        return
    old = here.driver != "?" and parts(here.driver) < (OLDEST_DRIVER,)
    yield Diagnosis(
        "unused GPU", "advice",
        f"torch {here.torch.version} is built for CUDA {here.torch.cuda}, and cannot use the GPU with the driver "
        f"{here.driver} ({here.torch.no_gpu or 'it finds none'}).",
        "Everything is computed on the CPU, tens of times slower.",
        "sudo ubuntu-drivers install" if old else _with_cuda(here),
    )  # fmt: skip


def unsupported_gpu(here: Installation) -> Iterator[Diagnosis]:
    """One that torch has no kernels for."""
    if here.torch.unsupported:
        yield Diagnosis(
            "unsupported GPU", "fault",
            f"torch {here.torch.version} has no kernels for {', '.join(here.torch.unsupported)}, a GPU that is here.",
            "The first computation there fails (no kernel image is available).", _with_cuda(here),
        )  # fmt: skip


def no_compiler(here: Installation) -> Iterator[Diagnosis]:
    """On a GPU, where torch.compile pays."""
    if not here.torch.gpus:
        return
    why = "torch.compile needs it; without, a training on a GPU takes about a tenth longer."
    if not here.torch.triton:
        yield Diagnosis("no triton", "advice", "triton is not installed.", why, f"{here.pip} triton")
    if not here.compiler:
        package = {"apt-get": "gcc libc6-dev", "brew": "gcc"}.get(here.system, "gcc glibc-devel")
        system = here.system if here.system == "brew" else f"sudo {here.system}"
        yield Diagnosis(
            "no compiler", "advice", "There is no C compiler (cc, gcc or clang).", why, f"{system} install {package}"
        )


CHECKS: tuple[Callable[[Installation], Iterator[Diagnosis]], ...] = (
    cpu_only_torch, unused_gpu, unsupported_gpu, no_compiler,
)  # fmt: skip
