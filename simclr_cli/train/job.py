"""The training job: everything that is decided before the first step, handed down as one frozen object."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.encode.weights import WEIGHTS_FILE
from simclr_cli.images.loader import BatchLoader
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import RunInfo


@dataclass(frozen=True)
class TrainingJob:
    """One training run, made once after the images are decoded."""

    run: RunFolder
    settings: ResolvedSettings
    batches: BatchLoader  # of the decoded images, without the held-out ones
    groups: Tensor | None = None  # (N,) a group per image of the census (see contrastive_loss)
    info: RunInfo | None = None  # the content of config.json, in the main process
    targets: Tensor | None = None  # (N, width) embeddings of the census to distill, rows of length 1

    @property
    def start_weights(self) -> str:
        """The file of the trained weights in the run, or none."""
        return "none" if self.settings.weights == "none" else str(self.run.start_folder / WEIGHTS_FILE)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.settings.epochs * self.batches.steps_per_epoch

    def record_micro_batch(self, micro_batch: int) -> None:
        """Write a smaller micro-batch into config.json, so that a resumed run starts with it."""
        if self.info is not None:
            settings = dataclasses.replace(self.info.settings, micro_batch=micro_batch)
            self.run.write_config(dataclasses.replace(self.info, settings=settings).to_config())
