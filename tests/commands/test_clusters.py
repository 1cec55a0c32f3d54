"""`clusters`: all images in clusters by size, representatives first, the same in every output and every time."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
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
    found = find(own, clusters=5, top=3)
    assert {member.path for member in found.images} == {str(path) for path in own.images.rglob("*.*")}
    parts = {number: list(members) for number, members in groupby(found.images, lambda member: member.cluster)}
    assert list(parts) == [1, 2, 3, 4, 5] == [cluster.number for cluster in found.clusters]
    sizes = [len(members) for members in parts.values()]
    assert sizes == sorted(sizes, reverse=True) == [cluster.images for cluster in found.clusters]
    assert (sum(sizes), found.unclustered, found.candidates) == (48, 0, ())
    for cluster in found.clusters:
        similar = [member.similarity for member in parts[cluster.number]]
        assert similar == sorted(similar, reverse=True)
        assert cluster.cohesion == pytest.approx(np.mean(similar), abs=1e-5)
        assert cluster.representatives == tuple(member.path for member in parts[cluster.number][:3])


def test_folders_that_look_like_classes_are_told_and_compared(own: Any) -> None:
    found = find(own, clusters=4)
    folders = [Path(member.path).parent.name for member in found.images]
    numbers = [member.cluster for member in found.images]
    assert found.information == pytest.approx(normalized_mutual_info_score(folders, numbers))
    assert found.rand == pytest.approx(adjusted_rand_score(folders, numbers))
    for cluster in found.clusters:
        counts = Counter(folder for folder, number in zip(folders, numbers, strict=True) if number == cluster.number)
        shares = [share.images for share in cluster.folders]
        assert shares == sorted(counts.values(), reverse=True)[:5]
        assert all(counts[share.folder] == share.images for share in cluster.folders)
        assert cluster.folders[0].percent == pytest.approx(100 * shares[0] / cluster.images)


def test_folders_that_do_not_are_not(own: Any) -> None:
    shutil.copy(own.images / "dots" / "0000.png", own.images / "alone.png")
    found = find(own, clusters=3)
    assert (found.information, found.rand) == (None, None)
    assert all(cluster.folders == () for cluster in found.clusters)


def test_the_number_is_chosen_by_the_silhouette_and_said(own: Any) -> None:
    found = find(own)
    best = max(found.candidates, key=lambda one: one.silhouette - one.chance)
    assert len(found.clusters) == best.clusters and [one.clusters for one in found.candidates] == [
        2,
        3,
        4,
        5,
        6,
        8,
        10,
        12,
    ]
    words = (
        f"of 2 to 12 their mean silhouette is the furthest above chance ({best.silhouette:.3f} and {best.chance:.3f})"
    )
    assert found.reason == f"{best.clusters} clusters: {words}"


def test_the_same_again_and_by_another_seed_another(own: Any) -> None:
    found = [find(own, clusters=6, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_representatives_are_no_copies_of_one_another(own: Any) -> None:
    first = find(own, clusters=2).clusters[0].representatives[0]
    for i in range(3):
        shutil.copy(first, own.images / "dots" / f"copy-{i}.png")
    found = find(own, clusters=2, top=40)
    kept = [path for cluster in found.clusters for path in cluster.representatives]
    assert len(found.images) == 51 and len({Path(path).read_bytes() for path in kept}) == len(kept) == 48


def test_hdbscan_may_leave_images_in_none(own: Any, tmp_path: Path) -> None:
    found = find(own, method="hdbscan", min_cluster_size=3, out=tmp_path / "c.csv")
    inside = [member for member in found.images if member.cluster is not None]
    assert len(found.images) == 48 and found.unclustered == 48 - len(inside) > 0
    assert sum(cluster.images for cluster in found.clusters) == len(inside)
    assert all((member.similarity is None) == (member.cluster is None) for member in found.images)
    with (tmp_path / "c.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["group"] for row in rows] == [str(member.cluster or "none") for member in found.images]


def test_tables_have_all_images_and_the_gallery_representatives(own: Any, tmp_path: Path) -> None:
    found = [find(own, clusters=3, top=2, out=tmp_path / f"c.{ending}") for ending in ("json", "csv", "html")]
    assert [replace(one, out=None) for one in found[1:]] == [replace(found[0], out=None)] * 2
    whole = json.loads((tmp_path / "c.json").read_text())
    with (tmp_path / "c.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    told = [(str(member.cluster), member.path) for member in found[0].images]
    assert [(str(one["cluster"]), one["path"]) for one in whole["images"]] == told
    assert [(row["group"], row["path"]) for row in rows] == told
    page = (tmp_path / "c.html").read_text()
    assert page.count("<img") == 6
