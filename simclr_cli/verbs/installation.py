"""What is installed and how, and what can be wrong with it: each fault a function of facts."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import simclr_cli
from simclr_cli.results.diagnosing import Diagnosis
from simclr_cli.verbs.torch_facts import TorchFacts

OURS = "simclr-cli"
EXTRAS = {
    "map": "simclr map --layout tsne",
    "parquet": "simclr embed --out vectors.parquet",
    "tensorboard": "simclr pretrain --tensorboard",
    "clusters": "simclr clusters --method hdbscan",
}


@dataclass(frozen=True)
class Package:
    """One that simclr needs, or could use."""

    name: str
    floor: str  # the oldest version that will do
    extra: str  # what it is for; "" for one that is always needed
    installed: str | None  # which version


@dataclass(frozen=True)
class Installation:
    """What is installed, and how."""

    packages: tuple[Package, ...]
    torch: TorchFacts
    torch_wanted: str | None = None  # by torchvision: ==2.10.0
    pythons: tuple[str, ...] = ()  # that torch is made for
    python: str = "3.11"
    version: str | None = simclr_cli.__version__  # of the simclr that is installed
    running: str = simclr_cli.__version__  # of the one that runs
    driver: str = ""  # of NVIDIA's on this machine; "" where there is none
    hidden: str | None = None  # CUDA_VISIBLE_DEVICES
    compiler: bool = True
    commands: tuple[str, ...] = ()  # all that are called simclr on the PATH
    executable: str = "python"  # the path of this Python
    pip: str = "pip"  # the command that installs into this very environment
    system: str = "apt-get"  # what the system's own packages come by


def installation(torch: TorchFacts) -> Installation:
    """What is installed here."""
    requirements = [found for text in _requires(OURS) if (found := re.match(r"([\w.-]+)>=([\d.]+)", text))]
    extras = {text: (re.search(r"extra == ['\"](\w+)", text) or ["", ""])[1] for text in _requires(OURS)}
    made_for = r"Programming Language :: Python :: (3\.\d+)"
    wanted = re.search(r"^torch\b[ (]*((?:==|>=)[\d.]+)", "\n".join(_requires("torchvision")), re.MULTILINE)
    classifiers = importlib.metadata.metadata("torch").get_all("Classifier", []) if _version("torch") else []
    return Installation(
        packages=tuple(Package(r[1], r[2], extras[r.string], _version(r[1])) for r in requirements),
        torch=torch,
        torch_wanted=wanted[1] if wanted else None,
        pythons=tuple(found[1] for text in classifiers if (found := re.fullmatch(made_for, text))),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        version=_version(OURS),
        driver=_driver(),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        compiler=any(shutil.which(name) for name in ("cc", "gcc", "clang")),
        commands=_commands(),
        executable=sys.executable,
        pip=_pip(),
        system=next((name for name in ("apt-get", "dnf", "zypper", "brew") if shutil.which(name)), "apt-get"),
    )


def _requires(package: str) -> list[str]:
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    try:
        told = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "?" if Path("/dev/nvidia0").exists() else ""
    found = re.search(r"\d{3}(\.\d+)+", told)
    return found[0] if found else "?"


def _commands() -> tuple[str, ...]:
    """All that are called simclr on the PATH, each once, in its order."""
    found = (Path(folder) / "simclr" for folder in os.get_exec_path() if folder)
    return tuple(dict.fromkeys(str(path.resolve()) for path in found if os.access(path, os.X_OK) and path.is_file()))


def _pip() -> str:
    if "pipx" in Path(sys.prefix).parts:
        return f"pipx runpip {OURS} install"
    python = shlex.quote(sys.executable)
    return f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"


def parts(version: str) -> tuple[int, ...]:
    """(2, 10, 0) of 2.10.0+cpu."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def old_packages(here: Installation) -> Iterator[Diagnosis]:
    """Missing, or older than needed."""
    for one in here.packages:
        wanted = f"{one.name}>={one.floor}"
        if one.extra or (one.installed and parts(one.installed) >= parts(one.floor)):
            continue
        there = f"{one.name} {one.installed} is installed" if one.installed else f"{one.name} is missing"
        yield Diagnosis(
            "old package" if one.installed else "missing package", "fault",
            f"{there}, and simclr {here.running} needs {one.floor} or newer.",
            "What is older was never tested, and fails on some picture, model or option.",
            f"{here.pip} --upgrade {shlex.quote(wanted)}",
        )  # fmt: skip


