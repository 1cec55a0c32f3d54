"""Output of `simclr outliers` and `simclr clusters`: a table on stdout, messages on stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_outliers_are_a_row_each(simclr: Callable[..., Any], trained: Path) -> None:
    code, stdout, stderr = simclr("outliers", "--runs", trained, "--top", 4)
    header, *rows = [line.split("\t") for line in stdout.splitlines()]
    assert code == 0 and header == ["rank", "score", "robust z", "nearest neighbor is", "path"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"] and all(len(row[-1].split("/")) == 2 for row in rows)
    assert "24 images, each compared with its 10 nearest neighbors" in stderr


def test_results_in_a_file_are_not_printed(simclr: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    for verb in ("similar", "outliers", "clusters", "duplicates"):
        query = ["dark/00.png"] if verb == "similar" else []
        code, stdout, _ = simclr(verb, *query, "--runs", trained, "--out", tmp_path / f"{verb}.csv")
        assert code == 0 and stdout == f"{tmp_path}/{verb}.csv\n" and (tmp_path / f"{verb}.csv").stat().st_size > 10


def test_clusters_are_a_row_each(simclr: Callable[..., Any], trained: Path) -> None:
    code, stdout, stderr = simclr("clusters", "--runs", trained, "--clusters", 2)
    header, *rows = [line.split("\t") for line in stdout.splitlines()]
    assert code == 0 and header == ["cluster", "images", "cohesion", "mostly from", "path"]
    assert [row[0] for row in rows] == ["1", "2"] and sum(int(row[1]) for row in rows) == 24
    assert "2 clusters, as set." in stderr and "adjusted Rand index" in stderr


def test_images_in_no_cluster_are_counted(simclr: Callable[..., Any], trained: Path) -> None:
    code, _, stderr = simclr("clusters", "--runs", trained, "--method", "hdbscan", "--min-cluster-size", 23)
    assert code == 0 and "0 dense clusters of at least 23 images." in stderr and "24 images in no cluster." in stderr
