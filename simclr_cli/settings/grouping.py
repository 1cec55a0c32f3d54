"""Settings of what looks at all pictures of a run together, and of what shows them as a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.errors import SettingsError
from simclr_cli.fields import setting
from simclr_cli.settings.finding import WITHIN, FindSettings, IndexSettings
from simclr_cli.settings.shared import SEED, check_out
from simclr_cli.settings.views import PAGES

Method = Literal["k-means", "hdbscan"]
Layout = Literal["pca", "tsne"]


@dataclass(frozen=True, kw_only=True)
class OutliersSettings(FindSettings):
    """Settings of `simclr outliers`."""

    top: int = setting(50, "How many pictures, the oddest first.", at_least=1, short="n")
    neighbours: int = setting(10, "To how many nearest others a picture is compared.", at_least=1)
    within: str = setting("", WITHIN)


@dataclass(frozen=True, kw_only=True)
class ClustersSettings(FindSettings):
    """Settings of `simclr clusters`."""

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
