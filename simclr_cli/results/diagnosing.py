"""What the verb that looks for faults returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simclr_cli.errors import MachineError

Grade = Literal["fault", "advice", "note"]


@dataclass(frozen=True)
class Diagnosis:
    """Something that is wrong with the machine, with what is installed or with the folders, or could be better."""

    name: str  # of the fault, in a few words; stays the same
    grade: Grade  # fault: commands stop of it; advice: they are slower or do with less; note: they could do more
    what: str  # what is wrong, in figures
    why: str  # why it matters
    command: str  # mends it, to be typed as it stands
    files: tuple[str, ...] = ()  # that it is about


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
