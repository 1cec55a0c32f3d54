"""Files of the Embedding Projector, parsed as it does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simclr_cli.core.text import unescape_name
from simclr_cli.store.exports import write_embedding_projector
from simclr_cli.store.vectors import Vectors, name_rows_file


@pytest.fixture
def out(tmp_path: Path, vectors: Vectors) -> Path:
    write_embedding_projector(tmp_path / "v1.2.tsv", vectors, 64)
    return tmp_path / "v1.2.tsv"


def parse_lines(file: Path) -> list[list[str]]:
    """Parse as the projector: lines that are not empty, split at tabs, without quotes."""
    return [line.split("\t") for line in file.read_bytes().decode("utf-8").split("\n") if line.strip()]


def test_numbers_are_exact_to_the_bit(out: Path, vectors: Vectors) -> None:
    h = np.array([[float(cell) for cell in row] for row in parse_lines(out)]).astype(np.float32)
    assert (h.view(np.uint32) == vectors.values.view(np.uint32)).all()


def test_names_and_folders_are_exact_to_the_byte(out: Path, vectors: Vectors) -> None:
    head, *rows = parse_lines(out.with_name("v1.2.metadata.tsv"))
    assert head == ["name", "folder"] and all(len(row) == 2 for row in rows)
    assert tuple(unescape_name(name) for name, _ in rows) == vectors.rows
    assert [unescape_name(folder) for _, folder in rows] == [str(Path(name).parent) for name in vectors.rows]


def test_config_names_the_other_files(out: Path, vectors: Vectors) -> None:
    (embedding,) = json.loads(out.with_name("v1.2.config.json").read_bytes())["embeddings"]
    assert embedding == {
        "tensorName": "v1.2",
        "tensorShape": list(vectors.values.shape),
        "tensorPath": "v1.2.tsv",
        "metadataPath": "v1.2.metadata.tsv",
        "sprite": {"imagePath": "v1.2.sprite.png", "singleImageDim": [64, 64]},
    }


def test_tensorboard_parses_the_config(out: Path) -> None:
    pytest.importorskip("tensorboard")
    from google.protobuf import json_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = json_format.Parse(out.with_name("v1.2.config.json").read_bytes(), ProjectorConfig())
    assert list(config.embeddings[0].sprite.single_image_dim) == [64, 64]


def test_rows_file_describes_the_vectors(out: Path, vectors: Vectors) -> None:
    described = json.loads(name_rows_file(out).read_bytes())
    assert name_rows_file(out).name == "v1.2.tsv.rows.json" and described["model_checksum"] == vectors.model_checksum
    assert described["rows"] == list(vectors.rows)
