"""Settings and results of `simclr duplicates`, `outliers`, `clusters` and `map`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.api.fields import BASICS, GENERAL, PAGE_SUFFIXES, SEED_HELP, check_output_path, setting
from simclr_cli.api.search import WITHIN_HELP, IndexSettings, SearchSettings
from simclr_cli.core.errors import SettingsError

DuplicateKind = Literal["exact", "near", "all"]
Method = Literal["k-means", "hdbscan"]
Layout = Literal["pca", "tsne"]


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(SearchSettings):
    """Settings of `simclr duplicates`."""

    about = "Find duplicate images. On request, move all but the best of each group."
    examples = ("simclr duplicates ./photos --open", "simclr duplicates ./photos --kind exact --move-to ./duplicates")

    kind: DuplicateKind = setting(
        "all",
        "exact: files of equal content. near: images with similar embeddings that show the same, block by block, one "
        "of each content. all: both.",
        panel=BASICS,
    )
    min_similarity: float | None = setting(
        None,
        "Minimum cosine similarity of near-duplicates. Auto: the median similarity of two views of one image.",
        panel=BASICS,
        at_least=-1,
        at_most=1,
    )
    transformed: bool = setting(
        False,
        "Also find duplicates that are mirrored, rotated by 90, 180 or 270 degrees, or cropped by 5 % of the area to "
        "20 % of each side. Then all images are decoded.",
        panel=BASICS,
    )
    move_to: Path | None = setting(
        None,
        "Move all but the best of each group to this folder, with a list for --restore. Auto: move nothing.",
        panel=BASICS,
    )
    restore: Path | None = setting(
        None,
        "Move the files in this folder back to IMAGES, and do nothing else. Auto: find duplicates.",
        panel=BASICS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "exact" and self.min_similarity is not None:
            raise SettingsError(
                "--min-similarity applies to near-duplicates, and --kind is exact.", "Remove one of them."
            )
        if self.kind == "exact" and self.transformed:
            raise SettingsError("--transformed finds near-duplicates, and --kind is exact.", "Remove one of them.")
        if self.kind == "exact" and self.encoder is not None:
            raise SettingsError("--kind exact compares files, without an encoder.", "Remove --encoder.")
        if self.kind == "exact" and self.no_update:
            raise SettingsError("--kind exact compares files, without saved embeddings.", "Remove --no-update.")
        if self.restore is not None and (self.move_to or self.out or self.open):
            raise SettingsError("--restore only moves files back.", "Remove --move-to, --out and --open.")


@dataclass(frozen=True, kw_only=True)
class OutliersSettings(SearchSettings):
    """Settings of `simclr outliers`."""

    about = "Find the images that are least similar to the others."
    examples = ("simclr outliers ./photos", "simclr outliers --run birds --top 200 --out outliers.html --open")

    top: int = setting(50, "Number of images, the strongest outlier first.", panel=BASICS, at_least=1, short="n")
    neighbors: int = setting(
        10, "Number of nearest neighbors that each image is compared with.", panel=BASICS, at_least=1
    )
    within: str = setting("", WITHIN_HELP, panel=BASICS)


@dataclass(frozen=True, kw_only=True)
class ClustersSettings(SearchSettings):
    """Settings of `simclr clusters`."""

    about = "Group the images into clusters, and show typical images of each."
    examples = ("simclr clusters ./photos --open", "simclr clusters --clusters 20 --out clusters.csv")

    method: Method = setting(
        "k-means",
        "k-means: every image is in one of --clusters. hdbscan: dense groups are clusters, and other images are in "
        "none. For up to some ten thousand images.",
        panel=BASICS,
    )
    clusters: int | None = setting(
        None,
        "Number of clusters for k-means. Auto: the one whose silhouette is furthest above chance.",
        panel=BASICS,
        at_least=2,
    )
    min_cluster_size: int | None = setting(
        None,
        "Images in the smallest cluster for hdbscan. Auto: half the square root of the number of images.",
        panel=BASICS,
        at_least=2,
    )
    top: int = setting(12, "Number of images that represent a cluster.", panel=BASICS, at_least=1, short="n")
    seed: int = setting(0, SEED_HELP, panel=GENERAL, at_least=0, at_most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "hdbscan" and self.clusters is not None:
            raise SettingsError("--clusters belongs to k-means; hdbscan finds the number.", "Remove one of them.")
        if self.method == "k-means" and self.min_cluster_size is not None:
            raise SettingsError(
                "--min-cluster-size belongs to --method hdbscan.", "Add --method hdbscan, or remove it."
            )


@dataclass(frozen=True, kw_only=True)
class MapSettings(IndexSettings):
    """Settings of `simclr map`."""

    about = "Build an interactive map of the images."
    examples = ("simclr map ./photos --open", "simclr map --run birds --layout tsne --clusters 8 --out birds.html")

    out: Path = setting(Path("map.html"), "Page to write, .html.", panel=BASICS, short="o")
    layout: Layout = setting(
        "pca",
        "pca: the two principal components of the embeddings. tsne: neighbors stay together; requires the extra 'map'.",
        panel=BASICS,
    )
    labels: Path | None = setting(
        None,
        "Table (CSV) with the columns path and label, for the colors. Auto: by folder.",
        panel=BASICS,
        exists=True,
    )
    clusters: int | None = setting(
        None, "Color by this many clusters too. Auto: no clusters.", panel=BASICS, at_least=2
    )
    open: bool = setting(False, "Open the page in the browser.", panel=BASICS)
    seed: int = setting(0, SEED_HELP, panel=GENERAL, at_least=0, at_most=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_path(self.out, *PAGE_SUFFIXES)


@dataclass(frozen=True)
class DuplicateImage:
    """An image of a group of duplicates."""

    path: str
    exact: bool  # equal to the best one, byte by byte
    similarity: float  # cosine to the best one
    hash_distance: int | None  # of 64 bits of the perceptual hash that differ from the best; null if not computed
    width: int  # upright, px
    height: int
    bytes: int
    sharpness: float | None  # energy of its highest frequencies over that of the others; null if not computed
    transform: str | None = None  # from the best one, with --transformed: such as "mirrored" or "cropped"


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are duplicates of each other."""

    images: tuple[DuplicateImage, ...]  # the best one first
    bytes: int  # of all but the best, and of files with other names (links), which would remain


