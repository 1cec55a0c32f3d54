"""How the results of the verbs that find images are shown to a person."""

from __future__ import annotations

from simclr_cli import api as results
from simclr_cli.cli.console import Data, Face
from simclr_cli.core.text import closeness, count


def show_similar(result: results.SimilarResult, face: Face, data: Data) -> None:
    """A table a query, or the file that they were written to."""
    if result.out is not None:
        face.say(f"{count(len(result.queries), 'query', 'queries')} among {count(result.searched, 'image')}.")
        data.line(result.out)
    else:
        for query in result.queries:
            if len(result.queries) > 1 or data.out.is_terminal:
                data.line(f"Most similar to {query.query}:")
            show_hits(query, data)
            if not query.neighbors:
                face.say("No image is so similar. Try a lower --min-similarity.", "yellow")
    for reason in result.skipped:
        face.say(f"Left out: {reason}", "yellow")


def show_hits(query: results.QueryResult, data: Data) -> None:
    """The neighbors of one query as a table."""
    rows = [
        [str(hit.rank), f"{hit.similarity:.4f}", closeness(hit.above_random, hit.above_views), hit.path]
        for hit in query.neighbors
    ]
    columns = ["rank", "similarity", "closeness", "path"]
    data.table(columns, rows, images=[hit.path for hit in query.neighbors])


def show_outliers(result: results.OutliersResult, face: Face, data: Data) -> None:
    """A row an image, the oddest first, or the file that they were written to."""
    compared = f"{count(result.searched, 'image')}, each compared to its {result.neighbors} nearest others"
    stand = "" if result.outliers is None else f"; {result.outliers:,} stand out (robust z over 3.5)"
    face.say(f"{compared}{stand}.")
    if result.out is not None:
        data.line(result.out)
        return
    rows = [
        [
            str(one.rank),
            f"{one.score:.4f}",
            "-" if one.z is None else f"{one.z:.1f}",
            closeness(one.above_random, one.above_views),
            one.path,
        ]
        for one in result.images
    ]
    data.table(
        ["rank", "score", "robust z", "closeness of nearest", "path"],
        rows,
        images=[one.path for one in result.images],
    )


def show_clusters(result: results.ClustersResult, face: Face, data: Data) -> None:
    """A row a cluster, the largest first, or the file that they were written to."""
    face.say(f"{result.reason}.")
    if result.unclustered:
        face.say(f"{count(result.unclustered, 'image')} in none.")
    if result.information is not None:
        agree = f"normalized mutual information {result.information:.2f}, adjusted Rand index {result.rand:.2f}"
        face.say(f"With the folders they agree by {agree} (1: the same, 0: unrelated).")
    if result.out is not None:
        data.line(result.out)
        return
    folders = any(cluster.folders for cluster in result.clusters)
    columns = ["cluster", "images", "cohesion", *(["mostly from"] if folders else []), "path"]
    shown = [cluster.representatives[0] for cluster in result.clusters]
    data.table(columns, [_cluster_row(cluster, folders) for cluster in result.clusters], images=shown)


def _cluster_row(cluster: results.Cluster, folders: bool) -> list[str]:
    shares = ", ".join(f"{share.folder} {share.percent:.0f} %" for share in cluster.folders[:2])
    cells = [str(cluster.number), f"{cluster.images:,}", f"{cluster.cohesion:.4f}", *([shares] if folders else [])]
    return [*cells, cluster.representatives[0]]


def show_duplicates(result: results.DuplicatesResult, face: Face, data: Data) -> None:
    """A row a copy, the best of each group first, or the file that they were written to; or what was put back."""
    if result.run is None:
        face.say(f"{count(result.moved, 'file')} put back into {result.moved_to}.")
    elif result.out is not None:
        data.line(result.out)
    else:
        _show_groups(result, data)
    for reason in result.skipped:
        face.say(f"Left out: {reason}", "yellow")
    if result.run is not None:
        near = "" if result.threshold is None else f"; near copies from a similarity of {result.threshold:.3f} on"
        face.say(
            f"{count(len(result.groups), 'group')} among {count(result.searched, 'image')}{near}. "
            f"Files that could go: {result.duplicates:,}, {result.bytes / 1e6:,.1f} MB."
        )
    for reason in result.not_moved:
        face.say(f"Left where it is: {reason}", "yellow")
    if result.run is not None and result.moved_to is not None and result.moved:
        face.say(f"{count(result.moved, 'file')} moved to {result.moved_to}. To put them back:")
        face.say(f"  simclr duplicates --restore {result.moved_to}")


def _show_groups(result: results.DuplicatesResult, data: Data) -> None:
    rows = [
        [
            str(number), "best" if copy is group.images[0] else "same file" if copy.exact else f"{copy.similarity:.4f}",
            "" if copy.hash_distance is None else str(copy.hash_distance), f"{copy.width} x {copy.height}",
            f"{copy.bytes / 1e3:,.1f}", copy.path,
        ]
        for number, group in enumerate(result.groups, start=1)
        for copy in group.images
    ]  # fmt: skip
    if rows:
        shown = [copy.path for group in result.groups for copy in group.images]
        data.table(["group", "similarity", "bits apart", "size", "kB", "path"], rows, images=shown)


def show_map(result: results.MapResult, face: Face, data: Data) -> None:
    """What is on the map, and where it is."""
    colors = f", colored by {' or '.join(result.groupings)}" if result.groupings else ""
    face.say(f"A map of {count(result.images, 'image')}{colors}: {result.bytes / 1e6:.1f} MB; without network.")
    data.line(result.out)
