"""The rate of every step, the two parameter groups, and optimizers against their formulas."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from simclr_cli.engine.encoder import create_encoder, create_scratch_spec
from simclr_cli.engine.optim import (
    LearningRateRule,
    OptimizerName,
    Schedule,
    create_optimizer,
    peak_learning_rate,
    set_learning_rate,
)
from simclr_cli.engine.simclr import ProjectionHead, SimCLR

ETA, MOMENTUM = 0.001, 0.9  # the paper's code


@pytest.mark.parametrize(
    ("base", "rule", "batch_size", "peak"),
    [
        (0.3, "linear", 256, 0.3),
        (0.3, "linear", 4096, 4.8),
        (0.075, "sqrt", 256, 1.2),
        (0.075, "sqrt", 4096, 0.075 * 64),  # the two rules agree here
        (0.002, "none", 4096, 0.002),
    ],
)
def test_the_rules_give_the_papers_rates(base: float, rule: LearningRateRule, batch_size: int, peak: float) -> None:
    """Section 2.2 and appendix B.1."""
    assert peak_learning_rate(base, rule, batch_size) == pytest.approx(peak)


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (37, 5), (20, 0), (8, 8), (1, 0)])
def test_warm_up_from_zero_then_cosine_to_zero_at_every_step(total: int, warmup: int) -> None:
    peak = 4.8
    rates = [Schedule(peak, total, warmup)(step) for step in range(total + 1)]
    for step, rate in enumerate(rates[:-1]):
        if step < warmup:
            expected = peak * step / warmup
        else:
            expected = peak / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        assert rate == pytest.approx(expected)
    if warmup < total:
        assert rates[warmup] == pytest.approx(peak) == max(rates)
        assert rates[-1] == pytest.approx(0)  # no restart after the last step
        falling = rates[warmup:]
        assert all(later < earlier for earlier, later in itertools.pairwise(falling))


def test_the_rate_is_zero_past_the_end() -> None:
    assert Schedule(1.0, 100, warmup_steps=10)(150) == pytest.approx(0)


def small_model() -> SimCLR:
    encoder = create_encoder(create_scratch_spec("test_resnet", 32))
    return SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=16))


def test_every_trained_parameter_is_in_exactly_one_group_and_frozen_ones_in_none() -> None:
    model = small_model()
    optimizer = create_optimizer(model, "sgd", weight_decay=1e-4)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert id(model.head.layers[-1].bias) not in grouped


def test_norms_and_biases_are_excluded_from_decay_and_adaptation() -> None:
    """Here by the type of module; the code goes by dimensions."""
    model = small_model()
    optimizer = create_optimizer(model, "lars", weight_decay=1e-4)
    adapted, plain = optimizer.param_groups
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    excluded = {id(p) for module in model.modules() if isinstance(module, norms) for p in module.parameters()}
    excluded |= {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    assert {id(p) for p in plain["params"]} == excluded - {id(model.head.layers[-1].bias)}
    assert not excluded & {id(p) for p in adapted["params"]}
    assert adapted["weight_decay"] == 1e-4 and adapted["adapt"]
    assert plain["weight_decay"] == 0 and not plain["adapt"]


def test_layer_decay_scales_the_rate_of_each_layer_by_its_distance_from_the_last() -> None:
    encoder = create_encoder(create_scratch_spec("test_vit", 64))
    model = SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=16))
    optimizer = create_optimizer(model, "adamw", weight_decay=0.1, layer_decay=0.5)
    set_learning_rate(optimizer, 0.01)
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == sum(len(group["params"]) for group in optimizer.param_groups)
    depth = len(encoder.backbone.blocks)
    assert set(groups) == {p for p in model.parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("encoder.backbone.")
        if not parameter.requires_grad:
            continue
        layers_after = 0
        if part.startswith("blocks."):
            layers_after = depth - 1 - int(part.split(".")[1])
        elif part.startswith(("patch_embed", "pos_embed", "cls_token", "reg_token")):
            layers_after = depth
        assert groups[parameter]["lr"] == pytest.approx(0.01 * 0.5**layers_after), name
        decays = parameter.ndim > 1 and not part.startswith(("pos_embed", "cls_token", "reg_token"))
        assert groups[parameter]["weight_decay"] == (0.1 if decays else 0), name


class Weights(nn.Module):
    """Model of a weight that LARS adapts and a gain that it does not."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator))
        self.gain = nn.Parameter(torch.randn(5, generator=generator))


def gradients(shape: tuple[int, ...], steps: int) -> list[NDArray[np.float64]]:
    return [np.random.default_rng([3, step]).normal(size=shape) for step in range(steps)]


def descend(model: Weights, decay: float, rates: list[float], name: OptimizerName = "lars") -> None:
    optimizer = create_optimizer(model, name, weight_decay=decay)
    for step, rate in enumerate(rates):
        for parameter in model.parameters():
            gradient = gradients(tuple(parameter.shape), len(rates))[step]
            parameter.grad = torch.from_numpy(gradient).float()
        set_learning_rate(optimizer, rate)
        optimizer.step()


