"""What the verbs that train return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simclr_cli.events import Choice, PlanMade


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` made."""

    run: str  # the folder
    finished: bool  # False after --dry-run
    epochs: int
    pictures: int
    refused: int
    first_loss: float | None  # mean of the first epoch
    last_loss: float | None
    images_per_second: float | None  # median over the epochs
    seconds: float
    model_digest: str | None  # SHA-256 of encoder/model.safetensors
    plan: PlanMade | None = None
    census: dict[str, Any] = field(default_factory=dict)
    state: str | None = None  # learning (and at rest by the end), improving (train longer), unchanged
    outcome: str | None = None  # the same in words
    report: str | None = None  # the page of the run, report.html


@dataclass(frozen=True)
class PreviewResult:
    """The sheet that `preview` made, and how its views were made."""

    out: str
    images: str
    pictures: int  # on the sheet
    views: int  # of each
    image_size: int
    preset: str | None
    choices: tuple[Choice, ...]  # the settings of the views, with their reasons
    enlarged: float  # share of the crops that are enlarged to more than twice their size
    advice: tuple[str, ...]  # what to notice
