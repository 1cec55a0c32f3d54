"""The clusters command: clusters of similar images, the largest first, each with its representatives."""

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
from simclr_cli.core.seeds import Purpose, create_numpy_generator
from simclr_cli.core.text import format_count
from simclr_cli.engine.clustering import (
    choose_cluster_count,
    compute_center_similarity,
    hdbscan,
    k_means,
    sample_rows,
    score_cluster_counts,
)
from simclr_cli.images.class_folders import find_class_folders
from simclr_cli.search.library import open_index, open_library
from simclr_cli.search.output import ResultGroup, ResultImage, prepare_output, write_results
from simclr_cli.store.index import Index

MAX_SAMPLED_IMAGES = 2_000  # to choose the number of clusters
MAX_FOLDERS = 5  # named for a cluster


@dataclass(frozen=True, eq=False)
class Clustering:
    """An assignment of images to clusters."""

    labels: NDArray[np.int64]  # (N,) from 0, the largest cluster first; -1: in none
    similarity: NDArray[np.float32]  # (N,) cosine to the center of the image's cluster
    reason: str  # for the number of clusters
    candidates: list[ClusterCountScore]  # numbers from which it was chosen


def clusters(settings: ClustersSettings, *, report: Report = silent) -> ClustersResult:
    """Cluster the images of a folder.

    Raises:
        SimclrError: one of its subclasses, with what to do next.
    """
    library = open_library(settings, report)
    out = prepare_output(settings, library.pages_folder, "clusters")  # before long work
    index, _ = open_index(library, report)
    clustering = cluster_images(index, settings, report)
    folders = find_class_folders(index.names).labels
    members = [_sort_members(clustering, label) for label in range(int(clustering.labels.max(initial=-1)) + 1)]
    unclustered = np.flatnonzero(clustering.labels < 0)
    information, rand = _measure_agreement(clustering.labels, folders)
    result = ClustersResult(
        folder=str(library.images),
        encoder=library.loaded.name,
        method=settings.method,
        reason=clustering.reason,
        candidates=tuple(clustering.candidates),
        clusters=tuple(make_cluster(index, clustering, places, folders, settings.top) for places in members),
        unclustered=len(unclustered),
        information=information,
        rand=rand,
        images=tuple(_make_member(index, clustering, i) for i in np.concatenate([*members, unclustered]).tolist()),
        out=None if out is None else str(out),
    )
    if out is not None:
        groups = make_gallery_groups(result) if out.suffix.lower() == ".html" else make_table_groups(result)
        images = f"{format_count(len(index), 'image')} of {index.root}"
        lead = f"{images}. {clustering.reason}. {describe_agreement(result)} {library.caution}".strip()
        write_results(out, result, "Clusters", lead, groups, workers=library.workers, report=report)
    return result


def cluster_images(index: Index, settings: ClustersSettings, report: Report = silent) -> Clustering:
    """Cluster all images of an index by the method and the number that the settings name."""
    candidates: list[ClusterCountScore] = []
    if settings.method == "hdbscan":
        min_size = settings.min_cluster_size or max(5, round(math.sqrt(len(index)) / 2))
        labels = hdbscan(index.h, min_size)
        reason = f"{format_count(int(labels.max(initial=-1)) + 1, 'dense cluster')} of at least {min_size} images"
    else:
        count, reason = settings.clusters, f"{settings.clusters} clusters, as set"
        if count is None:
            count, candidates, reason = _choose_count(index, settings.seed, report)
        labels = k_means(index.h, count, create_numpy_generator(settings.seed, Purpose.CLUSTERS, count))
        if (distinct := int(labels.max()) + 1) < count:
            reason = f"{distinct} clusters instead of {count}: only {distinct} images differ"
    return Clustering(labels, compute_center_similarity(index.h, labels), reason, candidates)


