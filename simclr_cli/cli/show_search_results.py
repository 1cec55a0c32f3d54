"""Display of the results of commands that list images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simclr_cli import api
from simclr_cli.cli.console import Reporter
from simclr_cli.cli.output import Output
from simclr_cli.core.text import describe_similarity, format_count, quote_words

NEIGHBOR_COLUMNS = ["rank", "similarity", "meaning", "path"]


def show_similar(result: api.SimilarResult, reporter: Reporter, output: Output) -> None:
    """Print a row per neighbor, with its query if there are several, or the file written."""
    if result.out is not None:
        reporter.print(
            f"{format_count(len(result.queries), 'query', 'queries')} among {format_count(result.searched, 'image')}."
        )
        output.print_line(result.out)
    else:
        is_one = len(result.queries) == 1
        if is_one and output.console.is_terminal:
            output.print_line(f"Most similar to {result.queries[0].query}:")
        rows = [row if is_one else [query.query, *row] for query in result.queries for row in _format_neighbors(query)]
        columns = NEIGHBOR_COLUMNS if is_one else ["query", *NEIGHBOR_COLUMNS]
        _print_images(result.folder, columns, rows, reporter, output)
        if without := sum(not query.neighbors for query in result.queries):
            queries = "" if is_one else f" to {without:,} of {len(result.queries):,} queries"
            reporter.print(f"No image is similar enough{queries}. Try a lower --min-similarity.", "yellow")
    for reason in result.skipped:
        reporter.print(f"Skipped: {reason}", "yellow")


def show_neighbors(query: api.QueryResult, folder: str, reporter: Reporter, output: Output) -> None:
    """Print the neighbors of one query as a table."""
    _print_images(folder, NEIGHBOR_COLUMNS, _format_neighbors(query), reporter, output)


def _format_neighbors(query: api.QueryResult) -> list[list[str]]:
    return [[str(neighbor.rank), f"{neighbor.similarity:.4f}", _describe(neighbor), neighbor.path]
            for neighbor in query.neighbors]  # fmt: skip


def _print_images(
    folder: str, columns: list[str], rows: Sequence[list[str]], reporter: Reporter, output: Output
) -> None:
    """Print a table whose last column has the paths of images, relative to the folder that is searched."""
    root, images = Path(folder).resolve(), [row[-1] for row in rows]
    is_below = [Path(image).is_relative_to(root) for image in images]
    names = [str(Path(image).relative_to(root)) if below else image
             for image, below in zip(images, is_below, strict=True)]  # fmt: skip
    rows = [[*row[:-1], name] for row, name in zip(rows, names, strict=True)]
    output.print_table(columns, rows, images=images)
    if any(is_below):
        reporter.print(f"Paths are relative to {folder}.")


def show_outliers(result: api.OutliersResult, reporter: Reporter, output: Output) -> None:
    """Print a row per image, the strongest outlier first, or the file written."""
    compared = f"{format_count(result.searched, 'image')}, each compared with its {result.neighbors} nearest neighbors"
    count = "" if result.outliers is None else f"; {format_count(result.outliers, 'outlier')} (robust z over 3.5)"
    reporter.print(f"{compared}{count}.")
    if result.out is not None:
        output.print_line(result.out)
        return
    rows = []
    for image in result.images:
        z = "-" if image.z is None else f"{image.z:.1f}"
        rows.append([str(image.rank), f"{image.score:.4f}", z, _describe(image), image.path])
    columns = ["rank", "score", "robust z", "nearest neighbor is", "path"]
    _print_images(result.folder, columns, rows, reporter, output)


def _describe(image: api.Neighbor | api.Outlier) -> str:
    """Describe the similarity of an image by that of random pairs and of views of one image."""
    return describe_similarity(image.above_random, image.above_views)


def show_clusters(result: api.ClustersResult, reporter: Reporter, output: Output) -> None:
    """Print a row per cluster, the largest first, or the file written."""
    reporter.print(f"{result.reason}.")
    if result.unclustered:
        reporter.print(f"{format_count(result.unclustered, 'image')} in no cluster.")
    if result.information is not None:
        agreement = f"normalized mutual information {result.information:.2f}, adjusted Rand index {result.rand:.2f}"
        reporter.print(f"Agreement with the folders: {agreement} (1: identical, 0: chance).")
    if result.out is not None:
        output.print_line(result.out)
        return
    has_folders = any(cluster.folders for cluster in result.clusters)
    columns = ["cluster", "images", "cohesion", *(["mostly from"] if has_folders else []), "path"]
    rows = [_format_cluster(cluster, has_folders) for cluster in result.clusters]
    _print_images(result.folder, columns, rows, reporter, output)


def _format_cluster(cluster: api.Cluster, has_folders: bool) -> list[str]:
    shares = ", ".join(f"{share.folder} {share.percent:.0f} %" for share in cluster.folders[:2])
    cells = [str(cluster.number), f"{cluster.images:,}", f"{cluster.cohesion:.4f}", *([shares] if has_folders else [])]
    return [*cells, cluster.representatives[0]]


def show_duplicates(result: api.DuplicatesResult, reporter: Reporter, output: Output) -> None:
    """Print a row per duplicate, the best of each group first, or the file written; or the restored files."""
    if result.folder is None:
        reporter.print(f"{format_count(result.moved, 'file')} moved back to {result.moved_to}.")
    elif result.out is not None:
        output.print_line(result.out)
    else:
        _print_groups(result, result.folder, reporter, output)
    for reason in result.skipped:
        reporter.print(f"Skipped: {reason}", "yellow")
    if result.folder is not None:
        near = "" if result.threshold is None else f" (near-duplicates: similarity of at least {result.threshold:.3f})"
        reporter.print(
            f"{format_count(len(result.groups), 'group')} among {format_count(result.searched, 'image')}{near}. "
            f"Redundant files: {result.duplicates:,}, {result.bytes / 1e6:,.1f} MB."
        )
    for reason in result.not_moved:
        reporter.print(f"Not moved: {reason}", "yellow")
    if result.folder is not None and result.moved_to is not None and result.moved:
        reporter.print(f"{format_count(result.moved, 'file')} moved to {result.moved_to}. To move them back:")
        restore = quote_words("simclr", "duplicates", result.folder, "--restore", result.moved_to)
        reporter.print(f"  {restore}", wrap=False)


def _print_groups(result: api.DuplicatesResult, folder: str, reporter: Reporter, output: Output) -> None:
    """Print the groups of duplicates as a table."""
    has_transforms = any(image.transform for group in result.groups for image in group.images)
    rows = [
        [
            str(number),
            "best" if image is group.images[0] else "same file" if image.exact else f"{image.similarity:.4f}",
            "" if image.hash_distance is None else str(image.hash_distance), f"{image.width} x {image.height}",
            f"{image.bytes / 1e3:,.1f}", *([image.transform or ""] if has_transforms else []), image.path,
        ]
        for number, group in enumerate(result.groups, start=1)
        for image in group.images
    ]  # fmt: skip
    if rows:
        transform = ["transform"] if has_transforms else []
        columns = ["group", "similarity", "hash distance", "size", "kB", *transform, "path"]
        _print_images(folder, columns, rows, reporter, output)


def show_map(result: api.MapResult, reporter: Reporter, output: Output) -> None:
    """Print the page."""
    colors = f", colored by {' or '.join(result.groupings)}" if result.groupings else ""
    images = format_count(result.images, "image")
    reporter.print(f"Map of {images}{colors}: {result.bytes / 1e6:.1f} MB; it needs no network.")
    output.print_line(result.out)
