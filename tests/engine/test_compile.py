"""torch.compile that does not change the model, available or not; and batch norms folded into convolutions."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_cli.engine.compile import compile_model, fold_batch_norm
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder, create_scratch_spec
from simclr_cli.engine.simclr import ProjectionHead, SimCLR

SIDE = 16
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]

# --- torch.compile ---


def small_model() -> SimCLR:
    encoder = create_encoder(create_scratch_spec("test_resnet", SIDE))
    return SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=8)).train()


def images(count: int = 4, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a torch.compile that traces but generates no code: fast, without a compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


def no_compiler(_: Any, **__: Any) -> Any:
    raise RuntimeError("Cannot find a working triton installation.\nMore at https://example.org")


def fails_when_called(_: Any, **__: Any) -> Any:
    def forward(x: Tensor) -> Any:
        raise torch._dynamo.exc.InternalTorchDynamoError("Unsupported:\n  something")

    return forward


def fails_in_the_backward(model: nn.Module, **__: Any) -> Any:
    """Fail after the forward has changed the statistics of the norms and some gradients exist."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return z.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise NotImplementedError

    def forward(x: Tensor) -> Tensor:
        h = model(x)
        return torch.cat([h[:1], Broken.apply(h[1:])])

    return forward


FAILURES = {
    no_compiler: "Cannot find a working triton installation",
    fails_when_called: "Unsupported:",
    fails_in_the_backward: "NotImplementedError",
}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers, also those that are not saved."""
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def assert_untouched(model: SimCLR, before: dict[str, Tensor], parameters: list[nn.Parameter]) -> None:
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.encoder.backbone.bn1.num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    # The very same tensors, for the optimizer holds them.
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(module.training for module in model.modules())


def test_a_compiled_model_computes_the_same_and_stays_unchanged(eager: None) -> None:
    model = small_model()
    before, parameters, folded = state_of(model), list(model.parameters()), copy.deepcopy(model)
    forward, reason = compile_model(model.encoder, [images(seed=1)], contextlib.nullcontext())
    assert reason == "" and forward is not model.encoder
    assert_untouched(model, before, parameters)

    x = images()
    torch.testing.assert_close(forward(x), folded.encoder(x))
    forward(x).square().sum().backward()
    folded.encoder(x).square().sum().backward()
    for (name, one), other in zip(model.named_parameters(), folded.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    assert model.encoder.backbone.bn1.num_batches_tracked == folded.encoder.backbone.bn1.num_batches_tracked == 2


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_a_failed_compilation_returns_the_unchanged_model_and_the_reason(
    failure: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    before, parameters = state_of(model), list(model.parameters())
    monkeypatch.setattr(torch, "compile", failure)
    forward, reason = compile_model(model.encoder, [images()], contextlib.nullcontext())
    assert forward is model.encoder and reason == FAILURES[failure]
    assert_untouched(model, before, parameters)


def test_a_long_reason_is_cut_and_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any, **__: Any) -> Any:
        raise ValueError("\n  " + "x" * 500 + "\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    assert compile_model(small_model().encoder, [images()], contextlib.nullcontext())[1] == "x" * 160


def test_an_interrupted_compilation_leaves_the_model_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(model: nn.Module, **__: Any) -> Any:
        def forward(x: Tensor) -> Any:
            model(x)
            raise KeyboardInterrupt

        return forward

    model = small_model()
    before, parameters = state_of(model), list(model.parameters())
    monkeypatch.setattr(torch, "compile", stopped)
    with pytest.raises(KeyboardInterrupt):
        compile_model(model.encoder, [images()], contextlib.nullcontext())
    assert_untouched(model, before, parameters)


def test_the_trial_is_made_within_autocast_with_images_of_the_right_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def watched(model: nn.Module, **__: Any) -> Any:
        def forward(x: Tensor) -> Any:
            seen.append((tuple(x.shape), torch.is_autocast_enabled("cpu"), model.training))
            return model(x)

        return forward

    monkeypatch.setattr(torch, "compile", watched)
    _, reason = compile_model(small_model().encoder, [images(6)], torch.autocast("cpu", torch.bfloat16))
    assert reason == "" and seen == [((6, 3, SIDE, SIDE), True, True)]
    assert not torch.is_autocast_enabled("cpu")


# --- Folded norms ---


def create_trained_encoder(encoder: Encoder, seed: int = 0) -> Encoder:
    """Create an encoder with statistics, gains and shifts as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in (module for module in encoder.modules() if isinstance(module, _BatchNorm)):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.3, 2, generator=generator)
            norm.weight.normal_(0, 1, generator=generator)  # of either sign
            norm.bias.normal_(0, 0.3, generator=generator)
    return encoder.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, _BatchNorm) for part in module.modules())


FAMILIES = [
    ("test_resnet", 32), ("test_resnet", 48), ("resnet10t", 32), ("resnet10t", 40), ("resnet18", 32), ("resnet18", 40),
    ("test_vit", 32), ("mobilenetv3_small_050", 32), ("test_efficientnet", 32), ("test_byobnet", 32),
    ("test_convnext", 32),
]  # fmt: skip


