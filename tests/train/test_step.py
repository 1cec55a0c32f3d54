"""A step in micro-batches, and shared out among processes, against the step in one pass."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import Interrupted, MachineError, is_out_of_memory
from simclr_cli.core.events import Event, Note, StepDone, silent
from simclr_cli.engine.optim import allocate_state, create_optimizer, set_learning_rate
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.census import Census
from simclr_cli.images.loader import BatchLoader
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.run import RunFolder
from simclr_cli.train import step as step_module
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.loop import Training, build_model
from simclr_cli.train.plan import Circumstances, resolve
from simclr_cli.train.profiling import measure_bytes_per_view
from simclr_cli.train.step import Step

IMAGES, SIDE, BATCH, CPU = 26, 24, 12, torch.device("cpu")


class Plain(nn.Module):
    """An encoder without batch norm, whose dropout depends on what was drawn before."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.GELU(), nn.Dropout(dropout),
            nn.Conv2d(8, 16, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(self.layers[0].weight.dtype))


def settings(**given: Any) -> ResolvedSettings:
    wanted = {"backbone": "tiny_resnet", "image_size": 16, "batch_size": BATCH, "epochs": 2, "run": "run",
              "projection_dimensions": 16, "compile": "off", "temperature": 0.2, **given}  # fmt: skip
    return resolve(ResolvedSettings(images=Path(), **wanted), Circumstances(IMAGES, SIDE, CPU))[0]


