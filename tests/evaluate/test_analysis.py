"""Labels that are likely wrong, by probes that were not fitted on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simclr_cli.engine.probes import fit_probe
from simclr_cli.evaluate.analysis import FOLDS, find_label_errors, list_label_errors, predict_out_of_fold
from simclr_cli.evaluate.comparison import Comparison, EncoderEvaluation, LabeledEmbeddings
from simclr_cli.images.labels import assign_folds


def draw_rows(count: int, apart: float, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    drawn = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return drawn + apart * torch.eye(8)[labels], labels


def test_planted_wrong_labels_come_first() -> None:
    h, labels = draw_rows(150, 3, 0)
    wrong = torch.tensor([3, 40, 77, 120, 149])
    labels[wrong] = (labels[wrong] + 1) % 3
    found = find_label_errors(predict_out_of_fold(h, labels, 1.0, 3, 0), labels)
    assert set(wrong.tolist()) <= set(found[:8].tolist())
    assert len(found) < 25


def test_probabilities_of_a_fold_are_those_of_a_probe_that_did_not_see_it() -> None:
    h, labels = draw_rows(31, 1, 1)
    probabilities = predict_out_of_fold(h, labels, 1.0, 3, 7)
    folds = torch.from_numpy(assign_folds(labels.numpy(), FOLDS, 7))
    for fold in range(FOLDS):
        fitted = folds != fold
        probe = fit_probe(h[fitted], labels[fitted], l2=1.0, classes=3)
        torch.testing.assert_close(probabilities[~fitted], probe.compute_logits(h[~fitted]).softmax(1))


def test_a_class_of_one_row_and_fewer_rows_than_folds_have_probabilities_too() -> None:
    h, labels = draw_rows(13, 1, 2)
    labels[labels == 2] = 1
    labels[0] = 2
    for part in (slice(None), slice(0, 3)):
        probabilities = predict_out_of_fold(h[part], labels[part], 1.0, 3, 0)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(probabilities)))
    assert probabilities.isfinite().all()


@pytest.mark.parametrize("is_random", [False, True])
def test_labels_are_not_doubted_by_a_probe_that_is_mostly_wrong(is_random: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(30)
    centers = 0.0 if is_random else 8 * torch.eye(4, 6)[labels]
    h = centers + torch.randn(len(labels), 6, generator=generator)
    labels[7] = 0  # wrong: it was 3
    rows = LabeledEmbeddings(h, labels, tuple(f"{i}.png" for i in range(len(h))))
    votes = torch.zeros(len(h), 4)
    halves = rows.select(torch.arange(len(h)) < 60), rows.select(torch.arange(len(h)) >= 60)
    evaluation = EncoderEvaluation("trained", *halves, votes, votes, linear=votes, l2=1.0)
    errors, note = list_label_errors(Comparison(("a", "b", "c", "d"), (evaluation,), 0), 0)
    if is_random:
        assert errors == () and "the linear probe itself is right about" in note
    else:
        assert [error.path for error in errors] == ["7.png"] and note == ""


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_labels_are_not_doubted_by_a_probe_that_is_as_good_as_always_predicting_one_class(share: float) -> None:
    """Right about half of the images of two classes, or about nine in ten where one class has so many, is no skill."""
    labels = (torch.arange(120) >= 120 * share).long()
    h = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    rows = LabeledEmbeddings(h, labels, tuple(f"{i}.png" for i in range(120)))
    halves, votes = (rows.select(torch.arange(120) % 2 == part) for part in (0, 1)), torch.zeros(60, 2)
    evaluation = EncoderEvaluation("trained", *halves, votes, votes, linear=votes, l2=1.0)
    errors, note = list_label_errors(Comparison(("a", "b"), (evaluation,), 0), 0)
    assert errors == () and f"(always predicting one class: {100 * share:.0f} %)" in note
