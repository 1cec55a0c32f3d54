"""What the verbs that make a classifier and use it return."""

from __future__ import annotations

from dataclasses import dataclass

from simclr_cli.events import PlanMade
from simclr_cli.results.judging import Accuracy


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` made."""

    out: str  # the classifier's folder
    encoder: str  # that it started from
    scratch: bool  # whether that had random weights
    classes: tuple[str, ...]
    labels: int  # pictures whose labels were used
    train_pictures: int  # of which they were drawn
    test_pictures: int
    split: str  # how the held-out pictures were chosen
    chance: float  # percent: always guessing the class that most labels name
    accuracy: Accuracy
    epochs: int
    batch_size: int
    learning_rate: float  # the peak
    refused: int
    seconds: float
    model_digest: str  # SHA-256 of the classifier's model.safetensors
    plan: PlanMade | None = None


@dataclass(frozen=True)
class ClassProbability:
    """One class for one picture."""

    label: str
    probability: float  # 0 to 1, by the classifier: it sums to 1 over the classes it knows


@dataclass(frozen=True)
class Prediction:
    """What one picture is likely to be of."""

    path: str
    label: str  # the most probable class
    probability: float  # its probability
    classes: tuple[ClassProbability, ...]  # the --top most probable, that one first


@dataclass(frozen=True)
class PredictResult:
    """What `predict` found."""

    classifier: str  # its folder
    model_digest: str
    labels: tuple[str, ...]  # all classes it knows
    predictions: tuple[Prediction, ...]
    refused: tuple[str, ...]  # files that could not be used, with the reason
    out: str | None = None  # the file that was written
