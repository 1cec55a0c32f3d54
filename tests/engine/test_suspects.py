"""Wrong labels are found, and right ones mostly left alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from simclr_cli.engine.probes import fit_probe
from simclr_cli.engine.suspects import out_of_fold, suspects


def fit(h: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    return fit_probe(h, labels, classes=3, l2=1.0).scores


def test_planted_wrong_labels_come_first() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(150) % 3
    h = torch.randn(150, 8, generator=generator) + 3 * torch.eye(8)[truth]
    labels = truth.clone()
    wrong = torch.tensor([3, 40, 77, 120, 149])
    labels[wrong] = (labels[wrong] + 1) % 3
    probabilities = out_of_fold(h, labels, torch.arange(150) % 5, fit)
    found = suspects(probabilities, labels)
    assert set(wrong.tolist()) <= set(found[:8].tolist())
    assert len(found) < 25


def test_probabilities_of_a_fold_are_those_of_a_probe_that_did_not_see_it() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(30) % 3
    h = torch.randn(30, 4, generator=generator) + torch.eye(4)[labels]
    folds = torch.arange(30) // 10
    found = out_of_fold(h, labels, folds, fit)
    for fold in range(3):
        seen = folds != fold
        expected = fit(h[seen], labels[seen])(h[~seen]).softmax(1)
        torch.testing.assert_close(found[~seen], expected)


def test_the_rule_in_loops() -> None:
    """Confident learning: another class reaches its own rows' mean probability, and beats the label's."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(60) % 4
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
