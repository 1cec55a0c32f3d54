"""NT-Xent against Algorithm 1 as nested loops, closed forms, finite differences and pytorch-metric-learning."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor

from simclr_cli.engine.loss import nt_xent

TEMPERATURES = (0.05, 0.1, 0.5, 1.0)


def projections(pictures: int, dimensions: int, seed: int = 0) -> Tensor:
    """(2N, D) float32: second views resemble their first ones."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(pictures, dimensions, generator=generator)
    return torch.cat([first, first + 1.2 * torch.randn(pictures, dimensions, generator=generator)])


def algorithm_1(z: list[list[float]], temperature: float) -> float:
    """Algorithm 1 and equation 1 in Python floats; only k = i is masked; mean over all 2N views."""
    views, pictures = len(z), len(z) // 2

    def similarity(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return dot / (math.sqrt(sum(a * a for a in z[i])) * math.sqrt(sum(b * b for b in z[j])))

    def loss(i: int, j: int) -> float:
        below = sum(math.exp(similarity(i, k) / temperature) for k in range(views) if k != i)
        return -math.log(math.exp(similarity(i, j) / temperature) / below)

    return sum(loss(k, k + pictures) + loss(k + pictures, k) for k in range(pictures)) / views


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("pictures", [2, 3, 8])
def test_equals_nested_loops_of_algorithm_1(pictures: int, temperature: float) -> None:
    z = projections(pictures, 5)
    expected = algorithm_1(z.double().tolist(), temperature)
    assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("pictures", [2, 5, 64])
def test_all_projections_equal_give_the_log_of_all_others(pictures: int) -> None:
    z = torch.ones(2 * pictures, 7)
    assert nt_xent(z, 0.1).item() == pytest.approx(math.log(2 * pictures - 1), rel=1e-6)


def test_orthogonal_pictures_with_equal_views_have_a_closed_form() -> None:
    """Positive at cosine 1, the 2N - 2 negatives at 0."""
    pictures, temperature = 6, 0.3
    z = torch.eye(pictures).repeat(2, 1)
    expected = -1 / temperature + math.log(math.exp(1 / temperature) + 2 * pictures - 2)
    assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_positive_of_row_i_is_row_i_plus_n() -> None:
    z = projections(8, 16)
    interleaved = z.view(2, 8, 16).transpose(0, 1).reshape(16, 16)  # a common other layout: views side by side
    assert nt_xent(z, 0.1) < nt_xent(interleaved, 0.1) - 1


def test_swapping_the_views_or_reordering_the_pictures_changes_nothing() -> None:
    z = projections(7, 4)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    expected = nt_xent(z, 0.2)
    torch.testing.assert_close(nt_xent(z.roll(7, 0), 0.2), expected)
    torch.testing.assert_close(nt_xent(torch.cat([z[:7][order], z[7:][order]]), 0.2), expected)


def test_the_scale_of_each_projection_does_not_matter() -> None:
    z = projections(6, 8)
    scale = torch.logspace(-3, 3, 12)[:, None]
    torch.testing.assert_close(nt_xent(z * scale, 0.1), nt_xent(z, 0.1))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradient_equal_pytorch_metric_learning(temperature: float) -> None:
    ours = projections(9, 12).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss = nt_xent(ours, temperature)
    reference = NTXentLoss(temperature=temperature)(theirs, torch.arange(9).repeat(2))
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-6)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_gradient_equals_the_softmax_formula() -> None:
    """d loss / d unit z = (G + G^T) unit z with G = (softmax - target) / (2N tau), then through the normalisation."""
    pictures, temperature = 5, 0.1
    z = projections(pictures, 6).requires_grad_()
    nt_xent(z, temperature).backward()

    rows = z.detach().double().numpy()
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / length
    weights = np.exp(unit @ unit.T / temperature)
    np.fill_diagonal(weights, 0)
    target = np.roll(np.eye(2 * pictures), pictures, axis=1)
    outer = (weights / weights.sum(1, keepdims=True) - target) / (2 * pictures * temperature)
    by_unit = (outer + outer.T) @ unit
    expected = (by_unit - (by_unit * unit).sum(1, keepdims=True) * unit) / length
    torch.testing.assert_close(z.grad, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-6)


def test_gradcheck_in_float64() -> None:
    z = projections(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.5), (z,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_at_a_low_temperature_is_finite_and_right(dtype: torch.dtype) -> None:
    """exp(1 / 0.01) overflows float32, and in half precision already exp(12) does."""
    z = projections(16, 8).to(dtype).requires_grad_()
    loss = nt_xent(z, 0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(algorithm_1(z.detach().double().tolist(), 0.01), rel=1e-4)
    assert z.grad is not None and z.grad.isfinite().all()


def test_collapsed_projections_of_length_zero_stay_finite() -> None:
    z = torch.zeros(8, 4, requires_grad=True)
    loss = nt_xent(z, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5])
def test_an_odd_number_of_rows_or_a_single_picture_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"\({rows}, 4\)"):
        nt_xent(torch.ones(rows, 4), 0.1)
