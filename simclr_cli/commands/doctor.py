"""`simclr doctor`: a diagnosis of the machine, the installation and the folders, with the command for each fix."""

from __future__ import annotations

import sys

import simclr_cli
from simclr_cli.api import DoctorSettings
from simclr_cli.api.manage import FAULTS, DoctorResult, UnusedFile
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.text import format_count, format_gigabytes
from simclr_cli.diagnose import folders as folder_checks
from simclr_cli.diagnose import machine as machine_checks


def doctor(settings: DoctorSettings, *, report: Report = silent) -> DoctorResult:
    """Diagnose faults. Nothing is written but the census, and how the GPUs compute, in the cache.

    Raises:
        MachineError: the disk or the network share that holds the images fails.
    """
    report(Note("Checking this machine ..."))  # at once: the import of torch takes seconds
    torch = machine_checks.inspect_torch()
    folders = folder_checks.collect_folder_facts(settings.images, settings.runs, torch=not torch.error, report=report)
    return run_checks(machine_checks.collect_machine_facts(torch), folders)


def _describe_gpus(torch: machine_checks.TorchFacts) -> list[str]:
    return [f"{gpu} (not used)" if fault else gpu for gpu, fault in zip(torch.gpus, torch.gpu_faults, strict=True)]


def run_checks(machine: machine_checks.MachineFacts, folders: folder_checks.FolderFacts) -> DoctorResult:
    """Run all checks on the facts, and list the faults first."""
    diagnoses = [
        *machine_checks.check_packages(machine),
        *machine_checks.check_gpus(machine),
        *machine_checks.check_limits(machine),
        *folder_checks.check_image_folder(folders),
        *folder_checks.check_output_folders(folders),
    ]
    requirements = [package for package in machine.requirements if package.by == machine_checks.DISTRIBUTION]
    facts = [
        f"simclr {simclr_cli.__version__}, Python {sys.version_info.major}.{sys.version_info.minor}",
        ", ".join(f"{package.name} {package.installed}" for package in requirements),
        f"{format_count(machine.cores, 'core')}, {format_gigabytes(machine.memory)} of memory free",
        ", ".join(_describe_gpus(machine.torch)) or "no GPU that torch can use",
    ]
    if folders.image_count:
        skipped = f", {len(folders.skipped):,} skipped" if folders.skipped else ""
        other = f", {folders.other}" if folders.other else ""
        facts.append(f"{folders.images}: {format_count(folders.image_count, 'image')}{skipped}{other}")
    diagnoses.sort(key=lambda diagnosis: diagnosis.grade != "fault")
    return DoctorResult(
        tuple(facts), len(FAULTS), tuple(diagnoses), tuple(UnusedFile(*file) for file in folders.unused)
    )