def _choose_count(index: Index, seed: int, report: Report) -> tuple[int, list[ClusterCountScore], str]:
    """Return the number of clusters, the candidates that it was chosen from, and the reason."""
    sample = sample_rows(index.h, MAX_SAMPLED_IMAGES, create_numpy_generator(seed, Purpose.CLUSTERS))
    candidates = score_cluster_counts(
        sample,
        lambda count: create_numpy_generator(seed, Purpose.CLUSTERS, count, 0),
        progress=progress(report, "choosing the number of clusters"),
    )
    best = choose_cluster_count(candidates)
    if best is None:
        return 1, candidates, "One cluster: too few images differ for more"
    tried = f"{candidates[0].clusters} to {candidates[-1].clusters}"
    if len(sample) < len(index):
        tried += f" on a sample of {format_count(len(sample), 'image')}"
    silhouette = f"the mean silhouette that compares best with chance ({best.silhouette:.3f}, chance {best.chance:.3f})"
    return best.clusters, candidates, f"{best.clusters} clusters, of {tried}, have {silhouette}"


def _sort_members(clustering: Clustering, label: int) -> NDArray[np.int64]:
    """Return the places of a cluster's images, the nearest to the center first."""
    places = np.flatnonzero(clustering.labels == label)
    return places[np.argsort(-clustering.similarity[places], kind="stable")]


def make_cluster(
    index: Index, clustering: Clustering, places: NDArray[np.int64], folders: Sequence[str | None], top: int
) -> Cluster:
    """Return a cluster in plain values.

    Args:
        places: of its images, the nearest to the center first.
        folders: (N,) class folder of each image, or None.
        top: the number of representatives, each with different content.
    """
    shares = Counter(folder for place in places.tolist() if (folder := folders[place])).most_common(MAX_FOLDERS)
    _, first = np.unique(index.get_checksums(places), return_index=True)
    return Cluster(
        number=int(clustering.labels[places[0]]) + 1,
        images=len(places),
        cohesion=float(clustering.similarity[places].mean()),
        representatives=tuple(str(index.get_path(place)) for place in places[np.sort(first)[:top]].tolist()),
        folders=tuple(FolderShare(folder, count, 100 * count / len(places)) for folder, count in shares),
    )


def _make_member(index: Index, clustering: Clustering, place: int) -> Member:
    path, label = str(index.get_path(place)), int(clustering.labels[place])
    return Member(path, None, None) if label < 0 else Member(path, label + 1, float(clustering.similarity[place]))


def _measure_agreement(labels: NDArray[np.int64], folders: Sequence[str | None]) -> tuple[float | None, float | None]:
    """Return normalized mutual information and adjusted Rand index with the folders; unclustered images are a part."""
    labeled = [place for place, folder in enumerate(folders) if folder is not None]
    if not labeled:
        return None, None
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    truth, found = [folders[place] for place in labeled], labels[labeled]
    return float(normalized_mutual_info_score(truth, found)), float(adjusted_rand_score(truth, found))


def describe_agreement(result: ClustersResult) -> str:
    """Return the agreement with the folders as a sentence, or "" if they do not look like classes."""
    if result.information is None:
        return ""
    measures = f"normalized mutual information {result.information:.2f}, adjusted Rand index {result.rand:.2f}"
    return f"Agreement with the folders: {measures} (1: identical, 0: chance)."


def describe_cluster(cluster: Cluster) -> str:
    """Return the lead of a cluster in the gallery."""
    size = f"{format_count(cluster.images, 'image')}; those nearest to the center are shown."
    shares = ", ".join(f"{share.folder} {share.percent:.0f} %" for share in cluster.folders)
    return f"{size} Mean similarity to the center: {cluster.cohesion:.3f}." + (f" Folders: {shares}." if shares else "")


def make_gallery_groups(result: ClustersResult) -> list[ResultGroup]:
    """Return the clusters with their representatives."""
    similarity = {member.path: member.similarity for member in result.images}
    groups = []
    for cluster in result.clusters:
        images = tuple(ResultImage(path, f"{similarity[path]:.3f}") for path in cluster.representatives)
        groups.append(ResultGroup(f"Cluster {cluster.number}", images, describe_cluster(cluster)))
    return groups


def make_table_groups(result: ClustersResult) -> list[ResultGroup]:
    """Return all images, grouped by the number of their cluster."""
    groups = []
    for number, members in groupby(result.images, key=lambda member: member.cluster):
        images = tuple(ResultImage(member.path, "", {"similarity": member.similarity}) for member in members)
        groups.append(ResultGroup(str(number or "none"), images))
    return groups
