"""Label errors against loops of the paper's rule."""

import pytest
import torch

from simclr_cli.evaluate.analysis import find_label_errors


@pytest.mark.parametrize("singletons", [0, 1])
def test_the_rule_in_loops(singletons: int) -> None:
    """Confident learning: another class reaches the mean probability of its own rows, and that of the label."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(60) % (4 - singletons)
    labels[:singletons] = 3  # the only one of its class
    probabilities = (2 * torch.randn(60, 4, generator=generator) + torch.eye(4)[labels]).softmax(1)
    p, y = probabilities.tolist(), labels.tolist()
    threshold = [sum(p[i][j] for i in range(60) if y[i] == j) / y.count(j) for j in range(4)]
    margins = {}
    for i in range(60):
        best = max((p[i][j] for j in range(4) if j != y[i] and p[i][j] >= threshold[j]), default=-1)
        if best > p[i][y[i]]:
            margins[i] = p[i][y[i]] - best
    assert 5 < len(margins) < 55
    assert find_label_errors(probabilities, labels).tolist() == sorted(margins, key=lambda i: (margins[i], i))


def test_correct_labels_have_no_errors() -> None:
    labels = torch.arange(12) % 3
    assert find_label_errors(0.9 * torch.eye(3)[labels] + 0.05, labels).tolist() == []