def mismatched_torchvision(here: Installation) -> Iterator[Diagnosis]:
    """torchvision is made for one torch, and says which."""
    version = next((one.installed for one in here.packages if one.name == "torch"), None)
    if not (here.torch_wanted and version):
        return
    there, wanted = parts(version), parts(here.torch_wanted)
    if there < wanted or (there > wanted and here.torch_wanted.startswith("==")):
        yield Diagnosis(
            "mismatched torchvision", "fault",
            f"torch is {version}, and the torchvision that is installed is made for torch{here.torch_wanted}.",
            "Its operators cannot be loaded into another torch, and without them timm cannot be imported.",
            f"{here.pip} --upgrade torch torchvision",
        )  # fmt: skip


def broken_torch(here: Installation) -> Iterator[Diagnosis]:
    """It cannot be imported."""
    if here.torch.error:
        yield Diagnosis(
            "broken torch", "fault", f"torch and torchvision cannot be imported ({here.torch.error}).",
            "Every command that trains, embeds or searches needs them.",
            f"{here.pip} --force-reinstall torch torchvision",
        )  # fmt: skip


def unknown_python(here: Installation) -> Iterator[Diagnosis]:
    """Not one that torch is made for."""
    if here.pythons and here.python not in here.pythons:
        yield Diagnosis(
            "unknown Python", "advice",
            f"This is Python {here.python}, and the torch that is installed is made for {', '.join(here.pythons)}.",
            "What torch was not made for may fail when it is imported, or later.",
            f"uv tool install --force --python {here.pythons[-1]} {OURS}",
        )  # fmt: skip


def two_simclrs(here: Installation) -> Iterator[Diagnosis]:
    """More than one on the PATH, or one installed and another one running."""
    if len(here.commands) > 1:
        first, *others = here.commands
        yield Diagnosis(
            "two simclrs", "advice",
            f"There are {len(here.commands)} commands simclr on the PATH; {first} is the one that runs.",
            "An update of the other one changes nothing, and its settings and runs may be of another version.",
            f"{shlex.quote(str(Path(others[0]).with_name('python')))} -m pip uninstall {OURS}", tuple(here.commands),
        )  # fmt: skip
    if here.version not in (None, here.running):
        yield Diagnosis(
            "another version", "advice", f"simclr {here.version} is installed, and what runs is {here.running}, out of "
            f"{Path(simclr_cli.__file__).parent}.",
            "What was updated is not what is used.", "unset PYTHONPATH",
        )  # fmt: skip


def two_openmps(here: Installation) -> Iterator[Diagnosis]:
    """More than one library of threads in one process."""
    if len(here.torch.openmp) > 1:
        yield Diagnosis(
            "two OpenMPs", "advice",
            f"torch loads {len(here.torch.openmp)} OpenMP libraries ({', '.join(here.torch.openmp)}).",
            "Their threads do not know one another: slower, and some pairs end the process.",
            f"{here.pip} --force-reinstall torch numpy",
        )  # fmt: skip


def missing_extras(here: Installation) -> Iterator[Diagnosis]:
    """What could be had."""
    for package in here.packages:
        if package.extra in EXTRAS and not package.installed:
            yield Diagnosis(
                f"extra {package.extra}", "note", f"{package.name} is not installed.",
                f"{EXTRAS[package.extra]} needs it; all else does without.",
                f"{here.pip} {shlex.quote(f'{package.name}>={package.floor}')}",
            )  # fmt: skip


CHECKS: tuple[Callable[[Installation], Iterator[Diagnosis]], ...] = (
    old_packages, mismatched_torchvision, broken_torch, unknown_python, two_simclrs,
    two_openmps, missing_extras,
)  # fmt: skip
