"""Settings of what shows a folder as a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simclr_cli.fields import setting
from simclr_cli.settings.finding import IndexSettings
from simclr_cli.settings.shared import SEED, check_out
from simclr_cli.settings.views import PAGES

Layout = Literal["pca", "tsne"]


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
