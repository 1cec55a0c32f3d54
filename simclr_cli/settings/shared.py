"""Settings that several verbs have: said once, and which encoder to use, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from simclr_cli.errors import SettingsError
from simclr_cli.fields import check, setting

RUNS = Path("simclr-runs")


DEVICE = "Where to compute: cpu, cuda, cuda:1, mps. Auto: the first GPU, else the CPU."
WORKERS = "Threads that read and decode pictures. Auto: one a core."
DEVICES = (
    "Processes on this machine that work as one, each on a GPU of its own, or on its share of the CPU. "
    "For several machines: torchrun or srun."
)
RUN = "Name of the run, or the path of its folder. Auto: the newest finished run under --runs."
RUNS_HELP = "The folder that runs are kept in."
SEED = "Every random choice follows from it; same seed, same machine, same result."

OUT_FOUND = (
    "Write what was found to this file: .html (a gallery), .csv or .json. "
    "Auto: nowhere, or with --open a gallery in the run's folder."
)
OPEN = "Open the gallery in the browser."
THUMBNAILS = "Show small pictures beside the names, where the terminal has colours."
FOUND_FILES = (".html", ".csv", ".json")


class FoundSettings(Protocol):
    """Settings of a verb that finds pictures: where what was found goes."""

    @property
    def out(self) -> Path | None: ...

    @property
    def open(self) -> bool: ...


def check_found_out(settings: FoundSettings) -> None:
    """Check --out and --open of a verb that finds pictures.

    Raises:
        SettingsError: --out is no gallery, CSV or JSON, or a folder; or --open, and it is no gallery.
    """
    out = settings.out
    if out is None:
        return
    if out.suffix.lower() not in FOUND_FILES:
        raise SettingsError(f"--out is {out}, and must end in .html, .csv or .json.", f"Try --out {out}.html")
    if out.is_dir():
        raise SettingsError(f"--out is {out}, which is a folder.", "Give the path of a file.")
    if settings.open and out.suffix.lower() != ".html":
        raise SettingsError(f"--open shows a gallery, and --out is {out}.", f"Try --out {out.with_suffix('.html')}")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Which encoder to use, and where: shared by the verbs that use one."""

    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    backbone: str | None = setting(None, "Use a plain timm model of this name instead of a run.")
    weights: str = setting("none", "Weights of --backbone: none (random), imagenet (timm's), or a .safetensors file.")
    image_size: int = setting(224, "Side of the pictures for --backbone; a run has its own.", at_least=8)
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=1)
    batch_size: int = setting(128, "Pictures embedded at once.", at_least=1)

    def __post_init__(self) -> None:
        check(self)
        if self.backbone is not None and self.run is not None:
            raise SettingsError("--run and --backbone name two encoders.", "Leave one of them out.")
        if self.backbone is None and self.weights != "none":
            raise SettingsError("--weights belongs to --backbone; a run has its own.", "Add --backbone NAME.")
