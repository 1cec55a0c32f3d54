"""How the results of the verbs that find pictures are shown to a person."""

from __future__ import annotations

from simclr_cli.cli.console import Data, Face
from simclr_cli.results import SimilarResult
from simclr_cli.wording import closeness


def show_similar(result: SimilarResult, face: Face, data: Data) -> None:
    """A table a query."""
    for query in result.queries:
        rows = [
            [str(hit.rank), f"{hit.similarity:.4f}", closeness(hit.above_random, hit.above_views), hit.path]
            for hit in query.neighbours
        ]
        if len(result.queries) > 1 or data.out.is_terminal:
            data.line(f"Most similar to {query.query}:")
        data.table(["rank", "similarity", "closeness", "path"], rows)
    for reason in result.refused:
        face.say(f"Left out: {reason}", "yellow")