def decoded() -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 4, 4), dtype=np.uint8)
    pixels = pixels.repeat(SIDE // 4, 2).repeat(SIDE // 4, 3)
    sizes = np.full((IMAGES, 2), SIDE, dtype=np.int64)
    return DecodedImages(Census(Path(), (), (), 0), SIDE, sizes, np.arange(IMAGES), (pixels,), workers=1)


def plain_model(dropout: float = 0.0) -> SimCLR:
    """SimCLR with the head that it always has, batch norm and all, on an encoder without."""
    model = build_model(settings())
    torch.manual_seed(0)
    model.encoder.backbone = Plain(dropout).to(memory_format=torch.channels_last)
    model.head.layers[0] = nn.Linear(16, model.head.layers[0].out_features, bias=False)
    return model.train()


def one_step(model: SimCLR, most: int | None, **given: Any) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step, and the gradients that it made."""
    chosen = settings(**given)
    optimizer = create_optimizer(model, "sgd", weight_decay=0.0)  # its rate is 0: the weights stay
    step = Step(model, optimizer, chosen, silent, groups=torch.arange(IMAGES) % 9 if given else None)
    [loss] = [float(step(batch)) for batch in BatchLoader(decoded(), BATCH, 0, CPU).load(1, 2, most)]
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("most", [1, 2, 5, 6, 11])
@pytest.mark.parametrize("loss", ["nt-xent", "dcl", "supcon"])
def test_gradients_of_any_micro_batch_are_those_of_one_pass(
    most: int, loss: str, dtype: torch.dtype, bound: float
) -> None:
    """An encoder without batch norm; the head's batch norm included, for it sees the whole batch.

    In double precision far below 1e-6; in single precision up to the order of the sums.
    """
    model = plain_model().to(dtype)
    expected_loss, expected = one_step(copy.deepcopy(model), None, loss=loss)
    ours_loss, ours = one_step(model, most, loss=loss)
    assert ours_loss == pytest.approx(expected_loss, abs=min(bound, 1e-6))
    assert ours.keys() == expected.keys() and len(ours) > 6
    for name in ours:
        assert (ours[name] - expected[name]).abs().max() <= bound * max(1, expected[name].abs().max()), name


def test_the_plain_step_is_not_blind_to_its_batch() -> None:
    """The check above can fail: half of the batch has other gradients."""
    model = plain_model()
    _, whole = one_step(copy.deepcopy(model), None)
    chosen, optimizer = settings(batch_size=BATCH // 2), create_optimizer(model, "sgd", weight_decay=0.0)
    step = Step(model, optimizer, chosen, silent)
    for batch in BatchLoader(decoded(), BATCH // 2, 0, CPU).load(1, 2):
        step(batch)
    assert max((p.grad - whole[name]).abs().max() for name, p in model.named_parameters() if p.grad is not None) > 1e-4


@pytest.mark.parametrize("most", [1, 4])
def test_dropout_drops_the_same_in_both_passes(most: int) -> None:
    """Then the gradient is that of the loss as it was computed: checked by moving a weight a little."""
    model = plain_model(dropout=0.5).double()
    seen: list[Tensor] = []
    model.encoder.backbone.layers[3].register_forward_hook(lambda _, __, out: seen.append((out == 0).detach()))
    loss, gradients = one_step(model, most)
    parts = -(-BATCH // most)
    assert len(seen) == 2 * parts - 1
    assert all(torch.equal(a, b) for a, b in zip(seen[: parts - 1], seen[parts:], strict=True))
    assert not torch.equal(seen[0], seen[1])  # each micro-batch its own
    weight = model.encoder.backbone.layers[4].bias
    weight.data[3] += 1e-6
    higher = one_step(model, most)[0]
    weight.data[3] -= 2e-6
    lower = one_step(model, most)[0]
    assert gradients["encoder.backbone.layers.4.bias"][3] == pytest.approx((higher - lower) / 2e-6, rel=1e-5)
    assert one_step(plain_model(dropout=0.5).double(), most)[0] == loss


def test_no_micro_batch_but_the_last_keeps_its_graph_until_the_loss() -> None:
    """Or else memory would grow with the batch, which is what they are for."""
    model = plain_model()
    graphs: list[bool] = []
    model.encoder.backbone.register_forward_hook(lambda _, __, out: graphs.append(out.requires_grad))
    one_step(model, 4)
    assert graphs == [False, False, True, True, True]


def test_batch_norm_sees_micro_batches_and_counts_each_image_once() -> None:
    model = build_model(settings()).train()
    sizes: list[int] = []
    model.encoder.backbone.bn1.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    one_step(model, 4)
    assert sizes == [8] * 5  # three micro-batches of both views, two of them twice
    assert model.encoder.backbone.bn1.num_batches_tracked == 3
    assert model.head.layers[1].num_batches_tracked == 1  # the head sees all at once


class OutOfMemory:
    """Fails as torch does on a CPU, when more than so many views come at once."""

    def __init__(self, most: int) -> None:
        self.most, self.failed = most, 0

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...], __: Any = None) -> None:
        if len(inputs[0]) > 2 * self.most:
            self.failed += 1
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")


def test_a_step_without_enough_memory_leaves_the_model_as_it_was() -> None:
    model = build_model(settings()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.encoder.backbone.layer4.register_forward_pre_hook(OutOfMemory(3))  # the first norms have seen the batch
    with pytest.raises(RuntimeError) as caught:
        one_step(model, 4)
    assert is_out_of_memory(caught.value) and not is_out_of_memory(RuntimeError("shape"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def trained(folder: Path, most: int | None, limit: int | None = None) -> tuple[SimCLR, list[Any]]:
    chosen = settings(micro_batch=most, optimizer="adamw")
    model, events = build_model(chosen), []
    if limit is not None:
        model.encoder.backbone.layer4.register_forward_pre_hook(OutOfMemory(limit))
    batches = BatchLoader(decoded(), BATCH, 0, CPU)
    Training(model, TrainingJob(RunFolder(folder), chosen, batches), events.append).run()
    return model, events


def test_after_an_out_of_memory_error_training_goes_on_in_smaller_micro_batches(tmp_path: Path) -> None:
    """12 images, then 6, then 3 at a time: the run is the one that had 3 from the start, to the last bit."""
    expected, _ = trained(tmp_path / "three", 3)
    model, events = trained(tmp_path / "limited", None, limit=3)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    notes = [event.text for event in events if isinstance(event, Note)]
    assert len(notes) == 2 and "12 images" in notes[0]
    assert "repeated with 6" in notes[0] and "repeated with 3" in notes[1]
    found = load_checkpoint(tmp_path / "limited" / "checkpoint")
    assert found is not None and found.step == 4


class AllocationFails(TorchDispatchMode):
    """Fails at the n-th tensor that is allocated within: at every operator that does not write into its arguments."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.left = failing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func.namespace == "aten"
            and not func._schema.is_mutable
            and not any(value.alias_info for value in func._schema.returns)
        ):
            self.left -= 1
            if self.left == 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return func(*args, **kwargs or {})


def within(mode: AllocationFails, function: Any) -> Any:
    def call(*args: Any) -> None:
        with mode:
            function(*args)

    return call


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_step_repeated_after_any_failed_allocation_of_its_update_is_the_undisturbed_step(
    name: str, earlier: int
) -> None:
    """To the last bit: the weights, the running statistics and the optimizer's state, in the first step and a later."""

    start = plain_model()

    def train(failing: int) -> tuple[SimCLR, Any, bool]:
        model, has_failed = copy.deepcopy(start), False
        optimizer = create_optimizer(model, name, weight_decay=0.1)
        set_learning_rate(optimizer, 0.1)
        step, batches = Step(model, optimizer, settings(optimizer=name), silent), BatchLoader(decoded(), BATCH, 0, CPU)
        for batch in batches.load(0, earlier):
            step(batch)
        mode, update = AllocationFails(failing), optimizer.step
        optimizer.step = within(mode, update)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_module, "allocate_state", within(mode, allocate_state))
            for batch in batches.load(earlier, earlier + 1):
                try:
                    step(batch)
                except torch.OutOfMemoryError:
                    has_failed = True
        if has_failed:
            for batch in batches.load(earlier, earlier + 1):
                step(batch)
        return model, optimizer.state_dict()["state"], has_failed

    expected, expected_state, _ = train(-1)
    failing, has_failed = 0, True
    while has_failed:
        failing += 1
        model, state, has_failed = train(failing)
        for tensor, other in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.equal(tensor, other)
        assert state.keys() == expected_state.keys()
        for index, values in state.items():
            assert all(torch.equal(value, expected_state[index][key]) for key, value in values.items())
    assert failing > (10 if earlier == 0 else 2 if name == "lars" else 0)


