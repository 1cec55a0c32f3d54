"""Text for people and for tables: quantities, and the names of files made safe."""

from __future__ import annotations

import math
import os
import re

ESCAPED = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
FORMULA = tuple("=+-@")  # what a spreadsheet takes for the start of a formula
Cell = str | int | float | None


def as_text(name: str) -> str:
    """A relative path as valid UTF-8 in one line.

    Args:
        name: bytes that are not UTF-8 as surrogates.
    """
    return ESCAPED.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _bytes(found[0])), name)


def as_cell(name: str) -> str:
    """The same for CSV and TSV: no spreadsheet computes it."""
    text = as_text(name)
    return f"./{text}" if text.startswith(FORMULA) else text


def as_words(value: Cell) -> Cell:
    """What is no name, for CSV."""
    if not isinstance(value, str):
        return value
    return f"'{as_text(value)}" if value.startswith(FORMULA) else as_text(value)


def name_of(text: str) -> str:
    """Return the relative path that `as_text` or `as_cell` was given."""
    escaped = text.removeprefix("./").encode()
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), escaped))


def _bytes(character: str) -> bytes:
    of_a_name = not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff"
    return character.encode("utf-8", "surrogateescape" if of_a_name else "surrogatepass")


def safe(text: str) -> str:
    """Text that cannot move the cursor, change colors or reverse a line: what is not printable is escaped."""
    if text.isprintable():  # nearly always, also where a page holds a megabyte
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str, nouns: str = "") -> str:
    """1 file, 2,000 files; `nouns` where that is not `noun` with an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {nouns or noun + 's'}"


def closeness(above_random: float, above_views: float) -> str:
    """What a similarity means, by the percent of random pairs, and of views of one image, that are less similar.

    To an encoder that has learnt little, random pairs too are as close as two views: then that says nothing.
    """
    if above_views >= 50 and above_random >= 99:
        return "as close as two views of one image"
    if above_random >= 100:
        return "closer than any random pair looked at"
    if above_random < 50:
        return "no closer than a random pair"
    digits = 0 if above_random < 99 else 1 if above_random < 99.9 else 2 if above_random < 99.99 else 4
    share = f"{math.floor(above_random * 10**digits) / 10**digits:.{digits}f}"
    return f"closer than {share.rstrip('0').rstrip('.') if digits else share} % of random pairs"
