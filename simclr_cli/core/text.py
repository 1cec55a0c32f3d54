"""Quantities and strangers' text as a person reads them, on a terminal or on a page."""

from __future__ import annotations

import math


def safe(text: str) -> str:
    """Text that cannot move the cursor, change colours or reverse a line: what is not printable is escaped."""
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
    """What a similarity means, by the percent of random pairs, and of views of one picture, that are less similar.

    To an encoder that has learnt little, random pairs too are as close as two views: then that says nothing.
    """
    if above_views >= 50 and above_random >= 99:
        return "as close as two views of one picture"
    if above_random >= 100:
        return "closer than any random pair looked at"
    if above_random < 50:
        return "no closer than a random pair"
    digits = 0 if above_random < 99 else 1 if above_random < 99.9 else 2 if above_random < 99.99 else 4
    share = f"{math.floor(above_random * 10**digits) / 10**digits:.{digits}f}"
    return f"closer than {share.rstrip('0').rstrip('.') if digits else share} % of random pairs"
