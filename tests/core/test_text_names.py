"""Names as text of a table: valid, in one line, no formula, and back to the very same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from simclr_cli.core.files import write_csv
from simclr_cli.core.text import as_cell, as_text, as_words, name_of


@pytest.fixture
def hostile(nasty_names: Callable[[int], list[bytes]]) -> tuple[str, ...]:
    folders = [b"=folder/a", b"\xff\t/a"]
    return tuple(os.fsdecode(name) for name in (*nasty_names(600), *folders))


def test_hostile_names_come_back_exactly(hostile: tuple[str, ...]) -> None:
    for name in hostile:
        for text in (as_text(name), as_cell(name)):
            assert name_of(text) == name and os.fsencode(name_of(text)) == os.fsencode(name)
            assert len(text.splitlines()) == 1 and "\t" not in text
            text.encode("utf-8")  # strict: it is valid
        assert as_cell(name)[0] not in "=+-@\t\r"


def test_other_text_is_no_formula_either() -> None:
    assert [as_words(value) for value in ("=1", "a", 3, None, "\t=1", "\ud800")] == [
        "'=1", "a", 3, None, r"\x09=1", r"\xed\xa0\x80",
    ]  # fmt: skip


def test_pandas_reads_them_back_from_a_table(hostile: tuple[str, ...], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_csv(tmp_path / "t.csv", ["path"], [[as_cell(name)] for name in hostile])
    read = pandas.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)["path"]
    assert tuple(name_of(cell) for cell in read) == hostile


def test_different_names_have_different_texts(hostile: tuple[str, ...]) -> None:
    assert len({as_text(name) for name in hostile}) == len({as_cell(name) for name in hostile}) == len(hostile)


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
def test_what_is_escaped_and_what_is_not(name: bytes, text: str) -> None:
    assert as_text(os.fsdecode(name)) == text


def test_what_a_spreadsheet_would_compute_is_a_path_still() -> None:
    assert [as_cell(name) for name in ("=1", "+1", "-1", "@1", "a=1")] == ["./=1", "./+1", "./-1", "./@1", "a=1"]
    assert all(os.path.normpath(as_cell(name)) == name for name in ("=1", "=a/b", "-"))
