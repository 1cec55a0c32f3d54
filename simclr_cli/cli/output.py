"""Results on stdout: tables on a terminal, lines with tabs elsewhere, or JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from simclr_cli.api.manage import Diagnosis
from simclr_cli.core.text import escape_unprintable

# Columns of tables that are aligned left, as the first one is; the others have numbers.
TEXT_COLUMNS = frozenset(
    "path,query,meaning,nearest neighbor is,mostly from,representation,label,next classes,last used".split(",")
)
PATH_COLUMNS = frozenset({"path", "folder"})  # whose cells are never broken
MAX_COLUMNS = 100_000  # of a table with paths
TRAILING_SPACES = re.compile(r" +((?:\x1b\[0m)?\n)")  # which a terminal would wrap


class Output:
    """Results on stdout."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self.thumbnails = False  # True if tables show images

    def print_json(self, result: Any) -> None:
        """Print a result as one JSON object, in ASCII, so that every file name survives."""
        sys.stdout.write(json.dumps(dataclasses.asdict(result)) + "\n")

    def print_line(self, text: str) -> None:
        """Print a line without wrapping it."""
        sys.stdout.write(escape_unprintable(text) + "\n")

    def print_table(
        self, columns: list[str], rows: list[list[str]], title: str = "", *, images: Sequence[str] = ()
    ) -> None:
        """Print a table on a terminal, else lines with tabs between the cells.

        Paths stay whole: those of a table that is wider than the terminal are on lines of their own.

        Args:
            images: the image file of each row, for its thumbnail and for a link from its path.
        """
        if not self.console.is_terminal:
            for row in [columns, *rows]:
                sys.stdout.write("\t".join(escape_unprintable(cell) for cell in row) + "\n")
            return
        cells = [[Text(escape_unprintable(cell)) for cell in row] for row in rows]
        if images and not self.console.no_color:
            for row_cells, image in zip(cells, images, strict=True):
                row_cells[columns.index("path")].stylize(Style(link=Path(image).absolute().as_uri()))
        thumbnails: list[Text] = []
        if self.thumbnails and images:
            from simclr_cli.cli.terminal_images import draw_thumbnails

            thumbnails = draw_thumbnails(images)
        table = _build_table(columns, cells, title, thumbnails)
        path = next((i for i, column in enumerate(columns) if column in PATH_COLUMNS), None)
        if path is None:
            self.console.print(table)
            return
        lines = self._render(table)
        if not thumbnails and (table.width or 0) > self.console.width:
            lines = self._render_stacked(columns, cells, path)
        self.console.file.write("\n".join([*lines, ""]))

    def _render(self, printed: Table | Text) -> list[str]:
        """Return the lines of a table, as wide as it needs to be, or of a text."""
        if isinstance(printed, Table):
            options = self.console.options.update(width=MAX_COLUMNS)
            printed.width = self.console.measure(printed, options=options).maximum
        with self.console.capture() as captured:
            self.console.print(printed, soft_wrap=True)
        return TRAILING_SPACES.sub(r"\1", captured.get()).splitlines()

    def _render_stacked(self, columns: Sequence[str], cells: Sequence[Sequence[Text]], path: int) -> list[str]:
        """Return the lines of a table, each path on a line below its row, and each query on one above its first row.

        Args:
            path: the column of paths.
        """
        short = [i for i, column in enumerate(columns) if i != path and column != "query"]
        table = _build_table([columns[i] for i in short], [[row[i] for i in short] for row in cells])
        header, *lines = self._render(table)
        stacked, query = [header], Text()
        for line, row in zip(lines, cells, strict=True):
            if "query" in columns and row[columns.index("query")] != query:
                query = row[columns.index("query")]
                stacked += self._render(query)
            stacked += [line, *self._render(Text.assemble("  ", row[path]))]
        return stacked

    def print_diagnoses(self, diagnoses: Sequence[Diagnosis]) -> None:
        """Print each fault, its consequence, and the command that fixes it on a line of its own."""
        if not self.console.is_terminal:
            rows = [[fault.grade, fault.name, fault.what, fault.why, fault.command] for fault in diagnoses]
            self.print_table(["grade", "name", "what", "why", "command"], rows)
            return
        for fault in diagnoses:
            color = "bold red" if fault.grade == "fault" else "yellow"
            what, why, command = map(escape_unprintable, (fault.what, fault.why, fault.command))
            self.console.print(Text.assemble((f"{fault.grade}: {fault.name}. ", color), what))
            self.console.print(Padding(Text(why), (0, 0, 0, 2)))
            self.console.print(Text.assemble("  $ ", (command, "bold")), soft_wrap=True)


def _build_table(
    columns: Sequence[str], cells: Sequence[Sequence[Text]], title: str = "", thumbnails: Sequence[Text] = ()
) -> Table:
    """Build a table, with the thumbnails, if there are any, in its first column."""
    table = Table(title=escape_unprintable(title) or None, title_justify="left", box=None, pad_edge=False)
    if thumbnails:
        table.padding = (0, 1, 1, 1)  # so that images do not touch
        table.add_column(no_wrap=True)
    for index, column in enumerate(columns):
        side: Literal["left", "right"] = "left" if index == 0 or column in TEXT_COLUMNS else "right"
        table.add_column(column, justify=side, overflow="fold", vertical="middle" if thumbnails else "top")
    for index, row in enumerate(cells):
        table.add_row(*thumbnails[index : index + 1], *row)
    return table
