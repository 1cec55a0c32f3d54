"""What kinds of images there are: clusters, the largest first, each with the images that are most like it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import Cluster, ClusterCountScore, ClustersResult, ClustersSettings, FolderShare, Member
from simclr_cli.core.events import Report, progress, silent
from simclr_cli.core.seeds import Purpose, numpy_generator
from simclr_cli.core.text import count
from simclr_cli.engine.clustering import best_number, hdbscan, k_means, sampled, similarity_to_centre, try_numbers
from simclr_cli.images.census import classes_of
from simclr_cli.search.library import choose_run, open_index
from simclr_cli.search.output import Entry, Group, page_of, write_found
from simclr_cli.store.index import Index

CHOOSING = 2_000  # images by which the number of clusters is chosen
FOLDERS = 5  # of a cluster that are named


@dataclass(frozen=True, eq=False)
class Division:
    """Which image is in which cluster."""

    labels: NDArray[np.int64]  # (N,) from 0, the largest first; -1: in none
    similarity: NDArray[np.float32]  # (N,) cosine to the own center
    reason: str  # why so many clusters
    candidates: list[ClusterCountScore]  # numbers among which one was chosen


def clusters(settings: ClustersSettings, *, report: Report = silent) -> ClustersResult:
    """The images of a run in clusters.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    chosen = choose_run(settings)
    out = page_of(settings, chosen.run, "clusters")  # before long work
    index, _ = open_index(chosen, report)
    divided = divide(index, settings, report)
    folders = [name.split("/")[0] for name in index.names] if classes_of(index.names) else None
    places = [_in_order(divided, label) for label in range(int(divided.labels.max(initial=-1)) + 1)]
    alone = np.flatnonzero(divided.labels < 0)
    information, rand = _agreement(divided.labels, folders)
    result = ClustersResult(
        run=str(chosen.run.path),
        method=settings.method,
        reason=divided.reason,
        candidates=tuple(divided.candidates),
        clusters=tuple(described(index, divided, own, folders, settings.top) for own in places),
        unclustered=len(alone),
        information=information,
        rand=rand,
        images=tuple(_member(index, divided, place) for place in np.concatenate([*places, alone]).tolist()),
        out=None if out is None else str(out),
    )
    if out is not None:
        groups = gallery(result) if out.suffix.lower() == ".html" else table(result)
        lead = f"{count(len(index), 'image')} of {index.root}. {divided.reason}. {agreeing(result)}".strip()
        write_found(out, result, "Clusters", lead, groups, workers=chosen.workers, report=report)
    return result


def divide(index: Index, settings: ClustersSettings, report: Report = silent) -> Division:
    """Cluster all images of an index as the settings say."""
    candidates: list[ClusterCountScore] = []
    if settings.method == "hdbscan":
        smallest = settings.min_cluster_size or max(5, round(math.sqrt(len(index)) / 2))
        labels = hdbscan(index.h, smallest)
        reason = f"{count(int(labels.max(initial=-1)) + 1, 'dense cluster')} of at least {smallest} images"
    else:
        number, reason = settings.clusters, "As many clusters as asked for"
        if number is None:
            number, candidates, reason = _automatic(index, settings.seed, report)
        labels = k_means(index.h, number, numpy_generator(settings.seed, Purpose.CLUSTERS, number))
        if (made := int(labels.max()) + 1) < number:
            reason = f"{made} instead of {number} clusters: no more images differ"
    return Division(labels, similarity_to_centre(index.h, labels), reason, candidates)


def _automatic(index: Index, seed: int, report: Report) -> tuple[int, list[ClusterCountScore], str]:
    """A number of clusters, those that it was chosen from, and why, in words."""
    sample = sampled(index.h, CHOOSING, numpy_generator(seed, Purpose.CLUSTERS))
    found = try_numbers(
        sample, lambda number: numpy_generator(seed, Purpose.CLUSTERS, number, 0), progress=progress(report, "trying")
    )
    chosen = best_number(found)
    if chosen is None:
        return 1, found, "One cluster: too few different images to try more"
    of = "" if len(sample) == len(index) else f", on a sample of {count(len(sample), 'image')},"
    why = f"of {found[0].clusters} to {found[-1].clusters} their mean silhouette{of} is the furthest above chance"
    figures = f"({chosen.silhouette:.3f} and {chosen.chance:.3f})"
    return chosen.clusters, found, f"{chosen.clusters} clusters: {why} {figures}"


def _in_order(divided: Division, label: int) -> NDArray[np.int64]:
    """Places of a cluster's images, the nearest to the center first."""
    own = np.flatnonzero(divided.labels == label)
    return own[np.argsort(-divided.similarity[own], kind="stable")]


def described(
    index: Index, divided: Division, own: NDArray[np.int64], folders: Sequence[str] | None, top: int
) -> Cluster:
    """One cluster.

    Args:
        own: places of its images, the nearest to the center first.
        folders: (N,) of each image; None where they do not look like classes.
        top: how many representatives, none with the content of another.
    """
    shares = Counter(folders[place] for place in own.tolist()).most_common(FOLDERS) if folders else []
    _, first = np.unique(index.contents(own), return_index=True)
    return Cluster(
        number=int(divided.labels[own[0]]) + 1,
        images=len(own),
        cohesion=float(divided.similarity[own].mean()),
        representatives=tuple(str(index.path(place)) for place in own[np.sort(first)[:top]].tolist()),
        folders=tuple(FolderShare(folder, number, 100 * number / len(own)) for folder, number in shares),
    )


def _member(index: Index, divided: Division, place: int) -> Member:
    path, label = str(index.path(place)), int(divided.labels[place])
    return Member(path, None, None) if label < 0 else Member(path, label + 1, float(divided.similarity[place]))


def _agreement(labels: NDArray[np.int64], folders: Sequence[str] | None) -> tuple[float | None, float | None]:
    """Normalized mutual information and adjusted Rand index with the folders; images in no cluster are one part."""
    if folders is None:
        return None, None
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return float(normalized_mutual_info_score(folders, labels)), float(adjusted_rand_score(folders, labels))


def agreeing(result: ClustersResult) -> str:
    """How far clusters and folders are the same, in a sentence; empty where folders do not look like classes."""
    if result.information is None:
        return ""
    agree = f"normalized mutual information {result.information:.2f}, adjusted Rand index {result.rand:.2f}"
    return f"With the folders they agree by {agree} (1: the same, 0: unrelated)."


def about(cluster: Cluster) -> str:
    """What else there is to say of a cluster."""
    shares = ", ".join(f"{share.folder} {share.percent:.0f} %" for share in cluster.folders)
    size = f"{count(cluster.images, 'image')}; those nearest to the center are shown."
    return f"{size} Mean similarity to the center {cluster.cohesion:.3f}." + (f" From {shares}." if shares else "")


def gallery(result: ClustersResult) -> list[Group]:
    """The clusters with their representatives."""
    similarity = {member.path: member.similarity for member in result.images}
    groups = []
    for one in result.clusters:
        entries = tuple(Entry(path, f"{similarity[path]:.3f}") for path in one.representatives)
        groups.append(Group(f"Cluster {one.number}", entries, about(one)))
    return groups


def table(result: ClustersResult) -> list[Group]:
    """All images, by the numbers of their clusters."""
    groups = []
    for number, members in groupby(result.images, key=lambda member: member.cluster):
        entries = tuple(Entry(member.path, "", {"similarity": member.similarity}) for member in members)
        groups.append(Group(str(number or "none"), entries))
    return groups
