"""What is wrong with the machine, with what is installed or with the folders; why it matters, and what mends it."""

from __future__ import annotations

from simclr_cli.events import Report, gigabytes, silent
from simclr_cli.results.diagnosing import Diagnosis, DoctorResult
from simclr_cli.settings import DoctorSettings
from simclr_cli.verbs import gpus, installation, left_out, premises, resources
from simclr_cli.verbs.torch_facts import torch_facts
from simclr_cli.wording import count

GRADES = ("fault", "advice", "note")  # the worst first


def doctor(settings: DoctorSettings, *, report: Report = silent) -> DoctorResult:
    """Look for faults; nothing is changed, and nothing written but what a census keeps in the cache.

    Raises:
        MachineError: the disk or the network share that holds the pictures fails.
    """
    torch = torch_facts()
    installed = installation.installation(torch)
    machine = resources.resources(torch)
    folders = premises.premises(
        settings.images, settings.runs, gpu=bool(torch.gpus), torch=not torch.error, report=report
    )
    return diagnosed(installed, machine, folders)


def diagnosed(
    installed: installation.Installation, machine: resources.Resources, folders: premises.Premises
) -> DoctorResult:
    """What follows from the facts."""
    of_installed, of_folders = (*installation.CHECKS, *gpus.CHECKS), (*left_out.CHECKS, *premises.CHECKS)
    found = [
        *(one for check in of_installed for one in check(installed)),
        *(one for check in resources.CHECKS for one in check(machine)),
        *(one for check in of_folders for one in check(folders)),
    ]
    checks = len(of_installed) + len(resources.CHECKS) + len(of_folders)
    return DoctorResult(_seen(installed, machine, folders), checks, tuple(sorted(found, key=_rank)))


def _rank(one: Diagnosis) -> int:
    return GRADES.index(one.grade)


def _seen(
    installed: installation.Installation, machine: resources.Resources, folders: premises.Premises
) -> tuple[str, ...]:
    """The facts that a report of a fault should have."""
    versions = {one.name: one.installed for one in installed.packages if not one.extra}
    seen = [
        f"simclr {installed.running}, Python {installed.python}",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        f"{count(machine.cores, 'core')}, {gigabytes(machine.memory)} of memory free",
        ", ".join(machine.gpus) or "no GPU that torch can use",
    ]
    if folders.pictures:
        seen.append(f"{folders.pictures.folder}: {count(folders.pictures.pictures, 'picture')}")
    return tuple(seen)
