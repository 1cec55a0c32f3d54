"""The training of a classifier: the update of the linear protocol written out, and the weights that it changes."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simclr_cli.api import FinetuneSettings, ProbeSettings
from simclr_cli.core.errors import Interrupted, TrainingError
from simclr_cli.core.events import EpochDone, Event, StepDone, silent
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator
from simclr_cli.engine.augment import draw_parameters, make_view
from simclr_cli.engine.encoder import Encoder, create_encoder, create_scratch_spec
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.scan import take_census
from simclr_cli.train import supervised as module
from simclr_cli.train.supervised import (
    CROP_AND_FLIP,
    FINE_TUNING,
    LINEAR,
    MOMENTUM,
    ClassifierRecipe,
    choose_batch_size,
    compute_batch_starts,
    measure_seconds_per_image,
    train_classifier,
)

CLASSES, SIZE = 10, 40


@pytest.fixture
def decoded(images: Path) -> DecodedImages:
    return decode_images(take_census(images), SIZE, workers=2, progress=lambda *_: None)


@pytest.fixture
def encoder() -> Encoder:
    return create_encoder(create_scratch_spec("tiny_resnet", SIZE), seed=3).eval()


def labels_of(decoded: DecodedImages, rows: np.ndarray[Any, Any]) -> Tensor:
    names = decoded.census.classes
    return torch.tensor([names.index(decoded.census.labels[row]) for row in rows])


def run(
    encoder: Encoder,
    decoded: DecodedImages,
    recipe: ClassifierRecipe,
    *,
    images: int = 48,
    events: list[Event] | None = None,
    seed: int = 5,
    batch_size: int = 16,
) -> nn.Linear:
    rows = np.arange(len(decoded))[::-1][:images].copy()  # not the identity: places and rows must not be mixed up
    report = silent if events is None else events.append
    return train_classifier(
        encoder, decoded, rows, labels_of(decoded, rows), CLASSES, recipe, batch_size=batch_size, seed=seed,
        report=report,
    )  # fmt: skip


def short(recipe: ClassifierRecipe, epochs: int, **values: Any) -> ClassifierRecipe:
    return dataclasses.replace(recipe, epochs=epochs, **values)


def state_of(encoder: Encoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def test_recipes_are_the_papers() -> None:
    assert (LINEAR.frozen, LINEAR.learning_rate, LINEAR.epochs, MOMENTUM) == (True, 0.1, 90, 0.9)
    assert (FINE_TUNING.frozen, FINE_TUNING.learning_rate) == (False, 0.05)


def test_views_are_crops_and_flips_and_nothing_else() -> None:
    drawn = draw_parameters(torch.full((500, 2), 60), CROP_AND_FLIP, torch.Generator().manual_seed(0))
    assert (drawn.order == -1).all() and not drawn.grayscale.any() and not drawn.sigma.any()
    assert 0.4 < drawn.flip.float().mean() < 0.6
    area = drawn.crop[:, 2] * drawn.crop[:, 3] / 3600
    assert area.min() < 0.15 and area.max() > 0.9 and CROP_AND_FLIP.crop_area == (0.08, 1.0)


def test_linear_protocol_is_the_written_out_one(decoded: DecodedImages, encoder: Encoder) -> None:
    """Compute softmax regression, Nesterov's momentum and the cosine schedule by hand."""
    count, batch, epochs, seed = 44, 16, 3, 5
    found = run(encoder, decoded, short(LINEAR, epochs), images=count, batch_size=batch, seed=seed)

    rows = np.arange(len(decoded))[::-1][:count].copy()
    labels = labels_of(decoded, rows)
    w, b = torch.zeros(CLASSES, encoder.width, dtype=torch.float64), torch.zeros(CLASSES, dtype=torch.float64)
    v_w, v_b = torch.zeros_like(w), torch.zeros_like(b)
    steps, step = math.ceil(count / batch), 0
    for epoch in range(epochs):
        order = create_numpy_generator(seed, Purpose.CLASSIFIER, epoch).permutation(count)
        assert sorted(order) == list(range(count))
        for start in range(0, count, batch):
            places = order[start : start + batch]
            sizes = torch.from_numpy(decoded.sizes[rows[places]])
            drawn = draw_parameters(sizes, CROP_AND_FLIP, create_torch_generator(seed, Purpose.AUGMENT, step))
            x = make_view(torch.from_numpy(decoded.read(rows[places])), sizes, drawn, SIZE)
            with torch.no_grad():
                h = encoder(x).double()
            error = torch.softmax(h @ w.T + b, dim=1)
            error[torch.arange(len(places)), labels[places]] -= 1
            g_w, g_b = error.T @ h / len(places), error.mean(dim=0)
            rate = 0.1 * batch / 256 * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
            v_w, v_b = 0.9 * v_w + g_w, 0.9 * v_b + g_b
            w, b = w - rate * (g_w + 0.9 * v_w), b - rate * (g_b + 0.9 * v_b)
            step += 1
    assert step == 9
    torch.testing.assert_close(found.weight.double(), w, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.bias.double(), b, rtol=1e-3, atol=1e-6)
    assert found.weight.abs().max() > 1e-3


