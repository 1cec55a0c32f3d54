"""Train, embed, probe and search through the installed command, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simclr_cli.images.synthetic import draw_images


def state_of(folder: Path) -> dict[str, tuple[int, int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*.*"))
    }


def test_from_a_folder_of_images_to_a_found_image(
    installed: Callable[..., Any], forked: Callable[..., Any], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    draw_images(images, seed=0, count=48, size=48)
    before = state_of(images)

    code, stdout, talk = installed(
        "pretrain", "images", "--backbone", "test_resnet", "--image-size", "40", "--epochs", "2", "--batch-size", "16",
        cwd=tmp_path,
    )  # fmt: skip
    assert (code, stdout) == (0, f"{Path('simclr-runs/images')}\n"), talk
    said = ["images: 48 images (", "folders look like 10 classes", "Plan for simclr-runs/images", "epoch 1  loss",
            "epoch 2  loss", "Trained on 48 images for 2 epochs", "simclr similar IMAGE"]  # fmt: skip
    assert [talk.find(words) for words in said] == sorted(talk.find(words) for words in said) and said[0] in talk
    run = tmp_path / "simclr-runs" / "images"
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "speed.jsonl", "images.json", "skipped.json", "encoder",
        "projection_head.safetensors", "checkpoint", "outcome.json", "report.html", "manifest.json",
    }  # fmt: skip

    code, stdout, talk = forked("embed", "--out", "vecs.npy", cwd=tmp_path)
    assert (code, stdout) == (0, "vecs.npy\n") and "Embedding" in talk and "48 x 96 float32" in talk
    vectors = np.load(tmp_path / "vecs.npy", allow_pickle=False)
    names = json.loads((tmp_path / "vecs.rows.json").read_text())["rows"]
    assert vectors.shape == (48, 96) and len(names) == 48

    code, stdout, talk = forked("probe", "images", "--json", cwd=tmp_path)
    assert code == 0 and [score["representation"] for score in json.loads(stdout)["scores"]][:2] == [
        "trained",
        "untrained",
    ]
    assert f"Probing {Path('simclr-runs/images')} on images." in talk

    query = names[11]
    code, stdout, talk = installed("similar", f"images/{query}", "--top", "3", cwd=tmp_path)
    header, *rows = (line.split("\t") for line in stdout.splitlines())
    assert code == 0 and header == ["rank", "similarity", "meaning", "path"]
    assert f"Searching {images} with {Path('simclr-runs/images')}." in talk
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(vectors @ vectors[11]), kind="stable")
    assert [path for *_, path in rows] == [names[i] for i in order if i != 11][:3]

    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "simclr-runs", "vecs.npy", "vecs.rows.json"]
    assert state_of(images) == before


def test_a_folder_is_searched_without_a_run(simclr: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    """By any encoder, with a table, JSON, and a page; exact duplicates need no encoder at all."""
    before = state_of(photos)
    on = (photos, "--encoder", "random:test_resnet", "--image-size", 32, "--runs", tmp_path / "none")
    query = photos / "dark" / "00.png"
    for arguments in (
        ("similar", query, "--images", *on), ("duplicates", *on), ("outliers", *on),
        ("clusters", *on, "--clusters", 2), ("map", *on, "--out", tmp_path / "map.html"),
    ):  # fmt: skip
        code, stdout, talk = simclr(*arguments, "--json")
        result = json.loads(stdout)
        assert code == 0 and result["encoder"] == "random:test_resnet" and Path(result["folder"]) == photos
        assert f"Searching {photos} with random:test_resnet." in talk
    code, stdout, talk = simclr("duplicates", photos, "--kind", "exact", "--runs", tmp_path / "none")
    assert (code, stdout) == (0, "") and "0 groups among 24 images. " in talk and "Searching" not in talk
    assert [path.name for path in tmp_path.iterdir()] == ["map.html"] and state_of(photos) == before
