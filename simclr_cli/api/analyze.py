"""Settings and results of the analyses of a folder: duplicates, outliers, clusters, map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.api.fields import PAGES, SEED, check_out, setting
from simclr_cli.api.search import WITHIN, FindSettings, IndexSettings
from simclr_cli.core.errors import SettingsError

CopyKind = Literal["exact", "near", "all"]
Method = Literal["k-means", "hdbscan"]
Layout = Literal["pca", "tsne"]


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
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)

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
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    open: bool = setting(False, "Open the page in the browser.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_out(self.out, *PAGES)


@dataclass(frozen=True)
class Copy:
    """One picture of a group of copies."""

    path: str
    exact: bool  # the same file, byte by byte, as the best copy
    similarity: float  # cosine, to the best copy
    bits_apart: int | None  # of the 64 of the perceptual hashes, from the best copy; null where nothing was looked at
    width: int  # upright, px
    height: int
    bytes: int
    sharpness: float | None  # of its edges, over its contrast; null where nothing was looked at


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures that are copies of one another."""

    copies: tuple[Copy, ...]  # the best one first
    bytes: int  # of all but the best


@dataclass(frozen=True)
class DuplicatesResult:
    """What `duplicates` found, moved, or put back."""

    run: str | None  # null where files were put back
    searched: int  # pictures
    threshold: float | None  # the least similarity of near copies; null where none were looked for
    groups: tuple[DuplicateGroup, ...]  # the largest first
    copies: int  # in all groups, without the best of each
    bytes: int  # of these
    refused: tuple[str, ...] = ()  # pictures that can no longer be decoded
    moved: int = 0  # files moved out, or put back
    moved_to: str | None = None  # the folder; that of the pictures where files were put back
    left: tuple[str, ...] = ()  # files that were not moved or put back, and why
    out: str | None = None  # the file that it was written to


@dataclass(frozen=True)
class OddPicture:
    """A picture, and how unlike the others it is."""

    rank: int  # from 1
    path: str
    score: float  # 1 - mean cosine to its nearest others; 0 to 2, large is odd
    odder_than: float  # percent of the pictures
    z: float | None  # robust standard deviations above the median score; None where most scores are equal
    nearest: str  # the most similar other picture
    similarity: float  # cosine to it, -1 to 1
    above_random: float  # percent of random pairs of the run's pictures that are less similar
    above_views: float  # percent of pairs of two views of one picture that are less similar
    copies: int  # files of the same content, this one among them


@dataclass(frozen=True)
class OutliersResult:
    """What `outliers` found."""

    run: str
    searched: int  # pictures of different content that were compared
    neighbours: int  # nearest others that the score is the mean of
    standing_out: int | None  # pictures whose z is above 3.5
    pictures: tuple[OddPicture, ...]  # the oddest first
    out: str | None = None


@dataclass(frozen=True)
class FolderShare:
    """How much of a cluster is from one folder."""

    folder: str
    pictures: int
    percent: float  # of the cluster


@dataclass(frozen=True)
class Member:
    """A picture and its cluster."""

    path: str
    cluster: int | None  # its number; None: in none
    similarity: float | None  # cosine to the centre of its cluster


@dataclass(frozen=True)
class Cluster:
    """Pictures that belong together."""

    number: int  # from 1, the largest first
    pictures: int
    cohesion: float  # mean cosine of its pictures to their centre, -1 to 1
    representatives: tuple[str, ...]  # paths, the nearest to the centre first, none twice by content
    folders: tuple[FolderShare, ...]  # the commonest first; empty where folders do not look like classes


@dataclass(frozen=True)
class TriedNumber:
    """How far apart so many clusters are."""

    clusters: int
    silhouette: float  # mean over a sample of the pictures, -1 to 1, large where clusters are apart
    chance: float  # the same of random vectors of the same mean and covariance, which have no clusters


@dataclass(frozen=True)
class ClustersResult:
    """What `clusters` found."""

    run: str
    method: str
    reason: str  # why so many clusters
    tried: tuple[TriedNumber, ...]  # numbers of clusters among which one was chosen
    clusters: tuple[Cluster, ...]  # the largest first
    unclustered: int  # pictures in none
    information: float | None  # normalised mutual information with the folders, 0 to 1, if they look like classes
    rand: float | None  # adjusted Rand index with the folders, 0 by chance, 1 the same
    pictures: tuple[Member, ...]  # all of them, cluster by cluster, the nearest to the centre first
    out: str | None = None


@dataclass(frozen=True)
class MapResult:
    """The page that `map` made."""

    run: str
    out: str
    pictures: int
    layout: str  # pca or tsne
    explained: float | None  # share of the variance in the map's two directions; null for tsne
    groupings: tuple[str, ...]  # what it can be coloured by
    bytes: int
    seconds: float