@pytest.mark.parametrize("recipe", [LINEAR, FINE_TUNING], ids=["linear", "fine-tuning"])
def test_zero_start_gives_the_log_of_the_classes(
    decoded: DecodedImages, encoder: Encoder, recipe: ClassifierRecipe
) -> None:
    events: list[Event] = []
    run(encoder, decoded, short(recipe, 1), events=events)
    first = next(event for event in events if isinstance(event, StepDone))
    assert first.loss == pytest.approx(math.log(CLASSES), rel=1e-6)
    assert (first.epoch, first.epochs, first.step, first.steps) == (1, 1, 1, 3)


def test_rate_begins_at_its_peak_and_ends_near_zero(decoded: DecodedImages, encoder: Encoder) -> None:
    events: list[Event] = []
    run(encoder, decoded, short(LINEAR, 20), images=16, batch_size=16, events=events)
    rates = [event.learning_rate for event in events if isinstance(event, EpochDone)]  # one step an epoch
    assert rates[0] == pytest.approx(0.1 * 16 / 256)
    assert rates[10] == pytest.approx(0.1 * 16 / 256 / 2)
    assert 0 < rates[-1] < 0.01 * rates[0] and rates == sorted(rates, reverse=True)


def test_frozen_encoder_stays_bit_for_bit(decoded: DecodedImages, encoder: Encoder) -> None:
    before = state_of(encoder)
    assert any("running_mean" in name for name in before)
    run(encoder.train(), decoded, short(LINEAR, 3))  # even if it comes in train mode
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert not encoder.training and all(p.grad is None and p.requires_grad for p in encoder.parameters())


def test_fine_tuning_trains_all_of_f(decoded: DecodedImages, encoder: Encoder) -> None:
    before = state_of(encoder)
    run(encoder, decoded, short(FINE_TUNING, 3, learning_rate=2.0))  # or gains about 1 would move by less than a bit
    assert not encoder.training
    after = encoder.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []  # weights, gains, biases and statistics


def test_first_step_of_fine_tuning_moves_only_statistics_and_the_classifier(
    decoded: DecodedImages, encoder: Encoder
) -> None:
    """Check that a classifier of zeros gives f no gradient, and that there is no weight decay."""
    before = state_of(encoder)
    linear = run(encoder, decoded, short(FINE_TUNING, 1), images=16)
    after = encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(
        name.split(".")[-1] in {"running_mean", "running_var", "num_batches_tracked"} for name in moved
    )
    assert linear.weight.abs().max() > 0


