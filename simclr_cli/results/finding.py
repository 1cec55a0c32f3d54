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
