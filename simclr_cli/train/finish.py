"""The end of a training: outcome, projection head and encoder; and TensorBoard's files while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

from simclr_cli.core.errors import Interrupted
from simclr_cli.core.events import EpochDone, Event, Note, Report
from simclr_cli.core.files import write_json
from simclr_cli.encode.model_card import build_timm_config, render_model_card
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.store.history import TensorBoardWriter, read_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.train.guard import create_encoder_for_use, create_start
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.outcome import Outcome


def write_event_files(run: RunFolder, report: Report, stack: contextlib.ExitStack) -> Report:
    """Return a report that also writes every epoch to TensorBoard's event files."""
    files = TensorBoardWriter(run.event_folder, lambda text: report(Note(text, warning=True)))
    stack.callback(files.close)
    rows: list[dict[str, Any]] = []

    def report_and_write(event: Event) -> None:
        if isinstance(event, EpochDone):
            if not rows:  # those of a resumed run
                rows.extend(row for row in read_epochs(run) if row["epoch"] < event.epoch)
            rows.append(dataclasses.asdict(event))
            files.write(rows)
        report(event)

    return report_and_write


def export(model: SimCLR, job: TrainingJob, outcome: Outcome) -> str:
    """Write outcome, projection head and encoder, which finishes the run; return the checksum of the encoder."""
    write_json(job.run.outcome_file, dataclasses.asdict(outcome))
    encoder = model.cpu().eval().encoder
    if outcome.kept == "start":
        encoder = create_start(job)
    elif job.settings.weights != "none":
        encoder = create_encoder_for_use(job, encoder.backbone.state_dict())
    encoder.spec = dataclasses.replace(encoder.spec, bits=job.batches.decoded.census.bits)
    job.run.write_projection_head(model.head.state_dict())
    origin = "random weights" if outcome.kept is None else f"trained weights; {outcome.kept} ones are kept"
    epochs, loss = job.settings.epochs, job.settings.loss
    images, words = len(job.batches.decoded), outcome.words
    card = render_model_card(encoder, images=images, epochs=epochs, loss=loss, start=origin, outcome=words)
    return job.run.write_encoder(encoder.backbone.state_dict(), build_timm_config(encoder), card)


@dataclass(frozen=True)
class FinishedTraining:
    """A training whose run is finished, while its report is written (`core.events.Saveable`)."""

    run: RunFolder
    steps: int

    def save(self) -> int:
        """Return the number of steps, which are saved."""
        return self.steps

    def save_and_interrupt(self, kind: type[Interrupted]) -> Interrupted:
        """Return the error that ends the command."""
        return kind(f"Stopped; the run {self.run.path} is finished, but has no report.", self.run.report_command)
