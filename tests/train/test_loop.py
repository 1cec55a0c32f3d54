"""Training: a step against the update written out, the loop's rates and losses, resuming and streaming bit for bit."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.errors import Interrupted, Terminated, TrainingError
from simclr_cli.core.events import EpochDone, Event, Note, StepDone, StopController, silent
from simclr_cli.core.seeds import Purpose, create_torch_generator
from simclr_cli.engine.augment import TwoViews, create_view_recipe
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.optim import create_optimizer, set_learning_rate
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.loader import Batch, BatchLoader
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs, write_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.train import loop, retry, time_budget
from simclr_cli.train import profiling as trial
from simclr_cli.train import step as step_module
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.loop import Training, build_model
from simclr_cli.train.plan import Circumstances, resolve
from simclr_cli.train.profiling import measure_seconds_per_image
from simclr_cli.train.step import Step

IMAGES, SIDE, BATCH = 26, 24, 8  # 3 full batches an epoch; two images wait
STEPS, EPOCHS = IMAGES // BATCH, 2
CPU = torch.device("cpu")


def settings(**given: Any) -> ResolvedSettings:
    wanted = {"backbone": "tiny_resnet", "image_size": 16, "batch_size": BATCH, "epochs": EPOCHS, "run": "run",
              "projection_dimensions": 16, "compile": "off", **given}  # fmt: skip
    return resolve(ResolvedSettings(images=Path(), **wanted), Circumstances(IMAGES, SIDE, CPU))[0]


def decoded(images: int = IMAGES) -> DecodedImages:
    """Images of four coarse blocks of color each: easily told apart."""
    blocks = np.random.default_rng(0).integers(0, 256, (images, 3, 2, 2), dtype=np.uint8)
    pixels = blocks.repeat(SIDE // 2, 2).repeat(SIDE // 2, 3)
    sizes = np.full((images, 2), SIDE, dtype=np.int64)
    named = tuple(ImageFile(f"{i}.png", "PNG", SIDE, SIDE, 1, 0) for i in range(images))
    return DecodedImages(Census(Path(), named, (), 0), SIDE, sizes, np.arange(images), (pixels,), workers=1)


def batches_of(chosen: ResolvedSettings) -> BatchLoader:
    return BatchLoader(decoded(), chosen.batch_size, chosen.seed, CPU)


def trained(
    chosen: ResolvedSettings, folder: Path, report: Callable[[Event], None] = silent, batches: Any = None
) -> tuple[SimCLR, list[dict[str, Any]]]:
    """A model from the start, trained in a run folder (or resumed from what stands there)."""
    model = build_model(chosen)
    return model, training_of(model, chosen, folder, report, batches).run()


def training_of(
    model: SimCLR, chosen: ResolvedSettings, folder: Path, report: Callable[[Event], None] = silent,
    batches: Any = None, **more: Any,
) -> Training:  # fmt: skip
    return Training(model, TrainingJob(RunFolder(folder), chosen, batches or batches_of(chosen)), report, **more)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def losses_of(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


# --- One step ---


def a_batch(count: int = BATCH) -> tuple[Tensor, Tensor]:
    images = decoded(count)
    return torch.from_numpy(images.read(np.arange(count))), torch.from_numpy(images.sizes)


def as_batch(pixels: Tensor, sizes: Tensor, step: int) -> Batch:
    """Those images as the batch of a step, all at once."""
    return Batch(step, np.arange(len(sizes)), sizes, (slice(0, len(sizes)),), iter([pixels]))


def views_of(chosen: ResolvedSettings, pixels: Tensor, sizes: Tensor, step: int) -> Tensor:
    """The views of a step: a function of (seed, step)."""
    views = TwoViews(chosen.image_size, create_view_recipe(chosen))
    return views.make(pixels, sizes, views.draw(sizes, create_torch_generator(chosen.seed, Purpose.VIEWS, step)))


def test_both_views_go_through_in_one_pass() -> None:
    """Batch norm must see 2N images at once (RECIPE, mistakes: the views forwarded separately)."""
    chosen = settings()
    model = build_model(chosen).train()
    seen: list[int] = []
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    Step(model, create_optimizer(model, "sgd", weight_decay=0.0), chosen, silent)(as_batch(*a_batch(), 0))
    assert set(seen) == {2 * BATCH}
    assert len(seen) == sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())
    assert model.encoder.backbone.bn1.num_batches_tracked == 1


@pytest.mark.parametrize("step", [0, 4])
def test_a_step_is_the_gradient_of_nt_xent_times_the_rate(step: int) -> None:
    chosen = settings(temperature=0.2, seed=3)
    model = build_model(chosen).train()
    twin = copy.deepcopy(model)
    pixels, sizes = a_batch()
    optimizer = create_optimizer(model, "sgd", weight_decay=0.0)
    set_learning_rate(optimizer, 0.5)
    # Gradients that are left over must not count.
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    loss = Step(model, optimizer, chosen, silent)(as_batch(pixels, sizes, step))

    expected = contrastive_loss(twin.head(twin.encoder(views_of(chosen, pixels, sizes, step))), 0.2)
    named = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(expected, list(named.values()))
    assert loss.shape == () and loss.item() == expected.item() and not loss.requires_grad
    after = dict(model.named_parameters())
    for (name, before), gradient in zip(named.items(), gradients, strict=True):
        torch.testing.assert_close(after[name], before - 0.5 * gradient, rtol=1e-4, atol=1e-5)


def test_pixels_are_not_changed_by_a_step() -> None:
    chosen = settings()
    model = build_model(chosen)
    pixels, sizes = a_batch()
    kept = pixels.clone()
    Step(model, create_optimizer(model, "sgd", weight_decay=0.0), chosen, silent)(as_batch(pixels, sizes, 0))
    assert torch.equal(pixels, kept)


def test_what_is_random_in_a_step_follows_from_seed_and_step_alone() -> None:
    """Views and dropout: of the same step the same, of another step or seed others, whatever was drawn before."""
    pixels, sizes = a_batch()

    def dropped_and_loss(seed: int, step: int, before: int) -> tuple[Tensor, float]:
        chosen = settings(seed=seed)
        model = build_model(settings()).train()  # the same one for every seed
        dropout, dropped = nn.Dropout(0.5), []
        model.head.layers.register_forward_pre_hook(lambda _, inputs: (dropout(inputs[0]),))
        dropout.register_forward_hook(lambda _, __, out: dropped.append(out == 0))
        one = Step(model, create_optimizer(model, "sgd", weight_decay=0.0), chosen, silent)
        torch.manual_seed(before)
        loss = one(as_batch(pixels, sizes, step))
        return dropped[0], loss.item()

    first, again = dropped_and_loss(1, 5, before=0), dropped_and_loss(1, 5, before=9)
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    for other in (dropped_and_loss(1, 6, before=0), dropped_and_loss(2, 5, before=0)):
        assert not torch.equal(first[0], other[0]) and first[1] != other[1]


def test_in_bfloat16_loss_and_weights_stay_float32() -> None:
    chosen = settings(precision="bfloat16")
    model = build_model(chosen).train()
    dtypes: list[torch.dtype] = []
    model.head.layers[0].register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    optimizer = create_optimizer(model, "adamw", weight_decay=0.0)
    set_learning_rate(optimizer, 1e-3)
    loss = Step(model, optimizer, chosen, silent)(as_batch(*a_batch(), 0))
    assert dtypes == [torch.bfloat16]
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in model.parameters())


def test_the_loss_falls_on_a_few_images() -> None:
    chosen = settings(batch_size=16, temperature=0.2, crop_min=0.5, color_strength=0.2, grayscale=0.0)
    model = build_model(chosen).train()
    pixels, sizes = a_batch(16)
    optimizer = create_optimizer(model, "adamw", weight_decay=0.01)
    set_learning_rate(optimizer, 0.002)
    one = Step(model, optimizer, chosen, silent)
    losses = [float(one(as_batch(pixels, sizes, step))) for step in range(30)]
    first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    assert last < math.log(31) - 0.5  # of what a collapsed encoder has
    assert last < first - 0.5, losses


@pytest.mark.parametrize(("images", "micro_batch"), [(1, None), (10**9, None), (10**9, 1)])
def test_the_estimate_of_an_images_time_is_positive(images: int, micro_batch: int | None) -> None:
    chosen = settings(micro_batch=micro_batch)
    assert 0 < measure_seconds_per_image(build_model(chosen), chosen, SIDE, images) < 60


def test_the_estimate_leaves_the_model_as_it_was() -> None:
    """It is trained in earnest afterwards."""
    model = build_model(settings())
    twin = copy.deepcopy(model)
    parameters = list(model.parameters())
    measure_seconds_per_image(model, settings(), SIDE, 10**6)
    assert same(model, twin) and all(parameter.grad is None for parameter in parameters)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


class Stopwatch:
    """Steps that take a given time an image, and a little always; which were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.asked, self.compiled = 0.0, [], []
        watch = self

        class Timed:
            device = CPU

            def __init__(self, _: Any, __: Any, chosen: ResolvedSettings, ___: Any) -> None:
                watch.compiled.append(chosen.compile)

            def __call__(self, batch: Batch) -> float:
                sizes = batch.sizes
                assert batch.micro_batches == (slice(0, len(sizes)),)
                pixels = next(batch.pixels)
                assert pixels.shape == (len(sizes), 3, SIDE, SIDE)
                first = len(sizes) not in watch.asked
                watch.asked.append(len(sizes))
                watch.now += seconds * len(sizes) + (5 if first else 0)  # the first of a size is slow
                return 0.0

        monkeypatch.setattr(trial, "Step", Timed)
        monkeypatch.setattr(trial.time, "perf_counter", lambda: self.now)


