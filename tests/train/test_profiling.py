"""Estimates of time, memory and disk space."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from simclr_cli.api import ResolvedSettings
from simclr_cli.engine.optim import create_optimizer
from simclr_cli.store.checkpoint import Checkpoint, save_checkpoint
from simclr_cli.train import profiling as trial
from simclr_cli.train.loop import build_model
from simclr_cli.train.profiling import count_model_bytes, describe_disk_shortage, measure_bytes_per_view


@pytest.mark.parametrize("optimizer", ["adamw", "lars", "sgd"])
def test_room_for_two_checkpoints_is_what_two_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    given = {"backbone": "test_resnet", "weights": "none", "train": "all", "freeze_batch_norm": False}
    chosen = ResolvedSettings(images=tmp_path, image_size=32, optimizer=optimizer, **given)
    model = build_model(chosen)
    after = create_optimizer(model, optimizer, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    after.step()
    save_checkpoint(tmp_path, Checkpoint(1, model.state_dict(), after.state_dict(), [], [], "f" * 64))
    held = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.requires_grad)]
    held += [t for values in after.state_dict()["state"].values() for t in values.values() if t.ndim]
    assert count_model_bytes(model, chosen, gradients=True) == sum(t.numel() * t.element_size() for t in held)
    taken = 2 * sum(path.stat().st_size for path in tmp_path.glob("step-*"))
    monkeypatch.setattr(trial, "get_free_bytes", lambda _: 1.02 * taken)
    assert describe_disk_shortage(tmp_path / "run", model, chosen) is None
    monkeypatch.setattr(trial, "get_free_bytes", lambda _: 0.95 * taken)
    told = describe_disk_shortage(tmp_path / "run", model, chosen)
    assert told and float(re.findall(r"([0-9.]+) MB", told)[0]) == pytest.approx(taken / 1e6, rel=0.02)


def test_the_measurement_of_memory_frees_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"backbone": "test_resnet", "weights": "none", "train": "all", "freeze_batch_norm": False}
    encoder = build_model(ResolvedSettings(images=tmp_path, image_size=32, **given)).encoder
    weights: list[weakref.ref[torch.nn.Parameter]] = []

    def recorded(module: torch.nn.Module) -> torch.nn.Module:
        twin = copy.deepcopy(module)
        weights.extend(map(weakref.ref, twin.parameters()))
        return twin

    monkeypatch.setattr(trial, "copy", SimpleNamespace(deepcopy=recorded))
    assert measure_bytes_per_view(encoder, "float32") > 0
    gc.collect()
    assert len(weights) > 10 and all(weight() is None for weight in weights)
