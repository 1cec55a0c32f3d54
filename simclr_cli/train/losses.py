"""The losses of a training: kept on the device until they are read, and what happens if one is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from simclr_cli.core.errors import TrainingError
from simclr_cli.core.files import write_json
from simclr_cli.encode.model_card import build_timm_config
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.train.job import TrainingJob

BACKBONE_PREFIX = "encoder.backbone."
LOSS_READ_SECONDS = 1  # between two reads of the loss on a GPU, each of which lets it run dry


class EpochLosses:
    """Losses of the steps that an epoch has done: read as floats, or still on the device."""

    def __init__(self, read: Sequence[float] = ()) -> None:
        self.read, self.unread = list(read), list[Tensor]()

    def __len__(self) -> int:
        return len(self.read) + len(self.unread)

    def append(self, loss: Tensor) -> None:
        """Add the loss of a step, a scalar on the device, without waiting for it."""
        self.unread.append(loss)

    def mark_read(self, losses: Sequence[float]) -> None:
        """Replace those that were unread by their values."""
        self.read += losses
        self.unread.clear()

    def read_all(self) -> list[float]:
        """Return all of them, and leave the unread ones unread."""
        return self.read + [float(loss) for loss in self.unread]

    def clear(self) -> None:
        """Begin another epoch."""
        self.read, self.unread = [], []


def read_losses(
    unread: list[Tensor],
    last: int,
    total: int,
    epoch: int,
    handle_failure: Callable[[int, float], str] = lambda *_: "",
    remedy: str = "Train under another --run with a lower --learning-rate or a higher --temperature.",
) -> list[float]:
    """Read the losses of the steps up to `last` from the device.

    Args:
        last, epoch: from 0.
        handle_failure: called with the first step whose loss is not finite, and that loss; returns a clause about what
            is kept.

    Raises:
        TrainingError: one of them is not finite.
    """
    losses: list[float] = torch.stack(unread).tolist()
    for step, loss in enumerate(losses, start=last + 1 - len(losses)):
        if not math.isfinite(loss):
            where = f"in step {step + 1} of {total} (epoch {epoch + 1})"
            raise TrainingError(f"The loss became {loss} {where}{handle_failure(step, loss)}.", remedy)
    return losses


def keep_last_good_weights(job: TrainingJob, model: SimCLR, step: int, loss: float) -> str:
    """Write the names of a failed step's images, and the last good weights of the backbone.

    On a CPU the failed step changed nothing, so these are the model's. On a GPU the weights are no longer good by the
    time that the loss is read; those of the last checkpoint are.

    Returns:
        A clause about it for the error message.
    """
    run, batches = job.run, job.batches
    names = [batches.decoded.census.images[row].name for row in batches.batch_rows(step)]
    write_json(run.failure_file, {"step": step + 1, "loss": str(loss), "images": names})
    checkpoint = load_checkpoint(run.checkpoint_folder) if batches.device.type != "cpu" else None
    state = model.state_dict() if batches.device.type == "cpu" else checkpoint.model if checkpoint else {}
    weights = {
        name.removeprefix(BACKBONE_PREFIX): value for name, value in state.items() if name.startswith(BACKBONE_PREFIX)
    }
    if weights:
        run.write_last_good(weights, build_timm_config(model.encoder))
    kept = f", and the last good weights are in {run.last_good_folder}" if weights else ""
    return f"; its images are named in {run.failure_file}{kept}"
