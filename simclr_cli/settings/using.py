"""Settings of what puts an encoder to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.errors import SettingsError
from simclr_cli.fields import setting
from simclr_cli.settings.shared import (
    DEVICE,
    DEVICES,
    EMBEDDED_AT_ONCE,
    RUNS,
    RUNS_HELP,
    SEED,
    WORKERS,
    EncoderSettings,
    Settings,
)

FORMS = (".npy", ".npz", ".parquet", ".csv", ".safetensors", ".tsv")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(EncoderSettings):
    """Settings of `simclr embed`."""

    out: Path = setting(
        Path("vecs.npy"),
        "The file of vectors, in the form that its ending says: .npy (the rows' names go beside it), .npz, .parquet, "
        ".csv, .safetensors, or .tsv with thumbnails for the Embedding Projector.",
        short="o",
    )
    raw: bool = setting(False, "Leave h as it is instead of scaling each row to length 1.")
    shards: int | None = setting(
        None,
        "Write so many .npy and a list of them; those that are there already are kept. Auto: one file.",
        at_least=1,
        at_most=99_999,
    )
    devices: int = setting(1, DEVICES, at_least=1)
    batch_size: int = setting(128, EMBEDDED_AT_ONCE, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.suffix not in FORMS:
            forms = f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"
            raise SettingsError(
                f"--out is {self.out}, and must end in {forms}.", f"Try --out {self.out.with_suffix('.npy')}"
            )
        if self.shards is not None and self.out.suffix != ".npy":
            raise SettingsError(f"--shards are .npy, and --out is {self.out}.", "Leave one out, or give a .npy.")
        if self.out.is_dir():
            raise SettingsError(f"--out is {self.out}, which is a folder.", "Give the path of a file.")


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Settings of `simclr report`."""

    run: str | None = setting(
        None,
        "Name of the run, or the path of its folder. Auto: the newest under --runs, finished or not.",
        argument=True,
    )
    runs: Path = setting(RUNS, RUNS_HELP)
    open: bool = setting(False, "Open the page in the browser.")
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """Settings of `simclr check`."""

    run: str | None = setting(
        None,
        "Name of the run, or the path of its folder. Auto: the newest under --runs, finished or not.",
        argument=True,
    )
    runs: Path = setting(RUNS, RUNS_HELP)


@dataclass(frozen=True, kw_only=True)
class CacheSettings(Settings):
    """Settings of `simclr cache`."""

    images: Path | None = setting(None, "Only what is kept of this folder of pictures. Auto: of all.", argument=True)
    clear: bool = setting(False, "Delete it. It is made again when it is needed.")


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Settings of `simclr demo`."""

    out: Path = setting(Path("simclr-demo"), "The folder for the drawn pictures and the run.", short="o")
    pictures: int = setting(1600, "How many pictures to draw.", at_least=100)
    epochs: int = setting(20, "Epochs to train for.", at_least=1)
    image_size: int = setting(40, "Side of the views in pixels.", at_least=8)
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Settings of `simclr doctor`."""

    images: Path | None = setting(
        None, "A folder of pictures to look at too. Auto: the machine and the runs only.", argument=True, exists=True
    )
    runs: Path = setting(RUNS, RUNS_HELP)