@pytest.mark.parametrize(("name", "side"), FAMILIES)
def test_folding_keeps_h_and_does_not_change_the_encoder(name: str, side: int) -> None:
    """Families with and without norms to fold, with timm's stem and the small one; any number of images."""
    encoder = create_trained_encoder(create_encoder(create_scratch_spec(name, side)))
    before, modules = state_of(encoder), [type(module) for module in encoder.modules()]
    folded = fold_batch_norm(encoder)
    for count in (1, 2, 5):
        x = images(count, side, seed=count)
        with torch.inference_mode():
            expected, found = encoder(x), folded(x)
        assert expected.abs().max() > 0 and found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (folded.spec, folded.width, folded.training) == (encoder.spec, encoder.width, False)

    after = state_of(encoder)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert [type(module) for module in encoder.modules()] == modules
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "resnet18"])
def test_no_norm_is_left_in_a_folded_resnet(name: str) -> None:
    encoder = create_trained_encoder(create_encoder(create_scratch_spec(name, 32)))
    folded = fold_batch_norm(encoder)
    assert folded is not encoder and norms(folded) == 0 < norms(encoder)
    convolutions = [module for module in folded.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions and all(conv.bias is not None for conv in convolutions)


def test_the_images_are_still_normalized() -> None:
    spec = EncoderSpec("test_resnet", 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    encoder = create_trained_encoder(create_encoder(spec))
    folded = fold_batch_norm(encoder)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert folded is not encoder
    expected = encoder.embed(pixels)
    torch.testing.assert_close(folded.embed(pixels), expected, rtol=0, atol=float(1e-5 * expected.abs().max()))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_training_the_original_further_does_not_change_the_folded_encoder(name: str) -> None:
    encoder = create_trained_encoder(create_encoder(create_scratch_spec(name, 32)))
    folded, x = fold_batch_norm(encoder), images(2, 32)
    with torch.no_grad():
        before = folded(x)
        for parameter in encoder.parameters():
            parameter.zero_()
        assert torch.equal(folded(x), before)


def round_to_tf32(x: Tensor) -> Tensor:
    """Round to 10 bits of mantissa, as NVIDIA's tensor cores round the inputs of a convolution."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


@pytest.fixture(params=[True, False])
def allow_tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = request.param
    yield request.param
    after = [backend.allow_tf32 for backend in backends]
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value
    assert after == [request.param] * 2


def test_norms_are_folded_where_convolutions_round_to_tf32(allow_tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Conv2d._conv_forward

    def convolve(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.backends.cudnn.allow_tf32:
            x, weight = round_to_tf32(x), round_to_tf32(weight)
        return plain(self, x, weight, bias)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", convolve)
    encoder = create_trained_encoder(create_encoder(create_scratch_spec("resnet10t", 32)))
    assert fold_batch_norm(encoder) is not encoder


class Branching(nn.Module):
    """Backbone whose branches depend on its input, so it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Watchful(nn.Module):
    """Backbone that computes something else while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        return h.mean((2, 3)) if isinstance(x, Tensor) else h.amax((2, 3))


@pytest.mark.parametrize("backbone", [Branching, Watchful])
def test_a_backbone_that_cannot_be_traced_or_computes_something_else_is_not_folded(backbone: type[nn.Module]) -> None:
    encoder = create_trained_encoder(Encoder(backbone(), EncoderSpec("odd", SIDE)))
    assert fold_batch_norm(encoder) is encoder
    assert norms(encoder) == 1 and not encoder.training


class NotANumber(nn.Module):
    """Backbone whose output is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3)) * float("nan")


def test_an_encoder_without_finite_output_is_not_folded() -> None:
    """`fold_batch_norm` does not report the cause."""
    encoder = Encoder(NotANumber(), EncoderSpec("odd", SIDE)).eval()
    assert fold_batch_norm(encoder) is encoder


def test_an_encoder_in_training_is_not_folded() -> None:
    """Its norms use the statistics of the batch."""
    encoder = create_encoder(create_scratch_spec("test_resnet", SIDE)).train()
    before = state_of(encoder)
    assert fold_batch_norm(encoder) is encoder and encoder.training
    after = state_of(encoder)
    assert all(torch.equal(before[key], after[key]) for key in before if "backbone.bn1" not in key)


def test_an_encoder_is_folded_on_its_device() -> None:
    """Every machine has the device "meta"."""
    encoder = create_encoder(create_scratch_spec("test_resnet", SIDE)).eval()
    folded = Encoder(copy.deepcopy(encoder.backbone).to("meta"), encoder.spec)
    assert folded.width == encoder.width


def test_folding_and_compiling_do_not_change_the_global_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = create_trained_encoder(create_encoder(create_scratch_spec("test_resnet", SIDE))), small_model()
    monkeypatch.setattr(torch, "compile", no_compiler)
    before = torch.get_rng_state()
    fold_batch_norm(encoder)
    compile_model(model.encoder, [images()], contextlib.nullcontext())
    assert torch.equal(torch.get_rng_state(), before)
