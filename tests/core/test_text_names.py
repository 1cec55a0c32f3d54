"""File names in tables: valid UTF-8, one line, no formula, and recoverable to the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from simclr_cli.core.files import write_csv
from simclr_cli.core.text import escape_name, escape_name_for_csv, escape_value_for_csv, unescape_name


@pytest.fixture
def hostile(nasty_names: Callable[[int], list[bytes]]) -> tuple[str, ...]:
    folders = [b"=folder/a", b"\xff\t/a"]
    return tuple(os.fsdecode(name) for name in (*nasty_names(600), *folders))


def test_hostile_names_are_recovered_exactly(hostile: tuple[str, ...]) -> None:
    for name in hostile:
        for text in (escape_name(name), escape_name_for_csv(name)):
            assert unescape_name(text) == name and os.fsencode(unescape_name(text)) == os.fsencode(name)
            assert len(text.splitlines()) == 1 and "\t" not in text
            text.encode("utf-8")  # strict: it is valid
        assert escape_name_for_csv(name)[0] not in "=+-@\t\r"


def test_other_values_are_no_formulas() -> None:
    assert [escape_value_for_csv(value) for value in ("=1", "a", 3, None, "\t=1", "\ud800")] == [
        "'=1", "a", 3, None, r"\x09=1", r"\xed\xa0\x80",
    ]  # fmt: skip


def test_pandas_reads_names_from_a_table(hostile: tuple[str, ...], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_csv(tmp_path / "t.csv", ["path"], [[escape_name_for_csv(name)] for name in hostile])
    read = pandas.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)["path"]
    assert tuple(unescape_name(cell) for cell in read) == hostile


def test_different_names_have_different_texts(hostile: tuple[str, ...]) -> None:
    for escape in (escape_name, escape_name_for_csv):
        assert len({escape(name) for name in hostile}) == len(hostile)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a/b c.png", "a/b c.png"),
        ("größe 日本.png".encode(), "größe 日本.png"),
        (b"caf\xe9.png", r"caf\xe9.png"),
        (b"a\nb", r"a\x0ab"),
        (b"\\xe9", r"\x5cxe9"),
        ("\u2028".encode(), r"\xe2\x80\xa8"),
        (b"=1", "=1"),
    ],
)
def test_escaped_and_plain_characters(name: bytes, text: str) -> None:
    assert escape_name(os.fsdecode(name)) == text


def test_name_that_looks_like_a_formula_stays_a_path() -> None:
    assert [escape_name_for_csv(name) for name in ("=1", "+1", "-1", "@1", "a=1")] == [
        "./=1",
        "./+1",
        "./-1",
        "./@1",
        "a=1",
    ]
    assert all(os.path.normpath(escape_name_for_csv(name)) == name for name in ("=1", "=a/b", "-"))
