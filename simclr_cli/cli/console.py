"""What a person sees: progress, plan and notes on stderr; results on stdout, as tables, plain lines or JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from simclr_cli.api.manage import Diagnosis
from simclr_cli.core import events
from simclr_cli.core.errors import Interrupted, SimclrError
from simclr_cli.core.text import count, duration, safe

if TYPE_CHECKING:  # imported when the first bar is drawn: an error must not wait for it
    from rich.progress import Progress, TaskID


class Face:
    """Shows events as they come, and raises `Interrupted` from `report` once a stop was asked for."""

    def __init__(self, stderr: TextIO | None = None) -> None:
        self.talk = Console(file=stderr or sys.stderr, highlight=False, markup=False, emoji=False)
        self.stop: Interrupted | None = None
        self.training: events.TrainingBegun | None = None  # that is under way, and that this process saves
        self.quiet = False  # of several processes one talks; errors are shown all the same
        self._bars: Progress | None = None
        self._stage: tuple[str, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stage()

    def report(self, event: events.Event) -> None:
        """Show one event."""
        if not self.quiet:
            self._show(event)
        if self.stop is not None:
            raise self.stop

    def _show(self, event: events.Event) -> None:
        match event:
            case events.Progress(stage, done, total):
                self._advance(stage, stage.capitalize(), done, total)
            case events.StepDone(epoch, epochs, step, steps, loss, speed):
                words = f"Epoch {epoch}/{epochs}  loss {loss:.3f}  {speed:,.0f} images/s"
                self._advance("training", words, (epoch - 1) * steps + step, epochs * steps)
            case events.EpochDone():
                if not self.talk.is_terminal:  # a log: one line an epoch
                    self.say(_epoch_line(event))
            case events.Note(text, warning):
                self.say(text, "yellow" if warning else "")
            case events.CensusTaken(summary):
                self._census(summary)
            case events.PlanMade():
                self._plan(event)
            case events.TrainingBegun():
                self.training = event
            case events.TrainingEnded():
                self.training = None

    def say(self, text: str, style: str = "") -> None:
        """One line of talk; wrapped between words for a person, not at all for a log."""
        self.talk.print(Text(safe(text), style=style), soft_wrap=not self.talk.is_terminal)

    def error(self, error: SimclrError) -> None:
        """What went wrong and why; what to do next."""
        self._end_stage()
        self.talk.print(Text.assemble(("Error: ", "bold red"), safe(error.what)), soft_wrap=True)
        self.talk.print(Text(safe(error.remedy)), soft_wrap=True)

    def open_page(self, page: str) -> None:
        """Open a file in the default browser, or say that there is none."""
        import webbrowser

        try:
            opened = webbrowser.open(Path(page).absolute().as_uri())
        except webbrowser.Error:
            opened = False
        if not opened:
            self.say(f"There is no browser to open it with here. Open it yourself: {page}", "yellow")

    def _advance(self, stage: str, words: str, done: int, total: int) -> None:
        if not self.talk.is_terminal:
            return
        if self._stage is None or self._stage[0] != stage:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._end_stage()
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=self.talk, transient=stage != "training", speed_estimate_period=120,
            )  # fmt: skip
            self._bars.start()
            self._stage = (stage, self._bars.add_task(words, total=total))
        assert self._bars is not None
        self._bars.update(self._stage[1], description=words, completed=done, total=total)
        if done >= total:
            self._end_stage()

    def _end_stage(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._stage = None, None

    def _census(self, summary: dict[str, Any]) -> None:
        self._end_stage()
        formats = ", ".join(f"{files:,} {name}" for name, files in summary["formats"].items())
        side = summary["short_side"]
        spread = f"{side['least']}" if side["least"] == side["most"] else f"{side['least']} to {side['most']}"
        self.say(f"{summary['folder']}: {count(summary['images'], 'image')} ({formats}), short side {spread} px")
        classes = summary["classes"]
        if classes:
            names = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
            self.say(f"  folders look like {len(classes)} classes (not used for training): {names}")
        if summary["skipped"]:
            self.say(f"  {count(summary['skipped'], 'file')} skipped:", "yellow")
            for reason, times in list(summary["skipped_because"].items())[:8]:
                self.say(f"    {times:,} x {reason}", "yellow")
        if summary["other_files"]:
            self.say(f"  {count(summary['other_files'], 'other file')} passed over")

    def _plan(self, plan: events.PlanMade) -> None:
        table = Table(title=f"Plan for {safe(plan.run)}", title_justify="left", box=None, pad_edge=False)
        for column in ("setting", "value", "why"):
            table.add_column(column, style="bold" if column == "value" else "")
        for choice in plan.choices:
            table.add_row(choice.name, Text(safe(choice.value)), Text(safe(choice.reason)))
        self.talk.print(table)
        about = f", about {duration(plan.seconds)}" if plan.seconds is not None else ""
        self.say(f"{count(plan.steps, 'step')}{about}")


def _epoch_line(done: events.EpochDone) -> str:
    parts = [f"epoch {done.epoch}", f"loss {done.loss:.4f}"]
    if done.validation is not None:
        parts += [
            f"other view found {done.validation.view_retrieval_accuracy:.1f} %",
            f"rank of h {done.validation.rank_h:.1f}",
        ]
    if done.knn_accuracy is not None:
        parts.append(f"kNN {done.knn_accuracy:.1f} %")
    return "  ".join([*parts, f"{done.images_per_second:,.1f} images/s", duration(done.seconds)])


class Data:
    """Results on stdout."""

    def __init__(self) -> None:
        self.out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self.thumbnails = False  # whether tables show images

    def json(self, result: Any) -> None:
        """The result's dataclass as one JSON object, ASCII, so that every file name survives."""
        sys.stdout.write(json.dumps(dataclasses.asdict(result)) + "\n")

    def line(self, text: str) -> None:
        """One line, never wrapped."""
        sys.stdout.write(safe(text) + "\n")

    def table(self, columns: list[str], rows: list[list[str]], title: str = "", *, images: Sequence[str] = ()) -> None:
        """A table for a person; where stdout is no terminal, lines with tabs between the cells.

        Args:
            images: the file of each row, shown before it if thumbnails are.
        """
        if not self.out.is_terminal:
            for row in [columns, *rows]:
                sys.stdout.write("\t".join(safe(cell) for cell in row) + "\n")
            return
        seen: list[Text] = []
        if self.thumbnails and images:
            from simclr_cli.cli.terminal_images import thumbnails

            seen = thumbnails(images)
        table = Table(title=safe(title) or None, title_justify="left", box=None, pad_edge=False)
        if seen:
            table.padding = (0, 1, 1, 1)  # so that images do not touch
            table.add_column(no_wrap=True)
        for index, column in enumerate(columns):
            numbers = index > 0 and column not in ("path", "closeness", "closeness of nearest", "mostly from")
            side: Literal["left", "right"] = "right" if numbers else "left"
            table.add_column(column, justify=side, overflow="fold", vertical="middle" if seen else "top")
        for index, row in enumerate(rows):
            table.add_row(*seen[index : index + 1], *(Text(safe(cell)) for cell in row))
        self.out.print(table)

    def diagnoses(self, diagnoses: Sequence[Diagnosis]) -> None:
        """What is wrong, why it matters, and the command that mends it on a line of its own, never broken."""
        if not self.out.is_terminal:
            columns = ["grade", "name", "what", "why", "command"]
            self.table(columns, [[one.grade, one.name, one.what, one.why, one.command] for one in diagnoses])
            return
        for one in diagnoses:
            color = "bold red" if one.grade == "fault" else "yellow"
            self.out.print(Text.assemble((f"{one.grade}: {one.name}. ", color), safe(one.what)))
            self.out.print(Padding(Text(safe(one.why)), (0, 0, 0, 2)))
            self.out.print(Text.assemble("  $ ", (safe(one.command), "bold")), soft_wrap=True)
