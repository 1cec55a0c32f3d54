"""What the verbs that find pictures, group them, or draw a map of them return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """One hit."""

    rank: int  # from 1
    path: str
    similarity: float  # cosine, -1 to 1
    above_random: float  # percent of random pairs of the run's pictures that are less similar
    above_views: float  # percent of pairs of two views of one picture that are less similar


@dataclass(frozen=True)
class QueryResult:
    """The hits of one query, nearest first."""

    query: str  # as it was given; a sum as a line of its terms
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class SimilarResult:
    """What `similar` found."""

    run: str
    searched: int  # vectors
    queries: tuple[QueryResult, ...]
    refused: tuple[str, ...] = ()  # files in a folder of queries that are no pictures
    out: str | None = None  # the file that it was written to


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
