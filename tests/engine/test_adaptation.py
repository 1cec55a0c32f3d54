"""Adaptation: the part that is trained, distillation by hand and in the limit, and interpolation."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from simclr_cli.engine.adaptation import distillation_loss, find_temperature, interpolate_weights, select_trained_part
from simclr_cli.engine.encoder import create_encoder, create_scratch_spec
from simclr_cli.engine.simclr import ProjectionHead, SimCLR


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_distillation_is_the_divergence_by_nested_loops() -> None:
    """SEED, equations 2 to 4: a softmax over the anchors for each row, without the row's own image."""
    h, anchors, own = 3 * unit_rows(4, 0), unit_rows(6, 2), [0, -1, 5, 2]
    targets, target_anchors = unit_rows(4, 1), unit_rows(6, 3)
    total = 0.0
    for row in range(4):
        others = [a for a in range(6) if a != own[row]]
        teacher = [math.exp(float(targets[row] @ target_anchors[a]) / 0.1) for a in others]
        student = [math.exp(float(h[row] / h[row].norm() @ anchors[a]) / 0.1) for a in others]
        for t, s in zip(teacher, student, strict=True):
            p, q = t / sum(teacher), s / sum(student)
            total += p * math.log(p / q) / 4
    loss = distillation_loss(h, anchors, targets, target_anchors, torch.tensor(own), 0.1)
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_distillation_is_zero_for_the_teachers_similarities_at_any_length_and_rotation() -> None:
    targets, anchors, own = unit_rows(5, 0), unit_rows(9, 1), torch.full((5,), -1)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    rotated = (7 * targets @ rotation, anchors @ rotation)
    assert float(distillation_loss(*rotated, targets, anchors, own, 0.05)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(-targets, anchors, targets, anchors, own, 0.05)) > 0.1


def test_distillation_has_the_gradient_of_its_definition() -> None:
    h, targets, anchors = (unit_rows(count, seed).double() for count, seed in ((3, 0), (3, 1), (5, 2)))
    h.requires_grad_()
    # The function computes in float32, so differences are taken with a large step.
    fixed = (anchors.float(), targets, anchors, torch.tensor([0, 1, -1]), 0.5)
    distillation_loss(h, *fixed).backward()
    step = 1e-2
    for i, j in ((0, 0), (1, 3), (2, 7)):
        ends = []
        for sign in (1, -1):
            moved = h.detach().clone()
            moved[i, j] += sign * step
            ends.append(float(distillation_loss(moved, *fixed)))
        assert float(h.grad[i, j]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-3)


def test_temperature_has_the_wanted_perplexity_by_nested_loops() -> None:
    rows = unit_rows(40, 0)
    temperature = find_temperature(rows, 7.0)
    perplexities = []
    for i in range(40):
        weights = [math.exp(float(rows[i] @ rows[j]) / temperature) for j in range(40) if j != i]
        shares = [weight / sum(weights) for weight in weights]
        perplexities.append(math.exp(-sum(share * math.log(share) for share in shares)))
    assert sorted(perplexities)[19] == pytest.approx(7, rel=1e-3)  # torch takes the lower one of two middle values


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_parts_of_an_encoder(name: str) -> None:
    trained: dict[str, set[str]] = {}
    for part in ("all", "norms", "last", "head"):
        encoder = create_encoder(create_scratch_spec(name, 160 if name == "test_vit" else 64))
        select_trained_part(encoder, part)  # type: ignore[arg-type]
        trained[part] = {name for name, weight in encoder.backbone.named_parameters() if weight.requires_grad}
    names = {name for name, _ in encoder.backbone.named_parameters()}
    assert trained["all"] == names and trained["head"] == set()
    sizes = {name: weight.ndim for name, weight in encoder.backbone.named_parameters()}
    assert trained["norms"] and all(sizes[name] == 1 for name in trained["norms"])
    modules = dict(encoder.backbone.named_modules())
    assert all(hasattr(modules[name.rpartition(".")[0]], "eps") for name in trained["norms"])
    assert trained["last"] and trained["last"] < names and any(sizes[name] > 1 for name in trained["last"])
    order = [name for name, _ in encoder.backbone.named_parameters()]
    assert order[0] not in trained["last"] and order[-1] in trained["last"]


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_gains() -> None:
    encoder = create_encoder(create_scratch_spec("test_resnet", 64))
    model = SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=8), freeze_batch_norm=True).train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    x = torch.rand(8, 3, 64, 64)
    _, z = model(x)
    z.square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.weight.grad is not None and not norm.training for norm in norms)
    assert model.head.layers[1].training and encoder.backbone.training
    h, _ = model(x)
    torch.testing.assert_close(h, model.eval()(x)[0])  # h of an image does not depend on its batch
    assert not any(norm.training for norm in norms)


def test_interpolation_is_between_start_and_end_with_the_statistics_of_norms() -> None:
    start, end = (timm.create_model("test_resnet", num_classes=0).state_dict() for _ in range(2))
    end["bn1.num_batches_tracked"] = torch.tensor(9)
    end["bn1.running_mean"] = torch.ones_like(end["bn1.running_mean"])
    half = interpolate_weights(start, end, 0.25)
    for name, value in half.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name])
    assert half["bn1.num_batches_tracked"] == 9 and float(half["bn1.running_mean"][0]) == pytest.approx(0.25)
    for share, expected in ((0.0, start), (1.0, end)):
        ends = interpolate_weights(start, end, share)
        assert all(torch.equal(ends[name], value) for name, value in expected.items() if value.is_floating_point())
