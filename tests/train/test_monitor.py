"""Looking on while a run trains: what is kept out, what is measured when, and that nothing is disturbed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import SettingsError, TrainingError
from simclr_cli.core.seeds import Purpose, create_torch_generator
from simclr_cli.encode.create import create_initial_encoder
from simclr_cli.engine.augment import TwoViews, create_view_recipe
from simclr_cli.engine.metrics import normalize_views, view_retrieval_accuracy
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.scan import take_census
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info
from simclr_cli.train import monitor as monitor_module
from simclr_cli.train import outcome as outcome_module
from simclr_cli.train import step as step_module
from simclr_cli.train import time_budget
from simclr_cli.train.loop import build_model
from simclr_cli.train.monitor import Monitor, draw_held_out

Train = Callable[..., Any]


def chosen_of(trained: Any) -> ResolvedSettings:
    return read_run_info(trained.run).settings


def decoded_of(trained: Any) -> DecodedImages:
    return decode_images(take_census(trained.images), 40, workers=1, progress=lambda *_: None)


@pytest.fixture
def monitor(trained: Any) -> Monitor:
    return Monitor(decoded_of(trained), np.empty(0, dtype=np.int64), chosen_of(trained))


def test_what_is_kept_out_follows_from_the_seed_and_is_never_trained_on(images: Path, train: Train) -> None:
    seen: set[int] = set()
    plain = monitor_module.Monitor.measure
    batches: list[Any] = []

    def spy(self: Monitor, model: Any, epoch: int) -> Any:
        batches.append(self)
        return plain(self, model, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor_module.Monitor, "measure", spy)
        order = step_module.Step.__call__
        patch.setattr(step_module.Step, "__call__", lambda self, b: (seen.update(b.rows.tolist()), order(self, b))[1])
        train(images, held_out=8, epochs=3)
    out = draw_held_out(48, 8, 0)
    assert len(out) == 8 and not seen & set(out.tolist()) and len(seen) > 16
    assert (draw_held_out(48, 8, 0) == out).all() and (draw_held_out(48, 8, 1) != out).any()
    assert batches[0].has_held_out and (batches[0].rows == out).all()


def test_keeping_out_more_than_a_batch_leaves_is_refused(images: Path, train: Train) -> None:
    with pytest.raises(SettingsError, match="--held-out 40 of 48 images leaves no batch of 16"):
        train(images, held_out=40)


def test_health_is_measured_in_eval_mode_and_leaves_the_model_as_it_was(trained: Any, monitor: Monitor) -> None:
    model = build_model(chosen_of(trained)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    first, knn = monitor.measure(model, 2)
    again, _ = monitor.measure(model, 2)
    assert first == again and first is not None and knn is not None and 0 <= knn <= 100
    assert model.training and torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (first.images, first.held_out) == (32, False)


def test_what_is_not_finite_is_not_measured_and_does_not_end_training(trained: Any, monitor: Monitor) -> None:
    model = build_model(chosen_of(trained))
    with torch.no_grad():
        next(model.head.parameters()).fill_(torch.inf)
    assert monitor.measure(model, 2)[0] is None


def test_health_is_that_of_two_views_made_by_hand(trained: Any, monitor: Monitor) -> None:
    chosen = chosen_of(trained)
    model = build_model(chosen).eval()
    sizes = torch.from_numpy(monitor.images.sizes[monitor.rows])
    pixels = torch.from_numpy(monitor.images.read(monitor.rows))
    views = TwoViews(chosen.image_size, create_view_recipe(chosen))
    x = views.make(pixels, sizes, views.draw(sizes, create_torch_generator(chosen.seed, Purpose.VALIDATION)))
    with torch.inference_mode():
        expected = view_retrieval_accuracy(*normalize_views(model.encoder(x)))
        found = monitor.measure_validation(model)
    assert found is not None and found.view_retrieval_accuracy == pytest.approx(expected)


def test_the_middle_of_the_stored_squares_is_nearly_the_evaluation_crop(trained: Any, monitor: Monitor) -> None:
    """kNN while training looks at what the probe will look at, up to one more resampling."""
    from simclr_cli.engine.augment import create_center_crop, make_view
    from simclr_cli.images.decode import decode_evaluation_crop

    sizes = torch.from_numpy(monitor.images.sizes[:6])
    crop = create_initial_encoder("tiny_resnet", "none", 40, 0).spec.crop_fraction
    views = make_view(torch.from_numpy(monitor.images.read(np.arange(6))), sizes, create_center_crop(sizes, crop), 40)
    census = monitor.images.census
    for view, image in zip(views, census.images, strict=False):
        pixels = decode_evaluation_crop(census.path(image), 40, crop).copy()
        expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        off, mirrored = ((view - other).abs().mean() for other in (expected, expected.flip(2)))
        assert off < 0.1 and off < 0.8 * mirrored


@dataclasses.dataclass
class Many:
    """Decoded images of which only the number counts, and all of which have labels."""

    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def census(self) -> SimpleNamespace:
        return SimpleNamespace(labels=("a",) * self.count)


@pytest.mark.parametrize(("count", "some"), [(30, 30), (100, 32), (3000, 120), (50_000, 256)])
def test_of_what_is_trained_on_a_twenty_fifth_is_looked_at(count: int, some: int, trained: Any) -> None:
    rows = Monitor(Many(count), draw_held_out(count, 0, 0), chosen_of(trained)).rows  # type: ignore[arg-type]
    assert len(rows) == some and (np.diff(rows) > 0).all()


@pytest.mark.parametrize("count", [100, 640, 3000, 50_000, 1_000_000])
def test_measuring_takes_under_two_percent_of_the_views_that_training_takes(
    count: int, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = min(256, count // 25) if count >= 640 else 0
    chosen = dataclasses.replace(chosen_of(trained), held_out=held, epochs=1000)
    monitor = Monitor(Many(count), draw_held_out(count, held, 0), chosen)  # type: ignore[arg-type]
    seldom = monitor.every, monitor.knn_every
    forward = 2 * len(monitor.rows) / seldom[0] + len(monitor.labeled_rows) / seldom[1]
    assert forward <= 0.02 * 6 * (count - held)
    assert seldom[0] == 1 or not held
    costs = 2 * len(monitor.rows), len(monitor.labeled_rows)
    shares = 6 * (count - held) * monitor_module.VALIDATION_SHARE, 6 * (count - held) * monitor_module.KNN_SHARE
    for every, cost, share in zip(seldom, costs, shares, strict=True):  # and no more seldom than that asks for
        assert cost / every <= share and (every == 1 or cost / (every - 1) > share)


@pytest.mark.parametrize("every", [1, 3])
def test_each_is_measured_in_every_so_many_epochs_and_in_the_last(trained: Any, monitor: Monitor, every: int) -> None:
    monitor.settings = dataclasses.replace(monitor.settings, epochs=7)
    monitor.every = monitor.knn_every = every
    model = build_model(monitor.settings)
    seen = [monitor.measure(model, epoch) for epoch in range(1, 8)]
    assert [epoch for epoch in range(1, 8) if seen[epoch - 1][0]] == sorted({1, *range(every, 8, every), 7})
    assert [epoch for epoch in range(1, 8) if seen[epoch - 1][1] is not None] == sorted({*range(every, 8, every), 7})


@pytest.mark.parametrize(("epoch_seconds", "cost"), [(0.3, 0.4), (0.3, 0.001), (20.0, 0.4), (0.01, 2.0)])
def test_on_a_gpu_measuring_takes_under_two_percent_of_the_time_and_at_most_fifty_epochs(
    epoch_seconds: float, cost: float, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, taken = [0.0], []
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def measure(*_: Any) -> float:
        clock[0] += cost
        taken.append(cost)
        return 1.0

    for name in ("measure_validation", "measure_knn_accuracy"):
        monkeypatch.setattr(Monitor, name, measure)
    chosen = dataclasses.replace(chosen_of(trained), device="cuda", held_out=256, epochs=1000)
    monitor = Monitor(Many(50_000), draw_held_out(50_000, 256, 0), chosen)  # type: ignore[arg-type]
    seen = []
    for epoch in range(1, 1001):
        clock[0] += epoch_seconds
        seen.append(monitor.measure(torch.nn.Identity(), epoch))  # type: ignore[arg-type]
    validated, classified = ([epoch for epoch, kinds in enumerate(seen, 1) if kinds[k] is not None] for k in (0, 1))
    assert validated[0] == 1 and validated[-1] == classified[-1] == 1000
    assert max(len(validated), len(classified)) <= 50 + 1
    assert sum(taken[:-2]) <= max(0.0125 * clock[0], 2 * cost)  # those of the last epoch are always taken
    if cost * 50 < 0.005 * 1000 * epoch_seconds:
        assert min(len(validated), len(classified)) >= 49  # and no more seldom than that asks for


def test_metrics_tell_health_in_the_first_and_last_epoch_and_knn_at_the_end(trained: Any) -> None:
    rows = [json.loads(line) for line in trained.run.metrics_file.read_text().splitlines()]
    assert rows[0]["validation"] and rows[-1]["validation"] and rows[-1]["knn_accuracy"] is not None
    outcome = json.loads(trained.run.outcome_file.read_text())
    assert (outcome["state"], outcome["words"]) == (trained.result.state, trained.result.outcome)
    ends = {gain["metric"]: gain["end"] for gain in outcome["gains"]}
    assert outcome["gains"][0]["images"] == 48  # all, where validation has fewer
    assert ends["kNN accuracy"] == pytest.approx(rows[-1]["knn_accuracy"])


def test_a_loss_that_is_not_finite_keeps_the_weights_before_it_and_names_the_batch(
    images: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, done = step_module.contrastive_loss, iter(range(1, 99))
    monkeypatch.setattr(
        step_module, "contrastive_loss", lambda *given: plain(*given) * (float("nan") if next(done) == 3 else 1)
    )
    with pytest.raises(
        TrainingError, match=r"became nan in step 3 of 6 .*failed-batch.json, and the last good"
    ) as caught:
        train(images, run="bad", epochs=2)
    assert caught.value.exit_code == 6
    run = RunFolder(tmp_path / "runs" / "bad")
    failure = json.loads(run.failure_file.read_text())
    assert failure["step"] == 3 and failure["loss"] == "nan" and len(failure["images"]) == 16
    names = {image.name for image in take_census(images).images}
    assert set(failure["images"]) <= names
    assert not run.is_finished

    # They are the weights after two steps, and can be begun from.
    monkeypatch.setattr(step_module, "contrastive_loss", plain)
    weights = str(run.last_good_folder / "model.safetensors")
    kept = create_initial_encoder("tiny_resnet", weights, 40, 0).backbone.state_dict()
    assert all(value.isfinite().all() for value in kept.values())
    assert int(kept["bn1.num_batches_tracked"]) >= 2
    fresh = create_initial_encoder("tiny_resnet", "none", 40, 0).backbone.state_dict()
    assert not torch.equal(kept["conv1.0.weight"], fresh["conv1.0.weight"])
    train(images, run="again", weights=str(run.last_good_folder / "model.safetensors"))


def test_a_collapse_ends_with_an_exit_code_of_its_own_and_the_run_can_be_looked_at(
    images: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simclr_cli.core.errors import CollapseError

    validation = Monitor.measure_validation
    monkeypatch.setattr(
        Monitor,
        "measure_validation",
        lambda self, m: dataclasses.replace(validation(self, m), negative_similarity=0.999),
    )
    monkeypatch.setattr(outcome_module, "MIN_STEPS_TO_JUDGE", 1)
    with pytest.raises(CollapseError, match="The encoder has collapsed") as caught:
        train(images, run="flat")
    assert caught.value.exit_code == 7 and caught.value.remedy.startswith("Train under another --run")
    assert caught.value.problem.endswith("dimensions.") and caught.value.remedy.endswith(".")
    run = RunFolder(tmp_path / "runs" / "flat")
    assert run.is_finished and json.loads(run.outcome_file.read_text())["state"] == "collapsed"


def test_the_start_of_a_resumed_run_is_that_of_the_whole_run(trained: Any, monitor: Monitor) -> None:
    """The gains compare with the random weights before the first step, however often the run was resumed."""
    outcome = json.loads(trained.run.outcome_file.read_text())
    scores = monitor.score(build_model(chosen_of(trained)))
    assert outcome["gains"][0]["start"] == pytest.approx(100 * float(scores.retrieval.mean()))
    assert scores.knn is not None and outcome["gains"][1]["start"] == pytest.approx(100 * float(scores.knn.mean()))
    classes = [name.split("/")[0] for name in (image.name for image in monitor.images.census.images)]
    assert scores.knn_chance == pytest.approx(100 / len(set(classes)), abs=5)


def test_rows_are_not_selected_by_masks_which_on_a_gpu_would_be_waited_for(monitor: Monitor) -> None:
    class Masks(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            indices = args[1] if str(func).startswith("aten.index.") else ()
            self.found += any(index is not None and index.dtype == torch.bool for index in indices)
            return func(*args, **(kwargs or {}))

    h = torch.rand(len(monitor.labeled_rows), 8)
    with Masks() as masks, pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "embed_crops", lambda model, rows: h)
        is_right, chance = monitor.classify(torch.nn.Identity())  # type: ignore[arg-type]
    assert masks.found == 0 and is_right.dtype == torch.bool and 0 < chance < 100
