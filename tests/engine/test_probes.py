"""kNN against loops and scikit-learn; the linear probe against its objective and scikit-learn."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from simclr_cli.engine import probes
from simclr_cli.engine.probes import L2_VALUES, create_regression, fit_logistic, fit_probe, knn_votes

CLASSES = 3


def clusters(count: int, spread: float, seed: int = 0, dimensions: int = 6) -> tuple[Tensor, Tensor]:
    """Draw (N, D) rows around a center for each class, and their classes."""
    centers = 2 * torch.randn(CLASSES, dimensions, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    return centers[labels] + spread * torch.randn(count, dimensions, generator=generator), labels


def loops_knn(train: Tensor, labels: Tensor, test: Tensor, k: int, temperature: float) -> list[int]:
    """Predict by Wu et al. 2018, section 3.4, in Python floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))

    found = []
    for row in test.tolist():
        ranked = sorted(
            ((cosine(row, other), label) for other, label in zip(train.tolist(), labels.tolist(), strict=True))
        )
        votes = [0.0] * CLASSES
        for similarity, label in ranked[::-1][:k]:
            votes[label] += math.exp(similarity / temperature)
        found.append(votes.index(max(votes)))
    return found


def knn_predict(train: Tensor, labels: Tensor, test: Tensor, **how: Any) -> list[Tensor]:
    return [votes.argmax(dim=1) for votes in knn_votes(train, labels, test, **how)]


def linear_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, validation: Tensor, classes: int
) -> tuple[Tensor, float]:
    probe = fit_probe(train, labels, validation=validation, classes=classes)
    return probe.compute_logits(test).argmax(dim=1), probe.l2


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_knn_equals_nested_loops(temperature: float) -> None:
    train, labels = clusters(40, 3.0)
    test, _ = clusters(25, 3.0, seed=1)
    neighbors = (1, 5, 20)
    found = knn_predict(train, labels, test, neighbors=neighbors, temperature=temperature, classes=CLASSES)
    for k, predicted in zip(neighbors, found, strict=True):
        assert predicted.tolist() == loops_knn(train, labels, test, k, temperature)


@pytest.mark.parametrize("k", [1, 20, 120])
def test_knn_equals_scikit_learn(k: int) -> None:
    train, labels = clusters(120, 3.0)
    test, _ = clusters(60, 3.0, seed=1)

    def unit(x: Tensor) -> NDArray[np.float64]:
        return (x / x.norm(dim=1, keepdim=True)).double().numpy()

    def weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp((1 - distance**2 / 2) / 0.07)  # |a - b|^2 = 2 - 2 cos of unit vectors

    reference = KNeighborsClassifier(k, weights=weight).fit(unit(train), labels.numpy())
    (found,) = knn_predict(train, labels, test, neighbors=(k,), temperature=0.07, classes=CLASSES)
    assert found.tolist() == reference.predict(unit(test)).tolist()


def test_more_neighbors_than_rows_are_all_rows() -> None:
    train, labels = clusters(10, 3.0)
    test, _ = clusters(12, 3.0, seed=1)
    many, all_rows, one = knn_predict(train, labels, test, neighbors=(200, 10, 1), temperature=2.0, classes=CLASSES)
    assert torch.equal(many, all_rows) and not torch.equal(many, one)


def test_the_order_of_the_ks_and_the_scale_of_h_do_not_matter() -> None:
    train, labels = clusters(40, 3.0)
    test, _ = clusters(25, 3.0, seed=1)
    few, many = knn_predict(train, labels, test, neighbors=(2, 30), temperature=0.07, classes=CLASSES)
    scale = torch.logspace(-2, 2, 25)[:, None]
    swapped = knn_predict(50 * train, labels, scale * test, neighbors=(30, 2), temperature=0.07, classes=CLASSES)
    assert torch.equal(swapped[0], many) and torch.equal(swapped[1], few)


