"""A file of rows comes back as it was, is read by the library of its format too, and what is damaged is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from simclr_cli.errors import RunError
from simclr_cli.store.rows import ALIGNED, Rows, named, read_rows, write_rows

NAMES = ["a/1.png", "größe.png", "new\nline.png", os.fsdecode(b"caf\xe9\xff.png"), "a/1.png.png"]


def made(names: list[str] = NAMES, seed: int = 0, width: int = 7) -> Rows:
    rng, count = np.random.default_rng(seed), len(names)
    h = rng.standard_normal((count, width)).astype(np.float32)
    blob, ends = named(names)
    return Rows(
        h, blob, ends, rng.integers(0, 2**40, count), rng.integers(0, 2**62, count),
        rng.integers(0, 256, (count, 32), dtype=np.uint8), rng.integers(1, 9000, (count, 2), dtype=np.int32),
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.safetensors", [(made(), None)])
    return tmp_path / "rows.safetensors"


def test_all_of_it_comes_back_mapped(file: Path) -> None:
    rows = read_rows(file)
    for field in dataclasses.fields(Rows):
        expected, found = getattr(made(), field.name), getattr(rows, field.name)
        assert isinstance(found, np.memmap) and found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert [rows.name(i) for i in range(len(rows))] == NAMES


def test_the_library_reads_it_too(file: Path) -> None:
    loaded = load_file(file)
    for field in dataclasses.fields(Rows):
        np.testing.assert_array_equal(loaded[field.name], getattr(made(), field.name))


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_h_begins_where_a_cache_line_does(tmp_path: Path, count: int) -> None:
    write_rows(tmp_path / "r", [(made([f"{i}.png" for i in range(count)], width=16), None)])
    h = read_rows(tmp_path / "r").h
    assert isinstance(h, np.memmap) and h.offset % ALIGNED == 0


def test_digest_is_the_files(tmp_path: Path) -> None:
    digest = write_rows(tmp_path / "r", [(made(), None)])
    assert digest == hashlib.sha256((tmp_path / "r").read_bytes()).hexdigest()


def test_parts_and_choices_of_rows_are_put_end_to_end(tmp_path: Path) -> None:
    first, second = made(), made(["x.png", "y.png", "z.png"], seed=1)
    write_rows(tmp_path / "r", [(first, np.array([1, 3])), (second, None), (first, np.array([], np.int64))])
    rows = read_rows(tmp_path / "r")
    assert [rows.name(i) for i in range(5)] == [NAMES[1], NAMES[3], "x.png", "y.png", "z.png"]
    for field in ("h", "bytes", "modified_ns", "digest", "size"):
        expected = np.concatenate([getattr(first, field)[[1, 3]], getattr(second, field)])
        np.testing.assert_array_equal(getattr(rows, field), expected)


def test_a_name_is_found_as_a_whole(file: Path) -> None:
    rows = read_rows(file)
    assert [rows.row(name) for name in NAMES] == [0, 1, 2, 3, 4]
    assert [rows.row(name) for name in ("1.png", "a/1", "png", "", "a/1.pnggrö", "nowhere")] == [None] * 6


def test_no_rows_at_all(tmp_path: Path) -> None:
    write_rows(tmp_path / "r", [(made(), np.array([], np.int64))])
    rows = read_rows(tmp_path / "r")
    assert len(rows) == 0 and rows.h.shape == (0, 7) and rows.row("a/1.png") is None


def with_header(change: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], None]:
    def harm(file: Path) -> None:
        whole = file.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        text += b" " * (length - len(text))
        file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])

    return harm


HARMS: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "cut in its header": lambda file: file.write_bytes(file.read_bytes()[:40]),
    "a header of 2^63 bytes": lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]),
    "a text": lambda file: file.write_text("x" * 999),
    "10^12 rows": with_header(lambda header: [column.update(shape=[10**12]) for column in header.values()]),
    "a row more": with_header(lambda header: header["bytes"].update(shape=[6])),
    "of float64": with_header(lambda header: header["h"].update(dtype="F64")),
    "no h": with_header(lambda header: header.pop("h")),
    "h elsewhere": with_header(lambda header: header["h"].update(data_offsets=[0, 140])),
    "a negative shape": with_header(lambda header: header["h"].update(shape=[-5, -7])),
    "a shape of words": with_header(lambda header: header["h"].update(shape=["5", "7"])),
    "h of one dimension": with_header(lambda header: header["h"].update(shape=[35])),
    "columns of other lengths": with_header(lambda header: header["h"].update(shape=[7, 5])),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_is_refused(file: Path, harm: str) -> None:
    HARMS[harm](file)
    with pytest.raises(RunError) as caught:
        read_rows(file)
    assert caught.value.exit_code == 4 and caught.value.remedy


def test_names_whose_ends_are_not_in_order_are_refused(tmp_path: Path) -> None:
    rows = made()
    bad = dataclasses.replace(rows, ends=rows.ends[[1, 0, 2, 3, 4]])
    whole = (write_rows(tmp_path / "r", [(rows, None)]), (tmp_path / "r").read_bytes())[1]
    (tmp_path / "r").write_bytes(whole.replace(rows.ends.tobytes(), bad.ends.tobytes()))
    with pytest.raises(RunError, match="do not fit"):
        read_rows(tmp_path / "r")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "a/..", "a\0b.png"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "r", [(made(["a.png", name, "b.png"]), None)])
    with pytest.raises(RunError, match="outside the folder"):
        read_rows(tmp_path / "r")


def test_dots_that_lead_nowhere_are_names(tmp_path: Path) -> None:
    names = ["a..b.png", "..c.png", "d../e...png", "....png"]
    write_rows(tmp_path / "r", [(made(names), None)])
    rows = read_rows(tmp_path / "r")
    assert [rows.name(i) for i in range(4)] == names
