"""NT-Xent, by the full matrix and in blocks, against loops, closed forms, gradcheck and pytorch-metric-learning."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.world import World
from simclr_cli.engine import loss as module
from simclr_cli.engine.loss import (
    BlockwiseLoss,
    LossName,
    Pairs,
    contrastive_loss,
    estimate_loss_bytes,
    full_matrix_loss,
)

nt_xent = contrastive_loss  # which it is by default
TEMPERATURES = (0.05, 0.1, 0.5, 1.0)


def projections(images: int, dimensions: int, seed: int = 0) -> Tensor:
    """Draw (2N, D) float32 projections whose second views resemble the first ones."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(images, dimensions, generator=generator)
    return torch.cat([first, first + 1.2 * torch.randn(images, dimensions, generator=generator)])


def algorithm_1(z: list[list[float]], temperature: float) -> float:
    """Compute Algorithm 1 and equation 1 in Python floats; only k = i is masked; mean over all 2N views."""
    views, images = len(z), len(z) // 2

    def similarity(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return dot / (math.sqrt(sum(a * a for a in z[i])) * math.sqrt(sum(b * b for b in z[j])))

    def loss(i: int, j: int) -> float:
        below = sum(math.exp(similarity(i, k) / temperature) for k in range(views) if k != i)
        return -math.log(math.exp(similarity(i, j) / temperature) / below)

    return sum(loss(k, k + images) + loss(k + images, k) for k in range(images)) / views


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("images", [2, 3, 8])
def test_equals_nested_loops_of_algorithm_1(images: int, temperature: float) -> None:
    z = projections(images, 5)
    expected = algorithm_1(z.double().tolist(), temperature)
    assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("images", [2, 5, 64])
def test_all_projections_equal_give_the_log_of_all_others(images: int) -> None:
    z = torch.ones(2 * images, 7)
    assert nt_xent(z, 0.1).item() == pytest.approx(math.log(2 * images - 1), rel=1e-6)


def test_orthogonal_images_with_equal_views_have_a_closed_form() -> None:
    """Positive at cosine 1, the 2N - 2 negatives at 0."""
    images, temperature = 6, 0.3
    z = torch.eye(images).repeat(2, 1)
    expected = -1 / temperature + math.log(math.exp(1 / temperature) + 2 * images - 2)
    assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_positive_of_row_i_is_row_i_plus_n() -> None:
    z = projections(8, 16)
    interleaved = z.view(2, 8, 16).transpose(0, 1).reshape(16, 16)  # a common other layout: views side by side
    assert nt_xent(z, 0.1) < nt_xent(interleaved, 0.1) - 1


def test_swapping_the_views_or_reordering_the_images_changes_nothing() -> None:
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
    """d loss / d unit z = (G + G^T) unit z with G = (softmax - target) / (2N tau), then through the normalization."""
    images, temperature = 5, 0.1
    z = projections(images, 6).requires_grad_()
    nt_xent(z, temperature).backward()

    rows = z.detach().double().numpy()
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / length
    weights = np.exp(unit @ unit.T / temperature)
    np.fill_diagonal(weights, 0)
    target = np.roll(np.eye(2 * images), images, axis=1)
    outer = (weights / weights.sum(1, keepdims=True) - target) / (2 * images * temperature)
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
def test_an_odd_number_of_rows_or_a_single_image_is_an_error(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"\({rows}, 4\)"):
        nt_xent(torch.ones(rows, 4), 0.1)


# --- In blocks of rows ---


def blockwise(z: Tensor, temperature: float, rows: int) -> Tensor:
    return BlockwiseLoss.apply(F.normalize(z, dim=1), temperature, Pairs(), rows, ProcessGroup())


def plain(z: Tensor, temperature: float) -> Tensor:
    return full_matrix_loss(F.normalize(z, dim=1), temperature)


def loss_and_gradient(function: Callable[..., Tensor], z: Tensor, *arguments: float) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    loss = function(z, *arguments)
    loss.backward()
    assert z.grad is not None
    return loss.detach(), z.grad


# Of 14 rows: one, some that do not divide them, half, all but one, all, more than all.
ROWS = (1, 3, 5, 7, 13, 14, 15, 1000)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("temperature", [0.01, *TEMPERATURES])
def test_blocks_equal_nested_loops_of_algorithm_1(rows: int, temperature: float) -> None:
    z = projections(7, 5).double()
    expected = algorithm_1(z.tolist(), temperature)
    assert blockwise(z, temperature, rows).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("temperature", [0.01, *TEMPERATURES])
@pytest.mark.parametrize("images", [2, 7, 40])
def test_blocks_equal_the_full_matrix_in_loss_and_gradient(
    images: int, temperature: float, dtype: torch.dtype, tolerance: float
) -> None:
    z = projections(images, 16).to(dtype)
    loss, gradient = loss_and_gradient(plain, z, temperature)
    # What is rounded are the similarities, of the size of 1 / tau; and as often larger is the gradient.
    bound = tolerance * max(1.0, abs(loss.item()), 0.1 / temperature)
    for rows in ROWS:
        ours, our_gradient = loss_and_gradient(blockwise, z, temperature, rows)
        assert ours.dtype == our_gradient.dtype == dtype
        assert abs(ours - loss) <= bound
        assert (our_gradient - gradient).abs().max() <= bound / temperature


def test_at_a_loss_near_zero_blocks_are_as_exact_as_the_full_matrix() -> None:
    """All images are separated at a low temperature: the loss is far below 1e-6, and never below 0."""
    for seed in range(10):
        noise = torch.randn(80, 16, generator=torch.Generator().manual_seed(seed))
        z = noise[:40].repeat(2, 1) + 0.1 * noise
        loss, gradient = loss_and_gradient(plain, z, 0.01)
        assert 0 <= loss < 1e-6 and gradient.abs().max() < 1e-6
        ours, our_gradient = loss_and_gradient(blockwise, z, 0.01, 30)
        assert 0 <= ours < 1e-6 and our_gradient.abs().max() < 1e-6, seed


@pytest.mark.parametrize("rows", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gradient_of_blocks_by_finite_differences(rows: int, temperature: float) -> None:
    z = projections(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: blockwise(z, temperature, rows), (z,))


def test_gradient_of_a_multiple_of_the_loss_is_that_multiple() -> None:
    z = projections(6, 4).double()
    gradient = loss_and_gradient(blockwise, z, 0.2, 5)[1]
    thrice = loss_and_gradient(lambda z: -3 * blockwise(z, 0.2, 5), z)[1]
    torch.testing.assert_close(thrice, -3 * gradient)


def test_blocks_without_gradient_give_the_loss_and_change_no_row() -> None:
    z = F.normalize(projections(5, 4), dim=1)
    original = z.clone()
    loss = BlockwiseLoss.apply(z, 0.1, Pairs(), 3, ProcessGroup())
    assert not loss.requires_grad and torch.equal(z, original)
    torch.testing.assert_close(loss, full_matrix_loss(z, 0.1))


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that limits the loss to k similarities at a time."""
    return lambda similarities: monkeypatch.setattr(module, "MAX_SIMILARITIES_CPU", similarities)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_switch_to_blocks_changes_neither_loss_nor_gradient(
    in_blocks: Callable[[int], None], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a limit of (2N)^2 similarities the full matrix; one less uses blocks, down to single rows."""
    z = projections(9, 6).to(dtype)
    whole: list[int] = []
    monkeypatch.setattr(module, "full_matrix_loss", lambda *given: whole.append(1) or full_matrix_loss(*given))
    in_blocks(18 * 18)
    loss, gradient = loss_and_gradient(nt_xent, z, 0.1)
    assert whole and gradient.dtype == dtype
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    whole.clear()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    for at_once in (18 * 18 - 1, 100, 18, 1):
        in_blocks(at_once)
        ours, our_gradient = loss_and_gradient(nt_xent, z, 0.1)
        assert ours.dtype == loss.dtype and our_gradient.dtype == dtype
        torch.testing.assert_close(ours, loss, rtol=min(tolerance, 1e-6), atol=0)
        torch.testing.assert_close(our_gradient, gradient, rtol=tolerance, atol=tolerance)
    assert not whole


def test_blocks_have_as_many_rows_as_the_limit_allows(
    in_blocks: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(BlockwiseLoss, "apply", lambda z, _, __, rows, ___: asked.append(rows) or z.sum())
    for at_once in (1, 18, 35, 36, 323):
        in_blocks(at_once)
        nt_xent(projections(9, 6), 0.1)
    assert asked == [1, 1, 1, 2, 17]


@pytest.mark.parametrize("images", [2, 5, 64])
def test_in_blocks_too_all_projections_equal_give_the_log_of_all_others(
    images: int, in_blocks: Callable[[int], None]
) -> None:
    in_blocks(3 * 2 * images)
    loss, gradient = loss_and_gradient(nt_xent, torch.ones(2 * images, 7), 0.1)
    assert loss.item() == pytest.approx(math.log(2 * images - 1), rel=1e-6)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("zeros", [slice(0, 1), slice(3, 9), slice(0, 16)])
def test_in_blocks_too_projections_of_length_zero_stay_finite(zeros: slice, in_blocks: Callable[[int], None]) -> None:
    """One row, several of both views, and all of them are zero."""
    z = projections(8, 4)
    z[zeros] = 0
    loss, gradient = loss_and_gradient(nt_xent, z, 0.1)
    in_blocks(48)
    ours, our_gradient = loss_and_gradient(nt_xent, z, 0.1)
    assert our_gradient.isfinite().all()
    torch.testing.assert_close(ours, loss)
    # A row of length 0 is divided by 1e-12, and so is its gradient.
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_blocks_too_half_precision_at_a_low_temperature_is_right(
    dtype: torch.dtype, in_blocks: Callable[[int], None]
) -> None:
    in_blocks(5 * 32)
    z = projections(16, 8).to(dtype)
    loss, gradient = loss_and_gradient(nt_xent, z, 0.01)
    assert loss.item() == pytest.approx(algorithm_1(z.double().tolist(), 0.01), rel=1e-4)
    assert gradient.dtype == dtype and gradient.isfinite().all()


def measure_peak_memory(function: Callable[..., Tensor], z: Tensor) -> int:
    """Measure the most bytes that a loss and its gradient allocate."""
    z = z.detach().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        function(z, 0.1).backward()
    changes = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, most = 0, 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert most > z.numel() * 4  # at least the gradient
    return most


def test_blocks_need_less_than_a_quarter_of_the_memory_of_the_full_matrix() -> None:
    """(2N)^2 similarities are 64 MiB here; a block is a quarter of them."""
    z = projections(2048, 4)
    in_whole, in_parts = measure_peak_memory(plain, z), measure_peak_memory(nt_xent, z)
    assert in_whole >= 2 * 2**26  # the similarities and their gradient
    assert in_parts < in_whole / 4


def test_memory_of_blocks_grows_with_n_and_not_with_its_square(in_blocks: Callable[[int], None]) -> None:
    in_blocks(2**16)
    one, four = (measure_peak_memory(nt_xent, projections(images, 32)) for images in (512, 2048))
    assert four < 4.2 * one
    assert measure_peak_memory(plain, projections(2048, 4)) > 10 * measure_peak_memory(plain, projections(512, 4))


@pytest.mark.parametrize("images", [300, 512, 1000, 2500])
@pytest.mark.parametrize("kind", ["nt-xent", "dcl", "supcon"])
def test_the_estimate_of_the_memory_is_enough_and_not_twice_as_much(
    kind: LossName, images: int, in_blocks: Callable[[int], None]
) -> None:
    in_blocks(2**20)
    groups = torch.arange(images) // 3 if kind == "supcon" else None
    peak = measure_peak_memory(lambda z, tau: contrastive_loss(z, tau, kind, groups), projections(images, 32))
    assert peak <= estimate_loss_bytes(2 * images, 32, torch.device("cpu")) <= 2 * peak


# --- Its kin ---

GROUPS = (0, 1, 0, 2, 3, 1, 0)  # of 7 images
KINDS: tuple[LossName, ...] = ("nt-xent", "dcl", "supcon")


def nested_loops(z: list[list[float]], temperature: float, kind: str, groups: list[int]) -> float:
    """Compute the papers' equations in Python floats, mean over all 2N views."""
    views, images = len(z), len(z) // 2

    def s(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return dot / (math.sqrt(sum(a * a for a in z[i])) * math.sqrt(sum(b * b for b in z[j]))) / temperature

    def group(i: int) -> int:
        return groups[i % images]

    total = 0.0
    for i in range(views):
        other = (i + images) % views
        if kind == "supcon":  # 2004.11362, equation 2
            positives = [p for p in range(views) if p != i and group(p) == group(i)]
            below = sum(math.exp(s(i, a)) for a in range(views) if a != i)
            total += -sum(math.log(math.exp(s(i, p)) / below) for p in positives) / len(positives)
        elif kind == "dcl":  # 2110.06848, equation 6
            negatives = [j for j in range(views) if group(j) != group(i)]
            if negatives:
                total += -s(i, other) + math.log(sum(math.exp(s(i, j)) for j in negatives))
        else:
            below = sum(math.exp(s(i, j)) for j in range(views) if j == other or group(j) != group(i))
            total += -math.log(math.exp(s(i, other)) / below)
    return total / views


def in_one_and_more_blocks(kind: LossName, groups: Tensor | None, rows: int) -> tuple[Callable[..., Tensor], ...]:
    pairs = Pairs.from_groups(kind, groups, torch.device("cpu"))

    def compute(z: Tensor, tau: float, rows: int) -> Tensor:
        return BlockwiseLoss.apply(F.normalize(z, dim=1), tau, pairs, rows, ProcessGroup())

    return lambda z, tau: compute(z, tau, len(z)), lambda z, tau: compute(z, tau, rows)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("groups", [GROUPS, tuple(range(7)), (0,) * 7, (5, 5, 5, 5, 5, 5, -9)])
@pytest.mark.parametrize("kind", KINDS)
def test_variants_equal_nested_loops_of_their_papers(
    kind: LossName, groups: tuple[int, ...], temperature: float
) -> None:
    z = projections(7, 5).double()
    expected = nested_loops(z.tolist(), temperature, kind, list(groups))
    for rows in ROWS:
        for function in in_one_and_more_blocks(kind, torch.tensor(groups), rows):
            assert function(z, temperature).item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("groups", [None, torch.tensor(GROUPS), torch.zeros(7, dtype=torch.int64)])
@pytest.mark.parametrize("kind", KINDS)
def test_variants_have_the_gradient_of_finite_differences(kind: LossName, groups: Tensor | None) -> None:
    if kind == "supcon" and groups is None:
        pytest.skip("supcon has groups")
    z = projections(7, 3).double().requires_grad_()
    for function in in_one_and_more_blocks(kind, groups, 4):
        assert torch.autograd.gradcheck(lambda z: function(z, 0.3), (z,))  # noqa: B023 (called at once)


@pytest.mark.parametrize("kind", KINDS)
def test_variants_in_blocks_equal_those_in_one_block(kind: LossName) -> None:
    z, groups = projections(40, 16), torch.arange(40) // 3
    whole, blocks = in_one_and_more_blocks(kind, groups, 13)
    for temperature in (0.05, 0.5):
        loss, gradient = loss_and_gradient(whole, z, temperature)
        ours, our_gradient = loss_and_gradient(blocks, z, temperature)
        bound = 1e-6 * max(1.0, abs(loss.item()), 0.1 / temperature)
        assert abs(ours - loss) <= bound and (our_gradient - gradient).abs().max() <= bound / temperature


def test_supcon_of_images_that_are_each_a_class_is_nt_xent() -> None:
    z = projections(9, 4).double()
    torch.testing.assert_close(contrastive_loss(z, 0.2, "supcon", torch.arange(9)), nt_xent(z, 0.2))
    with pytest.raises(ValueError, match="classes"):
        contrastive_loss(z, 0.2, "supcon")


def test_with_all_images_in_one_group_the_gradient_is_zero() -> None:
    for function in in_one_and_more_blocks("nt-xent", torch.zeros(7, dtype=torch.int64), 4):
        loss, gradient = loss_and_gradient(function, projections(7, 5), 0.3)
        assert loss.abs() < 1e-6 and gradient.abs().max() < 1e-6


class InThreads(ProcessGroup):
    """Process group of threads that exchange their rows through a shared list and wait at a barrier."""

    def __init__(self, rank: int, table: list[Tensor], barrier: threading.Barrier) -> None:
        super().__init__(World(rank, len(table)))
        self.table, self.barrier = table, barrier

    def all_gather(self, rows: Tensor, total: int) -> Tensor:
        part = self.shard(total)
        assert len(rows) == part.stop - part.start
        self.table[self.rank] = rows
        self.barrier.wait()
        everyone = torch.cat(self.table)
        self.barrier.wait()
        return everyone


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_process_gets_the_whole_loss_and_gradient(kind: LossName, count: int) -> None:
    z, groups = projections(7, 4).double(), torch.tensor(GROUPS)
    loss, gradient = loss_and_gradient(in_one_and_more_blocks(kind, groups, 4)[0], z, 0.2)
    table, barrier = [z] * count, threading.Barrier(count, timeout=30)

    def one(rank: int) -> tuple[Tensor, Tensor]:
        process_group = InThreads(rank, table, barrier)
        return loss_and_gradient(lambda z: contrastive_loss(z, 0.2, kind, groups, process_group), z)

    with ThreadPoolExecutor(count) as pool:
        for ours, our_gradient in pool.map(one, range(count)):
            torch.testing.assert_close(ours, loss)
            torch.testing.assert_close(our_gradient, gradient)
