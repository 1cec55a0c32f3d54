"""HDBSCAN by the extra."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from simclr_cli.engine.density import hdbscan
from simclr_cli.errors import MachineError


def test_dense_groups_are_found_and_what_is_between_them_is_in_none() -> None:
    draw = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(4), 40), np.full(30, -1)])
    rows = np.concatenate([draw.normal(size=(4, 64)).repeat(40, axis=0), np.zeros((30, 64))])
    rows += np.where(labels >= 0, 0.15, 1.0)[:, None] * draw.normal(size=rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = hdbscan(rows, 8)
    inside = labels >= 0
    assert found.dtype == np.int64 and adjusted_rand_score(labels[inside], found[inside]) == 1
    assert (found[~inside] == -1).sum() >= 15


def test_fewer_rows_than_make_a_cluster_are_in_none() -> None:
    assert hdbscan(np.eye(4, dtype=np.float32), 5).tolist() == [-1] * 4


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MachineError, match="simclr-cli\\[clusters\\]"):
        hdbscan(np.eye(4, dtype=np.float32), 2)
