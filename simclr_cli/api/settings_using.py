"""Settings of what puts an encoder to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simclr_cli.api import shared
from simclr_cli.api.fields import setting
from simclr_cli.core.errors import SettingsError

ANY_RUN = "Name of the run, or the path of its folder. Auto: the newest under --runs, finished or not."
FORMS = (".npy", ".npz", ".parquet", ".csv", ".safetensors", ".tsv")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(shared.EncoderSettings):
    """Settings of `simclr embed`."""

    about = "Write a vector for every picture."
    examples = ("simclr embed --out vecs.npy", "simclr embed ./other --run birds --raw --out h.npy")

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
    devices: int = setting(1, shared.DEVICES, at_least=1)
    batch_size: int = setting(128, shared.EMBEDDED_AT_ONCE, at_least=1)

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
class ReportSettings(shared.Settings):
    """Settings of `simclr report`."""

    about = "Make the page of a run: how it went, what it saw, what it takes for alike."
    examples = ("simclr report --open", "simclr report birds --json")

    run: str | None = setting(None, ANY_RUN, argument=True)
    runs: Path = setting(shared.RUNS, shared.RUNS_HELP)
    open: bool = setting(False, "Open the page in the browser.")
    device: str | None = setting(None, shared.DEVICE)
    workers: int | None = setting(None, shared.WORKERS, at_least=0)


@dataclass(frozen=True, kw_only=True)
class CheckSettings(shared.Settings):
    """Settings of `simclr check`."""

    about = "Verify the files of a run, and say how to repair each damaged one."
    examples = ("simclr check", "simclr check birds --json")

    run: str | None = setting(None, ANY_RUN, argument=True)
    runs: Path = setting(shared.RUNS, shared.RUNS_HELP)


@dataclass(frozen=True, kw_only=True)
class CacheSettings(shared.Settings):
    """Settings of `simclr cache`."""

    about = "Show or clear what is kept of folders of pictures to be quicker the next time."
    examples = ("simclr cache", "simclr cache ./images --clear")

    images: Path | None = setting(None, "Only what is kept of this folder of pictures. Auto: of all.", argument=True)
    clear: bool = setting(False, "Delete it. It is made again when it is needed.")


@dataclass(frozen=True, kw_only=True)
class DemoSettings(shared.Settings):
    """Settings of `simclr demo`."""

    about = "Show all of it on pictures that it draws itself, in a few minutes."
    examples = ("simclr demo", "simclr demo --seed 7 --out /tmp/demo")

    out: Path = setting(Path("simclr-demo"), "The folder for the drawn pictures and the run.", short="o")
    pictures: int = setting(1600, "How many pictures to draw.", at_least=100)
    epochs: int = setting(20, "Epochs to train for.", at_least=1)
    image_size: int = setting(40, "Side of the views in pixels.", at_least=8)
    seed: int = setting(0, shared.SEED, at_least=0, at_most=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(shared.Settings):
    """Settings of `simclr doctor`."""

    about = "Say what is wrong with this machine, the installation or the folders, and what mends it."
    examples = ("simclr doctor", "simclr doctor ./images --json")

    images: Path | None = setting(
        None, "A folder of pictures to look at too. Auto: the machine and the runs only.", argument=True, exists=True
    )
    runs: Path = setting(shared.RUNS, shared.RUNS_HELP)
