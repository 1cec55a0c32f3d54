"""A loss that is not finite: what is kept of the run, and which pictures it met."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from simclr_cli.engine.model import SimCLR
from simclr_cli.errors import TrainingError
from simclr_cli.files import write_json
from simclr_cli.images.batches import Batches
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs.export import timm_config

BACKBONE = "encoder.backbone."
TELL_SECONDS = 1  # between two looks at the loss on a GPU, each of which lets it run dry


def read_losses(
    unread: list[Tensor],
    last: int,
    total: int,
    epoch: int,
    failed: Callable[[int, float], str] = lambda *_: "",
    remedy: str = "Train under another --run with a lower --learning-rate or a higher --temperature.",
) -> list[float]:
    """The losses of the steps up to `last`, from the device.

    Args:
        last, epoch: from 0.
        failed: told of the first step whose loss is not finite, and what it is; says what is kept.

    Raises:
        TrainingError: one of them is not finite.
    """
    losses: list[float] = torch.stack(unread).tolist()
    for step, loss in enumerate(losses, start=last + 1 - len(losses)):
        if not math.isfinite(loss):
            where = f"in step {step + 1} of {total} (epoch {epoch + 1})"
            raise TrainingError(f"The loss became {loss} {where}{failed(step, loss)}.", remedy)
    return losses


def keep_what_is_good(run: RunFolder, model: SimCLR, batches: Batches, step: int, loss: float) -> str:
    """Write down the names of a step's pictures, and the last good weights of the backbone.

    On a CPU the failed step changed nothing, so that they are the model's. Elsewhere the weights are no longer good by
    the time that the loss is read; those of the last checkpoint are.

    Returns:
        The end of a sentence about it.
    """
    names = [batches.decoded.census.pictures[row].name for row in batches.rows(step)]
    write_json(run.failure_file, {"step": step + 1, "loss": str(loss), "pictures": names})
    found = load_checkpoint(run.checkpoints) if batches.device.type != "cpu" else None
    state = model.state_dict() if batches.device.type == "cpu" else found.model if found else {}
    good = {name.removeprefix(BACKBONE): value for name, value in state.items() if name.startswith(BACKBONE)}
    if good:
        run.write_last_good(good, timm_config(model.encoder))
    kept = f", and the last good weights are in {run.last_good}" if good else ""
    return f"; its pictures are named in {run.failure_file}{kept}"
