"""Training: one step against the update written out, the loop's rates and losses, and resuming bit for bit."""

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simclr_cli.engine.loss import nt_xent
from simclr_cli.engine.model import SimCLR
from simclr_cli.engine.optim import create_optimizer, set_learning_rate
from simclr_cli.engine.views import TwoViews, ViewRecipe
from simclr_cli.errors import Interrupted, Terminated, TrainingError
from simclr_cli.events import EpochDone, Event, StepDone, silent
from simclr_cli.images.batches import Batches
from simclr_cli.images.cache import DecodedPictures
from simclr_cli.images.folder import Census
from simclr_cli.seeds import Purpose, torch_generator
from simclr_cli.settings import ResolvedSettings
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs import training
from simclr_cli.verbs.plan import Circumstances, resolve, view_recipe
from simclr_cli.verbs.training import build_model, seconds_a_picture, train, train_step

PICTURES, SIDE, BATCH = 26, 24, 8  # 3 full batches an epoch; two pictures wait
STEPS, EPOCHS = PICTURES // BATCH, 2


def settings(**given: Any) -> ResolvedSettings:
    wanted = {"backbone": "test_resnet", "image_size": 16, "batch_size": BATCH, "epochs": EPOCHS, "run": "run",
              "projection_dimensions": 16, **given}  # fmt: skip
    return resolve(ResolvedSettings(images=Path(), **wanted), Circumstances(PICTURES, SIDE, torch.device("cpu")))[0]


def decoded(pictures: int = PICTURES) -> DecodedPictures:
    """Pictures of four coarse blocks of colour each: easily told apart."""
    blocks = np.random.default_rng(0).integers(0, 256, (pictures, 3, 2, 2), dtype=np.uint8)
    sizes = np.full((pictures, 2), SIDE, dtype=np.int64)
    return DecodedPictures(Census(Path(), (), (), 0), blocks.repeat(SIDE // 2, 2).repeat(SIDE // 2, 3), sizes)


def trained(
    chosen: ResolvedSettings, folder: Path, report: Callable[[Event], None] = silent
) -> tuple[SimCLR, list[dict[str, Any]]]:
    """A model from the start, trained in a run folder (or resumed from what stands there)."""
    model = build_model(chosen)
    return model, train(model, Batches(decoded(), chosen.batch_size, chosen.seed), chosen, RunFolder(folder), report)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def losses_of(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


# --- One step ---


def a_batch(count: int = BATCH) -> tuple[Tensor, Tensor]:
    pictures = decoded(count)
    return torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.sizes)


def test_both_views_go_through_in_one_pass() -> None:
    """Batch norm must see 2N pictures at once (RECIPE, mistakes: the views forwarded separately)."""
    chosen = settings()
    model = build_model(chosen).train()
    seen: list[int] = []
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    optimizer = create_optimizer(model, "sgd", weight_decay=0.0)
    train_step(model, TwoViews(16, ViewRecipe()), optimizer, *a_batch(), torch.Generator().manual_seed(0), chosen)
    assert set(seen) == {2 * BATCH}
    assert len(seen) == sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())
    assert model.encoder.backbone.bn1.num_batches_tracked == 1


def test_a_step_is_the_gradient_of_nt_xent_times_the_rate() -> None:
    chosen = settings(temperature=0.2)
    model = build_model(chosen).train()
    twin = copy.deepcopy(model)
    pixels, sizes = a_batch()
    views = TwoViews(16, view_recipe(chosen))
    optimizer = create_optimizer(model, "sgd", weight_decay=0.0)
    set_learning_rate(optimizer, 0.5)
    # Gradients that are left over must not count.
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    loss = train_step(model, views, optimizer, pixels, sizes, torch.Generator().manual_seed(4), chosen)

    x = views(pixels, sizes, torch.Generator().manual_seed(4))
    expected = nt_xent(twin.head(twin.encoder(x)), 0.2)
    named = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(expected, list(named.values()))
    assert loss.item() == expected.item() and not loss.requires_grad
    after = dict(model.named_parameters())
    for (name, before), gradient in zip(named.items(), gradients, strict=True):
        torch.testing.assert_close(after[name], before - 0.5 * gradient, rtol=1e-4, atol=1e-5)


def test_pixels_are_not_changed_by_a_step() -> None:
    chosen = settings()
    model = build_model(chosen)
    pixels, sizes = a_batch()
    kept = pixels.clone()
    optimizer = create_optimizer(model, "sgd", weight_decay=0.0)
    train_step(model, TwoViews(16, ViewRecipe()), optimizer, pixels, sizes, torch.Generator(), chosen)
    assert torch.equal(pixels, kept)


def test_in_bfloat16_loss_and_weights_stay_float32() -> None:
    chosen = settings(precision="bfloat16")
    model = build_model(chosen).train()
    dtypes: list[torch.dtype] = []
    model.head.layers[0].register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    optimizer = create_optimizer(model, "adamw", weight_decay=0.0)
    set_learning_rate(optimizer, 1e-3)
    loss = train_step(model, TwoViews(16, ViewRecipe()), optimizer, *a_batch(), torch.Generator(), chosen)
    assert dtypes == [torch.bfloat16]
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in model.parameters())


