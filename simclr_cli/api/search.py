"""Settings and results of `simclr embed` and `simclr similar`, and settings that all searches share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from simclr_cli.api.fields import (
    BASICS,
    BATCH_SIZE_HELP,
    DEVICES_HELP,
    ENCODER,
    HARDWARE,
    OUTPUT,
    EncoderSettings,
    check_output_path,
    setting,
)
from simclr_cli.core.errors import InputError, SettingsError

WITHIN_HELP = "Search only images whose relative path matches this pattern, such as 'birds/*.jpg'. Auto: all."
SEARCHED_HELP = "Folder of images to search. Auto: that of the run."
SIGNS = {"+": 1.0, "-": -1.0}  # between queries that are one sum
VECTOR_SUFFIXES = (".npy", ".npz", ".parquet", ".csv", ".safetensors", ".tsv")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(EncoderSettings):
    """Settings of `simclr embed`."""

    about = "Write the embedding of every image to a file."
    examples = ("simclr embed --out vecs.npy", "simclr embed ./other --run birds --raw --out h.npy")

    out: Path = setting(
        Path("vecs.npy"),
        "Vectors file, in the format of its suffix: .npy (with the names in a file next to it), .npz, .parquet, .csv, "
        ".safetensors, or .tsv with thumbnails for the Embedding Projector.",
        panel=OUTPUT,
        short="o",
    )
    raw: bool = setting(False, "Write the embeddings (h) without scaling each to length 1.", panel=OUTPUT)
    shards: int | None = setting(
        None,
        "Write this many .npy files and a list of them. Existing ones are kept. Auto: one file.",
        panel=OUTPUT,
        at_least=1,
        at_most=99_999,
    )
    devices: int = setting(1, DEVICES_HELP, panel=HARDWARE, at_least=1)
    batch_size: int = setting(128, BATCH_SIZE_HELP, panel=HARDWARE, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.suffix not in VECTOR_SUFFIXES:
            suffixes = f"{', '.join(VECTOR_SUFFIXES[:-1])} or {VECTOR_SUFFIXES[-1]}"
            raise SettingsError(
                f"--out is {self.out}, and must end in {suffixes}.", f"Try --out {self.out.with_suffix('.npy')}"
            )
        check_output_path(self.out, self.out.suffix)
        if self.shards is not None and self.out.suffix != ".npy":
            raise SettingsError(
                f"--shards requires .npy, and --out is {self.out}.", "Remove --shards, or use a .npy file."
            )


@dataclass(frozen=True, kw_only=True)
class IndexSettings(EncoderSettings):
    """Settings of the folder that is searched, and of the index of its embeddings."""

    images: Path | None = setting(None, SEARCHED_HELP, argument=True, exists=True)
    no_update: bool = setting(False, "Use the saved embeddings without checking for changed images.", panel=ENCODER)
    batch_size: int = setting(128, BATCH_SIZE_HELP, panel=HARDWARE, at_least=1)


@dataclass(frozen=True, kw_only=True)
class SearchSettings(IndexSettings):
    """Settings of the output of commands that list images."""

    out: Path | None = setting(
        None,
        "Write the result to this file: .html (a gallery), .csv or .json. "
        "Auto: no file; with --open, a gallery next to the embeddings.",
        panel=OUTPUT,
        short="o",
    )
    open: bool = setting(False, "Open the gallery in the browser.", panel=OUTPUT)
    thumbnails: bool = setting(False, "Show thumbnails next to the names, if the terminal has colors.", panel=OUTPUT)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_path(self.out, ".html", ".csv", ".json")
        if self.open and self.out is not None and self.out.suffix.lower() != ".html":
            raise SettingsError(
                f"--open shows a gallery, and --out is {self.out}.", f"Try --out {self.out.with_suffix('.html')}"
            )


@dataclass(frozen=True, kw_only=True)
class SimilarSettings(SearchSettings):
    """Settings of `simclr similar`."""

    about = "Find the most similar images."
    examples = ("simclr similar query.jpg --images ./photos", "simclr similar ./queries --run birds --top 5 --json")

    queries: tuple[Path, ...] = setting(
        (),
        "Images, folders of images, or names of images in the searched folder. With + and - between them, they are one "
        "query: the sum of their embeddings.",
        argument=True,
    )
    images: Path | None = setting(None, SEARCHED_HELP, panel=BASICS, exists=True)
    top: int = setting(10, "Number of neighbors per query.", panel=BASICS, at_least=1, short="n")
    within: str = setting("", WITHIN_HELP, panel=BASICS)
    min_similarity: float | None = setting(
        None,
        "Minimum similarity of a neighbor: the cosine of centered embeddings. Auto: no minimum.",
        panel=BASICS,
        at_least=-1,
        at_most=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.queries:
            raise SettingsError("No query was given.", "Run: simclr similar IMAGE")
        for word, following in pairwise([*map(str, self.queries), "+"]):
            if word in SIGNS and following in SIGNS:
                raise InputError(f"No image follows the {word}.", "Try: simclr similar a.jpg + b.jpg - c.jpg")
        for query in self.queries:  # a relative path may be the name of one of the searched images
            if query.is_absolute() and not os.path.lexists(query):
                raise InputError(f"There is no {query}.", "Check the path.")


@dataclass(frozen=True)
class EmbedResult:
    """Result of `simclr embed`."""

    out: str
    rows_file: str  # names of the rows and skipped images: next to `out`, `out` itself, or the list of shards
    rows: int
    dimensions: int
    normalized: bool
    encoder: str  # the run's folder, or as in --encoder
    model_checksum: str
    skipped: int
    seconds: float
    images_per_second: float
    shards: int | None = None  # number of files, which rows_file lists; None for one file


@dataclass(frozen=True)
class Neighbor:
    """A nearest neighbor of a query."""

    rank: int  # from 1
    path: str
    similarity: float  # cosine, -1 to 1, after the mean embedding of the searched images is subtracted
    above_random: float  # percent of random pairs of the searched images that are less similar
    above_views: float  # percent of pairs of two views of one image that are less similar


@dataclass(frozen=True)
class QueryResult:
    """The neighbors of one query, nearest first."""

    query: str  # as given; a sum as one line of its terms
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class SimilarResult:
    """Result of `simclr similar`."""

    folder: str  # of the searched images
    encoder: str  # the run's folder, or as in --encoder
    searched: int  # vectors
    queries: tuple[QueryResult, ...]
    skipped: tuple[str, ...] = ()  # files in a folder of queries that are no images, with reasons
    out: str | None = None  # the file written