def test_the_estimate_is_the_quicker_of_two_steps_of_the_largest_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(monkeypatch, seconds=0.001)
    chosen = settings(batch_size=20, compile="on")
    assert measure_seconds_per_image(build_model(chosen), chosen, SIDE, 10**7) == pytest.approx(0.001)
    assert watch.asked == [8, 8, 20, 20]
    assert watch.compiled == ["off"]  # compiling takes longer than the trial


def test_a_short_run_or_a_slow_step_is_estimated_from_a_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(batch_size=20)
    short = Stopwatch(monkeypatch, seconds=0.001)
    assert measure_seconds_per_image(build_model(chosen), chosen, SIDE, 1000) == pytest.approx(0.001)
    slow = Stopwatch(monkeypatch, seconds=1.0)
    assert measure_seconds_per_image(build_model(chosen), chosen, SIDE, 10**7) == pytest.approx(1.0)
    assert short.asked == slow.asked == [8, 8]


def test_a_trial_that_runs_out_of_memory_is_done_with_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(monkeypatch, seconds=0.001)
    step = trial.Step.__call__

    def limited(self: Any, batch: Batch) -> float:
        if len(batch.sizes) > watch.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch)

    monkeypatch.setattr(trial.Step, "__call__", limited)
    chosen = settings(batch_size=20)
    for watch.most, asked in ((19, [8, 8, 10, 10]), (3, [2, 2])):
        watch.asked.clear()
        assert measure_seconds_per_image(build_model(chosen), chosen, SIDE, 10**7) == pytest.approx(0.001)
        assert watch.asked == asked
    watch.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        measure_seconds_per_image(build_model(chosen), chosen, SIDE, 10**7)