def test_the_loss_falls_on_a_few_pictures() -> None:
    chosen = settings(batch_size=16, temperature=0.2, crop_min=0.5, color_strength=0.2, grey=0.0)
    model = build_model(chosen).train()
    pixels, sizes = a_batch(16)
    views = TwoViews(16, view_recipe(chosen))
    optimizer = create_optimizer(model, "adamw", weight_decay=0.01)
    set_learning_rate(optimizer, 0.002)
    losses = [
        float(train_step(model, views, optimizer, pixels, sizes, torch_generator(0, Purpose.VIEWS, step), chosen))
        for step in range(30)
    ]
    first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    assert last < math.log(31) - 0.5  # of what a collapsed encoder has
    assert last < first - 0.5, losses


def test_the_estimate_of_a_pictures_time_is_positive() -> None:
    assert 0 < seconds_a_picture(build_model(settings()), settings(), SIDE) < 60


# --- The model to begin with ---


def test_the_model_follows_from_the_settings_alone() -> None:
    first = build_model(settings(seed=3))
    torch.rand(5)
    again = build_model(settings(seed=3, temperature=0.9))
    assert same(first, again) and not same(first, build_model(settings(seed=4)))
    head = build_model(settings(seed=3, head_layers=3, projection_dimensions=10)).head
    assert [module.out_features for module in head.layers if isinstance(module, nn.Linear)] == [96, 96, 10]


# --- The loop ---


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[SimCLR, list[Any], list[float]]]:
    """By optimizer: a run that nothing disturbed, its rows and the loss of each step."""
    done: dict[str, tuple[SimCLR, list[Any], list[float]]] = {}

    def run(optimizer: str) -> tuple[SimCLR, list[Any], list[float]]:
        if optimizer not in done:
            events: list[Event] = []
            chosen = settings(optimizer=optimizer)
            model, rows = trained(chosen, tmp_path_factory.mktemp(optimizer), events.append)
            done[optimizer] = model, rows, losses_of(events)
        return done[optimizer]

    return run


OPTIMIZERS = ["adamw", "lars", "sgd"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_runs_of_one_seed_are_equal_bit_for_bit(optimizer: str, undisturbed, tmp_path: Path) -> None:
    events: list[Event] = []
    torch.manual_seed(12345)  # the global state has no say
    model, _ = trained(settings(optimizer=optimizer), tmp_path, events.append)
    expected, _, losses = undisturbed(optimizer)
    assert same(model, expected) and losses_of(events) == losses
    assert not same(model, build_model(settings()))


def test_another_seed_gives_another_run(undisturbed, tmp_path: Path) -> None:
    model, _ = trained(settings(optimizer="adamw", seed=1), tmp_path)
    assert not same(model, undisturbed("adamw")[0])


def stop_after(steps: int, kind: type[Interrupted] = Interrupted) -> Callable[[Event], None]:
    """A report that asks for a stop at the StepDone of this many steps."""
    done = itertools.count(1)

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and next(done) == steps:
            raise kind("Stopped.", "Go on.")

    return report


# Mid-epoch, at an epoch's last step, at a later epoch's first, at the very last.
STOPS = [1, STEPS, STEPS + 1, EPOCHS * STEPS]


@pytest.mark.parametrize(("optimizer", "stop"), [*itertools.product(["adamw"], STOPS), ("lars", 4), ("sgd", 4)])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    optimizer: str, stop: int, undisturbed, tmp_path: Path
) -> None:
    chosen = settings(optimizer=optimizer)
    with pytest.raises(Interrupted, match=f"after step {stop} of {EPOCHS * STEPS}") as caught:
        trained(chosen, tmp_path / "run", stop_after(stop))
    assert "--resume --run run" in caught.value.remedy
    saved = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved is not None and saved.step == stop

    torch.manual_seed(999)
    events: list[Event] = []
    model, rows = trained(chosen, tmp_path / "run", events.append)
    expected, expected_rows, losses = undisturbed(optimizer)
    assert same(model, expected)
    assert losses_of(events) == losses[stop:]
    assert [(row["epoch"], row["loss"]) for row in rows] == [(row["epoch"], row["loss"]) for row in expected_rows]


