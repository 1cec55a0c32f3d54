"""The outcome of a training in words, and what is kept when its loss is not finite."""

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
from simclr_cli.encode.model_card import build_timm_config
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.train.job import TrainingJob

COLLAPSED_SIMILARITY = 0.98  # mean cosine of the z of different images from which on they count as equal
COLLAPSED_RANK = 1.5  # effective rank of h below which all images lie on a line
UNTRAINED_SHARE = 0.98  # of log(2N - 1), the loss of a model that tells no images apart
IMPROVING_SHARE = 0.05  # of the whole decrease of the loss, within the last quarter: still improving
MIN_STEPS_TO_JUDGE = 50  # any model sees all images as about equal before
MIN_EPOCHS_TO_JUDGE = 8  # a quarter of fewer says little
BACKBONE_PREFIX = "encoder.backbone."
LOSS_READ_SECONDS = 1  # between two reads of the loss on a GPU, each of which lets it run dry


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training: a word for scripts, and sentences with what to do next, if anything."""

    state: Literal["learning", "improving", "unchanged", "collapsed"]
    words: str


def judge_training(rows: Sequence[Mapping[str, Any]], batch_size: int, steps: int) -> Outcome:
    """Judge a training by a row per epoch (see EpochDone).

    Args:
        batch_size: N; a model that tells no images apart has the loss log(2N - 1).
        steps: of all epochs.
    """
    measured = [row for row in rows if row.get("validation")]
    losses = [row["loss"] for row in rows]
    validation = ValidationMetrics(**measured[-1]["validation"]) if measured else None
    untrained_loss = math.log(2 * batch_size - 1)
    is_untrained = losses[-1] > UNTRAINED_SHARE * untrained_loss
    if validation is not None and is_untrained and steps >= MIN_STEPS_TO_JUDGE and _is_collapsed(validation):
        return Outcome(
            "collapsed",
            "The encoder has collapsed: the z of different images have a mean cosine of "
            f"{validation.negative_similarity:.2f}, and h spreads over {validation.rank_h:.1f} dimensions. "
            "Train under another --run with a lower --learning-rate, or a larger batch or temperature.",
        )
    figures = _describe_validation(validation)
    if is_untrained:
        return Outcome(
            "unchanged",
            f"The encoder learned little{figures}: the loss is {losses[-1]:.2f}, and {untrained_loss:.2f} for a model "
            "that tells no images apart. Train longer, or with another --learning-rate.",
        )
    if len(losses) < MIN_EPOCHS_TO_JUDGE:
        return Outcome("learning", f"The encoder has learned{figures}; too few epochs to tell whether it plateaued.")
    start = max(losses[0], untrained_loss)  # before the decrease, which the mean of the first epoch hides
    late_share = (losses[-1 - len(losses) // 4] - losses[-1]) / (start - losses[-1])
    if late_share > IMPROVING_SHARE:
        return Outcome(
            "improving",
            f"The encoder has learned{figures}, and was still improving: {100 * late_share:.0f} % of the decrease of "
            f"the loss came in the last quarter of the epochs. Train longer: --epochs {2 * len(losses)}.",
        )
    return Outcome("learning", f"The encoder has learned{figures}, and had plateaued by the end.")


def _is_collapsed(validation: ValidationMetrics) -> bool:
    return validation.negative_similarity > COLLAPSED_SIMILARITY or validation.rank_h < COLLAPSED_RANK


def _describe_validation(validation: ValidationMetrics | None) -> str:
    if validation is None:
        return ""
    kind = "held-out" if validation.held_out else "training"
    chance = 100 / (2 * validation.images - 1)
    accuracy = f"view retrieval accuracy {validation.view_retrieval_accuracy:.0f} %, chance {chance:.1f} %"
    return f" (on {validation.images:,} {kind} images: {accuracy}; h spreads over {validation.rank_h:.0f} dimensions)"


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