def test_an_update_that_fails_half_way_ends_the_run_and_is_not_saved(tmp_path: Path) -> None:
    chosen = settings(optimizer="adamw", checkpoint_seconds=0)
    training = Training(
        build_model(chosen), TrainingJob(RunFolder(tmp_path), chosen, BatchLoader(decoded(), BATCH, 0, CPU)), silent
    )

    def fail() -> None:
        raise RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB)")

    training.optimizer.step = fail
    with pytest.raises(MachineError, match="some have changed already"):
        training.run()
    assert load_checkpoint(tmp_path / "checkpoint") is None


def test_a_failure_that_may_be_of_memory_is_tried_in_smaller_micro_batches_and_told_as_it_is(tmp_path: Path) -> None:
    chosen, words = settings(), "GET was unable to find an engine to execute this computation"
    model, events = build_model(chosen), []
    limits = iter([BATCH - 1, 0])

    def fail(most: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if len(inputs[0]) > 2 * most:
                raise RuntimeError(words)

        return hook

    job = TrainingJob(RunFolder(tmp_path), chosen, BatchLoader(decoded(), BATCH, 0, CPU))
    hook = model.encoder.backbone.layer4.register_forward_pre_hook(fail(next(limits)))
    Training(model, job, events.append).run()
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == [
        f"The GPU failed ({words}), perhaps because its memory is too small for 12 images at a time. "
        "Step 1 is repeated with 6."
    ]
    hook.remove()
    model = build_model(chosen)
    model.encoder.backbone.layer4.register_forward_pre_hook(fail(next(limits)))
    job = TrainingJob(RunFolder(tmp_path / "other"), chosen, BatchLoader(decoded(), BATCH, 0, CPU))
    with pytest.raises(MachineError, match="perhaps because its memory is too small to train on a single image"):
        Training(model, job, silent).run()


def test_a_stop_between_a_step_out_of_memory_and_the_next_try_is_saved(tmp_path: Path) -> None:
    chosen, memory = settings(optimizer="adamw"), OutOfMemory(BATCH)
    model = build_model(chosen)
    model.encoder.backbone.layer4.register_forward_pre_hook(memory)

    def report(event: Event) -> None:
        if isinstance(event, StepDone):
            memory.most = 3
        if isinstance(event, Note):
            raise Interrupted("Stopped.", "Go on.")

    with pytest.raises(Interrupted, match="Stopped after step 1 of 4; all of it is saved"):
        Training(model, TrainingJob(RunFolder(tmp_path), chosen, BatchLoader(decoded(), BATCH, 0, CPU)), report).run()
    found = load_checkpoint(tmp_path / "checkpoint")
    assert memory.failed == 1 and found is not None and found.step == 1


def test_memory_too_small_for_one_image_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="too small to train on a single image") as caught:
        trained(tmp_path, None, limit=0)
    assert caught.value.exit_code == 5


def test_other_errors_are_no_want_of_memory(tmp_path: Path) -> None:
    chosen = settings()
    model = build_model(chosen)

    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    model.encoder.backbone.layer1.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        Training(model, TrainingJob(RunFolder(tmp_path), chosen, BatchLoader(decoded(), BATCH, 0, CPU)), silent).run()


def test_bytes_a_view_are_those_of_the_activations() -> None:
    """By a closed form: a convolution keeps its input, ReLU its output."""
    chosen = dataclasses.replace(settings(), image_size=20, train_size=20)
    model = build_model(chosen)
    model.encoder.backbone = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    )
    before = copy.deepcopy(model.state_dict())
    floats = 20 * 20 * (3 + 5)  # what goes into the convolution, what comes out of ReLU
    indices = 5  # of the maxima, int64
    assert measure_bytes_per_view(model.encoder, chosen.precision) == 4 * floats + 8 * indices
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums in the same order, whatever the size of a micro-batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_events_are_reported_once(tmp_path: Path) -> None:
    _, events = trained(tmp_path, 5)
    steps: list[Event] = [event for event in events if type(event).__name__ == "StepDone"]
    assert len(steps) == 4
