"""What the verbs that find pictures return."""

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