@dataclass(frozen=True)
class DuplicatesResult:
    """Result of `simclr duplicates`."""

    folder: str | None  # of the images; null after --restore
    encoder: str | None  # the run's folder, or as in --encoder; null for --kind exact
    searched: int  # images
    threshold: float | None  # minimum similarity of near-duplicates; null for --kind exact
    groups: tuple[DuplicateGroup, ...]  # the largest first
    duplicates: int  # in all groups, except the best of each
    bytes: int  # of these
    skipped: tuple[str, ...] = ()  # images that can no longer be decoded
    moved: int = 0  # files moved, or moved back
    moved_to: str | None = None  # the folder; after --restore that of the images
    not_moved: tuple[str, ...] = ()  # files that were not moved, with reasons
    out: str | None = None  # the file written


@dataclass(frozen=True)
class Outlier:
    """An image and its distance from the others."""

    rank: int  # from 1
    path: str
    score: float  # 1 - mean cosine to its nearest neighbors; 0 to 2, large for outliers
    percentile: float  # percent of the images with a smaller score
    z: float | None  # robust standard deviations above the median score; None if most scores are equal
    nearest: str  # the most similar other image
    similarity: float  # cosine to it, -1 to 1
    above_random: float  # percent of random pairs of the images that are less similar
    above_views: float  # percent of pairs of two views of one image that are less similar
    duplicates: int  # files of equal content, including this one


@dataclass(frozen=True)
class OutliersResult:
    """Result of `simclr outliers`."""

    folder: str  # of the images
    encoder: str  # the run's folder, or as in --encoder
    searched: int  # images of different content that were compared
    neighbors: int  # nearest neighbors, over which the score is a mean
    outliers: int | None  # images whose z is above 3.5
    images: tuple[Outlier, ...]  # the strongest outlier first
    out: str | None = None


@dataclass(frozen=True)
class FolderShare:
    """The part of a cluster that is from one folder."""

    folder: str
    images: int
    percent: float  # of the cluster


@dataclass(frozen=True)
class Member:
    """An image and its cluster."""

    path: str
    cluster: int | None  # its number; None if it is in none
    similarity: float | None  # cosine to the center of its cluster


@dataclass(frozen=True)
class Cluster:
    """A cluster of images."""

    number: int  # from 1, the largest first
    images: int
    cohesion: float  # mean cosine of its images to their center, -1 to 1
    representatives: tuple[str, ...]  # paths, the nearest to the center first, without duplicates
    folders: tuple[FolderShare, ...]  # the most common first; empty if the folders do not look like classes


@dataclass(frozen=True)
class ClusterCountScore:
    """The silhouette of one number of clusters."""

    clusters: int
    silhouette: float  # mean over a sample of the images, -1 to 1, large if the clusters are separated
    chance: float  # the same of random vectors of equal mean and covariance, which have no clusters


@dataclass(frozen=True)
class ClustersResult:
    """Result of `simclr clusters`."""

    folder: str  # of the images
    encoder: str  # the run's folder, or as in --encoder
    method: str
    reason: str  # of the number of clusters
    candidates: tuple[ClusterCountScore, ...]  # numbers of clusters that were compared
    clusters: tuple[Cluster, ...]  # the largest first
    unclustered: int  # images in no cluster
    information: float | None  # normalized mutual information with the folders, 0 to 1, if they look like classes
    rand: float | None  # adjusted Rand index with the folders; 0 by chance, 1 if equal
    images: tuple[Member, ...]  # all, by cluster, the nearest to the center first
    out: str | None = None


@dataclass(frozen=True)
class MapResult:
    """Result of `simclr map`."""

    folder: str  # of the images
    encoder: str  # the run's folder, or as in --encoder
    out: str
    images: int
    layout: str  # pca or tsne
    explained: float | None  # fraction of the variance in the map's two directions; null for tsne
    groupings: tuple[str, ...]  # choices of its colors: label, folder, cluster
    bytes: int
    seconds: float
