"""The clusters command: all images in clusters by size, representatives first, the same in every output and run."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from simclr_cli.api import ClustersResult, ClustersSettings
from simclr_cli.commands.clusters import clusters


def find(trained: Any, **values: Any) -> ClustersResult:
    return clusters(ClustersSettings(runs=trained.runs, **values))


def test_every_image_is_in_one_cluster_the_largest_first(own: Any) -> None:
    result = find(own, clusters=5, top=3)
    assert {member.path for member in result.images} == {str(path) for path in own.images.rglob("*.*")}
    parts = {number: list(members) for number, members in groupby(result.images, lambda member: member.cluster)}
    assert list(parts) == [1, 2, 3, 4, 5] == [cluster.number for cluster in result.clusters]
    sizes = [len(members) for members in parts.values()]
    assert sizes == sorted(sizes, reverse=True) == [cluster.images for cluster in result.clusters]
    assert (sum(sizes), result.unclustered, result.candidates) == (48, 0, ())
    assert (result.folder, result.encoder) == (str(own.images), str(own.run.path))
    for cluster in result.clusters:
        similar = [member.similarity for member in parts[cluster.number]]
        assert similar == sorted(similar, reverse=True)
        assert cluster.cohesion == pytest.approx(np.mean(similar), abs=1e-5)
        assert cluster.representatives == tuple(member.path for member in parts[cluster.number][:3])


def test_folders_that_look_like_classes_are_listed_and_compared(own: Any) -> None:
    result = find(own, clusters=4)
    folders = [Path(member.path).parent.name for member in result.images]
    numbers = [member.cluster for member in result.images]
    assert result.information == pytest.approx(normalized_mutual_info_score(folders, numbers))
    assert result.rand == pytest.approx(adjusted_rand_score(folders, numbers))
    for cluster in result.clusters:
        counts = Counter(folder for folder, number in zip(folders, numbers, strict=True) if number == cluster.number)
        shares = [share.images for share in cluster.folders]
        assert shares == sorted(counts.values(), reverse=True)[:5]
        assert all(counts[share.folder] == share.images for share in cluster.folders)
        assert cluster.folders[0].percent == pytest.approx(100 * shares[0] / cluster.images)


def test_folders_that_do_not_look_like_classes_are_not_compared(own: Any) -> None:
    for i in range(8):  # too many outside of the class folders
        shutil.copy(own.images / "dots" / "0000.png", own.images / f"alone{i}.png")
    result = find(own, clusters=3)
    assert (result.information, result.rand) == (None, None)
    assert all(cluster.folders == () for cluster in result.clusters)


def test_the_number_is_chosen_by_the_silhouette(own: Any) -> None:
    result = find(own)
    best = max(result.candidates, key=lambda score: score.silhouette - score.chance)
    assert len(result.clusters) == best.clusters
    assert [score.clusters for score in result.candidates] == [2, 3, 4, 5, 6, 8, 10, 12]
    silhouette = f"({best.silhouette:.3f}, chance {best.chance:.3f})"
    words = f"of 2 to 12, have the mean silhouette that compares best with chance {silhouette}"
    assert result.reason == f"{best.clusters} clusters, {words}"


def test_clusters_follow_from_the_seed(own: Any) -> None:
    result = [find(own, clusters=6, seed=seed) for seed in (0, 0, 1)]
    assert result[0] == result[1] != result[2]


@pytest.mark.usefixtures("default_encoder")
def test_a_folder_is_clustered_with_the_default_encoder(
    images: Path, tmp_path: Path, checksum: Callable[[Path], Any]
) -> None:
    before = checksum(images)
    settings = ClustersSettings(images=images, runs=tmp_path / "none", clusters=4)
    result = clusters(settings)
    assert (result.folder, result.encoder) == (str(images), "tiny_resnet.r160_in1k")
    assert {member.path for member in result.images} == {str(path) for path in images.rglob("*.*")}
    assert sum(cluster.images for cluster in result.clusters) == 48 and result.information is not None
    assert clusters(replace(settings, no_update=True)) == result
    assert checksum(images) == before and not (tmp_path / "none").exists()


def test_representatives_have_different_content(own: Any) -> None:
    first = find(own, clusters=2).clusters[0].representatives[0]
    for i in range(3):
        shutil.copy(first, own.images / "dots" / f"copy-{i}.png")
    result = find(own, clusters=2, top=40)
    paths = [path for cluster in result.clusters for path in cluster.representatives]
    assert len(result.images) == 51 and len({Path(path).read_bytes() for path in paths}) == len(paths) == 48


def test_hdbscan_leaves_some_images_unclustered(own: Any, tmp_path: Path) -> None:
    result = find(own, method="hdbscan", min_cluster_size=3, out=tmp_path / "c.csv")
    inside = [member for member in result.images if member.cluster is not None]
    assert len(result.images) == 48 and result.unclustered == 48 - len(inside) > 0
    assert sum(cluster.images for cluster in result.clusters) == len(inside)
    assert all((member.similarity is None) == (member.cluster is None) for member in result.images)
    with (tmp_path / "c.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["group"] for row in rows] == [str(member.cluster or "none") for member in result.images]


def test_tables_have_all_images_and_the_gallery_representatives(own: Any, tmp_path: Path) -> None:
    result = [find(own, clusters=3, top=2, out=tmp_path / f"c.{ending}") for ending in ("json", "csv", "html")]
    assert [replace(one, out=None) for one in result[1:]] == [replace(result[0], out=None)] * 2
    whole = json.loads((tmp_path / "c.json").read_text())
    with (tmp_path / "c.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = [(str(member.cluster), member.path) for member in result[0].images]
    assert [(str(one["cluster"]), one["path"]) for one in whole["images"]] == expected
    assert [(row["group"], row["path"]) for row in rows] == expected
    page = (tmp_path / "c.html").read_text()
    assert page.count("<img") == 6
