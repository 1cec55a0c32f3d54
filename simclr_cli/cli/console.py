"""Messages on stderr: progress, plan, notes and errors."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simclr_cli.core import events
from simclr_cli.core.errors import SimclrError
from simclr_cli.core.events import StopController
from simclr_cli.core.text import describe_other_files, escape_unprintable, format_count, format_duration

if TYPE_CHECKING:  # imported for the first progress bar, since it delays errors
    from rich.progress import Progress, TaskID

MAX_REASONS = 8  # for skipped files, in the census
LOG_SECONDS = 30  # without a line, after which a log gets one


class Reporter:
    """Messages on stderr. `report` shows events, and raises `Interrupted` once a stop was requested."""

    def __init__(self, stderr: TextIO | None = None) -> None:
        self.console = Console(file=stderr or sys.stderr, highlight=False, markup=False, emoji=False)
        self.stop = StopController()
        self.quiet = False  # True in all but the main process; errors are shown nevertheless
        self._bars: Progress | None = None
        self._stage: tuple[str, TaskID] | None = None
        self._activity, self._last_line = "Still running", time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stage()

    def report(self, event: events.Event) -> None:
        """Show an event.

        Raises:
            Interrupted: a stop was requested.
        """
        if not self.quiet:
            self._show(event)
        if self.stop.request is not None:
            raise self.stop.request

    def _show(self, event: events.Event) -> None:
        match event:
            case events.Progress(stage, done, total):
                self._advance(stage, stage.capitalize(), done, total)
            case events.StepDone(epoch, epochs, step, steps, loss, speed):
                description = f"Epoch {epoch}/{epochs}  loss {loss:.3f}  {speed:,.0f} images/s"
                self._advance("training", description, (epoch - 1) * steps + step, epochs * steps)
            case events.EpochDone():
                if not self.console.is_terminal:  # a log has one line per epoch
                    self.print(_format_epoch(event))
            case events.Note(text, warning):
                self.print(text, "yellow" if warning else "")
            case events.CensusTaken(summary):
                self._print_census(summary)
            case events.PlanMade():
                self._print_plan(event)

    @contextlib.contextmanager
    def keep_logging(self, first_line: str) -> Iterator[None]:
        """Within, print the progress to a log: a line at once, and one whenever LOG_SECONDS passed without."""
        if self.console.is_terminal or self.quiet:  # a terminal shows bars
            yield
            return
        if first_line:
            self.print(first_line)
        start, ended = time.monotonic(), threading.Event()

        def log() -> None:
            while not ended.wait(max(0.0, self._last_line + LOG_SECONDS - time.monotonic())):
                if time.monotonic() >= self._last_line + LOG_SECONDS:
                    self.print(f"{self._activity} ({format_duration(time.monotonic() - start)})")

        thread = threading.Thread(target=log, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def show_meanwhile(self, line: str) -> Iterator[None]:
        """Within, show a line on a terminal that can erase it again."""
        can_erase = self.console.is_terminal and not (self.console.is_dumb_terminal or self.console.legacy_windows)
        is_shown = can_erase and not self.quiet and line != ""
        if is_shown:
            self.console.file.write(f"{line}\r")
            self.console.file.flush()
        try:
            yield
        finally:
            if is_shown:
                self.console.file.write("\x1b[2K")

    def print(self, text: str, style: str = "", *, wrap: bool = True) -> None:
        """Print a line, wrapped between words on a terminal, which keeps paths whole, and not in a log.

        Args:
            wrap: not for a command, which is to be copied.
        """
        self._last_line = time.monotonic()
        text = escape_unprintable(text)
        if self.console.is_terminal and wrap:
            text = textwrap.fill(text, self.console.width, break_long_words=False, break_on_hyphens=False)
        self.console.print(Text(text, style=style), soft_wrap=True)

    def print_error(self, error: SimclrError) -> None:
        """Print an error: what happened and why, then what to do."""
        self._end_stage()
        self.console.print(Text.assemble(("Error: ", "bold red"), escape_unprintable(error.problem)), soft_wrap=True)
        self.console.print(Text(escape_unprintable(error.remedy)), soft_wrap=True)

    def open_page(self, page: str) -> None:
        """Open a file in the default browser; without one, print its path."""
        import webbrowser

        try:
            opened = webbrowser.open(Path(page).absolute().as_uri())
        except webbrowser.Error:
            opened = False
        if not opened:
            self.print(f"No browser is available. Open the page yourself: {page}", "yellow")

    def _advance(self, stage: str, description: str, done: int, total: int) -> None:
        """Advance the progress bar of a stage."""
        if not self.console.is_terminal:
            self._activity = f"{description}: {done:,} of {total:,}" if done < total else "Still running"
            return
        if self._stage is None or self._stage[0] != stage:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._end_stage()
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=self.console, transient=stage != "training", speed_estimate_period=120,
            )  # fmt: skip
            self._bars.start()
            self._stage = (stage, self._bars.add_task(description, total=total))
        assert self._bars is not None
        self._bars.update(self._stage[1], description=description, completed=done, total=total)
        if done >= total:
            self._end_stage()

    def _end_stage(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._stage = None, None

    def _print_census(self, summary: dict[str, Any]) -> None:
        self._end_stage()
        formats = ", ".join(f"{files:,} {name}" for name, files in summary["formats"].items())
        side = summary["short_side"]
        sides = f"{side['least']}" if side["least"] == side["most"] else f"{side['least']} to {side['most']}"
        self.print(
            f"{summary['folder']}: {format_count(summary['images'], 'image')} ({formats}), short side {sides} px"
        )
        classes = summary["classes"]
        if classes:
            names = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
            self.print(f"  folders look like {len(classes)} classes (used to evaluate, not to train): {names}")
        if bits := summary.get("bits"):
            self.print(f"  images of 16 bits use {bits} of them: values from 0 to {2**bits - 1:,}, black to white")
        if summary["unlabeled_because"]:
            self.print(f"  {'without a class' if classes else 'no classes'}: {summary['unlabeled_because']}")
        if summary["skipped"]:
            self.print(f"  {format_count(summary['skipped'], 'file')} skipped:", "yellow")
            reasons = list(summary["skipped_because"].items())
            for reason, files in reasons[:MAX_REASONS]:
                self.print(f"    {files:,} x {reason}", "yellow")
            if more := sum(files for _, files in reasons[MAX_REASONS:]):
                self.print(f"    {more:,} for other reasons", "yellow")
        for note, files in summary.get("odd", {}).items():
            self.print(f"  {format_count(files, 'image')} used if the pixels are whole: {note}", "yellow")
        if summary["other_files"]:
            self.print(f"  {describe_other_files(summary['other_files'], summary['other_kinds'])} ignored")

    def _print_plan(self, plan: events.PlanMade) -> None:
        if self.console.is_terminal:
            title = f"Plan for {escape_unprintable(plan.run)}"
            table = Table(title=title, title_justify="left", box=None, pad_edge=False)
            for column in ("setting", "value", "reason"):
                table.add_column(column, style="bold" if column == "value" else "", overflow="fold")
            for choice in plan.choices:
                cells = (choice.value, choice.reason)
                table.add_row(choice.name, *(Text(escape_unprintable(cell)) for cell in cells))
            self.console.print(table)
        else:  # a line each, whose paths are whole
            self.print(f"Plan for {plan.run}")
            for choice in plan.choices:
                self.print(f"{choice.name:<18} {choice.value:<10} {choice.reason}")
        duration = f", about {format_duration(plan.seconds)}" if plan.seconds is not None else ""
        done = f", {plan.steps_done:,} of them done" if plan.steps_done else ""
        self.print(f"{format_count(plan.steps, 'step')}{done}{duration}")


def _format_epoch(epoch: events.EpochDone) -> str:
    """Format an epoch as a line of a log."""
    parts = [f"epoch {epoch.epoch}", f"loss {epoch.loss:.4f}"]
    if epoch.validation is not None:
        parts += [
            f"view retrieval {epoch.validation.view_retrieval_accuracy:.1f} %"
            if epoch.validation.agreement is None
            else f"neighbors kept {epoch.validation.agreement:.1f} %",
            f"rank of h {epoch.validation.rank_h:.1f}",
        ]
    if epoch.knn_accuracy is not None:
        parts.append(f"kNN {epoch.knn_accuracy:.1f} %")
    return "  ".join([*parts, f"{epoch.images_per_second:,.1f} images/s", format_duration(epoch.seconds)])