def test_a_run_may_be_stopped_at_every_step(undisturbed, tmp_path: Path) -> None:
    for _ in range(EPOCHS * STEPS):
        with pytest.raises(Interrupted):
            trained(settings(optimizer="adamw"), tmp_path, stop_after(1))
    model, rows = trained(settings(optimizer="adamw"), tmp_path)
    assert same(model, undisturbed("adamw")[0])
    assert [row["loss"] for row in rows] == [row["loss"] for row in undisturbed("adamw")[1]]


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(
    undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is saved at the moment itself: a power cut."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1)  # after every epoch

    class PowerCut(BaseException):
        pass

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and event.epoch == 2 and event.step == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        trained(settings(optimizer="adamw"), tmp_path, report)
    saved = load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None and saved.step == STEPS
    assert same(trained(settings(optimizer="adamw"), tmp_path)[0], undisturbed("adamw")[0])


def test_a_finished_training_is_not_done_again(undisturbed, tmp_path: Path) -> None:
    chosen = settings(optimizer="adamw")
    _, rows = trained(chosen, tmp_path)
    events: list[Event] = []
    model, again = trained(chosen, tmp_path, events.append)
    assert same(model, undisturbed("adamw")[0]) and again == rows and not events


def test_the_kind_of_stop_is_kept(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        trained(settings(), tmp_path, stop_after(2, Terminated))


def test_stopping_at_an_epochs_last_step_does_not_change_its_row(undisturbed, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(settings(optimizer="adamw"), tmp_path, stop_after(STEPS))
    _, rows = trained(settings(optimizer="adamw"), tmp_path)
    assert [row["learning_rate"] for row in rows] == [row["learning_rate"] for row in undisturbed("adamw")[1]]
    assert all(row["images_per_second"] > 0 for row in rows)


def test_a_stop_at_the_end_of_an_epoch_is_saved_too(tmp_path: Path) -> None:
    def report(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise Interrupted("Stopped.", "Go on.")

    with pytest.raises(Interrupted):
        trained(settings(), tmp_path, report)
    saved = load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None and saved.step == STEPS


def test_every_step_has_the_schedules_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per step, over all epochs: not per epoch with a per-step length."""
    rates: list[float] = []
    monkeypatch.setattr(training, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    chosen = settings(optimizer="sgd", lr_rule="linear", learning_rate=0.3, epochs=4, warmup_epochs=1)
    _, rows = trained(chosen, tmp_path)
    peak, total = 0.3 * BATCH / 256, 4 * STEPS
    warm = [peak * step / STEPS for step in range(STEPS)]
    fall = [peak / 2 * (1 + math.cos(math.pi * step / (total - STEPS))) for step in range(total - STEPS)]
    assert rates == pytest.approx(warm + fall)
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates[STEPS - 1 :: STEPS])


def test_every_step_and_epoch_is_reported_and_written(tmp_path: Path) -> None:
    events: list[Event] = []
    _, rows = trained(settings(), tmp_path, events.append)
    steps = [(event.epoch, event.step) for event in events if isinstance(event, StepDone)]
    assert steps == list(itertools.product(range(1, EPOCHS + 1), range(1, STEPS + 1)))
    ends = [event for event in events if isinstance(event, EpochDone)]
    assert [dataclasses.asdict(end) for end in ends] == rows
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows
    means = np.reshape(losses_of(events), (EPOCHS, STEPS)).mean(1)
    assert [row["loss"] for row in rows] == pytest.approx(list(means))


def test_every_step_has_its_own_views_and_every_epoch_its_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    step = training.train_step

    def spy(model: Any, views: Any, optimizer: Any, pixels: Tensor, sizes: Tensor, generator: Any, chosen: Any) -> Any:
        state = generator.get_state()
        drawn.append(torch.rand(4, generator=generator))
        generator.set_state(state)
        return step(model, views, optimizer, pixels, sizes, generator, chosen)

    monkeypatch.setattr(training, "train_step", spy)
    trained(settings(), tmp_path)
    assert len(torch.unique(torch.stack(drawn), dim=0)) == EPOCHS * STEPS
    orders = [torch.cat([batch.rows for batch in Batches(decoded(), BATCH, 0).epoch(epoch)]) for epoch in range(2)]
    assert not torch.equal(*orders)


@pytest.mark.filterwarnings("ignore:.*overflow.*:RuntimeWarning")
def test_a_loss_that_is_not_finite_ends_training_and_is_not_saved(tmp_path: Path) -> None:
    chosen = settings(optimizer="sgd", lr_rule="none", learning_rate=1e30, warmup_epochs=0)
    events: list[Event] = []
    with pytest.raises(TrainingError, match=r"became (nan|inf) in step \d of 6") as caught:
        trained(chosen, tmp_path, events.append)
    assert "--learning-rate" in caught.value.remedy
    assert all(math.isfinite(loss) for loss in losses_of(events))
    assert load_checkpoint(tmp_path / "checkpoint") is None