def test_test_rows_in_chunks_are_predicted_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clusters(40, 3.0)
    test, _ = clusters(25, 3.0, seed=1)
    (at_once,) = knn_predict(train, labels, test, neighbors=(7,), temperature=0.07, classes=CLASSES)
    monkeypatch.setattr(probes, "CHUNK_ROWS", 8)
    (in_chunks,) = knn_predict(train, labels, test, neighbors=(7,), temperature=0.07, classes=CLASSES)
    assert torch.equal(at_once, in_chunks)


def test_votes_do_not_overflow_at_a_low_temperature() -> None:
    train, labels = clusters(30, 0.1)
    (found,) = knn_predict(train, labels, train, neighbors=(5,), temperature=0.001, classes=CLASSES)
    assert torch.equal(found, labels)


def objective(weights: Tensor, x: Tensor, labels: Tensor, l2: float) -> Tensor:
    scores = x.double() @ weights[:, :-1].T + weights[:, -1]
    return F.cross_entropy(scores, labels, reduction="sum") + 0.5 * l2 * weights[:, :-1].square().sum()


@pytest.mark.parametrize("l2", [100.0, 1.0, 0.01])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_fit_minimizes_the_objective(l2: float, classes: int) -> None:
    """The sum of cross entropies, and the penalty of the weights but not of the intercept.

    Of two classes too, which scikit-learn by itself fits by another penalty.
    """
    x, labels = clusters(90, 2.5)
    x, labels = x + 0.5, labels % classes  # so that the intercept matters
    found = fit_logistic(create_regression(1000), x, labels, l2=l2, classes=classes).double()
    best = found.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([best], max_iter=1000, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(best, x, labels, l2)
        value.backward()
        return value

    optimizer.step(closure)
    assert found.shape == (classes, 7)
    assert float(objective(found, x, labels, l2)) <= float(objective(best.detach(), x, labels, l2)) * (1 + 1e-5)
    torch.testing.assert_close(found[:, :-1], best.detach()[:, :-1], atol=0.02, rtol=0.02)


def test_a_fit_does_not_depend_on_the_one_before() -> None:
    x, labels = clusters(60, 2.5)
    model = create_regression(1000)
    fit_logistic(model, x, labels, l2=0.01, classes=CLASSES)
    again = fit_logistic(model, x, labels, l2=1.0, classes=CLASSES)
    anew = fit_logistic(create_regression(1000), x, labels, l2=1.0, classes=CLASSES)
    torch.testing.assert_close(again[:, :-1], anew[:, :-1], atol=2e-3, rtol=0)


def test_classes_without_rows_are_not_predicted_and_change_nothing() -> None:
    x, labels = clusters(90, 2.5)
    labels = labels * 2  # 0, 2 and 4 of six
    few = fit_probe(x, labels // 2, classes=CLASSES, l2=1.0).compute_logits(x).softmax(1)
    many = fit_probe(x, labels, classes=6, l2=1.0).compute_logits(x).softmax(1)
    torch.testing.assert_close(many[:, ::2], few, atol=2e-3, rtol=0)
    assert float(many[:, 1::2].max()) < 2e-3
    assert fit_probe(x, torch.zeros(90, dtype=torch.int64), classes=1, l2=1.0).compute_logits(x).shape == (90, 1)


def test_the_45_l2_values_are_log_spaced_from_1e_6_to_1e5() -> None:
    """Appendix B.8.1."""
    np.testing.assert_allclose(L2_VALUES, np.logspace(-6, 5, 45), rtol=1e-9)


@pytest.mark.parametrize(("rows", "apart", "most"), [(49, 4.0, 12), (50, 4.0, 45), (50, 0.1, 44)])
def test_few_validation_rows_or_none_that_is_wrong_need_fewer_fits(
    monkeypatch: pytest.MonkeyPatch, rows: int, apart: float, most: int
) -> None:
    """Below 50 rows, accuracy is too coarse for 45 values; and no value is better than one that is always right."""
    tried: list[float] = []
    fit = probes.fit_logistic
    monkeypatch.setattr(probes, "fit_logistic", lambda *a, l2, **k: (tried.append(l2), fit(*a, l2=l2, **k))[1])
    train, labels = clusters(150, apart)
    probe = fit_probe(train, labels, validation=torch.arange(150) < rows, classes=CLASSES)
    assert tried[:-1] == list(L2_VALUES[:: -4 if rows < 50 else -1][: len(tried) - 1]) and probe.l2 in tried
    assert len(tried) - 1 <= most


def test_separable_classes_are_all_predicted() -> None:
    train, labels = clusters(60, 0.1)
    test, truth = clusters(45, 0.1, seed=1)
    predicted, l2 = linear_predict(train, labels, test, validation=torch.arange(60) % 5 == 0, classes=CLASSES)
    assert torch.equal(predicted, truth) and l2 in L2_VALUES


@pytest.mark.parametrize("counts", [(45, 5), (100, 20, 20)])
def test_a_rare_class_that_is_separable_is_predicted(counts: tuple[int, ...]) -> None:
    """The strongest l2 values all predict the most frequent class: equal accuracies must not end the search."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    generator = torch.Generator().manual_seed(0)
    train = 3 * torch.eye(8)[labels] + 0.1 * torch.randn(len(labels), 8, generator=generator)
    validation = torch.arange(len(labels)) % 5 == 0
    predicted, _ = linear_predict(train, labels, train, validation=validation, classes=len(counts))
    assert torch.equal(predicted, labels)


def test_l2_and_predictions_equal_the_same_protocol_in_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standardize, choose on the validation rows (the strongest of equals), refit on all rows, predict."""
    values = (1e-2, 1.0, 30.0, 1e3)
    monkeypatch.setattr(probes, "L2_VALUES", values)
    monkeypatch.setattr(probes, "COARSE_STEP", 1)
    train, labels = clusters(90, 4.0, dimensions=20)
    test, _ = clusters(60, 4.0, seed=1, dimensions=20)
    validation = torch.arange(90) % 4 == 0
    predicted, l2 = linear_predict(train, labels, test, validation=validation, classes=CLASSES)

    mean, std = train.mean(0), train.std(0)
    x, t, y, held = ((train - mean) / std).numpy(), ((test - mean) / std).numpy(), labels.numpy(), validation.numpy()

    def fit(rows: NDArray[np.bool_], l2: float) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how well it converged is not the point here
            return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=2000).fit(x[rows], y[rows])

    accuracy = {value: fit(~held, value).score(x[held], y[held]) for value in values}
    assert l2 == max(value for value in values if accuracy[value] == max(accuracy.values()))
    expected = fit(np.ones(90, dtype=bool), l2).predict(t)
    assert (predicted.numpy() == expected).mean() > 0.98  # a tie may fall either way


def test_the_scale_and_offset_of_a_column_do_not_matter_nor_does_a_constant_one() -> None:
    train, labels = clusters(45, 2.0)
    test, _ = clusters(30, 2.0, seed=1)
    validation = torch.arange(45) % 5 == 0
    expected, l2 = linear_predict(train, labels, test, validation=validation, classes=CLASSES)
    scale, offset = torch.logspace(-2, 2, 6), torch.linspace(-5, 5, 6)

    def changed(x: Tensor) -> Tensor:
        return torch.cat([x * scale + offset, torch.full((len(x), 1), 3.0)], dim=1)

    predicted, again = linear_predict(changed(train), labels, changed(test), validation=validation, classes=CLASSES)
    assert again == l2
    assert (predicted == expected).float().mean() > 0.95


def test_probing_changes_neither_h_nor_labels() -> None:
    train, labels = clusters(30, 1.0)
    original, original_labels = train.clone(), labels.clone()
    linear_predict(train, labels, train, validation=torch.arange(30) % 5 == 0, classes=CLASSES)
    knn_predict(train, labels, train, neighbors=(3,), temperature=0.07, classes=CLASSES)
    assert torch.equal(train, original) and torch.equal(labels, original_labels)
