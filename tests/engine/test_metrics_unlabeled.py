"""Alignment, uniformity, effective rank and view retrieval accuracy, against loops and closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_cli.engine.metrics import (
    alignment,
    effective_rank,
    mean_similarities,
    normalize_views,
    uniformity,
    view_retrieval_accuracy,
)


def views(count: int = 12, dimensions: int = 5, noise: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(count, dimensions, generator=generator)
    second = first + noise * torch.randn(count, dimensions, generator=generator)
    return F.normalize(first, dim=1), F.normalize(second, dim=1)


def distance(a: Tensor, b: Tensor) -> float:
    return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_alignment_and_uniformity_are_those_of_the_paper_in_loops() -> None:
    z_a, z_b = views()
    pairs = [distance(a, b) for a, b in zip(z_a, z_b, strict=True)]
    assert alignment(z_a, z_b) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    kernels = [math.exp(-2 * distance(z_a[i], z_a[j])) for i in range(12) for j in range(i)]
    assert uniformity(z_a) == pytest.approx(math.log(sum(kernels) / len(kernels)), rel=1e-5)


def test_similarities_in_loops() -> None:
    z_a, z_b = views()
    cosines = [[float(a @ b) for b in z_b] for a in z_a]
    positive, negative = mean_similarities(z_a, z_b)
    assert positive == pytest.approx(sum(cosines[i][i] for i in range(12)) / 12, rel=1e-5)
    others = [cosines[i][j] for i in range(12) for j in range(12) if i != j]
    assert negative == pytest.approx(sum(others) / len(others), rel=1e-4)


def test_view_retrieval_in_loops() -> None:
    h_a, h_b = views(noise=1.5)
    every = [*h_a, *h_b]
    hits = 0
    for i, view in enumerate(every):
        nearest = max((j for j in range(24) if j != i), key=lambda j: float(view @ every[j]))
        hits += nearest == (i + 12) % 24
    assert 0 < hits < 24
    assert view_retrieval_accuracy(h_a, h_b) == pytest.approx(100 * hits / 24)


def test_equal_views_are_all_retrieved_and_aligned() -> None:
    z, _ = views()
    assert alignment(z, z) == 0 and view_retrieval_accuracy(z, z) == 100
    assert mean_similarities(z, z)[0] == pytest.approx(1, rel=1e-6)


def test_equal_projections_have_the_worst_uniformity_and_rank_one() -> None:
    z = F.normalize(torch.ones(6, 4), dim=1)
    assert uniformity(z) == pytest.approx(0, abs=1e-6)
    assert effective_rank(z) == pytest.approx(1, abs=1e-4)


def test_two_opposite_points_have_the_uniformity_of_the_closed_form() -> None:
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(z) == pytest.approx(-8)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_equal_singular_values_have_their_number_as_effective_rank(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.linalg.qr(torch.randn(n, rank, generator=generator))[0] for n in (40, 16))
    assert effective_rank(5 * left @ right.T) == pytest.approx(rank, rel=1e-3)


def test_effective_rank_of_known_singular_values() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])
    shares = [share + 1e-7 for share in (0.5, 0.25, 0.125, 0.125)]  # RankMe (2210.02885), equations 1 and 2
    entropy = -sum(share * math.log(share) for share in shares)
    assert effective_rank(torch.diag(values)) == pytest.approx(math.exp(entropy), rel=1e-12)


def test_normalized_views_have_length_one_in_float32() -> None:
    first, second = normalize_views(torch.randn(8, 3).to(torch.bfloat16))
    assert first.dtype == torch.float32 and first.shape == second.shape == (4, 3)
    torch.testing.assert_close(torch.cat([first, second]).norm(dim=1), torch.ones(8))
