"""What came of a training: in words, or what is kept of one whose loss is not finite, and which images it met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from simclr_cli.core.errors import TrainingError
from simclr_cli.core.events import ValidationMetrics
from simclr_cli.core.files import write_json
from simclr_cli.encode.model_card import timm_config
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.loader import Batches
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.run import RunFolder

SAME = 0.98  # mean cosine of the z of different images from which on they are all alike
FLAT = 1.5  # effective rank of h below which all images lie on a line
NO_GAIN = 0.98  # of log(2N - 1), the loss of a model that tells nothing apart
STILL = 0.05  # of all that was gained, gained in the last quarter: it goes on
BEGUN = 50  # steps, before which all images look about the same to any model
QUARTER_FROM = 8  # epochs, below which a quarter says little
BACKBONE = "encoder.backbone."
TELL_SECONDS = 1  # between two looks at the loss on a GPU, each of which lets it run dry


@dataclass(frozen=True)
class Outcome:
    """A word for scripts, and sentences for a person: what came of it, and what to do next, if anything."""

    state: Literal["learning", "improving", "unchanged", "collapsed"]
    words: str


def outcome(rows: Sequence[Mapping[str, Any]], batch_size: int, steps: int) -> Outcome:
    """From a row an epoch (see EpochDone).

    Args:
        batch_size: N; a model that tells nothing apart has the loss log(2N - 1).
        steps: of all epochs.
    """
    measured = [row for row in rows if row.get("validation")]
    losses = [row["loss"] for row in rows]
    health = ValidationMetrics(**measured[-1]["validation"]) if measured else None
    nothing = math.log(2 * batch_size - 1)
    tells_nothing = losses[-1] > NO_GAIN * nothing
    if (
        health is not None
        and (health.negative_similarity > SAME or health.rank_h < FLAT)
        and tells_nothing
        and steps >= BEGUN
    ):
        return Outcome(
            "collapsed",
            "The encoder has collapsed: the z of different images have a mean cosine of "
            f"{health.negative_similarity:.2f}, and h spreads over {health.rank_h:.1f} dimensions. "
            "Train under another --run with a lower --learning-rate, "
            "or a larger batch or temperature.",
        )
    seen = ""
    if health is not None:
        where = "kept out of training" if health.held_out else "that it was trained on"
        retrieval = health.view_retrieval_accuracy
        seen = (
            f" (of two views each of {health.images:,} images {where}, {retrieval:.0f} % find their other one, "
            f"by chance {100 / (2 * health.images - 1):.1f} %; h spreads over {health.rank_h:.0f} dimensions)"
        )
    if tells_nothing:
        return Outcome(
            "unchanged",
            f"Little was learned{seen}: the loss is {losses[-1]:.2f}, and that of telling nothing apart {nothing:.2f}. "
            "Train longer, or with another --learning-rate.",
        )
    if len(losses) < QUARTER_FROM:
        return Outcome("learning", f"It has learned{seen}; whether it would go on cannot be told from so few epochs.")
    start = max(losses[0], nothing)  # what the loss falls from, which the first epoch's mean hides
    late = (losses[-1 - len(losses) // 4] - losses[-1]) / (start - losses[-1])
    if late > STILL:
        return Outcome(
            "improving",
            f"It has learned{seen}, and was still improving: the last quarter of the epochs brought {100 * late:.0f} "
            f"% of all that the loss fell by. Train longer: --epochs {2 * len(losses)}.",
        )
    return Outcome("learning", f"It has learned{seen}, and had come to rest by the end.")


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
    """Write down the names of a step's images, and the last good weights of the backbone.

    On a CPU the failed step changed nothing, so that they are the model's. Elsewhere the weights are no longer good by
    the time that the loss is read; those of the last checkpoint are.

    Returns:
        The end of a sentence about it.
    """
    names = [batches.decoded.census.images[row].name for row in batches.rows(step)]
    write_json(run.failure_file, {"step": step + 1, "loss": str(loss), "images": names})
    found = load_checkpoint(run.checkpoints) if batches.device.type != "cpu" else None
    state = model.state_dict() if batches.device.type == "cpu" else found.model if found else {}
    good = {name.removeprefix(BACKBONE): value for name, value in state.items() if name.startswith(BACKBONE)}
    if good:
        run.write_last_good(good, timm_config(model.encoder))
    kept = f", and the last good weights are in {run.last_good}" if good else ""
    return f"; its images are named in {run.failure_file}{kept}"
