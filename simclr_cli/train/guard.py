"""The guard of an adaptation: trained weights are exchanged for adapted ones only where these are no worse."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch

from simclr_cli.engine.adaptation import interpolate_weights
from simclr_cli.engine.metrics import compute_gain, compute_percentage, uniformity
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.store.models import detach_tensors
from simclr_cli.train.monitor import Monitor, Outcome

Kept = Literal["adapted", "interpolated", "start"]
SHARES: dict[Kept, float] = {"adapted": 1.0, "interpolated": 0.5, "start": 0.0}
MIN_AGREEMENT_GAIN = 1.4  # points, from the sweep in docs/decisions/0036
MAX_UNIFORMITY_CHANGE = 0.75  # of h, beyond which SimCLR made most encoders worse (docs/decisions/0036)


@dataclass(frozen=True)
class Candidate:
    """Measures of weights that a run may end with."""

    agreement: float  # percent of the nearest neighbors that the start finds, at its own size if it is larger
    uniformity: float  # of h (see ValidationMetrics)
    knn_accuracy: float | None  # percent, on held-out images of a sample, where the folders are classes
    gain: tuple[float, float, float] | None = None  # in kNN accuracy over the start, and its 95 % interval, points


class Guard:
    """The start of a training, to compare its end with."""

    def __init__(self, model: SimCLR, monitor: Monitor) -> None:
        """Keep the weights of the model, which has not been trained yet, and measure them."""
        self.monitor = monitor
        state = detach_tensors(model.encoder.backbone.state_dict())
        self.weights = {name: value.clone() for name, value in state.items()}
        self.neighbors = monitor.find_neighbors(model) if monitor.neighbors is None else monitor.neighbors
        self.correct = monitor.classify(model)
        self.start = self._measure(model)

    def choose_weights(self, model: SimCLR, outcome: Outcome) -> Outcome:
        """Load the best of adapted weights, half-way ones and the start into the model; explain it in the outcome."""
        adapted = detach_tensors(model.encoder.backbone.state_dict())
        candidates: dict[Kept, Candidate] = {"adapted": self._measure(model)}
        model.encoder.backbone.load_state_dict(interpolate_weights(self.weights, adapted, SHARES["interpolated"]))
        candidates["interpolated"] = self._measure(model)
        candidates["start"] = self.start
        kept, reason = choose(candidates, distilled=self.monitor.targets is not None)
        model.encoder.backbone.load_state_dict(interpolate_weights(self.weights, adapted, SHARES[kept]))
        words = {"adapted": "Adapted", "interpolated": "Half-adapted", "start": "The start's"}[kept]
        figures: dict[str, Any] = {name: dataclasses.asdict(candidate) for name, candidate in candidates.items()}
        state = "unchanged" if kept == "start" else outcome.state  # also if the trained weights have collapsed
        return Outcome(state, f"{words} weights are kept: {reason}. {outcome.words}".strip(), kept, figures)

    @torch.inference_mode()
    def _measure(self, model: SimCLR) -> Candidate:
        model.eval()
        h = self.monitor.embed_crops(model, self.monitor.rows)
        correct = self.monitor.classify(model)
        has_classes = correct is not None and self.correct is not None
        return Candidate(
            agreement=self.monitor.measure_agreement(h, self.neighbors),
            uniformity=uniformity(torch.nn.functional.normalize(h, dim=1)),
            knn_accuracy=None if correct is None else compute_percentage(correct),
            gain=compute_gain(correct, self.correct) if has_classes else None,  # type: ignore[arg-type]
        )


def choose(candidates: dict[Kept, Candidate], *, distilled: bool) -> tuple[Kept, str]:
    """Choose among candidates, and return the reason.

    Args:
        distilled: trained by distillation, whose agreement is with the start at its own size.
    """
    start = candidates["start"]
    trained: tuple[Kept, ...] = ("adapted", "interpolated")
    if distilled:  # half-way weights are better at the size of use, which is larger than that of training
        trained = ("interpolated", "adapted")
    for name in trained:
        if (gain := candidates[name].gain) and gain[1] > 0:
            return name, f"kNN accuracy by the folders' classes rose by {gain[0]:.1f} points"
    if all((candidates[name].gain or (0, 0, 0))[2] < 0 for name in trained):
        return "start", "kNN accuracy by the folders' classes fell"
    if distilled:
        change = f"{start.agreement:.0f} % to {candidates['interpolated'].agreement:.0f} %"
        if candidates["interpolated"].agreement > start.agreement + MIN_AGREEMENT_GAIN:
            return "interpolated", f"of the neighbors found at the weights' own size, {change} are found at this one"
        return "start", f"of the neighbors found at the weights' own size, hardly more are found than before, {change}"
    for name in trained:
        change_ = abs(candidates[name].uniformity - start.uniformity)
        if change_ <= MAX_UNIFORMITY_CHANGE:
            return name, f"the uniformity of embeddings changed by {change_:.2f}, at most {MAX_UNIFORMITY_CHANGE}"
    return "start", f"the uniformity of embeddings changed by more than {MAX_UNIFORMITY_CHANGE}, a sign of forgetting"
