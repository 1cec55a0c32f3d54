"""Settings and results of `simclr report`, `check`, `cache`, `doctor` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.api.fields import (
    ANY_RUN_HELP,
    DEVICE_HELP,
    MAX_IMAGE_SIZE,
    RUNS_FOLDER,
    RUNS_HELP,
    SEED_HELP,
    WORKERS_HELP,
    Settings,
    check_output_folder,
    setting,
)
from simclr_cli.api.probe import Score
from simclr_cli.api.search import QueryResult
from simclr_cli.api.train import PretrainResult
from simclr_cli.core.errors import MachineError, RunError


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Settings of `simclr report`."""

    about = "Write an HTML report of a run."
    examples = ("simclr report --open", "simclr report birds --json")

    run: str | None = setting(None, ANY_RUN_HELP, argument=True, option=True)
    runs: Path = setting(RUNS_FOLDER, RUNS_HELP)
    open: bool = setting(False, "Open the page in the browser.")
    device: str | None = setting(None, DEVICE_HELP)
    workers: int | None = setting(None, WORKERS_HELP, at_least=0)


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """Settings of `simclr check`."""

    about = "Verify the files of a run, and say how to repair each damaged one."
    examples = ("simclr check", "simclr check birds --json")

    run: str | None = setting(None, ANY_RUN_HELP, argument=True, option=True)
    runs: Path = setting(RUNS_FOLDER, RUNS_HELP)


@dataclass(frozen=True, kw_only=True)
class CacheSettings(Settings):
    """Settings of `simclr cache`."""

    about = "Show or clear the cache of decoded images and embeddings."
    examples = ("simclr cache", "simclr cache ./images --clear")

    images: Path | None = setting(None, "Only the cache of this folder of images. Auto: of all folders.", argument=True)
    clear: bool = setting(False, "Delete the cache. Commands rebuild it when they need it.")


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Settings of `simclr demo`."""

    about = "Try everything on synthetic images, in a few minutes."
    examples = ("simclr demo", "simclr demo --seed 7 --out /tmp/demo")

    out: Path = setting(Path("simclr-demo"), "Folder for the synthetic images and the run.", short="o")
    count: int = setting(1600, "Number of images to draw.", at_least=100)
    epochs: int = setting(20, "Passes through the images.", at_least=1)
    image_size: int = setting(40, "Side of the views in pixels.", at_least=8, at_most=MAX_IMAGE_SIZE)
    seed: int = setting(0, SEED_HELP, at_least=0, at_most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_folder(self.out)


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Settings of `simclr doctor`."""

    about = "Diagnose the machine, the installation and the folders, and say how to fix what is wrong."
    examples = ("simclr doctor", "simclr doctor ./images --json")

    images: Path | None = setting(
        None, "Folder of images to check too. Auto: the machine and the runs only.", argument=True, exists=True
    )
    runs: Path = setting(RUNS_FOLDER, RUNS_HELP)


State = Literal["damaged", "missing", "foreign"]


@dataclass(frozen=True)
class ReportResult:
    """Result of `simclr report`."""

    run: str  # the folder
    out: str  # report.html in it
    finished: bool  # whether the run is finished
    bytes: int


@dataclass(frozen=True)
class FileProblem:
    """A damaged, missing or foreign file of a run."""

    path: str  # relative to the run
    state: State
    what: str
    remedy: str


@dataclass(frozen=True)
class CheckResult:
    """Result of `simclr check`."""

    run: str  # the folder
    finished: bool  # if not, only its checkpoint is verified
    intact: bool  # nothing is damaged, missing or foreign
    files: int  # verified
    bytes: int  # of these
    problems: tuple[FileProblem, ...]
    resume: str | None  # the command that resumes it; None if it is finished

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return 0 if self.intact else RunError.exit_code


@dataclass(frozen=True)
class FolderCache:
    """The cache of one folder of images."""

    path: str
    folder: str  # of the images
    sides: tuple[int, ...]  # of the decoded squares, px
    encoders: int  # whose embeddings of the folder are kept
    bytes: int
    used: str  # time of the last use, ISO 8601 in UTC


@dataclass(frozen=True)
class CacheResult:
    """Result of `simclr cache`; with --clear, the caches that were deleted."""

    root: str
    cleared: bool
    bytes: int
    caches: tuple[FolderCache, ...]


@dataclass(frozen=True)
class DemoResult:
    """Result of `simclr demo`."""

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
FAULTS: dict[str, tuple[Grade, str]] = {  # name: grade and consequence
    "missing package": ("fault", "Commands stop where they need it."),
    "old package": ("fault", "Older versions are untested, and fail on some images, models or options."),
    "mismatched torchvision": ("fault", "Its operators cannot be loaded into another torch, and timm needs them."),
    "broken torch": ("fault", "Every command that trains, embeds or searches needs it."),
    "CPU-only torch": ("advice", ON_CPU),
    "hidden GPU": ("advice", ON_CPU),
    "old driver": ("advice", ON_CPU),
    "unused GPU": ("advice", ON_CPU),
    "unsupported GPU": ("advice", ON_CPU),
    "failing GPU": ("advice", ON_CPU),
    "disagreeing GPU": ("advice", ON_CPU),
    "no memory": ("fault", "The system may end any command."),
    "little memory": ("advice", "A batch is computed in smaller parts, which takes longer."),
    "small /dev/shm": ("fault", "NCCL, by which GPUs communicate, fails without it."),
    "few open files": ("fault", "Images cannot be opened (too many open files)."),
    "crowded cores": ("advice", "Threads that wait for each other are several times slower."),
    "no images": ("fault", "There is nothing to train on."),
    "HEIC images": ("advice", SKIPPED),
    "camera raw images": ("advice", SKIPPED),
    "unreadable images": ("advice", SKIPPED),
    "skipped images": ("advice", f"{SKIPPED} The others are used."),
    "cache not writable": ("fault", "Training keeps the decoded images there."),
    "runs not writable": ("fault", "A run keeps its checkpoints and its encoder there."),
    "little disk": ("fault", "Training stops when it cannot write a checkpoint."),
    "newer run": ("advice", "Only the version of simclr that made it, or a newer one, can use it."),
}


@dataclass(frozen=True)
class Diagnosis:
    """A fault of the machine, the installation or the folders, or advice about them."""

    name: str  # of the fault, in a few words; the same in every version
    grade: Grade  # fault: commands fail; advice: they are slower, or skip something
    what: str  # the fault, in figures
    why: str  # its consequence
    command: str  # the complete command line that fixes it
    files: tuple[str, ...] = ()  # affected


def diagnose(name: str, what: str, command: str, files: tuple[str, ...] = ()) -> Diagnosis:
    """Create the diagnosis of a fault by its name."""
    grade, why = FAULTS[name]
    return Diagnosis(name, grade, what, why, command, files)


@dataclass(frozen=True)
class UnusedFile:
    """A file that no command uses, a system folder, whose name ends with "/", or an image that is used although odd."""

    name: str
    reason: str


@dataclass(frozen=True)
class DoctorResult:
    """Result of `simclr doctor`; its exit code is 5 if there is a fault, else 0."""

    machine: tuple[str, ...]  # facts about the machine and the installation
    checks: int  # kinds of faults checked
    diagnoses: tuple[Diagnosis, ...]  # the worst first
    unused: tuple[UnusedFile, ...] = ()  # and odd files of the folder of images; at most 10,000 that are no images

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return MachineError.exit_code if any(diagnosis.grade == "fault" for diagnosis in self.diagnoses) else 0
