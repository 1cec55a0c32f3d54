"""LARS against the paper's code in numpy, float64, over several steps."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_cli.engine.optim import Lars

ETA, MOMENTUM = 0.001, 0.9  # the paper's code
RATES = (0.0, 2.4, 4.8, 4.0, 3.0, 0.5)  # warm-up from 0, peak, fall
SHAPES = ((4, 3), (5, 2, 3, 3), (1, 1), (7, 8))


def start(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.default_rng([1, *shape]).normal(size=shape)


def gradient(shape: tuple[int, ...], step: int) -> NDArray[np.float64]:
    return np.random.default_rng([2, step, *shape]).normal(size=shape)


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.from_numpy(start(shape)).to(dtype)) for shape in shapes]


def groups(weights: list[nn.Parameter], gains: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    return [
        {"params": weights, "weight_decay": decay},
        {"params": gains, "weight_decay": 0.0, "adapt": False},
    ]


def run_steps(optimizer: Lars, trained: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter in trained:
            parameter.grad = torch.from_numpy(gradient(tuple(parameter.shape), step)).to(parameter.dtype)
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.step()


def papers_code(
    w: NDArray[np.float64], gradients: Iterator[NDArray[np.float64]], decay: float, *, adapt: bool = True
) -> NDArray[np.float64]:
    """Run lars_optimizer.py of google-research/simclr with classic momentum on one tensor."""
    v = np.zeros_like(w)
    for g, rate in zip(gradients, RATES, strict=True):
        g = g + decay * w
        trust = 1.0
        if adapt:
            size, slope = np.sqrt(np.sum(w * w)), np.sqrt(np.sum(g * g))
            trust = ETA * size / slope if size > 0 and slope > 0 else 1.0
        scaled_rate = rate * trust
        for place in np.ndindex(*w.shape):
            v[place] = MOMENTUM * v[place] + scaled_rate * g[place]
        w = w - v
    return w


@pytest.mark.parametrize("decay", [0.0, 1e-6, 1e-2])
def test_equals_the_papers_code_over_steps_of_changing_rates(decay: float) -> None:
    """Each tensor of the group has its own trust ratio; gains have none."""
    weights, gains = parameters(*SHAPES), parameters((6,), (2,))
    run_steps(Lars(groups(weights, gains, decay)), weights + gains, range(len(RATES)))
    for parameter in weights + gains:
        shape = tuple(parameter.shape)
        gradients = (gradient(shape, step) for step in range(len(RATES)))
        adapt = len(shape) > 1
        expected = papers_code(start(shape), gradients, decay if adapt else 0.0, adapt=adapt)
        assert np.abs(expected - start(shape)).max() > 1e-3
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_equals_the_papers_code_in_float32_too() -> None:
    weights = parameters(*SHAPES, dtype=torch.float32)
    run_steps(Lars(groups(weights, [], 1e-2)), weights, range(len(RATES)))
    for parameter in weights:
        shape = tuple(parameter.shape)
        expected = papers_code(start(shape), (gradient(shape, step) for step in range(len(RATES))), 1e-2)
        assert parameter.dtype == torch.float32
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_tensors_are_independent() -> None:
    """In one group, or each in its own optimizer."""
    together, alone = parameters(*SHAPES), parameters(*SHAPES)
    run_steps(Lars(groups(together, [], 1e-4)), together, range(4))
    for parameter in alone:
        run_steps(Lars(groups([parameter], [], 1e-4)), [parameter], range(4))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_a_group_that_is_not_adapted_may_decay() -> None:
    weights = parameters((4, 3))
    run_steps(Lars([{"params": weights, "weight_decay": 0.1, "adapt": False}]), weights, range(len(RATES)))
    gradients = (gradient((4, 3), step) for step in range(len(RATES)))
    expected = papers_code(start((4, 3)), gradients, 0.1, adapt=False)
    np.testing.assert_allclose(weights[0].detach().numpy(), expected, rtol=1e-12)


def test_eta_and_momentum_are_as_given() -> None:
    (weight,) = parameters((4, 3))
    optimizer = Lars([{"params": [weight]}], momentum=0.0, eta=0.02)
    run_steps(optimizer, [weight], range(2))
    g = gradient((4, 3), 1)
    expected = start((4, 3)) - RATES[1] * 0.02 * np.linalg.norm(start((4, 3))) / np.linalg.norm(g) * g
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_trust_is_one_where_the_weight_is_zero(decay: float) -> None:
    zero, other = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lars(groups([zero, other], [], decay))
    zero.grad, other.grad = torch.full((3, 2), 2.0), torch.full((2, 2), 2.0)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((3, 2), -1.0))
    # Its neighbor is adapted: |w| is 2, |g| is 2 (2 + decay).
    torch.testing.assert_close(other.detach(), torch.full((2, 2), 1 - 0.5 * ETA))


def test_a_zero_gradient_without_decay_moves_nothing_and_with_decay_is_the_decay() -> None:
    for decay in (0.0, 0.1):
        (weight,) = parameters((4, 3))
        weight.grad = torch.zeros_like(weight)
        optimizer = Lars(groups([weight], [], decay))
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        # The decay's direction is the weight itself, so that |w| / |g| is 1 / decay.
        factor = 1 - 0.5 * ETA if decay else 1
        np.testing.assert_allclose(weight.detach().numpy(), start((4, 3)) * factor, rtol=1e-12)
        assert weight.isfinite().all()


def test_a_weight_and_a_gradient_of_zero_stay() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    optimizer = Lars(groups([weight], [], 0.1))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert torch.equal(weight, torch.zeros(2, 2))


def test_momentum_continues_after_the_gradient_becomes_zero() -> None:
    (weight,) = parameters((4, 3))
    optimizer = Lars(groups([weight], [], 0.0))
    run_steps(optimizer, [weight], range(2))
    before, v = weight.detach().clone(), optimizer.state[weight]["momentum"].clone()
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - MOMENTUM * v, rtol=1e-13, atol=0)


def test_a_parameter_without_gradient_stays() -> None:
    """Neither decay nor momentum moves it; with its first gradient it starts as any other."""
    first, second = parameters((4, 3), (7, 8))
    optimizer = Lars(groups([first, second], [], 0.1))
    run_steps(optimizer, [first], range(1, 3))
    assert np.array_equal(second.detach().numpy(), start((7, 8))) and second not in optimizer.state
    first.grad = None
    original = first.detach().clone()
    run_steps(optimizer, [second], range(3, 4))
    assert torch.equal(first, original)
    g = gradient((7, 8), 3) + 0.1 * start((7, 8))
    expected = start((7, 8)) - RATES[3] * ETA * np.linalg.norm(start((7, 8))) / np.linalg.norm(g) * g
    np.testing.assert_allclose(second.detach().numpy(), expected, rtol=1e-12)


def test_a_step_without_any_gradient_is_no_step() -> None:
    weights, gains = parameters((4, 3)), parameters((6,))
    optimizer = Lars(groups(weights, gains, 0.1))
    optimizer.step()
    assert not optimizer.state
    assert np.array_equal(weights[0].detach().numpy(), start((4, 3)))


def test_gradients_stay_unchanged() -> None:
    (weight,) = parameters((4, 3))
    run_steps(Lars(groups([weight], [], 0.1)), [weight], range(2))
    assert weight.grad is not None and np.array_equal(weight.grad.numpy(), gradient((4, 3), 1))


def test_the_memory_format_does_not_matter() -> None:
    """Weights of convolutions are channels_last in training, but contiguous after they are loaded."""

    def run(weight_layout: torch.memory_format, momentum_layout: torch.memory_format) -> Tensor:
        (weight,) = parameters((5, 2, 3, 3))
        weight.data = weight.data.contiguous(memory_format=weight_layout)
        optimizer = Lars(groups([weight], [], 1e-2))
        run_steps(optimizer, [weight], range(3))
        state = optimizer.state[weight]
        state["momentum"] = state["momentum"].contiguous(memory_format=momentum_layout)
        run_steps(optimizer, [weight], range(3, 6))
        return weight.detach()

    layouts = (torch.contiguous_format, torch.channels_last)
    first, *others = (run(*pair) for pair in itertools.product(layouts, layouts))
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-13, atol=0)


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_resuming_from_a_state_dict_equals_an_uninterrupted_run_bit_for_bit(stop: int) -> None:
    weights, gains = parameters(*SHAPES, dtype=torch.float32), parameters((6,), dtype=torch.float32)
    optimizer = Lars(groups(weights, gains, 1e-4))
    run_steps(optimizer, weights + gains, range(stop))
    state = copy.deepcopy(optimizer.state_dict())
    clones = [copy.deepcopy(parameter) for parameter in weights + gains]
    again = Lars(groups(clones[: len(weights)], clones[len(weights) :], 0.5), momentum=0.1, eta=7.0)
    again.load_state_dict(state)  # settings come back with it
    for part, whole in ((optimizer, weights + gains), (again, clones)):
        run_steps(part, whole, range(stop, len(RATES)))
    for one, other in zip(weights + gains, clones, strict=True):
        assert torch.equal(one, other)
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_the_state_is_one_momentum_of_each_parameters_shape() -> None:
    weights, gains = parameters(*SHAPES), parameters((6,))
    optimizer = Lars(groups(weights, gains, 1e-4))
    run_steps(optimizer, weights + gains, range(2))
    state = optimizer.state_dict()["state"]
    assert {index: {name: value.shape for name, value in kept.items()} for index, kept in state.items()} == {
        index: {"momentum": parameter.shape} for index, parameter in enumerate(weights + gains)
    }


def test_a_closure_is_an_error() -> None:
    with pytest.raises(AssertionError):
        Lars(groups(parameters((2, 2)), [], 0.0)).step(lambda: 1.0)
