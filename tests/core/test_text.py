"""Formatted quantities and escaped text."""

from __future__ import annotations

import pytest

from simclr_cli.core.text import (
    describe_similarity,
    escape_name,
    escape_unprintable,
    format_count,
    format_duration,
    format_variable,
    quote_words,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    ("words", "posix", "windows"),
    [(["simclr", "report", "a"], "simclr report a", "simclr report a"), (["a b"], "'a b'", '"a b"'),
     (["C:\\runs\\a-1"], "'C:\\runs\\a-1'", "C:\\runs\\a-1"), (["x&y", ""], "'x&y' ''", '"x&y" ""'),
     (["numpy>=2.0"], "'numpy>=2.0'", '"numpy>=2.0"'), (["it's"], "'it'\"'\"'s'", '"it\'s"')],
)  # fmt: skip
def test_words_of_a_command_are_quoted_as_the_shell_reads_them(words: list[str], posix: str, windows: str) -> None:
    assert (quote_words(*words, windows=False), quote_words(*words, windows=True)) == (posix, windows)


def test_paths_of_windows_are_written_as_those_of_other_systems() -> None:
    assert escape_name(r"C:\images\a.png", windows=True) == "C:/images/a.png"
    assert escape_name(r"a\b.png", windows=False) == r"a\x5cb.png"


def test_variables_are_set_and_removed_as_in_the_users_shell() -> None:
    """By sh, and by PowerShell."""
    for value, commands in (
        ("/var/tmp/a", ("export A=/var/tmp/a", '$env:A = "/var/tmp/a"')), ("", ("unset A", "Remove-Item Env:A")),
    ):  # fmt: skip
        assert (format_variable("A", value, windows=False), format_variable("A", value, windows=True)) == commands


def test_counts() -> None:
    assert [format_count(n, "file") for n in (0, 1, 2_000)] == ["0 files", "1 file", "2,000 files"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("é 猫", "é 猫"), ("\x1b[3m", "\\x1b[3m"), ("a\nb", "a\\nb"), ("\u202e", "\\u202e"), ("\udcff", "\\udcff")],
)  # fmt: skip
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_unprintable(text) == shown


@pytest.mark.parametrize(
    ("above_random", "above_views", "words"),
    [
        (100.0, 80.0, "as similar as two views of one image"),
        (99.0, 50.0, "as similar as two views of one image"),
        (98.9, 99.0, "more similar than 98 % of random pairs"),  # to this encoder random pairs are as similar as views
        (99.98765, 10.0, "more similar than 99.98 % of random pairs"),
        (99.9999, 49.9, "more similar than 99.9999 % of random pairs"),
        (99.99, 0.0, "more similar than 99.99 % of random pairs"),
        (99.95, 0.0, "more similar than 99.95 % of random pairs"),
        (99.05, 0.0, "more similar than 99 % of random pairs"),
        (100.0, 0.0, "more similar than any sampled random pair"),
        (50.0, 0.0, "more similar than 50 % of random pairs"),
        (49.9, 0.0, "no more similar than a random pair"),
    ],
)
def test_similarity_is_never_overstated(above_random: float, above_views: float, words: str) -> None:
    assert describe_similarity(above_random, above_views) == words
