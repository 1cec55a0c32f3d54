"""Settings of what finds pictures, groups them, and shows them as a map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.api import shared
from simclr_cli.api.fields import setting
from simclr_cli.core.errors import InputError, SettingsError

WITHIN = "Only pictures whose relative path fits this pattern, such as 'birds/*.jpg'. Auto: all."

CopyKind = Literal["exact", "near", "all"]
Method = Literal["k-means", "hdbscan"]
Layout = Literal["pca", "tsne"]


@dataclass(frozen=True, kw_only=True)
class IndexSettings(shared.Settings):
    """Which pictures are searched, and how their vectors are kept up to date: shared by the verbs that find."""

    run: str | None = setting(None, shared.RUN)
    runs: Path = setting(shared.RUNS, shared.RUNS_HELP)
    as_is: bool = setting(False, "Take the vectors as they are, without a look at whether the pictures have changed.")
    device: str | None = setting(None, shared.DEVICE)
    workers: int | None = setting(None, shared.WORKERS, at_least=0)
    batch_size: int = setting(128, shared.EMBEDDED_AT_ONCE, at_least=1)


@dataclass(frozen=True, kw_only=True)
class FindSettings(IndexSettings):
    """Where what was found goes: shared by the verbs that list pictures."""

    out: Path | None = setting(
        None,
        "Write what was found to this file: .html (a gallery), .csv or .json. "
        "Auto: nowhere, or with --open a gallery in the run's folder.",
        short="o",
    )
    open: bool = setting(False, "Open the gallery in the browser.")
    thumbnails: bool = setting(False, "Show small pictures beside the names, where the terminal has colours.")

    def __post_init__(self) -> None:
        super().__post_init__()
        shared.check_out(self.out, ".html", ".csv", ".json")
        if self.open and self.out is not None and self.out.suffix.lower() != ".html":
            raise SettingsError(
                f"--open shows a gallery, and --out is {self.out}.", f"Try --out {self.out.with_suffix('.html')}"
            )


@dataclass(frozen=True, kw_only=True)
class SimilarSettings(FindSettings):
    """Settings of `simclr similar`."""

    about = "Print the most similar pictures."
    examples = ("simclr similar query.jpg", "simclr similar ./queries --top 5 --json")

    queries: tuple[Path, ...] = setting(
        (),
        "Pictures, folders of pictures, or names of the run's own pictures. With + and - between them they are one "
        "query: the sum of their vectors.",
        argument=True,
    )
    top: int = setting(10, "How many neighbours a query.", at_least=1, short="n")
    within: str = setting("", WITHIN)
    min_similarity: float | None = setting(
        None, "Only pictures at least so similar, by cosine. Auto: any.", at_least=-1, at_most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.queries:
            raise SettingsError("No query was given.", "Type: simclr similar PICTURE")
        for query in self.queries:  # what is no absolute path may be the name of one of the run's pictures
            if query.is_absolute() and not os.path.lexists(query):
                raise InputError(f"There is no {query}.", "Check the path.")


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(FindSettings):
    """Settings of `simclr duplicates`."""

    about = "Find copies among the pictures, the best of each first; move the others out, and back, if asked."
    examples = ("simclr duplicates --open", "simclr duplicates --kind exact --move-to ./copies")

    kind: CopyKind = setting(
        "all",
        "exact: files of equal content; near: pictures that are alike to the encoder and to the eye, one of each "
        "content; all: both.",
    )
    min_similarity: float | None = setting(
        None,
        "The least similarity of near copies, by cosine. Auto: what half of the pairs of views of one picture reach.",
        at_least=-1,
        at_most=1,
    )
    move_to: Path | None = setting(
        None,
        "Move all copies of the best one of each group to this folder, with a list by which they can be put back. "
        "Auto: nothing is moved.",
    )
    put_back: Path | None = setting(
        None, "Put back what was moved to this folder, and do nothing else. Auto: look for copies."
    )
    into: Path | None = setting(
        None,
        "The folder that --put-back puts them into. Auto: where they come from, if neither folder was moved or copied.",
        exists=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "exact" and self.min_similarity is not None:
            raise SettingsError("--min-similarity is of near copies, and --kind is exact.", "Leave one of them out.")
        if self.put_back is not None and (self.move_to or self.out or self.open):
            raise SettingsError("--put-back finds nothing, and moves nothing out.", "Type it alone.")
        if self.into is not None and self.put_back is None:
            raise SettingsError("--into says where --put-back puts files.", "Give both, or neither.")


@dataclass(frozen=True, kw_only=True)
class OutliersSettings(FindSettings):
    """Settings of `simclr outliers`."""

    about = "Show the pictures that are least like the others."
    examples = ("simclr outliers", "simclr outliers --top 200 --out odd.html --open")

    top: int = setting(50, "How many pictures, the oddest first.", at_least=1, short="n")
    neighbours: int = setting(10, "To how many nearest others a picture is compared.", at_least=1)
    within: str = setting("", WITHIN)


@dataclass(frozen=True, kw_only=True)
class ClustersSettings(FindSettings):
    """Settings of `simclr clusters`."""

    about = "Put the pictures into clusters, and show what is in each."
    examples = ("simclr clusters --open", "simclr clusters --clusters 20 --out clusters.csv")

    method: Method = setting(
        "k-means",
        "k-means: every picture in one of --clusters. hdbscan: as many as are dense, the rest in none; for some ten "
        "thousand pictures.",
    )
    clusters: int | None = setting(
        None, "How many clusters k-means makes. Auto: what separates them most, by the silhouette.", at_least=2
    )
    smallest: int | None = setting(
        None, "How many pictures make a cluster for hdbscan. Auto: half the square root of their number.", at_least=2
    )
    top: int = setting(12, "How many pictures represent a cluster.", at_least=1, short="n")
    seed: int = setting(0, shared.SEED, at_least=0, at_most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "hdbscan" and self.clusters is not None:
            raise SettingsError("--clusters belongs to k-means; hdbscan finds their number.", "Leave one of them out.")
        if self.method == "k-means" and self.smallest is not None:
            raise SettingsError("--smallest belongs to --method hdbscan.", "Add --method hdbscan, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class MapSettings(IndexSettings):
    """Settings of `simclr map`."""

    about = "Show the pictures of a run as a map to explore in the browser."
    examples = ("simclr map --open", "simclr map --run birds --layout tsne --clusters 8 --out birds.html")

    out: Path = setting(Path("map.html"), "The page to write, .html.", short="o")
    layout: Layout = setting(
        "pca",
        "How pictures find their places: pca, the two directions in which their vectors differ most; or tsne, which "
        "keeps neighbours together and needs the extra map.",
    )
    labels: Path | None = setting(
        None, "CSV with the columns path,label, to colour by. Auto: by the folders.", exists=True
    )
    clusters: int | None = setting(None, "Colour by so many clusters of vectors too. Auto: no clusters.", at_least=2)
    seed: int = setting(0, shared.SEED, at_least=0, at_most=2**63 - 1)
    open: bool = setting(False, "Open the page in the browser.")

    def __post_init__(self) -> None:
        super().__post_init__()
        shared.check_out(self.out, *shared.PAGES)