@pytest.mark.parametrize("recipe", [LINEAR, FINE_TUNING], ids=["linear", "fine-tuning"])
def test_weights_follow_from_the_seed(decoded: DecodedImages, recipe: ClassifierRecipe) -> None:
    def weights(seed: int) -> Tensor:
        fresh = create_encoder(create_scratch_spec("tiny_resnet", SIZE), seed=3)
        torch.manual_seed(seed * 17)  # whatever was drawn before
        return run(fresh, decoded, short(recipe, 2), seed=seed).weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_dropout_follows_from_the_seed_too(decoded: DecodedImages) -> None:
    spec = dataclasses.replace(create_scratch_spec("test_vit", 48), model_args={"img_size": 48, "proj_drop_rate": 0.5})

    def weights() -> Tensor:
        torch.rand(torch.randint(1, 9, ()).item())  # type: ignore[call-overload]
        return run(create_encoder(spec, seed=3), decoded, short(FINE_TUNING, 2)).weight

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize("recipe", [LINEAR, FINE_TUNING], ids=["linear", "fine-tuning"])
def test_stop_ends_at_that_step(decoded: DecodedImages, encoder: Encoder, recipe: ClassifierRecipe) -> None:
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if len(events) == 5:
            raise Interrupted("Stopped.", "")

    rows = np.arange(48)
    with pytest.raises(Interrupted):
        train_classifier(
            encoder, decoded, rows, labels_of(decoded, rows), CLASSES, short(recipe, 9), seed=0, report=report
        )
    assert len(events) == 5 and not encoder.training


def name_options(remedy: str, settings: type) -> list[bool]:
    """Return for each option in a message whether the command has it."""
    names = {field.name for field in dataclasses.fields(settings)}
    return [option.replace("-", "_") in names for option in re.findall(r"--([a-z-]+)", remedy)]


@pytest.mark.parametrize(("recipe", "settings"), [(LINEAR, ProbeSettings), (FINE_TUNING, FinetuneSettings)])
def test_loss_that_is_not_finite_names_its_step_and_options_of_its_command(
    decoded: DecodedImages, encoder: Encoder, recipe: ClassifierRecipe, settings: type
) -> None:
    with pytest.raises(TrainingError, match=r"became (nan|inf) in step [2-9] of 9 \(epoch [123]\)") as caught:
        run(encoder, decoded, short(recipe, 3, learning_rate=1e38))
    options = name_options(caught.value.remedy, settings)
    assert options and all(options)


@pytest.mark.parametrize(("recipe", "settings"), [(LINEAR, ProbeSettings), (FINE_TUNING, FinetuneSettings)])
def test_too_little_memory_is_an_error(
    decoded: DecodedImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, recipe: ClassifierRecipe, settings: type
) -> None:
    from simclr_cli.core.errors import MachineError

    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "make_view", full)
    with pytest.raises(MachineError, match="on 16 images at a time") as caught:
        run(encoder, decoded, short(recipe, 1))
    options = name_options(caught.value.remedy, settings)
    assert options and all(options)


def test_a_frozen_encoder_computes_in_parts_what_the_memory_holds(
    decoded: DecodedImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of 16, at most 5 images fit: 16 and 8 are tried once, and the classifier is the same."""
    expected = run(encoder, decoded, short(LINEAR, 1))
    make, sizes = module.make_view, []

    def limited(pixels: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(pixels, *rest)

    monkeypatch.setattr(module, "make_view", limited)
    linear = run(encoder, decoded, short(LINEAR, 1))
    assert torch.allclose(linear.weight, expected.weight, atol=1e-5) and linear.weight.abs().max() > 1e-3
    assert sizes[:6] == [16, 8, 4, 4, 4, 4] and max(sizes[6:]) == 4


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 32, 33, 47, 48, 49])
def test_batches_cover_an_epoch_once_and_none_is_of_one(count: int) -> None:
    bounds = [0, *compute_batch_starts(count, 16), count]
    sizes = np.diff(bounds).tolist()
    assert all(size == 16 for size in sizes[:-1])
    assert count == 1 or min(sizes) > 1
    assert sizes[-1] <= 17


@pytest.mark.parametrize(
    ("images", "device", "batch"),
    [(10, "cpu", 10), (15, "cpu", 15), (16, "cpu", 4), (100, "cpu", 16), (1000, "cpu", 128), (10**6, "cpu", 256),
     (1000, "cuda", 128), (10**6, "cuda", 1024)],
)  # fmt: skip
def test_automatic_batch_size(images: int, device: str, batch: int) -> None:
    assert choose_batch_size(images, torch.device(device)) == batch


def test_estimate_does_not_change_the_encoder(encoder: Encoder) -> None:
    before = state_of(encoder)
    for recipe in (LINEAR, FINE_TUNING):
        assert measure_seconds_per_image(encoder, CLASSES, recipe, 60, 8) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert not encoder.training and all(p.grad is None for p in encoder.parameters())