def paper_lars(w: NDArray[np.float64], decay: float, rates: list[float]) -> NDArray[np.float64]:
    """Run the paper's code: g = g + decay w; trust = eta |w| / |g|; v = m v + lr trust g; w = w - v."""
    v = np.zeros_like(w)
    for g, rate in zip(gradients(w.shape, len(rates)), rates, strict=True):
        g = g + decay * w
        v = MOMENTUM * v + rate * ETA * np.linalg.norm(w) / np.linalg.norm(g) * g
        w = w - v
    return w


@pytest.mark.parametrize("decay", [0.0, 1e-6, 1e-2])
def test_lars_equals_the_papers_code_over_several_steps(decay: float) -> None:
    model, rates = Weights(), [0.0, 2.4, 4.8, 4.0, 3.0, 1.0]
    start = model.weight.detach().double().numpy()
    expected = paper_lars(start, decay, rates)
    descend(model, decay, rates)
    assert np.abs(expected - start).max() > 1e-3
    np.testing.assert_allclose(model.weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gains_get_plain_momentum_whatever_the_decay() -> None:
    model, rates = Weights(), [0.1, 0.2, 0.3, 0.1]
    w, v = model.gain.detach().double().numpy(), np.zeros(5)
    for g, rate in zip(gradients((5,), 4), rates, strict=True):
        v = MOMENTUM * v + rate * g
        w = w - v
    descend(model, 1e-2, rates)
    np.testing.assert_allclose(model.gain.detach().numpy(), w, rtol=1e-5)


def test_trust_is_one_where_the_weight_or_the_gradient_is_zero() -> None:
    """Decay counts as gradient."""
    model = Weights()
    with torch.no_grad():
        model.weight.zero_()
    optimizer = create_optimizer(model, "lars", weight_decay=0.0)
    model.weight.grad = torch.ones(4, 3)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((4, 3), -0.5))

    model = Weights()
    before = model.weight.detach().clone()
    optimizer = create_optimizer(model, "lars", weight_decay=0.1)
    model.weight.grad = torch.zeros(4, 3)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.5 * ETA))
    optimizer = create_optimizer(model, "lars", weight_decay=0.0)
    before = model.weight.detach().clone()
    set_learning_rate(optimizer, 0.5)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before)


def test_sgd_is_classic_momentum_without_nesterov() -> None:
    model, rates = Weights(), [0.1] * 4
    w, v = model.weight.detach().double().numpy(), np.zeros((4, 3))
    for g in gradients((4, 3), 4):
        v = MOMENTUM * v + g + 1e-2 * w
        w = w - 0.1 * v
    descend(model, 1e-2, rates, "sgd")
    np.testing.assert_allclose(model.weight.detach().numpy(), w, rtol=1e-5, atol=1e-6)


def test_adamw_is_the_papers_with_torchs_defaults() -> None:
    """Loshchilov and Hutter, algorithm 2: the decay is not part of the gradient."""
    model, rates = Weights(), [0.1, 0.05, 0.2, 0.01]
    w = model.weight.detach().double().numpy()
    m, v = np.zeros((4, 3)), np.zeros((4, 3))
    for step, (g, rate) in enumerate(zip(gradients((4, 3), 4), rates, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        adapted = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        w = w - rate * adapted - rate * 1e-2 * w
    descend(model, 1e-2, rates, "adamw")
    np.testing.assert_allclose(model.weight.detach().numpy(), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_device_without_fused_kernels_is_supported(name: OptimizerName) -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    optimizer = create_optimizer(model, name, weight_decay=0.0)
    assert not optimizer.param_groups[0].get("fused")


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_state_saved_on_another_device_continues_with_the_kernels_of_this_one(name: OptimizerName) -> None:
    """As when a run of a Mac is resumed on an NVIDIA GPU, or the other way around."""

    def update(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        set_learning_rate(optimizer, 0.1)
        optimizer.step()

    model = Weights()
    here = create_optimizer(model, name, weight_decay=0.1)
    update(here)
    saved, copied = copy.deepcopy(here.state_dict()), copy.deepcopy(model)
    for group in saved["param_groups"]:
        group.update({"fused": None} if name != "lars" else {})
    resumed = create_optimizer(copied, name, weight_decay=0.1)
    resumed.load_state_dict(saved)
    assert [group.get("fused") for group in resumed.param_groups] == [None if name == "lars" else True] * 2
    update(here)
    update(resumed)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), copied.parameters(), strict=True))
    elsewhere = create_optimizer(Weights().to("meta"), name, weight_decay=0.1)
    elsewhere.load_state_dict(here.state_dict())
    assert not any(group.get("fused") for group in elsewhere.param_groups)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_decay_alone_shrinks_weights_and_never_gains(name: OptimizerName) -> None:
    model = Weights()
    weight, gain = model.weight.detach().clone(), model.gain.detach().clone()
    optimizer = create_optimizer(model, name, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    shrunk = 1 - 0.1 * ETA if name == "lars" else 1 - 0.1 * 0.1  # LARS takes its decay for a gradient, and adapts it
    torch.testing.assert_close(model.weight.detach(), weight * shrunk)
    assert torch.equal(model.gain.detach(), gain)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_set_learning_rate_reaches_every_group(name: OptimizerName) -> None:
    optimizer = create_optimizer(Weights(), name, weight_decay=0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]  # a step before the first rate changes nothing
    set_learning_rate(optimizer, 0.123)
    assert [group["lr"] for group in optimizer.param_groups] == [0.123, 0.123]
