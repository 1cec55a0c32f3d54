r"""Names of files as text that every table can hold, from which the very same names can be had again.

\xHH    a byte of the name that is not part of valid UTF-8, or of a control character, a line's end or a backslash
./      in front of a name that a spreadsheet would take for a formula: it is a path still, to the same file
'       in front of other text of that kind
"""

from __future__ import annotations

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
