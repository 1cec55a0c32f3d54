"""Settings and results of the commands that report on runs, caches and the machine, and of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.api.fields import ANY_RUN, DEVICE, RUNS, RUNS_HELP, SEED, WORKERS, Settings, setting
from simclr_cli.api.probe import Score
from simclr_cli.api.search import QueryResult
from simclr_cli.api.train import PretrainResult
from simclr_cli.core.errors import MachineError, RunError


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Settings of `simclr report`."""

    about = "Make the page of a run: how it went, what it saw, what it takes for alike."
    examples = ("simclr report --open", "simclr report birds --json")

    run: str | None = setting(None, ANY_RUN, argument=True)
    runs: Path = setting(RUNS, RUNS_HELP)
    open: bool = setting(False, "Open the page in the browser.")
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """Settings of `simclr check`."""

    about = "Verify the files of a run, and say how to repair each damaged one."
    examples = ("simclr check", "simclr check birds --json")

    run: str | None = setting(None, ANY_RUN, argument=True)
    runs: Path = setting(RUNS, RUNS_HELP)


@dataclass(frozen=True, kw_only=True)
class CacheSettings(Settings):
    """Settings of `simclr cache`."""

    about = "Show or clear what is kept of folders of images to be quicker the next time."
    examples = ("simclr cache", "simclr cache ./images --clear")

    images: Path | None = setting(None, "Only what is kept of this folder of images. Auto: of all.", argument=True)
    clear: bool = setting(False, "Delete it. It is made again when it is needed.")


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Settings of `simclr demo`."""

    about = "Show all of it on images that it draws itself, in a few minutes."
    examples = ("simclr demo", "simclr demo --seed 7 --out /tmp/demo")

    out: Path = setting(Path("simclr-demo"), "The folder for the drawn images and the run.", short="o")
    count: int = setting(1600, "How many images to draw.", at_least=100)
    epochs: int = setting(20, "Epochs to train for.", at_least=1)
    image_size: int = setting(40, "Side of the views in pixels.", at_least=8)
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Settings of `simclr doctor`."""

    about = "Say what is wrong with this machine, the installation or the folders, and what mends it."
    examples = ("simclr doctor", "simclr doctor ./images --json")

    images: Path | None = setting(
        None, "A folder of images to look at too. Auto: the machine and the runs only.", argument=True, exists=True
    )
    runs: Path = setting(RUNS, RUNS_HELP)


State = Literal["damaged", "missing", "foreign"]


@dataclass(frozen=True)
class ReportResult:
    """The page that `report` made."""

    run: str  # the folder
    out: str  # report.html in it
    finished: bool  # whether the run is
    bytes: int


@dataclass(frozen=True)
class FileProblem:
    """A file of a run that is not as it should be."""

    path: str  # relative to the run
    state: State
    what: str
    remedy: str


@dataclass(frozen=True)
class CheckResult:
    """What `check` found in a run's folder."""

    run: str  # the folder
    finished: bool  # else only its checkpoint is verified
    intact: bool  # nothing is damaged, missing or foreign
    files: int  # verified
    bytes: int  # of these
    problems: tuple[FileProblem, ...]
    resume: str | None  # the command that goes on with it; None: it is finished

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 0 if self.intact else RunError.exit_code


@dataclass(frozen=True)
class FolderCache:
    """What is kept of one folder of images, to be quicker the next time."""

    path: str
    folder: str  # the images'
    sides: tuple[int, ...]  # of the decoded squares, px
    bytes: int
    used: str  # when last, ISO 8601 in UTC


@dataclass(frozen=True)
class CacheResult:
    """What lies in the cache, or, after --clear, what lay there."""

    root: str
    cleared: bool
    bytes: int
    caches: tuple[FolderCache, ...]


@dataclass(frozen=True)
class DemoResult:
    """What `demo` showed."""

    folder: str
    images: int
    classes: tuple[str, ...]
    scores: tuple[Score, ...]  # trained, untrained, pixels
    query: QueryResult
    seconds: float
    pretrain: PretrainResult | None = None


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

    machine: tuple[str, ...]  # the machine and what is installed, in figures
    checks: int  # how many faults were looked for
    diagnoses: tuple[Diagnosis, ...]  # the worst first

    @property
    def exit_code(self) -> int:
        """0, or what a command that stops of a fault of the machine ends with."""
        return MachineError.exit_code if any(one.grade == "fault" for one in self.diagnoses) else 0
