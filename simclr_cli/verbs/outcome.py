"""What came of a training, in words: learning, still improving, unchanged, or collapsed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simclr_cli.events import Health

State = Literal["learning", "improving", "unchanged", "collapsed"]

SAME = 0.98  # mean cosine of the z of different pictures from which on they are all alike
FLAT = 1.5  # effective rank of h below which all pictures lie on a line
NO_GAIN = 0.98  # of log(2N - 1), the loss of a model that tells nothing apart
STILL = 0.05  # of all that was gained, gained in the last quarter: it goes on
BEGUN = 50  # steps, before which all pictures look about the same to any model
QUARTER_FROM = 8  # epochs, below which a quarter says little


@dataclass(frozen=True)
class Outcome:
    """A word for scripts, and sentences for a person: what came of it, and what to do next, if anything."""

    state: State
    words: str

    @property
    def sentences(self) -> tuple[str, str]:
        """The two, each whole."""
        what, _, remedy = self.words.partition(". ")
        return f"{what}.", remedy


def collapsed(health: Health) -> bool:
    """Whether the model gives all pictures about the same vector, as one that has barely begun does too."""
    return health.negative > SAME or health.rank_h < FLAT


def outcome(rows: Sequence[Mapping[str, Any]], batch_size: int, steps: int) -> Outcome:
    """From a row an epoch (see EpochDone).

    Args:
        batch_size: N; a model that tells nothing apart has the loss log(2N - 1).
        steps: of all epochs.
    """
    measured = [row for row in rows if row.get("health")]
    losses = [row["loss"] for row in rows]
    health = Health(**measured[-1]["health"]) if measured else None
    nothing = math.log(2 * batch_size - 1)
    tells_nothing = losses[-1] > NO_GAIN * nothing
    if tells_nothing and steps >= BEGUN and health is not None and collapsed(health):
        return Outcome(
            "collapsed",
            f"The encoder has collapsed: the z of different pictures have a mean cosine of {health.negative:.2f}, and "
            f"h spreads over {health.rank_h:.1f} dimensions. Train under another --run with a lower --learning-rate, "
            "or a larger batch or temperature.",
        )
    seen = _seen(health)
    if tells_nothing:
        return Outcome(
            "unchanged",
            f"Little was learned{seen}: the loss is {losses[-1]:.2f}, and that of telling nothing apart {nothing:.2f}. "
            "Train longer, or with another --learning-rate.",
        )
    if share := _late_share(losses, nothing):
        return Outcome(
            "improving",
            f"It has learned{seen}, and was still improving: the last quarter of the epochs brought {100 * share:.0f} "
            f"% of all that the loss fell by. Train longer: --epochs {2 * len(losses)}.",
        )
    if len(losses) < QUARTER_FROM:
        return Outcome("learning", f"It has learned{seen}; whether it would go on cannot be told from so few epochs.")
    return Outcome("learning", f"It has learned{seen}, and had come to rest by the end.")


def _seen(health: Health | None) -> str:
    if health is None:
        return ""
    where = "kept out of training" if health.held_out else "that it was trained on"
    chance = 100 / (2 * health.pictures - 1)
    return (
        f" (of two views each of {health.pictures:,} pictures {where}, {health.found:.0f} % find their other one, by "
        f"chance {chance:.1f} %; h spreads over {health.rank_h:.0f} dimensions)"
    )


def _late_share(losses: Sequence[float], nothing: float) -> float:
    """The share of the loss's whole fall that the last quarter brought, if it is worth speaking of; else 0."""
    if len(losses) < QUARTER_FROM:
        return 0.0
    start = max(losses[0], nothing)  # what it falls from, which the first epoch's mean hides
    fall, late = start - losses[-1], losses[-1 - len(losses) // 4] - losses[-1]
    return late / fall if fall > 0 and late / fall > STILL else 0.0
