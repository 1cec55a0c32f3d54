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

    about = "Find copies among the images, the best of each first; move the others out, and back, if asked."
    examples = ("simclr duplicates --open", "simclr duplicates --kind exact --move-to ./copies")

    kind: CopyKind = setting(
        "all",
        "exact: files of equal content; near: images that are alike to the encoder and to the eye, one of each "
        "content; all: both.",
    )
    min_similarity: float | None = setting(
        None,
        "The least similarity of near copies, by cosine. Auto: what half of the pairs of views of one image reach.",
        at_least=-1,
        at_most=1,
    )
    move_to: Path | None = setting(
        None,
        "Move all copies of the best one of each group to this folder, with a list by which they can be put back. "
        "Auto: nothing is moved.",
    )
    restore: Path | None = setting(
        None, "Put back what was moved to this folder, and do nothing else. Auto: look for copies."
    )
    restore_to: Path | None = setting(
        None,
        "The folder that --restore puts them into. Auto: where they come from, if neither folder was moved or copied.",
        exists=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "exact" and self.min_similarity is not None:
            raise SettingsError("--min-similarity is of near copies, and --kind is exact.", "Leave one of them out.")
        if self.restore is not None and (self.move_to or self.out or self.open):
            raise SettingsError("--restore finds nothing, and moves nothing out.", "Type it alone.")
        if self.restore_to is not None and self.restore is None:
            raise SettingsError("--restore-to says where --restore puts files.", "Give both, or neither.")


@dataclass(frozen=True, kw_only=True)
class OutliersSettings(FindSettings):
    """Settings of `simclr outliers`."""

    about = "Show the images that are least like the others."
    examples = ("simclr outliers", "simclr outliers --top 200 --out odd.html --open")

    top: int = setting(50, "How many images, the oddest first.", at_least=1, short="n")
    neighbors: int = setting(10, "To how many nearest others an image is compared.", at_least=1)
    within: str = setting("", WITHIN)


@dataclass(frozen=True, kw_only=True)
class ClustersSettings(FindSettings):
    """Settings of `simclr clusters`."""

    about = "Put the images into clusters, and show what is in each."
    examples = ("simclr clusters --open", "simclr clusters --clusters 20 --out clusters.csv")

    method: Method = setting(
        "k-means",
        "k-means: every image in one of --clusters. hdbscan: as many as are dense, the rest in none; for some ten "
        "thousand images.",
    )
    clusters: int | None = setting(
        None, "How many clusters k-means makes. Auto: what separates them most, by the silhouette.", at_least=2
    )
    min_cluster_size: int | None = setting(
        None, "How many images make a cluster for hdbscan. Auto: half the square root of their number.", at_least=2
    )
    top: int = setting(12, "How many images represent a cluster.", at_least=1, short="n")
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "hdbscan" and self.clusters is not None:
            raise SettingsError("--clusters belongs to k-means; hdbscan finds their number.", "Leave one of them out.")
        if self.method == "k-means" and self.min_cluster_size is not None:
            raise SettingsError(
                "--min-cluster-size belongs to --method hdbscan.", "Add --method hdbscan, or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class MapSettings(IndexSettings):
    """Settings of `simclr map`."""

    about = "Show the images of a run as a map to explore in the browser."
    examples = ("simclr map --open", "simclr map --run birds --layout tsne --clusters 8 --out birds.html")

    out: Path = setting(Path("map.html"), "The page to write, .html.", short="o")
    layout: Layout = setting(
        "pca",
        "How images find their places: pca, the two directions in which their vectors differ most; or tsne, which "
        "keeps neighbors together and needs the extra map.",
    )
    labels: Path | None = setting(
        None, "CSV with the columns path,label, to color by. Auto: by the folders.", exists=True
    )
    clusters: int | None = setting(None, "Color by so many clusters of vectors too. Auto: no clusters.", at_least=2)
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    open: bool = setting(False, "Open the page in the browser.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_out(self.out, *PAGES)


@dataclass(frozen=True)
class DuplicateImage:
    """One image of a group of copies."""

    path: str
    exact: bool  # the same file, byte by byte, as the best copy
    similarity: float  # cosine, to the best copy
    hash_distance: (
        int | None
    )  # of the 64 of the perceptual hashes, from the best copy; null where nothing was looked at
    width: int  # upright, px
    height: int
    bytes: int
    sharpness: float | None  # of its edges, over its contrast; null where nothing was looked at


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are copies of one another."""

    images: tuple[DuplicateImage, ...]  # the best one first
    bytes: int  # of all but the best


@dataclass(frozen=True)
class DuplicatesResult:
    """What `duplicates` found, moved, or put back."""

    run: str | None  # null where files were put back
    searched: int  # images
    threshold: float | None  # the least similarity of near copies; null where none were looked for
    groups: tuple[DuplicateGroup, ...]  # the largest first
    duplicates: int  # in all groups, without the best of each
    bytes: int  # of these
    skipped: tuple[str, ...] = ()  # images that can no longer be decoded
    moved: int = 0  # files moved out, or put back
    moved_to: str | None = None  # the folder; that of the images where files were put back
    not_moved: tuple[str, ...] = ()  # files that were not moved or put back, and why
    out: str | None = None  # the file that it was written to


@dataclass(frozen=True)
class Outlier:
    """An image, and how unlike the others it is."""

    rank: int  # from 1
    path: str
    score: float  # 1 - mean cosine to its nearest others; 0 to 2, large is odd
    percentile: float  # percent of the images
    z: float | None  # robust standard deviations above the median score; None where most scores are equal
    nearest: str  # the most similar other image
    similarity: float  # cosine to it, -1 to 1
    above_random: float  # percent of random pairs of the run's images that are less similar
    above_views: float  # percent of pairs of two views of one image that are less similar
    duplicates: int  # files of the same content, this one among them


@dataclass(frozen=True)
class OutliersResult:
    """What `outliers` found."""

    run: str
    searched: int  # images of different content that were compared
    neighbors: int  # nearest others that the score is the mean of
    outliers: int | None  # images whose z is above 3.5
    images: tuple[Outlier, ...]  # the oddest first
    out: str | None = None


@dataclass(frozen=True)
class FolderShare:
    """How much of a cluster is from one folder."""

    folder: str
    images: int
    percent: float  # of the cluster


@dataclass(frozen=True)
class Member:
    """An image and its cluster."""

    path: str
    cluster: int | None  # its number; None: in none
    similarity: float | None  # cosine to the center of its cluster


@dataclass(frozen=True)
class Cluster:
    """Images that belong together."""

    number: int  # from 1, the largest first
    images: int
    cohesion: float  # mean cosine of its images to their center, -1 to 1
    representatives: tuple[str, ...]  # paths, the nearest to the center first, none twice by content
    folders: tuple[FolderShare, ...]  # the commonest first; empty where folders do not look like classes


@dataclass(frozen=True)
class ClusterCountScore:
    """How far apart so many clusters are."""

    clusters: int
    silhouette: float  # mean over a sample of the images, -1 to 1, large where clusters are apart
    chance: float  # the same of random vectors of the same mean and covariance, which have no clusters


@dataclass(frozen=True)
class ClustersResult:
    """What `clusters` found."""

    run: str
    method: str
    reason: str  # why so many clusters
    candidates: tuple[ClusterCountScore, ...]  # numbers of clusters among which one was chosen
    clusters: tuple[Cluster, ...]  # the largest first
    unclustered: int  # images in none
    information: float | None  # normalized mutual information with the folders, 0 to 1, if they look like classes
    rand: float | None  # adjusted Rand index with the folders, 0 by chance, 1 the same
    images: tuple[Member, ...]  # all of them, cluster by cluster, the nearest to the center first
    out: str | None = None


@dataclass(frozen=True)
class MapResult:
    """The page that `map` made."""

    run: str
    out: str
    images: int
    layout: str  # pca or tsne
    explained: float | None  # share of the variance in the map's two directions; null for tsne
    groupings: tuple[str, ...]  # what it can be colored by
    bytes: int
    seconds: float
