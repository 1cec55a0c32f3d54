"""Tables of labels, as spreadsheets and pandas write them: read, and matched with the images of a folder."""

from __future__ import annotations

import codecs
import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.safe_read import check_regular_file
from simclr_cli.core.text import escape_name_for_csv, format_count, join_first
from simclr_cli.images.class_folders import normalize_class

# Names of the two columns, without case, spaces and "_"; the first that a table has counts.
PATH_COLUMNS = "path filepath file filename imagepath imagefile imagename image img name".split()
LABEL_COLUMNS = "label labels class classname category target".split()
MAX_TABLE_BYTES = 1 << 28  # a million rows have about 60 MB
REMEDY = "Use a table (CSV) whose first line names the columns path and label."


def read_labels(table: Path) -> dict[str, str]:
    """Read a table with a column of paths and one of labels; return label by path, as the table names it.

    Rows without a label, as pandas writes unlabeled images, do not count.

    Raises:
        InputError: it cannot be read, lacks a column or a path, or gives a path two labels.
    """
    labels: dict[str, str] = {}
    try:
        if (size := check_regular_file(table)) > MAX_TABLE_BYTES:
            raise ValueError(f"it has {size:,} bytes, more than {MAX_TABLE_BYTES:,}")
        with table.open("rb") as stream:
            encoding = _detect_encoding(stream.read(2))
        with table.open(newline="", encoding=encoding, errors="surrogateescape") as text:
            for line, path, label in _read_rows(text, table):
                if not path.strip():
                    raise InputError(f"{table} lacks a path in line {line}.", "Add it, or remove the line.")
                if label and labels.setdefault(path, label) != label:
                    raise InputError(
                        f"{table} gives {path} two labels, {labels[path]} and {label}.", "Remove one of them."
                    )
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read ({error}).", REMEDY) from None
    return labels


def match_labels(table: Path, root: Path, names: Sequence[str], report: Report) -> dict[str, str]:
    """Return the label of each image that a table names; report the rows and the images that remain.

    A path is relative to the folder of images, its parent, the table's or the current one, or absolute. The same name
    in another form of Unicode is matched, if none is equal.

    Raises:
        InputError: fewer than half of the rows name an image, or two rows give one image two labels.
    """
    by_path = {name: name for name in names}
    by_form = {form: name for name in reversed(names) for form in (escape_name_for_csv(name), _normalize(name))}
    bases = [f"{_normalize(os.path.normpath(base))}/" for base in (root.absolute(), root.resolve())]
    folders = (table.absolute().parent, root.absolute().parent, Path.cwd())
    labels, unmatched = dict[str, str](), list[str]()
    for path, label in read_labels(table).items():
        forms = _list_forms(path, folders, bases)
        name = by_path.get(path) or next((by_form[form] for form in forms if form in by_form), None)
        if name is None:
            unmatched.append(path.strip())
        elif labels.setdefault(name, label) != label:
            raise InputError(f"{table} gives {name} two labels, {labels[name]} and {label}.", "Remove one of them.")
    rows = len(labels) + len(unmatched)
    if not rows:
        raise InputError(f"{table} has no rows with a label.", REMEDY)
    if unmatched:
        number = f"{len(unmatched):,} of {format_count(rows, 'row')}"
        what = f"{table} names no image in {root} in {number}: {join_first(unmatched)}."
        if 2 * len(labels) < rows:
            raise InputError(what, f"Use paths relative to that folder, such as {names[0]}.")
        report(Note(what, warning=True))
    if unlabeled := [name for name in names if name not in labels]:
        number = f"{len(unlabeled):,} of {format_count(len(names), 'image')}"
        report(Note(f"{table} has no label for {number}: {join_first(unlabeled)}.", warning=True))
    return labels


def report_similar_labels(labels: Mapping[str, str], report: Report) -> None:
    """Report the labels that differ only by case, if there are any."""
    by_fold: dict[str, list[str]] = {}
    for label in sorted(set(labels.values())):
        by_fold.setdefault(label.casefold(), []).append(label)
    if similar := [label for same in by_fold.values() if len(same) > 1 for label in same]:
        what = f"{len(similar)} labels differ only by case: {join_first(similar, most=6)}. Each is a class of its own."
        report(Note(what, warning=True))


def _detect_encoding(start: bytes) -> str:
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if b"\0" in start:  # a table that begins with an ASCII character
        return "utf-16-le" if start.endswith(b"\0") else "utf-16-be"
    return "utf-8-sig"


def _read_rows(stream: TextIO, table: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, path and label of each row that is not empty."""
    start, delimiters = 0, ",;\t"
    first_line = stream.readline()
    if re.search("[\0-\x08\x0e-\x1f]", first_line):
        raise ValueError("it is not text")
    if match := re.match("sep=(.)\r?\n", first_line):  # Excel's own
        start, delimiters = stream.tell(), match[1]
    headers = list[list[str]]()
    for delimiter in delimiters:
        stream.seek(start)
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
        headers.append(next((row for row in reader if any(row)), []))
        columns = [re.sub(r"[\W_]", "", cell).lower() for cell in headers[-1]]
        path, label = (next((columns.index(name) for name in known if name in columns), None)
                       for known in (PATH_COLUMNS, LABEL_COLUMNS))  # fmt: skip
        if path is not None and label is not None:
            break
    else:
        header = max((", ".join(cells) for cells in headers), key=len) or "none"
        raise InputError(f"{table} has the columns {header}.", "Name two of them path and label, in the first line.")
    for row in reader:
        if any(cell.strip() for cell in row):
            cells = [*row, *[""] * len(columns)]
            yield reader.line_num, cells[path], normalize_class(_decode_ansi(cells[label]).strip())


def _list_forms(path: str, folders: Sequence[Path], bases: Sequence[str]) -> Iterator[str]:
    """Yield the forms of a path to search for: itself, normalized, and relative to the image folder.

    Args:
        folders: that the path may be relative to, in addition.
        bases: the image folder's absolute paths, with "/" at the end.
    """
    yield path
    yield (normalized := _normalize(os.path.normpath(_normalize(path))))
    for folder in folders:
        absolute = _normalize(os.path.normpath(folder / normalized))
        yield from (absolute.removeprefix(base) for base in bases if absolute.startswith(base))


def _normalize(path: str) -> str:
    return unicodedata.normalize("NFC", _decode_ansi(path).strip().replace("\\", "/"))


def _decode_ansi(text: str) -> str:
    """Return text that is not UTF-8 as Excel on Windows writes it."""
    if re.search("[\udc80-\udcff]", text):
        return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return text
