"""Text for display and tables: escaped file names, and formatted quantities."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence

from simclr_cli.core.hardware import ON_WINDOWS

PLAIN_ON_WINDOWS = re.compile(r"[\w\\/:.,=+-]+")
UNSAFE_CHARACTERS = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
FORMULA_STARTS = tuple("=+-@")  # a spreadsheet computes cells that begin with one of these
Cell = str | int | float | None


def escape_name(name: str, *, windows: bool = ON_WINDOWS) -> str:
    """Return a path as one line of valid UTF-8.

    Args:
        name: bytes that are not UTF-8 as surrogates.
        windows: whether a backslash, which is escaped elsewhere, separates folders.
    """
    if windows:
        name = name.replace("\\", "/")
    return UNSAFE_CHARACTERS.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in _encode_character(match[0])), name)


def escape_name_for_csv(name: str) -> str:
    """Return the same for CSV and TSV, so that no spreadsheet computes it as a formula."""
    text = escape_name(name)
    return f"./{text}" if text.startswith(FORMULA_STARTS) else text


def escape_value_for_csv(value: Cell) -> Cell:
    """Return a value that is not a file name as one cell of CSV."""
    if not isinstance(value, str):
        return value
    return f"'{escape_name(value)}" if value.startswith(FORMULA_STARTS) else escape_name(value)


def unescape_name(text: str) -> str:
    """Return the relative path that `escape_name` or `escape_name_for_csv` received."""
    escaped = text.removeprefix("./").encode()
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), escaped))


def _encode_character(character: str) -> bytes:
    is_byte_of_a_name = not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff"
    return character.encode("utf-8", "surrogateescape" if is_byte_of_a_name else "surrogatepass")


def quote_words(*words: str | os.PathLike[str], windows: bool = ON_WINDOWS) -> str:
    """Return words of a command as a user types them in this system's shell."""
    texts = list(map(str, words))
    if windows:  # cmd and PowerShell; no name contains a double quote there
        return " ".join(text if PLAIN_ON_WINDOWS.fullmatch(text) else f'"{text}"' for text in texts)
    return shlex.join(texts)


def format_variable(name: str, value: str = "", *, windows: bool = ON_WINDOWS) -> str:
    """Return the command that sets an environment variable, or without a value removes it; PowerShell's on Windows."""
    if windows:
        return f'$env:{name} = "{value}"' if value else f"Remove-Item Env:{name}"
    return f"export {name}={value}" if value else f"unset {name}"


def escape_unprintable(text: str) -> str:
    """Return text that cannot move the cursor, change colors or reverse a line of a terminal."""
    if text.isprintable():  # nearly always; quick also for a page of a megabyte
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def format_duration(seconds: float) -> str:
    """Return 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Return 1 file, 2,000 files; `plural` is `noun` with an s by default."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def join_first(names: Sequence[str], most: int = 3) -> str:
    """Return a, b, c and 7 more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def describe_other_files(total: int, kinds: Mapping[str, int], most: int = 4) -> str:
    """Return 316 other files (300 .xml, 11 .txt and 5 more).

    Args:
        kinds: the number of each, the most frequent first; perhaps without rare ones.
    """
    shown = dict(list(kinds.items())[:most])
    more = total - sum(shown.values())
    text = ", ".join(f"{count:,} {kind}" for kind, count in shown.items()) + (f" and {more:,} more" if more else "")
    return f"{format_count(total, 'other file')} ({text})" if shown else format_count(total, "other file")


def format_gigabytes(byte_count: int) -> str:
    """Return 12.3 GB, 0.45 GB."""
    return f"{byte_count / 1e9:,.1f} GB" if byte_count >= 1e9 else f"{byte_count / 1e9:.2g} GB"


def describe_similarity(above_random: float, above_views: float) -> str:
    """Compare a similarity to those of random pairs and of two views of one image.

    An encoder that has learned little finds random pairs as similar as two views: then the views are not mentioned.

    Args:
        above_random: percent of random pairs that are less similar.
        above_views: percent of pairs of views of one image that are less similar.
    """
    if above_views >= 50 and above_random >= 99:
        return "as similar as two views of one image"
    if above_random >= 100:
        return "more similar than any sampled random pair"
    if above_random < 50:
        return "no more similar than a random pair"
    digits = 0 if above_random < 99 else 1 if above_random < 99.9 else 2 if above_random < 99.99 else 4
    share = f"{math.floor(above_random * 10**digits) / 10**digits:.{digits}f}"
    return f"more similar than {share.rstrip('0').rstrip('.') if digits else share} % of random pairs"
