"""The guard of an adaptation: trained weights are exchanged for adapted ones only where these are no worse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from simclr_cli.core.events import Report
from simclr_cli.encode.create import create_initial_encoder
from simclr_cli.encode.embed import embed_files
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.encode.model_card import parse_spec
from simclr_cli.encode.weights import CONFIG_FILE
from simclr_cli.engine.adaptation import interpolate_weights
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder_from_weights, resize_spec
from simclr_cli.engine.metrics import compute_mean_gain, uniformity
from simclr_cli.engine.probes import fit_probe
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.labels import split_stratified
from simclr_cli.store.models import detach_tensors, read_config
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.monitor import Monitor, find_neighbors
from simclr_cli.train.outcome import Outcome, State

Kept = Literal["adapted", "interpolated", "start"]
SHARES: dict[Kept, float] = {"adapted": 1.0, "interpolated": 0.5, "start": 0.0}
MIN_AGREEMENT_GAIN = 1.4  # points, from the sweep in docs/decisions/0036
MAX_UNIFORMITY_CHANGE = 0.75  # of h, beyond which SimCLR made most encoders worse (docs/decisions/0036)
MAX_DECLINE = 1.0  # points by labels that chance, or a smaller image size and so a faster use, may cost
LINEAR_L2 = 100.0  # of the linear probe on half of the labeled images
BATCH_SIZE = 64


@dataclass(frozen=True)
class Candidate:
    """Measures of weights that a run may end with."""

    agreement: float  # percent of the nearest neighbors that the start finds, at its own size if it is larger
    uniformity: float  # of h (see ValidationMetrics)
    score: float | None  # percent, at the size of use (the start's own), where the folders are classes (score_images)
    gain: tuple[float, float, float] | None = None  # in score over the start, and its 95 % interval, points


class Guard:
    """The start of a training, to compare its end with."""

    def __init__(self, model: SimCLR, job: TrainingJob, monitor: Monitor, report: Report) -> None:
        """Keep the weights of the model, which has not been trained yet, and measure them."""
        self.job, self.monitor, self.report = job, monitor, report
        state = detach_tensors(model.encoder.backbone.state_dict())
        self.weights = {name: value.clone() for name, value in state.items()}
        self.neighbors = monitor.find_neighbors(model) if monitor.neighbors is None else monitor.neighbors
        self.start_scores = self._score(partial(create_start, job), monitor.targets)
        self.start = self._measure(model, self.start_scores)

    def choose_weights(self, model: SimCLR, outcome: Outcome) -> Outcome:
        """Load the best of adapted weights, half-way ones and the start into the model; explain it in the outcome."""
        backbone = model.encoder.backbone
        candidates: dict[Kept, Candidate] = {"start": self.start}
        trained: tuple[Kept, ...] = ("adapted", "interpolated")
        adapted = {name: value.clone() for name, value in detach_tensors(backbone.state_dict()).items()}
        for name in trained:
            weights = interpolate_weights(self.weights, adapted, SHARES[name])
            backbone.load_state_dict(weights)
            candidates[name] = self._measure(model, self._score(partial(create_encoder_for_use, self.job, weights)))
        settings = self.job.settings
        kept, reason = choose(
            candidates,
            distilled=self.monitor.targets is not None,
            is_used_larger=settings.image_size > settings.train_size,
            is_smaller=settings.image_size < read_start_spec(self.job).image_size,
        )
        backbone.load_state_dict(interpolate_weights(self.weights, adapted, SHARES[kept]))
        words = {"adapted": "Adapted", "interpolated": "Half-adapted", "start": "The start's"}[kept]
        figures: dict[str, Any] = {name: dataclasses.asdict(candidate) for name, candidate in candidates.items()}
        # Also if the trained weights have collapsed.
        state: State = "unchanged" if kept == "start" else outcome.state
        words = f"{words} weights are kept: {reason}. {outcome.words}".strip()
        return dataclasses.replace(outcome, state=state, words=words, kept=kept, candidates=figures)

    @torch.inference_mode()
    def _measure(self, model: SimCLR, scores: Tensor | None) -> Candidate:
        h = self.monitor.embed_crops(model.eval(), self.monitor.rows)
        has_classes = scores is not None and self.start_scores is not None
        return Candidate(
            agreement=self.monitor.measure_agreement(h, self.neighbors),
            uniformity=uniformity(torch.nn.functional.normalize(h, dim=1)),
            score=None if scores is None else 100 * float(scores.mean()),
            gain=compute_mean_gain(scores, self.start_scores) if has_classes else None,  # type: ignore[arg-type]
        )

    def _score(self, create: Callable[[], Encoder], known: Tensor | None = None) -> Tensor | None:
        """Return the scores (M,) of the labeled images at the encoder's size (see score_images).

        None without classes, or if an image can no longer be decoded.

        Args:
            create: creates the encoder, where it is needed.
            known: (N, width) embeddings of the census by this encoder, if there are any.
        """
        rows, census = self.monitor.labeled_rows, self.monitor.images.census
        if not len(rows):
            return None
        if known is not None:
            h = known[torch.from_numpy(rows)]
        else:
            device = torch.device(self.job.settings.device)
            loaded = LoadedEncoder(create().eval().to(device), device, name="", checksum="")
            paths, workers = [census.path(census.images[row]) for row in rows], self.job.settings.workers
            found, unusable = embed_files(
                loaded, paths, census.bits, batch_size=BATCH_SIZE, workers=workers, report=self.report,
                stage="comparing",
            )  # fmt: skip
            if unusable:
                return None
            h = torch.from_numpy(found)
        return score_images(h, torch.from_numpy(self.monitor.labels))


def score_images(h: Tensor, labels: Tensor) -> Tensor:
    """Score each labeled image, in [0, 1]: the mean of its precision at 10 and of a right linear prediction.

    Args:
        h: (M, width); each image is compared with the others, and predicted by a linear probe of the other half.
        labels: (M,) int64.
    """
    precision = (labels[find_neighbors(h)] == labels[:, None]).double().mean(dim=1)
    is_first = torch.from_numpy(split_stratified(labels.numpy(), 0.5, 0))
    is_right = torch.zeros_like(precision)
    for half in (is_first, ~is_first) if is_first.any() else ():
        probe = fit_probe(h[~half], labels[~half], classes=int(labels.max()) + 1, l2=LINEAR_L2)
        is_right[half] = (probe.compute_logits(h[half]).argmax(dim=1) == labels[half]).double()
    return (precision + is_right) / 2


def create_start(job: TrainingJob) -> Encoder:
    """Create the start, at its own size."""
    return create_initial_encoder(job.settings.backbone, job.start_weights, None, job.settings.seed)


def create_encoder_for_use(job: TrainingJob, weights: Mapping[str, Tensor]) -> Encoder:
    """Create the encoder at the size of its use, which may be larger than that of training."""
    spec = resize_spec(read_start_spec(job), job.settings.image_size)
    return create_encoder_from_weights(spec, weights, "the trained encoder")


def read_start_spec(job: TrainingJob) -> EncoderSpec:
    """Read the specification of the start, at its own size, from the run."""
    file = job.run.start_folder / CONFIG_FILE
    return parse_spec(file, read_config(file, "Restore it, or train again."))


def choose(
    candidates: dict[Kept, Candidate], *, distilled: bool, is_used_larger: bool, is_smaller: bool
) -> tuple[Kept, str]:
    """Choose among candidates, and return the reason.

    Args:
        distilled: trained by distillation, whose agreement is with the start at its own size.
        is_used_larger: the images of use are larger than those of training.
        is_smaller: the images of use are smaller than the start's own, so adapted weights are faster.
    """
    start = candidates["start"]
    trained: tuple[Kept, ...] = ("adapted", "interpolated")
    if gains := {name: gain for name in trained if (gain := candidates[name].gain)}:
        best = max(gains, key=lambda name: gains[name][0])
        change, low, high = gains[best]
        words = (
            f"by the folders' classes, precision at 10 and linear accuracy change by {change:+.1f} points in the mean"
        )
        if change > 0 and low > -MAX_DECLINE:
            return best, words
        if is_smaller and change >= -MAX_DECLINE:
            return best, f"{words}, and they are faster"
        return "start", f"{words} at best; 95 % interval {low:+.1f} to {high:+.1f}"
    if distilled:  # half-way weights are better at a larger size than that of training, and adapted ones at the same
        name: Kept = "interpolated" if is_used_larger else "adapted"
        found = f"{start.agreement:.0f} % to {candidates[name].agreement:.0f} %"
        if candidates[name].agreement > start.agreement + MIN_AGREEMENT_GAIN:
            return name, f"of the neighbors found at the weights' own size, {found} are found at a smaller one"
        return "start", f"of the neighbors found at the weights' own size, hardly more are found than before, {found}"
    for name in trained:
        difference = abs(candidates[name].uniformity - start.uniformity)
        if difference <= MAX_UNIFORMITY_CHANGE:
            return name, f"the uniformity of embeddings changed by {difference:.2f}, at most {MAX_UNIFORMITY_CHANGE}"
    return "start", f"the uniformity of embeddings changed by more than {MAX_UNIFORMITY_CHANGE}, a sign of forgetting"
