"""Exports: every format keeps the numbers to the bit, the names to the byte, and the description."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from simclr_cli.api.search import VECTOR_SUFFIXES
from simclr_cli.core.errors import MachineError
from simclr_cli.core.text import unescape_name
from simclr_cli.store.exports import WRITERS, format_rows, write_export
from simclr_cli.store.vectors import Vectors, name_rows_file, read_vectors

Read = tuple[NDArray[np.float32], list[str], dict[str, Any]]


def read_npy(out: Path) -> Read:
    there = read_vectors(out, model_checksum="a" * 64)
    return there.values, list(there.rows), json.loads(name_rows_file(out).read_bytes())


def read_npz(out: Path) -> Read:
    with np.load(out, allow_pickle=False) as members:
        assert members.files == ["h", "names", "about"]
        return members["h"], members["names"].tolist(), json.loads(members["about"].item())


def read_safetensors(out: Path) -> Read:
    with safe_open(out, "np") as file:
        stops, names = file.get_tensor("ends").tolist(), file.get_tensor("names").tobytes()
        parts = [names[a:b] for a, b in zip([0, *stops], stops, strict=False)]
        return file.get_tensor("h"), [os.fsdecode(part) for part in parts], json.loads(file.metadata()["simclr"])


def read_csv(out: Path) -> Read:
    with out.open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["path", *(f"h_{i}" for i in range(7))]
    h = np.array([[float(cell) for cell in row[1:]] for row in rows]).astype(np.float32)
    return h, [unescape_name(row[0]) for row in rows], json.loads(name_rows_file(out).read_bytes())


def read_parquet(out: Path) -> Read:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = parquet.read_table(out)
    table.validate(full=True)
    assert [str(field.type) for field in table.schema] == ["string", "fixed_size_list<element: float>[7]"]
    h = table["h"].combine_chunks().flatten().to_numpy().reshape(-1, 7)
    return h, [unescape_name(path) for path in table["path"].to_pylist()], json.loads(table.schema.metadata[b"simclr"])


READERS: dict[str, Callable[[Path], Read]] = {
    ".npy": read_npy, ".npz": read_npz, ".safetensors": read_safetensors, ".csv": read_csv, ".parquet": read_parquet,
}  # fmt: skip


@pytest.fixture(params=READERS)
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"v1.2{request.param}"


def test_every_format_has_a_writer() -> None:
    assert {*WRITERS, ".tsv"} == set(VECTOR_SUFFIXES) == {*READERS, ".tsv"}


def test_every_format_keeps_everything(out: Path, vectors: Vectors) -> None:
    write_export(out, vectors)
    h, names, about = READERS[out.suffix](out)
    assert h.dtype == np.float32 and (h.view(np.uint32) == vectors.values.view(np.uint32)).all()
    assert names == list(vectors.rows)
    assert list(map(os.fsencode, names)) == list(map(os.fsencode, vectors.rows))
    assert about["shape"] == list(h.shape) and about["skipped"] == list(vectors.skipped)
    for field in ("root", "model_checksum", "normalized", "source_fingerprint"):
        assert about[field] == getattr(vectors, field)


def test_same_vectors_give_the_same_bytes(out: Path, vectors: Vectors) -> None:
    write_export(out, vectors)
    first = out.read_bytes()
    write_export(out, vectors)
    assert out.read_bytes() == first


def test_other_formats_have_a_rows_file(out: Path, vectors: Vectors) -> None:
    write_export(out, vectors)
    rows_files = {".npy": "v1.2.rows.json", ".csv": "v1.2.csv.rows.json"}
    assert name_rows_file(out).name == rows_files.get(out.suffix, out.name)
    assert sorted(path.name for path in out.parent.iterdir()) == sorted({out.name, name_rows_file(out).name})


def test_columns_of_parquet_are_not_nullable(tmp_path: Path, vectors: Vectors) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_export(tmp_path / "v.parquet", vectors)
    schema = parquet.read_schema(tmp_path / "v.parquet")
    assert [(field.name, field.nullable) for field in schema] == [("path", False), ("h", False)]
    assert schema.field("h").type.list_size == vectors.values.shape[1]


def test_formats_of_one_name_do_not_overwrite_one_another(tmp_path: Path, vectors: Vectors) -> None:
    """A table written after an array must not replace the description of the array."""
    write_export(tmp_path / "v.npy", vectors)
    write_export(tmp_path / "v.csv", vectors)
    assert read_vectors(tmp_path / "v.npy", model_checksum="a" * 64).rows == vectors.rows


def test_vectors_of_one_row(out: Path, vectors: Vectors) -> None:
    one_row = dataclasses.replace(vectors, values=np.full((1, 7), 0.5, np.float32), rows=("a",))
    write_export(out, one_row)
    h, names, _ = READERS[out.suffix](out)
    assert (h == 0.5).all() and h.shape == (1, 7) and names == ["a"]


def test_a_failed_write_leaves_the_old_file(out: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    write_export(out, vectors)
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        write_export(out, dataclasses.replace(vectors, rows=vectors.rows[::-1]))
    assert out.read_bytes() == before
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_numbers_as_text_are_exact(vectors: Vectors) -> None:
    """Numbers of every magnitude, also read by a float64 parser that is off by one unit."""
    random = np.random.default_rng(2)
    values = random.integers(0, 2**32, (3000, 7), dtype=np.uint32).view(np.float32)
    values[~np.isfinite(values)] = 0
    text = io.StringIO("\n".join(format_rows(values, " ")))
    again = np.loadtxt(text)
    for off in (again, np.nextafter(again, np.inf), np.nextafter(again, -np.inf)):
        assert (off.astype(np.float32) == values).all()


def test_tables_are_written_in_chunks(tmp_path: Path, vectors: Vectors) -> None:
    values = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    many_rows = dataclasses.replace(vectors, values=values, rows=tuple(f"{i:06}.png" for i in range(len(values))))
    tracemalloc.start()
    write_export(tmp_path / "v.csv", many_rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "v.csv").stat().st_size > 2e6 and peak < 1e6


def test_only_names_are_compressed_in_an_npz(tmp_path: Path, vectors: Vectors) -> None:
    write_export(tmp_path / "v.npz", vectors)
    with zipfile.ZipFile(tmp_path / "v.npz") as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert kinds == {"h.npy": zipfile.ZIP_STORED, "names.npy": zipfile.ZIP_DEFLATED, "about.npy": zipfile.ZIP_DEFLATED}


def test_h_is_aligned_in_a_safetensors(tmp_path: Path, vectors: Vectors) -> None:
    write_export(tmp_path / "v.safetensors", vectors)
    data = (tmp_path / "v.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length + json.loads(data[8 : 8 + length])["h"]["data_offsets"][0]) % 64 == 0
