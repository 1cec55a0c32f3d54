"""What the verb that looks for faults returns, and which faults it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simclr_cli.core.errors import MachineError

Grade = Literal["fault", "advice"]
ON_CPU = "Everything is computed on the CPU, tens of times slower."
SKIPPED = "Every command skips them."
FAULTS: dict[str, tuple[Grade, str]] = {  # by name: the grade, and why it matters
    "missing package": ("fault", "Commands stop where they need it."),
    "old package": ("fault", "Older versions were never tested, and fail on some image, model or option."),
    "mismatched torchvision": ("fault", "Its operators cannot be loaded into another torch, and timm needs them."),
    "broken torch": ("fault", "Every command that trains, embeds or searches needs it."),
    "CPU-only torch": ("advice", ON_CPU),
    "hidden GPU": ("advice", ON_CPU),
    "old driver": ("advice", ON_CPU),
    "unused GPU": ("advice", ON_CPU),
    "unsupported GPU": ("fault", "Every computation there fails."),
    "failing GPU": ("fault", "Every computation there fails."),
    "no memory": ("fault", "The system may end any command."),
    "little memory": ("advice", "A batch is computed in smaller parts, which takes longer."),
    "small /dev/shm": ("fault", "NCCL, by which the GPUs talk to one another, fails without it."),
    "few open files": ("fault", "Images then cannot be opened (too many open files)."),
    "crowded cores": ("advice", "Threads that wait for one another are several times slower."),
    "no images": ("fault", "There is nothing to train on."),
    "HEIC images": ("advice", SKIPPED),
    "camera raw images": ("advice", SKIPPED),
    "unreadable images": ("advice", SKIPPED),
    "skipped images": ("advice", f"{SKIPPED} The others are used."),
    "cache not writable": ("fault", "Training keeps the decoded images there."),
    "runs not writable": ("fault", "A run keeps its checkpoints and its encoder there."),
    "little disk": ("fault", "A checkpoint that has no room stops the training."),
    "newer run": ("advice", "Only the simclr that made it, or a newer one, can use it."),
}


@dataclass(frozen=True)
class Diagnosis:
    """Something that is wrong with the machine, with what is installed or with the folders, or could be better."""

    name: str  # of the fault, in a few words; stays the same
    grade: Grade  # fault: commands stop of it; advice: they are slower or do with less
    what: str  # what is wrong, in figures
    why: str  # why it matters
    command: str  # that fixes it, to be typed as it stands
    files: tuple[str, ...] = ()  # that it is about


def diagnose(name: str, what: str, command: str, files: tuple[str, ...] = ()) -> Diagnosis:
    """Return the diagnosis of a fault by its name."""
    grade, why = FAULTS[name]
    return Diagnosis(name, grade, what, why, command, files)


@dataclass(frozen=True)
class DoctorResult:
    """What `doctor` found; its exit code is 5 if there is a fault, else 0."""

    seen: tuple[str, ...]  # the machine and what is installed, in figures
    checks: int  # how many faults were looked for
    diagnoses: tuple[Diagnosis, ...]  # the worst first

    @property
    def exit_code(self) -> int:
        """0, or what a command that stops of a fault of the machine ends with."""
        return MachineError.exit_code if any(one.grade == "fault" for one in self.diagnoses) else 0