# --- torch.compile ---


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """torch.compile that generates no code, and what it was asked for."""
    asked: list[Any] = []
    plain = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda model, **given: asked.append(model) or plain(model, **given))
    yield asked
    torch._dynamo.reset()


def test_a_compiled_step_is_a_step(compiling: list[Any]) -> None:
    losses: dict[str, list[float]] = {}
    models: dict[str, SimCLR] = {}
    for switch in ("off", "on"):
        chosen = settings(compile=switch)
        models[switch] = build_model(chosen).train()
        optimizer = create_optimizer(models[switch], "lars", weight_decay=1e-6)
        set_learning_rate(optimizer, 1.0)
        notes: list[Event] = []
        one = Step(models[switch], optimizer, chosen, notes.append)
        losses[switch] = [float(one(as_batch(*a_batch(), step))) for step in range(2)]
        assert notes == [] and compiling == ([models["on"].encoder] if switch == "on" else [])
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)
    for one, other in zip(models["on"].parameters(), models["off"].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert models["on"].encoder.backbone.bn1.num_batches_tracked == 2


@pytest.mark.parametrize("micro_batch", [BATCH, 7, 5])
def test_all_graphs_of_a_step_are_compiled_before_the_first_one(
    micro_batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each size of a micro-batch, however often it is encoded."""
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(sum(node.op == "placeholder" for node in graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    chosen = settings(compile="on", micro_batch=micro_batch)
    training = training_of(build_model(chosen), chosen, tmp_path)
    sizes = {part.stop - part.start for part in training.batches.micro_batches(micro_batch)}
    assert len(graphs) == len(sizes)
    training.run()
    assert len(graphs) == len(sizes)
    torch._dynamo.reset()


def test_without_a_compiler_training_is_as_without_compiling_but_for_one_warning(
    undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here\nand no more to say")

    monkeypatch.setattr(torch, "compile", no_compiler)
    events: list[Event] = []
    model, _ = trained(settings(optimizer="adamw", compile="on"), tmp_path, events.append)
    expected, _, losses = undisturbed("adamw")
    assert same(model, expected) and losses_of(events) == losses
    (note,) = (event for event in events if isinstance(event, Note))
    assert note.warning and "torch.compile" in note.text and "no compiler here" in note.text
    assert "\n" not in note.text
    assert events[0] is note  # before the first step, not at the end of an hour


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
RESUMED = [
    *itertools.product(["adamw", "lars"], STOPS),
    ("sgd", 4),
]


@pytest.mark.parametrize(("optimizer", "stop"), RESUMED)
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


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_a_run_may_be_stopped_at_every_step(optimizer: str, undisturbed, tmp_path: Path) -> None:
    for _ in range(EPOCHS * STEPS):
        with pytest.raises(Interrupted):
            trained(settings(optimizer=optimizer), tmp_path, stop_after(1))
    model, rows = trained(settings(optimizer=optimizer), tmp_path)
    assert same(model, undisturbed(optimizer)[0])
    assert [row["loss"] for row in rows] == [row["loss"] for row in undisturbed(optimizer)[1]]


class PowerCut(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(optimizer: str, undisturbed, tmp_path: Path) -> None:
    """Nothing is saved at the moment itself: a power cut."""
    often = settings(optimizer=optimizer, checkpoint_seconds=0.0)

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and event.epoch == 2 and event.step == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        trained(often, tmp_path, report)
    saved = load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None and saved.step == STEPS + 1  # within the epoch, too
    assert same(trained(settings(optimizer=optimizer), tmp_path)[0], undisturbed(optimizer)[0])


class OtherThread(threading.Thread):
    """Saves a training, as a signal's thread does."""

    def __init__(self, training: Training) -> None:
        super().__init__(target=lambda: self.said.append(training.save_and_interrupt(Terminated)))
        self.said: list[Interrupted] = []
        self.start()

    def saved(self) -> int:
        """The step that it says it has saved."""
        self.join(timeout=60)
        return int(re.search(r"after step (\d+) of", self.said[0].problem).group(1))  # type: ignore[union-attr]


@pytest.mark.parametrize(("optimizer", "micro_batch"), [("adamw", 3), ("lars", None), ("sgd", None)])
def test_a_step_under_way_is_not_in_what_another_thread_saves(
    optimizer: str, micro_batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved when its forward passes have changed the running statistics; the end is the same to the last bit."""
    chosen = settings(optimizer=optimizer, micro_batch=micro_batch)
    expected = trained(chosen, tmp_path / "calm")[0]
    training = training_of(build_model(chosen), chosen, tmp_path / "run")
    plain = Step._contrast

    def disturbed(self: Step, h: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.step == STEPS + 1:
            assert OtherThread(training).saved() == STEPS + 1
            raise PowerCut
        return plain(self, h, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "_contrast", disturbed)
        with pytest.raises(PowerCut):
            training.run()
    saved = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved is not None and saved.step == STEPS + 1 and len(saved.losses) == 1
    assert same(trained(chosen, tmp_path / "run")[0], expected)


def test_another_thread_that_saves_waits_for_an_update(
    undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    others: list[OtherThread] = []

    def report(event: Event) -> None:
        events.append(event)
        if others:
            assert others[0].saved() == 2
            raise PowerCut

    def slow(*given: Any, **named: Any) -> torch.optim.Optimizer:
        optimizer = create_optimizer(*given, **named)
        plain = optimizer.step

        def update() -> None:
            if losses_of(events):
                others.append(OtherThread(training))
                time.sleep(0.05)
                assert others[0].is_alive()
            plain()

        optimizer.step = update  # type: ignore[method-assign, assignment]
        return optimizer

    with monkeypatch.context() as patch:
        patch.setattr(loop, "create_optimizer", slow)
        chosen = settings(optimizer="adamw")
        training = training_of(build_model(chosen), chosen, tmp_path, report)
        with pytest.raises(PowerCut):
            training.run()
    assert same(trained(settings(optimizer="adamw"), tmp_path)[0], undisturbed("adamw")[0])


def test_an_evaluation_is_made_again_if_another_thread_saves_meanwhile(undisturbed, tmp_path: Path) -> None:
    chosen = settings(optimizer="adamw")

    class Saving:
        def measure(self, *_: object) -> tuple[None, None]:
            assert OtherThread(training).saved() == STEPS
            raise PowerCut

    training = training_of(build_model(chosen), chosen, tmp_path, monitor=Saving())
    with pytest.raises(PowerCut):
        training.run()
    looked: list[int] = []

    class Looking:
        def measure(self, _: SimCLR, epoch: int) -> tuple[None, float]:
            looked.append(epoch)
            return None, float(epoch)

    model = build_model(chosen)
    rows = training_of(model, chosen, tmp_path, monitor=Looking()).run()
    expected, expected_rows, _ = undisturbed("adamw")
    assert looked == [1, 2] and [row["knn_accuracy"] for row in rows] == [1, 2]
    kept = ("epoch", "loss", "learning_rate")
    assert [[row[key] for key in kept] for row in rows] == [[row[key] for key in kept] for row in expected_rows]
    assert same(model, expected)


def test_a_stop_before_the_first_step_names_the_way_on(tmp_path: Path) -> None:
    stop = StopController()
    stop.request = Interrupted("Stopped.", "Run it again.")
    with pytest.raises(Interrupted, match=r"after step 0 of \d+.*--resume --run run"):
        training_of(build_model(settings()), settings(), tmp_path / "run", stop=stop).run()


def test_a_stop_that_report_does_not_raise_is_answered_too(tmp_path: Path) -> None:
    """From Python another thread requests it, and `report` is any function."""
    stop = StopController()

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            stop.request = Terminated("Stopped.", "Go on.")

    with pytest.raises(Terminated, match="Stopped after step 2 of 6"):
        training_of(build_model(settings()), settings(), tmp_path, report, stop=stop).run()
    saved = load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None and saved.step == 2


def test_a_finished_training_is_not_done_again(undisturbed, tmp_path: Path) -> None:
    chosen = settings(optimizer="adamw")
    _, rows = trained(chosen, tmp_path)
    events: list[Event] = []
    model, again = trained(chosen, tmp_path, events.append)
    assert same(model, undisturbed("adamw")[0]) and again == rows and not losses_of(events)


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
    monkeypatch.setattr(retry, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    chosen = settings(optimizer="sgd", lr_rule="linear", learning_rate=0.3, epochs=4, warmup_epochs=1)
    _, rows = trained(chosen, tmp_path)
    peak, total = 0.3 * BATCH / 256, 4 * STEPS
    warm = [peak * step / STEPS for step in range(STEPS)]
    fall = [peak / 2 * (1 + math.cos(math.pi * step / (total - STEPS))) for step in range(total - STEPS)]
    assert rates == pytest.approx(warm + fall)
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates[STEPS - 1 :: STEPS])


def test_with_more_epochs_every_step_from_there_on_has_the_rate_of_the_longer_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(retry, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    chosen = settings(optimizer="sgd", epochs=2, warmup_epochs=1)
    longer = dataclasses.replace(chosen, epochs=5)
    trained(chosen, tmp_path / "two")
    short = rates.copy()
    trained(longer, tmp_path / "five")
    at_once = rates[len(short) :]
    rates.clear()
    with pytest.raises(Interrupted):
        trained(chosen, tmp_path / "more", stop_after(STEPS + 1))
    _, rows = trained(longer, tmp_path / "more")
    assert rates == short[: STEPS + 1] + at_once[STEPS + 1 :] and len(rows) == 5


def test_every_step_and_epoch_is_reported_and_written(tmp_path: Path) -> None:
    events: list[Event] = []
    _, rows = trained(settings(), tmp_path, events.append)
    steps = [(event.epoch, event.step) for event in events if isinstance(event, StepDone)]
    assert steps == list(itertools.product(range(1, EPOCHS + 1), range(1, STEPS + 1)))
    ends = [event for event in events if isinstance(event, EpochDone)]
    assert [dataclasses.asdict(end) for end in ends] == rows
    assert read_epochs(RunFolder(tmp_path)) == rows
    means = np.reshape(losses_of(events), (EPOCHS, STEPS)).mean(1)
    assert [row["loss"] for row in rows] == pytest.approx(list(means))


@pytest.mark.parametrize("stops", [False, True])
def test_rows_that_are_slow_to_write_are_written_before_a_checkpoint_and_at_the_end(
    stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, written = [0.0], []

    def write_slowly(run: RunFolder, rows: list[dict[str, Any]]) -> None:
        clock[0] += 10.0
        written.append(len(rows))
        write_epochs(run, rows)

    monkeypatch.setattr(time_budget, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loop, "write_epochs", write_slowly)
    chosen = settings(epochs=6)
    if stops:
        with pytest.raises(Interrupted):
            trained(chosen, tmp_path, stop_after(4 * STEPS + 1))
    else:
        trained(chosen, tmp_path)
    assert written == ([1, 4] if stops else [1, 6])
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint is not None and read_epochs(RunFolder(tmp_path)) == checkpoint.metrics


def test_every_step_has_its_own_views_and_every_epoch_its_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    plain = TwoViews.draw

    def spy(self: TwoViews, sizes: Tensor, generator: torch.Generator) -> Any:
        state = generator.get_state()
        drawn.append(torch.rand(4, generator=generator))
        generator.set_state(state)
        return plain(self, sizes, generator)

    monkeypatch.setattr(TwoViews, "draw", spy)
    trained(settings(), tmp_path)
    assert len(torch.unique(torch.stack(drawn), dim=0)) == EPOCHS * STEPS
    with contextlib.closing(batches_of(settings()).load(0, 2 * STEPS)) as coming:
        rows = [(batch.rows, next(batch.pixels))[0] for batch in coming]
    assert not np.array_equal(np.concatenate(rows[:STEPS]), np.concatenate(rows[STEPS:]))


@pytest.mark.filterwarnings("ignore:.*overflow.*:RuntimeWarning")
def test_a_loss_that_is_not_finite_ends_training_and_is_not_saved(tmp_path: Path) -> None:
    chosen = settings(optimizer="sgd", lr_rule="none", learning_rate=1e30, warmup_epochs=0)
    events: list[Event] = []
    with pytest.raises(TrainingError, match=r"became (nan|inf) in step \d of 6") as caught:
        trained(chosen, tmp_path, events.append)
    assert "--learning-rate" in caught.value.remedy
    assert all(math.isfinite(loss) for loss in losses_of(events))
    assert load_checkpoint(tmp_path / "checkpoint") is None


@pytest.mark.filterwarnings("ignore:.*overflow.*:RuntimeWarning")
def test_what_is_not_finite_is_not_saved_by_another_thread_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_choose_interval", lambda *_: 10**9)
    chosen, saved = settings(optimizer="sgd", lr_rule="none", learning_rate=1e30, warmup_epochs=0), []
    batches = OnAGpu(chosen)
    plain = batches.load

    def run(*given: Any) -> Iterator[Batch]:
        for batch in plain(*given):
            if batch.step == STEPS - 1:  # the last of the epoch: the losses of those before it are not read yet
                saved.append(training.save())
            yield batch

    batches.load = run
    training = training_of(build_model(chosen), chosen, tmp_path, batches=batches)
    with pytest.raises(TrainingError, match=r"became (nan|inf)"):
        training.run()
    assert saved == [0] and load_checkpoint(tmp_path / "checkpoint") is None


class WithAnother(ProcessGroup):
    """This process, which does all the work, and another one that says what it is told to."""

    is_single = False

    def __init__(self, other: Callable[[Any], Any]) -> None:
        super().__init__()
        self.other = other

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value, self.other(value)]

    def all_gather(self, own: Tensor, total: int) -> Tensor:
        return own

    def all_reduce(self, tensors: Any) -> None:
        """The other one has nothing to add."""


@pytest.mark.parametrize("kind", [Interrupted, Terminated])
def test_all_stop_where_another_process_is_told_to(kind: type[Interrupted], tmp_path: Path) -> None:
    chosen, seen = settings(), []

    def other(said: Any) -> Any:
        if not isinstance(said, list):  # both begin at the same step
            return said
        seen.append(said)
        return [kind.exit_code if len(seen) == 2 else 0, 10**9]  # how seldom it looks is the first one's business

    batches, model = BatchLoader(decoded(), BATCH, 0, CPU, process_group=WithAnother(other)), build_model(chosen)
    with pytest.raises(Interrupted, match="Stopped after step 2 of 6") as caught:
        training_of(model, chosen, tmp_path, batches=batches).run()
    assert type(caught.value) is kind
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())  # on a CPU it works alone only
    _, rows = trained(chosen, tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2]


def test_its_own_reason_to_stop_is_told_before_anothers(tmp_path: Path) -> None:
    batches = BatchLoader(decoded(), BATCH, 0, CPU, process_group=WithAnother(lambda said: said))
    with pytest.raises(Terminated, match="Stopped after step 1 of 6"):
        trained(settings(), tmp_path, stop_after(1, Terminated), batches)


# --- Losses that are read from the device now and then ---


class OnAGpu:
    """Batches that say they come from a GPU, so that losses are read only to be reported."""

    device = torch.device("cuda")

    def __init__(self, chosen: ResolvedSettings) -> None:
        batches = batches_of(chosen)
        self.steps_per_epoch, self.load = batches.steps_per_epoch, batches.load
        self.micro_batches = batches.micro_batches
        self.process_group, self.decoded, self.batch_rows = batches.process_group, batches.decoded, batches.batch_rows


# From one look at the losses to the next -> at which steps of the two epochs of three it is told how it goes.
LOOKS: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "always": (1, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
    "every other step": (2, [(1, 1), (1, 3), (2, 2), (2, 3)]),
    "never but at the end": (10**9, [(1, 1), (1, 3), (2, 3)]),
}


@pytest.mark.parametrize("look", LOOKS)
def test_how_often_losses_are_read_changes_no_weight_and_no_loss(
    look: str, undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, told = LOOKS[look]
    monkeypatch.setattr(loop, "_choose_interval", lambda *_: pause)
    events: list[Event] = []
    chosen = settings(optimizer="adamw")
    model, rows = trained(chosen, tmp_path, events.append, OnAGpu(chosen))
    expected, expected_rows, losses = undisturbed("adamw")
    assert same(model, expected)
    assert [(row["loss"], row["learning_rate"]) for row in rows] == [
        (row["loss"], row["learning_rate"]) for row in expected_rows
    ]
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(event.epoch, event.step) for event in steps] == told
    assert [event.loss for event in steps] == [losses[(event.epoch - 1) * STEPS + event.step - 1] for event in steps]
    assert all(event.images_per_second > 0 for event in steps)


@pytest.mark.parametrize("look", LOOKS)
def test_a_stop_is_heard_when_losses_are_read_and_nothing_is_lost(
    look: str, undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, stops = settings(optimizer="lars"), 0
    while True:
        monkeypatch.setattr(loop, "_choose_interval", lambda *_: LOOKS[look][0])
        try:
            model, rows = trained(chosen, tmp_path, stop_after(1), OnAGpu(chosen))
            break
        except Interrupted as stop:
            saved = load_checkpoint(tmp_path / "checkpoint")
            assert saved is not None and f"after step {saved.step} of {EPOCHS * STEPS}" in stop.problem
            assert len(saved.metrics) * STEPS + len(saved.losses) == saved.step > stops
            stops += 1
    assert stops >= EPOCHS
    expected, expected_rows, _ = undisturbed("lars")
    assert same(model, expected)
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected_rows]


@pytest.mark.filterwarnings("ignore:.*overflow.*:RuntimeWarning")
@pytest.mark.parametrize("pause", [1, 10**9])
def test_however_seldom_losses_are_read_the_step_that_went_wrong_is_named(
    pause: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_choose_interval", lambda *_: pause)
    plain, done = step_module.contrastive_loss, itertools.count(1)
    monkeypatch.setattr(
        step_module, "contrastive_loss", lambda *given: plain(*given) * (math.nan if next(done) == 5 else 1)
    )
    chosen = settings(optimizer="adamw")
    events: list[Event] = []
    with pytest.raises(TrainingError, match=r"became nan in step 5 of 6 \(epoch 2\)"):
        trained(chosen, tmp_path, events.append, OnAGpu(chosen))
    assert all(math.isfinite(loss) for loss in losses_of(events))
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [1]
    assert load_checkpoint(tmp_path / "checkpoint") is None
