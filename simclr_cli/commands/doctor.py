"""What is wrong with the machine, with what is installed or with the folders; why it matters, and what fixes it."""

from __future__ import annotations

import sys

import simclr_cli
from simclr_cli.api import DoctorSettings
from simclr_cli.api.manage import FAULTS, DoctorResult
from simclr_cli.core.events import Report, gigabytes, silent
from simclr_cli.core.text import count
from simclr_cli.diagnose import folders as folder_checks
from simclr_cli.diagnose import machine as machine_checks


def doctor(settings: DoctorSettings, *, report: Report = silent) -> DoctorResult:
    """Look for faults; nothing is changed, and nothing written but what a census keeps in the cache.

    Raises:
        MachineError: the disk or the network share that holds the images fails.
    """
    torch = machine_checks.ask_torch()
    folders = folder_checks.folder_facts(settings.images, settings.runs, torch=not torch.error, report=report)
    return judge(machine_checks.machine_facts(torch), folders)


def judge(machine: machine_checks.MachineFacts, folders: folder_checks.FolderFacts) -> DoctorResult:
    """Return what follows from the facts, the faults first."""
    found = [
        *machine_checks.check_packages(machine),
        *machine_checks.check_gpus(machine),
        *machine_checks.check_limits(machine),
        *folder_checks.check_images(folders),
        *folder_checks.check_written_folders(folders),
    ]
    seen = [
        f"simclr {simclr_cli.__version__}, Python {sys.version_info.major}.{sys.version_info.minor}",
        ", ".join(f"{one.name} {one.installed}" for one in machine.requirements if one.by == machine_checks.OURS),
        f"{count(machine.cores, 'core')}, {gigabytes(machine.memory)} of memory free",
        ", ".join(machine.torch.gpus) or "no GPU that torch can use",
    ]
    if folders.image_count:
        seen.append(f"{folders.images}: {count(folders.image_count, 'image')}")
    return DoctorResult(tuple(seen), len(FAULTS), tuple(sorted(found, key=lambda one: one.grade != "fault")))
