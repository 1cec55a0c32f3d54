"""Copies in an index, against nested loops over all pairs; and folders in which all is alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networkx import Graph, connected_components
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.images.cache import decode_once
from simclr_cli.images.fingerprints import (
    NEAR_DUPLICATE_MAX_BITS,
    NEAR_DUPLICATE_MIN_CORRELATION,
    Look,
    are_near_duplicates,
    correlation,
    look,
)
from simclr_cli.images.scan import take_census
from simclr_cli.search import near_duplicates as copies_module
from simclr_cli.search.near_duplicates import AS_SHARP, find_copies, join_alike
from simclr_cli.store.index import IMAGE, Index, Rows, append

WIDTH = 40


def index_of(
    folder: Path, root: Path, names: list[str], h: NDArray[np.float64], checksums: list[bytes], size: Any
) -> Index:
    images = np.zeros(len(names), IMAGE)
    images["bytes"], images["size"] = np.arange(len(names)), size
    images["checksum"] = np.frombuffer(b"".join(checksums), np.uint8).reshape(-1, 32)
    rows = Rows((h / np.linalg.norm(h, axis=1, keepdims=True)).astype(np.float32), names, images)
    return append(Index(folder, str(root), "f" * 64, h.shape[1]), rows).known


@pytest.fixture
def scenes(tmp_path: Path, draw: Callable[..., Any]) -> Index:
    """12 scenes: each smaller, brighter, cut, and as another that only the vector takes for it; some twice."""
    rng = np.random.default_rng(0)
    root, names, rows, sizes = tmp_path / "pics", [], [], []
    for scene in range(12):
        pixels, center = draw(root / f"{scene:02}.png", seed=scene), rng.standard_normal(WIDTH)
        whole = Image.fromarray(pixels).resize((96, 96))
        variants = {
            "": whole,
            "half": whole.resize((48, 48)),
            "bright": whole.point(lambda value: min(255, value + 9)),
            "cut": whole.crop((2, 2, 95, 95)),
            "other": Image.fromarray(rng.permuted(pixels, axis=0)),
        }
        for kind, variant in variants.items():
            variant.save(root / f"{scene:02}{kind}.png")
            row = center + (0.4 if kind == "cut" else 0.05) * rng.standard_normal(WIDTH)
            for name in [f"{scene:02}{kind}.png", f"{scene:02}{kind}-twice.png"][: 1 + int(rng.integers(3) == 0)]:
                (root / name).write_bytes((root / f"{scene:02}{kind}.png").read_bytes())
                names.append(name)
                rows.append(row)
                sizes.append(variant.size[::-1])
    checksums = [hashlib.sha256((root / name).read_bytes()).digest() for name in names]
    return index_of(tmp_path / "index", root, names, np.array(rows), checksums, sizes)


def oracle(index: Index, kind: str, threshold: float) -> set[frozenset[int]]:
    looks = [look(index.path(place)) for place in range(len(index))]
    h = index.h[slice(0, len(index))].astype(np.float64)
    groups, same = Graph(), {}
    groups.add_nodes_from(range(len(index)))
    for place in range(len(index)):
        same.setdefault(index.images["checksum"][place].tobytes(), []).append(place)
    for i, j in combinations(range(len(index)), 2):
        exact = index.images["checksum"][i].tobytes() == index.images["checksum"][j].tobytes()
        colors = correlation(looks[i].small[None], looks[j].small[None])[0]
        bits = (looks[i].hash ^ looks[j].hash).bit_count()
        near = h[i] @ h[j] >= threshold and bits <= NEAR_DUPLICATE_MAX_BITS and colors >= NEAR_DUPLICATE_MIN_CORRELATION
        if (exact and kind != "near") or (near and not exact and kind != "exact"):
            groups.add_edge(i, j)
    kept = {places[0] for places in same.values()} if kind == "near" else set(range(len(index)))
    found = (frozenset(group & kept) for group in connected_components(groups))
    return {group for group in found if len(group) > 1}


@pytest.mark.parametrize("kind", ["exact", "near", "all"])
@pytest.mark.parametrize("threshold", [-1.0, 0.9, 0.99])
def test_groups_are_those_of_all_pairs(scenes: Index, kind: Any, threshold: float) -> None:
    found = find_copies(scenes, kind, threshold, workers=2)
    assert {frozenset(group.tolist()) for group in found.groups} == oracle(scenes, kind, threshold)
    assert found.skipped == () and (kind == "exact") == (not found.looks)
    lengths = [len(group) for group in found.groups]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) > 3


def test_the_best_copy_is_first(scenes: Index) -> None:
    """Of one scene the whole image, although the smaller one and the cut one would come first by name."""
    found = find_copies(scenes, "all", 0.9, workers=2)
    for group in found.groups:
        pixels = scenes.images["size"][group].prod(axis=1).tolist()
        assert pixels == sorted(pixels, reverse=True)
        for a, b in zip(group[:-1].tolist(), group[1:].tolist(), strict=True):
            if scenes.images["size"][a].prod() == scenes.images["size"][b].prod():
                assert found.looks[a].sharpness >= AS_SHARP * found.looks[b].sharpness
            if (scenes.images["checksum"][a] == scenes.images["checksum"][b]).all():
                assert scenes.images["bytes"][a] > scenes.images["bytes"][b]


def test_a_link_is_never_the_best_of_its_file(tmp_path: Path, draw: Callable[..., Any]) -> None:
    draw(tmp_path / "pics" / "z.png")
    (tmp_path / "pics" / "a.png").symlink_to("z.png")
    checksum = hashlib.sha256((tmp_path / "pics" / "z.png").read_bytes()).digest()
    index = index_of(
        tmp_path / "i", tmp_path / "pics", ["a.png", "z.png"], np.ones((2, 9)), [checksum] * 2, [(48, 48)] * 2
    )
    object.__setattr__(index, "bytes", np.array([7, 7]))
    assert find_copies(index, "exact", 0, workers=1).groups[0].tolist() == [1, 0]


def test_a_image_that_is_gone_is_named_and_the_others_are_compared(scenes: Index) -> None:
    before = find_copies(scenes, "near", 0.9, workers=2).groups
    lost = int(before[0][0])
    scenes.path(lost).unlink()
    found = find_copies(scenes, "near", 0.9, workers=2)
    assert found.skipped == (f"{scenes.path(lost)}: gone, or a broken link",)
    assert lost not in np.concatenate(found.groups)


@pytest.mark.parametrize("side", [32, 64])
def test_without_embeddings_near_duplicates_are_those_of_all_pairs(scenes: Index, side: int) -> None:
    """`pretrain --duplicates near`, by the images as they are stored: the same meaning but for the embeddings."""
    decoded = decode_once(take_census(Path(scenes.root)), side, workers=2, progress=lambda *_: None)
    told: list[tuple[int, int]] = []
    ids = np.arange(len(decoded))
    join_alike(ids, decoded, lambda *counts: told.append(counts))
    assert told == [(i, len(decoded)) for i in range(1, len(decoded) + 1)]
    names = [image.name for image in decoded.census.images]
    for scene in range(12):  # the first of them is the image itself; what only a vector takes for it is another one
        group = ids == ids[names.index(f"{scene:02}.png")]
        found = {names[i] for i in np.flatnonzero(group)}
        assert {f"{scene:02}half.png", f"{scene:02}bright.png"} <= found <= {n for n in names if n[:2] == f"{scene:02}"}
        assert f"{scene:02}other.png" not in found


def test_near_duplicates_are_those_of_few_bits_and_like_colors() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 128, 768, dtype=np.uint8)
    small = np.array([base, base + 60, base // 2, base[::-1], np.zeros(768, np.uint8)])
    hashes = np.array([0, 2**8 - 1, 2**9 - 1, 0, 0], np.uint64)
    pairs = np.array(list(combinations(range(5), 2)))
    near = are_near_duplicates(hashes, small, *pairs.T)
    assert [tuple(pair) for pair in pairs[near].tolist()] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("alike", ["the same file", "near copies", "one vector for all"])
def test_thousands_of_images_that_are_alike(tmp_path: Path, alike: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 million pairs: none is listed."""
    count, rng = 4_000, np.random.default_rng(0)
    small = rng.integers(0, 256, 768, dtype=np.uint8)
    h = np.ones((count, 8)) + (1e-4 * rng.standard_normal((count, 8)) if alike == "near copies" else 0)
    checksums = [hashlib.sha256(str(0 if alike == "the same file" else i).encode()).digest() for i in range(count)]
    seen: list[Path] = []

    def instead(path: Path) -> Look:
        seen.append(path)
        hash_ = int(rng.integers(2**63)) if alike == "one vector for all" else 5
        return Look(hash_, small, 1.0)

    monkeypatch.setattr(copies_module, "apart", lambda *_: instead)
    names = [f"{i:05}.png" for i in range(count)]
    index = index_of(tmp_path / "i", tmp_path, names, h, checksums, np.full((count, 2), 32))
    found = find_copies(index, "all", 0.9, workers=1)
    if alike == "one vector for all":  # a collapsed encoder: the eye takes none for a copy
        assert found.groups == () and len(seen) == count
    else:
        assert [len(group) for group in found.groups] == [count]
        assert len(seen) == (0 if alike == "the same file" else count)
        assert os.fspath(index.path(int(found.groups[0][0]))).endswith("03999.png")  # the most bytes
