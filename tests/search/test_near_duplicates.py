"""Duplicates in an index against nested loops over all pairs; and folders of nothing but duplicates."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networkx import Graph, connected_components
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.images.cache import decode_images
from simclr_cli.images.decode import decode_squashed
from simclr_cli.images.fingerprints import Fingerprint, compute_fingerprint, correlation
from simclr_cli.images.scan import take_census
from simclr_cli.search import duplicate_groups as module
from simclr_cli.search.duplicate_groups import find_duplicates
from simclr_cli.search.local_comparison import SIDE, Match, match_squares
from simclr_cli.search.near_duplicates import (
    NEAR_DUPLICATE_MAX_BITS,
    NEAR_DUPLICATE_MIN_CORRELATION,
    have_similar_fingerprints,
    join_near_duplicates,
)
from simclr_cli.store.index import IMAGE, Index, Rows
from simclr_cli.store.index_files import append_rows

WIDTH = 40


def index_of(
    folder: Path, root: Path, names: list[str], h: NDArray[np.float64], checksums: list[bytes], size: Any
) -> Index:
    images = np.zeros(len(names), IMAGE)
    images["bytes"], images["size"] = np.arange(len(names)), size
    images["checksum"] = np.frombuffer(b"".join(checksums), np.uint8).reshape(-1, 32)
    rows = Rows((h / np.linalg.norm(h, axis=1, keepdims=True)).astype(np.float32), names, images)
    return append_rows(Index(folder, str(root), "f" * 64, h.shape[1]), rows).include_unfinished()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Any]) -> Index:
    """Return an index of 12 scenes: each also smaller, brighter, cut, and another image with a similar embedding."""
    rng, tmp_path = np.random.default_rng(0), tmp_path_factory.mktemp("scenes")
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


def read_square(path: Path) -> torch.Tensor:
    luma = decode_squashed(path, SIDE) @ np.array([0.299, 0.587, 0.114], np.float32)
    return torch.from_numpy(luma.round())[None]


@pytest.fixture(scope="module")
def looks_alike(scenes: Index) -> dict[tuple[int, int], bool]:
    """Return of each pair of images if they look alike, whatever their embeddings."""
    fingerprints = [compute_fingerprint(scenes.get_path(place), False) for place in range(len(scenes))]
    squares = [read_square(scenes.get_path(place)) for place in range(len(scenes))]
    alike = {}
    for i, j in combinations(range(len(scenes)), 2):
        colors = correlation(fingerprints[i].colors[None], fingerprints[j].colors[None])[0]
        bits = (fingerprints[i].hash ^ fingerprints[j].hash).bit_count()
        alike[i, j] = bits <= NEAR_DUPLICATE_MAX_BITS and colors >= NEAR_DUPLICATE_MIN_CORRELATION
        if alike[i, j]:
            side = scenes.images["size"][[i, j]].min(keepdims=True).reshape(1)
            alike[i, j] = match_squares(squares[i], squares[j], side)[0] != Match.DIFFERENT
    return alike


def find_by_loops(
    index: Index, looks_alike: dict[tuple[int, int], bool], kind: str, threshold: float
) -> set[frozenset[int]]:
    h = index.h[slice(0, len(index))].astype(np.float64)
    groups, same = Graph(), {}
    groups.add_nodes_from(range(len(index)))
    for place in range(len(index)):
        same.setdefault(index.images["checksum"][place].tobytes(), []).append(place)
    for i, j in combinations(range(len(index)), 2):
        exact = index.images["checksum"][i].tobytes() == index.images["checksum"][j].tobytes()
        near = h[i] @ h[j] >= threshold and looks_alike[i, j]
        if (exact and kind != "near") or (near and not exact and kind != "exact"):
            groups.add_edge(i, j)
    distinct = {places[0] for places in same.values()} if kind == "near" else set(range(len(index)))
    components = (frozenset(group & distinct) for group in connected_components(groups))
    return {group for group in components if len(group) > 1}


@pytest.mark.parametrize("kind", ["exact", "near", "all"])
@pytest.mark.parametrize("threshold", [-1.0, 0.9, 0.99])
def test_groups_are_those_of_all_pairs(
    scenes: Index, looks_alike: dict[tuple[int, int], bool], kind: Any, threshold: float
) -> None:
    result = find_duplicates(scenes, kind, threshold, workers=2)
    groups = {frozenset(group.tolist()) for group in result.groups}
    assert groups == find_by_loops(scenes, looks_alike, kind, threshold)
    assert result.skipped == () and (kind == "exact") == (not result.fingerprints)
    lengths = [len(group) for group in result.groups]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) > 3


def test_of_files_with_the_same_content_the_largest_is_first(scenes: Index) -> None:
    """Of files with the same content, the largest."""
    result = find_duplicates(scenes, "all", 0.9, workers=2)
    for group in result.groups:
        for a, b in zip(group[:-1].tolist(), group[1:].tolist(), strict=True):
            if (scenes.images["checksum"][a] == scenes.images["checksum"][b]).all():
                assert scenes.images["bytes"][a] > scenes.images["bytes"][b]


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_the_names_of_one_file_count_once(tmp_path: Path, draw: Callable[..., Any], kind: str) -> None:
    folder = tmp_path / "pics"
    draw(folder / "z.png")
    if kind == "hard":
        (folder / "a.png").hardlink_to(folder / "z.png")
    else:
        (folder / "a.png").symlink_to("z.png")
    names, checksum = ["a.png", "z.png"], hashlib.sha256((folder / "z.png").read_bytes()).digest()
    index = index_of(tmp_path / "i", folder, names, np.ones((2, 9)), [checksum] * 2, [(48, 48)] * 2)
    found = find_duplicates(index, "exact", 0, workers=1)
    kept = 0 if kind == "hard" else 1  # the file, not its symbolic link
    assert found.groups == () and found.linked == {kept}
    (folder / "copy.png").write_bytes((folder / "z.png").read_bytes())
    names.append("copy.png")
    index = index_of(tmp_path / "j", folder, names, np.ones((3, 9)), [checksum] * 3, [(48, 48)] * 3)
    found = find_duplicates(index, "exact", 0, workers=1)
    assert [set(group.tolist()) for group in found.groups] == [{kept, 2}] and found.linked == {kept}


def test_a_missing_image_is_reported_and_the_others_are_compared(scenes: Index) -> None:
    before = find_duplicates(scenes, "near", 0.9, workers=2).groups
    lost = int(before[0][0])
    file = scenes.get_path(lost)
    moved = file.rename(f"{file}.away")
    result = find_duplicates(scenes, "near", 0.9, workers=2)
    moved.rename(file)
    assert result.skipped == (f"{file}: missing, or a broken link",)
    assert lost not in np.concatenate(result.groups)


@pytest.mark.parametrize("side", [32, 64])
def test_without_embeddings_near_duplicates_are_those_of_all_pairs(scenes: Index, side: int) -> None:
    """`pretrain --duplicates near` compares the images as they are stored, by the same rule without embeddings."""
    decoded = decode_images(take_census(Path(scenes.root)), side, workers=2, progress=lambda *_: None)
    progress: list[tuple[int, int]] = []
    ids = np.arange(len(decoded))
    join_near_duplicates(ids, decoded, lambda *counts: progress.append(counts))
    assert progress[: len(decoded)] == [(i, len(decoded)) for i in range(1, len(decoded) + 1)]
    names = [image.name for image in decoded.census.images]
    for scene in range(12):  # the "other" image of a scene has a similar embedding only
        group = ids == ids[names.index(f"{scene:02}.png")]
        joined = {names[i] for i in np.flatnonzero(group)}
        assert (
            {f"{scene:02}half.png", f"{scene:02}bright.png"} <= joined <= {n for n in names if n[:2] == f"{scene:02}"}
        )
        assert f"{scene:02}other.png" not in joined


def test_similar_fingerprints_have_similar_hashes_and_colors() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 128, 768, dtype=np.uint8)
    colors = np.array([base, base + 60, base // 2, base[::-1], np.zeros(768, np.uint8)])
    hashes = np.array([0, 2**8 - 1, 2**9 - 1, 0, 0], np.uint64)
    pairs = np.array(list(combinations(range(5), 2)))
    near = have_similar_fingerprints(hashes, colors, *pairs.T)
    assert [tuple(pair) for pair in pairs[near].tolist()] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("kind", ["the same file", "near-duplicates", "one embedding for all"])
def test_thousands_of_duplicates(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of pairs, none of which is listed."""
    count, rng = 1_000 if kind == "near-duplicates" else 4_000, np.random.default_rng(0)
    colors = rng.integers(0, 256, 768, dtype=np.uint8)
    h = np.ones((count, 8)) + (1e-4 * rng.standard_normal((count, 8)) if kind == "near-duplicates" else 0)
    checksums = [hashlib.sha256(str(0 if kind == "the same file" else i).encode()).digest() for i in range(count)]
    seen: list[Path] = []
    square = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def fake_decoder(path: Path, argument: int | bool) -> Any:
        if argument == SIDE:
            return square
        if argument:  # with the sharpness
            return Fingerprint(5, colors, 1.0)
        seen.append(path)
        hash_ = int(rng.integers(2**63)) if kind == "one embedding for all" else 5
        return Fingerprint(hash_, colors, 1.0)

    monkeypatch.setattr(module, "isolate", lambda *_: fake_decoder)
    names = [f"{i:05}.png" for i in range(count)]
    index = index_of(tmp_path / "i", tmp_path, names, h, checksums, np.full((count, 2), 32))
    result = find_duplicates(index, "all", 0.9, workers=1)
    if kind == "one embedding for all":  # a collapsed encoder: all fingerprints differ
        assert result.groups == () and len(seen) == count
    else:
        assert [len(group) for group in result.groups] == [count]
        assert len(seen) == (0 if kind == "the same file" else count)
        assert os.fspath(index.get_path(int(result.groups[0][0]))).endswith(names[-1])  # the most bytes
