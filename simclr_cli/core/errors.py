"""What can go wrong that a person can mend: each error says what and why, and what to do next.

Exit codes stand here and nowhere else; `docs/cli.md` is generated from them.
"""

from __future__ import annotations

from typing import ClassVar


class SimclrError(Exception):
    """An expected failure: one sentence of what and why, one of what to do next.

    Any text may hold names of files; the face makes them safe to show.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "an error inside simclr itself (run again with --debug and report it)"

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


class SettingsError(SimclrError):
    """A setting that cannot work, alone or with another."""

    exit_code = 2
    meaning = "wrong usage: an unknown option, or a setting that cannot work"


class InputError(SimclrError):
    """The pictures, labels or queries given cannot be used."""

    exit_code = 3
    meaning = "the pictures, labels or queries given cannot be used"


class RunError(SimclrError):
    """A run folder or a file of vectors is missing, unfinished, damaged, or belongs to another model."""

    exit_code = 4
    meaning = "a run, checkpoint or vectors file is missing, unfinished, damaged, or of another model"


class MachineError(SimclrError):
    """The machine does not give what is needed: a right to write, disk, a device, the network, an extra."""

    exit_code = 5
    meaning = "the machine does not allow it: no right to write, no space, another process at it, no device, no weights"


class TrainingError(SimclrError):
    """Training went wrong by itself: the loss is not finite."""

    exit_code = 6
    meaning = "training failed: the loss is no longer finite"


class CollapseError(SimclrError):
    """Training ended with an encoder that gives all pictures about the same vector."""

    exit_code = 7
    meaning = "training ended, and the encoder has collapsed: it gives all pictures about the same vector"


class Interrupted(SimclrError):
    """A person (Ctrl-C) asked for a stop; what was made so far is saved."""

    exit_code = 130
    meaning = "stopped by Ctrl-C; what was made is saved"


class Terminated(Interrupted):
    """The system (SIGTERM) asked for a stop; what was made so far is saved."""

    exit_code = 143
    meaning = "stopped by SIGTERM; what was made is saved"


KINDS: tuple[type[SimclrError], ...] = (
    SimclrError, SettingsError, InputError, RunError, MachineError, TrainingError, CollapseError,
    Interrupted, Terminated,
)  # fmt: skip
