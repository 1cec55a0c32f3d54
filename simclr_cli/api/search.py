"""Settings and results of embedding and of the search for similar images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from simclr_cli.api.fields import (
    DEVICE,
    DEVICES,
    EMBEDDED_AT_ONCE,
    RUN,
    RUNS,
    RUNS_HELP,
    WORKERS,
    EncoderSettings,
    Settings,
    check_out,
    setting,
)
from simclr_cli.core.errors import InputError, SettingsError

WITHIN = "Only images whose relative path fits this pattern, such as 'birds/*.jpg'. Auto: all."
FORMS = (".npy", ".npz", ".parquet", ".csv", ".safetensors", ".tsv")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(EncoderSettings):
    """Settings of `simclr embed`."""

    about = "Write a vector for every image."
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
class IndexSettings(Settings):
    """Which images are searched, and how their vectors are kept up to date: shared by the verbs that find."""

    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    no_update: bool = setting(False, "Take the vectors as they are, without a look at whether the images have changed.")
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)
    batch_size: int = setting(128, EMBEDDED_AT_ONCE, at_least=1)


@dataclass(frozen=True, kw_only=True)
class FindSettings(IndexSettings):
    """Where what was found goes: shared by the verbs that list images."""

    out: Path | None = setting(
        None,
        "Write what was found to this file: .html (a gallery), .csv or .json. "
        "Auto: nowhere, or with --open a gallery in the run's folder.",
        short="o",
    )
    open: bool = setting(False, "Open the gallery in the browser.")
    thumbnails: bool = setting(False, "Show small images beside the names, where the terminal has colors.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_out(self.out, ".html", ".csv", ".json")
        if self.open and self.out is not None and self.out.suffix.lower() != ".html":
            raise SettingsError(
                f"--open shows a gallery, and --out is {self.out}.", f"Try --out {self.out.with_suffix('.html')}"
            )


@dataclass(frozen=True, kw_only=True)
class SimilarSettings(FindSettings):
    """Settings of `simclr similar`."""

    about = "Print the most similar images."
    examples = ("simclr similar query.jpg", "simclr similar ./queries --top 5 --json")

    queries: tuple[Path, ...] = setting(
        (),
        "Images, folders of images, or names of the run's own images. With + and - between them they are one "
        "query: the sum of their vectors.",
        argument=True,
    )
    top: int = setting(10, "How many neighbors a query.", at_least=1, short="n")
    within: str = setting("", WITHIN)
    min_similarity: float | None = setting(
        None, "Only images at least so similar, by cosine. Auto: any.", at_least=-1, at_most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.queries:
            raise SettingsError("No query was given.", "Type: simclr similar IMAGE")
        for query in self.queries:  # what is no absolute path may be the name of one of the run's images
            if query.is_absolute() and not os.path.lexists(query):
                raise InputError(f"There is no {query}.", "Check the path.")


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` wrote."""

    out: str
    rows_file: str  # names of the rows, and what was skipped: beside `out`, `out` itself, or the list of shards
    rows: int
    dimensions: int
    normalized: bool
    encoder: str  # the run's folder, or the timm name
    model_checksum: str
    skipped: int
    seconds: float
    images_per_second: float
    shards: int | None = None  # files, which rows_file lists; None for one


@dataclass(frozen=True)
class Neighbor:
    """One hit."""

    rank: int  # from 1
    path: str
    similarity: float  # cosine, -1 to 1
    above_random: float  # percent of random pairs of the run's images that are less similar
    above_views: float  # percent of pairs of two views of one image that are less similar


@dataclass(frozen=True)
class QueryResult:
    """The hits of one query, nearest first."""

    query: str  # as it was given; a sum as a line of its terms
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class SimilarResult:
    """What `similar` found."""

    run: str
    searched: int  # vectors
    queries: tuple[QueryResult, ...]
    skipped: tuple[str, ...] = ()  # files in a folder of queries that are no images
    out: str | None = None  # the file that it was written to
