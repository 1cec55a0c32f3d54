"""What was found goes into a file: a gallery to look at, a table, or the result as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simclr_cli.events import Report
from simclr_cli.files import make_folder, write_bytes, write_csv, write_json
from simclr_cli.settings.shared import FoundSettings
from simclr_cli.store.run import RunFolder

Cell = str | int | float | None
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for the start of a formula


@dataclass(frozen=True)
class Entry:
    """A picture that was found."""

    path: str  # as the result has it
    words: str  # below the picture, such as "0.981: closer than 99.98 % of random pairs"
    values: Mapping[str, Cell] = field(default_factory=dict)  # further cells of its row of the table


@dataclass(frozen=True)
class Group:
    """Pictures that belong together."""

    heading: str
    entries: tuple[Entry, ...]  # those to see first, first
    lead: str = ""
    sample: Entry | None = None  # not among the entries: the query or the best copy, which stands first and is marked

    @property
    def pictures(self) -> tuple[Entry, ...]:
        """All of them, the sample first."""
        return self.entries if self.sample is None else (self.sample, *self.entries)


def page_of(settings: FoundSettings, run: RunFolder, verb: str) -> Path | None:
    """Where what was found goes: --out, or with --open alone a page in the run's folder, or nowhere.

    Its folder is made, so that a verb that asks before long work does not work in vain.

    Raises:
        MachineError: the folder cannot be made or written to.
    """
    out = settings.out or (run.pages / f"{verb}.html" if settings.open else None)
    if out is not None:
        make_folder(out.absolute().parent)
    return out


def write_found(
    out: Path,
    result: Any,
    title: str,
    lead: str,
    groups: Sequence[Group],
    *,
    workers: int,
    report: Report,
) -> None:
    """Write what was found as the ending of `out` says.

    .html: a gallery of the groups. .csv: a row a picture, of its group, its path and its values. .json: the result,
    as --json prints it.

    Args:
        result: a dataclass of plain values.
        title: of the gallery.
        lead: a sentence or two below it.
        workers: threads that decode pictures for the gallery.

    Raises:
        MachineError: the system refused.
    """
    kind = out.suffix.lower()
    if kind == ".json":
        return write_json(out, dataclasses.asdict(result))
    if kind == ".csv":
        columns = list(dict.fromkeys(name for group in groups for entry in group.pictures for name in entry.values))
        return write_csv(out, ["group", "path", *columns], table_rows(groups, columns))
    return write_bytes(out, b"")


def table_rows(groups: Sequence[Group], columns: Sequence[str]) -> Iterator[list[Cell]]:
    """For every picture its group's heading, its path, and its values under these names.

    Text that a spreadsheet would take for a formula gets an apostrophe in front; a path gets "./", and is still a path.
    """
    for group in groups:
        heading = _as_text(group.heading)
        for entry in group.pictures:
            path = f"./{entry.path}" if entry.path.startswith(FORMULA) else entry.path
            yield [heading, path, *(_as_text(entry.values.get(name)) for name in columns)]


def _as_text(value: Cell) -> Cell:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
