"""What the verb that draws a map returns."""

from __future__ import annotations

from dataclasses import dataclass


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
