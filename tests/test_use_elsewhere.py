"""The Python blocks of docs/use-elsewhere.md, run on files of the real writers."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.images.thumbnails import tile_side, write_sprite
from simclr_cli.store.exports import WRITERS, name_sprite_file, write_embedding_projector
from simclr_cli.store.vectors import Vectors

PAGE = (Path(__file__).parents[1] / "docs" / "use-elsewhere.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^(<!-- not run -->\n)?```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RUN_BLOCKS = [block for unrun, block in BLOCKS if not unrun]
NAMES = [b"NA", b"1.0", b"=1+1.png", b'a,"b".png', b"caf\xe9.png", b"dir/new\nline.png", b"\\x41", "größe.png".encode()]


def find_imports(block: str) -> Iterator[str]:
    """Yield the modules that a block imports, and the ones that these need implicitly."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
    if "read_parquet" in block:
        yield "pyarrow"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vectors]:
    """Write the files of 40 vectors in every available format; return their folder and the vectors."""
    folder = tmp_path_factory.mktemp("elsewhere")
    values = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    names = sorted([*NAMES, *(f"{i:02}.png".encode() for i in range(32))])
    vectors = Vectors(
        values=values, rows=tuple(map(os.fsdecode, names)), root=str(folder), model_checksum="a" * 64, normalized=True,
        source_fingerprint="f" * 64,
    )  # fmt: skip
    for ending, write in WRITERS.items():
        if ending != ".parquet" or is_installed("pyarrow"):
            write(folder / f"vecs{ending}", vectors)
    Image.new("RGB", (8, 8)).save(folder / "one.png")
    write_sprite(name_sprite_file(folder / "vecs.tsv"), [folder / "one.png"] * 40, workers=1)
    write_embedding_projector(folder / "vecs.tsv", vectors, tile_side(40))
    return folder, vectors


def is_installed(library: str) -> bool:
    try:
        __import__(library)
    except ImportError:
        return False
    return True


def test_blocks_are_found() -> None:
    assert len(RUN_BLOCKS) >= 11 and len(BLOCKS) == len(RUN_BLOCKS) + 2 == PAGE.count("```python")


@pytest.mark.parametrize("block", RUN_BLOCKS, ids=lambda block: next(reversed(list(find_imports(block)))))
def test_block_does_what_it_says(
    block: str, written: tuple[Path, Vectors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in find_imports(block):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries
            pytest.importorskip(library)
    folder, vectors = written
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # open() without close(), as in short examples
        exec(RUN_BLOCKS[0] + block, namespace)
    checked = 0
    if "h" in namespace:
        assert np.asarray(namespace["h"]).dtype == np.float32
        np.testing.assert_array_equal(namespace["h"], vectors.values)
        checked += 1
    if "names" in namespace:
        assert tuple(namespace["names"]) == vectors.rows
        checked += 1
    if "about" in namespace:
        assert namespace["about"]["model_checksum"] == vectors.model_checksum
        checked += 1
    if "nearest" in namespace:
        rows = np.argsort(-vectors.values @ vectors.values[0])[:5]
        assert namespace["nearest"] == [vectors.rows[row] for row in rows]
        checked += 1
    if "projector" in namespace:
        assert "vecs.sprite.png" in (tmp_path / "projector_config.pbtxt").read_text()
        checked += 1
    assert checked or block == RUN_BLOCKS[0]
