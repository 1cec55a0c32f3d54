"""Wrong labels are found, and right ones mostly left alone."""

import pytest
import torch

from simclr_cli.engine.probes import suspects


@pytest.mark.parametrize("alone", [0, 1])
def test_the_rule_in_loops(alone: int) -> None:
    """Confident learning: another class reaches its own rows' mean probability, and beats the label's."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(60) % (4 - alone)
    labels[:alone] = 3  # the only one of its class
    probabilities = (2 * torch.randn(60, 4, generator=generator) + torch.eye(4)[labels]).softmax(1)
    p, y = probabilities.tolist(), labels.tolist()
    threshold = [sum(p[i][j] for i in range(60) if y[i] == j) / y.count(j) for j in range(4)]
    margins = {}
    for i in range(60):
        best = max((p[i][j] for j in range(4) if j != y[i] and p[i][j] >= threshold[j]), default=-1)
        if best > p[i][y[i]]:
            margins[i] = p[i][y[i]] - best
    assert 5 < len(margins) < 55
    assert suspects(probabilities, labels).tolist() == sorted(margins, key=lambda i: (margins[i], i))


def test_labels_that_all_fit_give_no_suspects() -> None:
    labels = torch.arange(12) % 3
    assert suspects(0.9 * torch.eye(3)[labels] + 0.05, labels).tolist() == []
