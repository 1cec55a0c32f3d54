"""Settings that several verbs have: said once, and which encoder to use, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simclr_cli.api.fields import check, setting
from simclr_cli.core.errors import SettingsError

RUNS = Path("simclr-runs")
PAGES = (".html", ".htm")
MOST_SIDE = 4_096  # px: a config.json that says more was not written by a run, and would take all memory

DEVICE = "Where to compute: cpu, cuda, cuda:1, mps. Auto: the first GPU, else the CPU."
WORKERS = "Processes that read and decode pictures; 0: threads of this one, one a core. Auto: one a core."
DEVICES = (
    "Processes on this machine that work as one, each on a GPU of its own, or on its share of the CPU. "
    "For several machines: torchrun or srun."
)
RUN = "Name of the run, or the path of its folder. Auto: the newest finished run under --runs."
EMBEDDED_AT_ONCE = "Pictures embedded at once."
RUNS_HELP = "The folder that runs are kept in."
SEED = "Every random choice follows from it; same seed, same machine, same result."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that are checked as they are made."""

    about: ClassVar[str]  # what the verb does, in a line of help
    examples: ClassVar[tuple[str, str]]  # to be typed as they stand
    resolved: ClassVar[bool] = False  # by a plan, perhaps long ago, so that what was there may have gone

    def __post_init__(self) -> None:
        check(self, paths=not self.resolved)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Settings):
    """Which encoder to use, and where: shared by the verbs that use one."""

    images: Path | None = setting(None, "The folder of pictures. Auto: the run's own.", argument=True, exists=True)
    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    backbone: str | None = setting(None, "Take a plain timm model of this name instead of a run.")
    weights: str = setting("none", "Weights of --backbone: none (random), imagenet (timm's), or a .safetensors file.")
    image_size: int = setting(
        224, "Side of the pictures for --backbone; a run has its own.", at_least=8, at_most=MOST_SIDE
    )
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone is not None and self.run is not None:
            raise SettingsError("--run and --backbone name two encoders.", "Leave one of them out.")
        if self.backbone is None and self.weights != "none":
            raise SettingsError("--weights belongs to --backbone; a run has its own.", "Add --backbone NAME.")
        if self.backbone is not None and self.images is None:
            raise SettingsError("A plain --backbone has no pictures of its own.", "Name the folder of pictures.")


def check_out(out: Path | None, *endings: str) -> None:
    """Check that a file to write has one of these endings.

    Raises:
        SettingsError: it has another one, or is a folder.
    """
    if out is None:
        return
    if out.is_dir():
        raise SettingsError(f"--out is {out}, which is a folder.", "Give the path of a file.")
    if out.suffix.lower() not in endings:
        *most, last = [ending for ending in endings if ending != ".htm"]  # .html by another name
        wanted = f"{', '.join(most)} or {last}" if most else last
        raise SettingsError(f"--out is {out}, and must end in {wanted}.", f"Try --out {out.with_suffix(endings[0])}")
