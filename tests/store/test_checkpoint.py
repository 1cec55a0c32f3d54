"""Checkpoints: read back bit for bit; training continues from them as if it had never stopped."""

import copy
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from simclr_cli.core.errors import RunError
from simclr_cli.engine.optim import Lars, create_optimizer, set_learning_rate
from simclr_cli.store.checkpoint import FORMAT_VERSION, Checkpoint, load_checkpoint, save_checkpoint

Maker = Callable[[nn.Module], torch.optim.Optimizer]


def group_parameters(model: nn.Module) -> list[dict[str, Any]]:
    """Group the parameters as in training: weights with decay, the others without."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": weights, "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, Maker] = {
    "sgd": lambda model: torch.optim.SGD(group_parameters(model), lr=0.1, momentum=0.9, nesterov=True),
    "sgd-plain": lambda model: torch.optim.SGD(group_parameters(model), lr=1 / 3),
    "adamw": lambda model: torch.optim.AdamW(group_parameters(model), lr=0.002, betas=(0.9, 0.95)),
    "lars": lambda model: set_rate(Lars(group_parameters(model), momentum=0.9, eta=0.01), 0.3),
    # As in training: with few kernels.
    "our lars": lambda model: set_rate(create_optimizer(model, "lars", weight_decay=1e-2), 30.0),
    "our sgd": lambda model: set_rate(create_optimizer(model, "sgd", weight_decay=1e-2), 0.1),
    "our adamw": lambda model: set_rate(create_optimizer(model, "adamw", weight_decay=1e-2), 0.002),
}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> torch.optim.Optimizer:
    set_learning_rate(optimizer, rate)
    return optimizer


def small_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5),
    )  # fmt: skip


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and value of every leaf of nested dicts and lists; tuples count as lists, as in JSON."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    if isinstance(value, dict | list | tuple):
        for key, part in pairs:
            for path, leaf in leaves(part):
                yield f"{key}.{path}", leaf
    else:
        yield "", value


def assert_same(one: Any, other: Any) -> None:
    first, second = dict(leaves(one)), dict(leaves(other))
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        if isinstance(leaf, Tensor):
            assert leaf.dtype == second[path].dtype and torch.equal(leaf, second[path]), path
        else:
            assert type(leaf) is type(second[path]) and leaf == second[path], path


def checkpoint(step: int, fill: float = 0.0) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((3,), fill)}, {"state": {}, "param_groups": []}, [], [], "")


def checkpoint_file(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"


def keep_both(folder: Path, older: int, newer: int) -> None:
    """Leave two checkpoints, as a crash between writing the new and removing the old one does."""
    save_checkpoint(folder, checkpoint(older))
    data = checkpoint_file(folder, older).read_bytes()
    save_checkpoint(folder, checkpoint(newer))
    checkpoint_file(folder, older).write_bytes(data)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_bit_for_bit(tmp_path: Path, name: str) -> None:
    model = small_model(0)
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, range(3))
    metrics = [{"epoch": 0, "loss": 1 / 3, "rank": None, "note": "\udcff"}, {"epoch": 1, "loss": 1e-300}]
    losses = [0.1, 1 / 7, 5e-324]
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    save_checkpoint(tmp_path, Checkpoint(3, model.state_dict(), optimizer.state_dict(), metrics, losses, "f00d"))

    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.metrics, loaded.losses, loaded.census_fingerprint) == (3, metrics, losses, "f00d")
    assert_same(loaded.model, dict(weights))
    assert_same(loaded.optimizer, state)

    resumed = small_model(1)
    resumed.load_state_dict(loaded.model)
    fresh = OPTIMIZERS[name](resumed)
    fresh.load_state_dict(loaded.optimizer)
    assert_same(fresh.state_dict(), state)

    train(model, optimizer, range(3, 6))
    train(resumed, fresh, range(3, 6))
    assert_same(dict(resumed.state_dict()), dict(model.state_dict()))
    assert_same(fresh.state_dict(), optimizer.state_dict())


def test_momenta_of_lars_are_saved(tmp_path: Path) -> None:
    model = small_model(0)
    optimizer = OPTIMIZERS["our lars"](model)
    train(model, optimizer, range(3))
    save_checkpoint(tmp_path, Checkpoint(3, model.state_dict(), optimizer.state_dict(), [], [], ""))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert loaded.optimizer["state"].keys() == set(range(len(parameters))) and len(parameters) == 5
    for index, parameter in enumerate(parameters):
        assert loaded.optimizer["state"][index].keys() == {"momentum"}
        momentum = loaded.optimizer["state"][index]["momentum"]
        assert momentum.any() and torch.equal(momentum, optimizer.state[parameter]["momentum"])
    assert [group["adapt"] for group in loaded.optimizer["param_groups"]] == [True, False]


def test_optimizer_before_its_first_step_is_restored(tmp_path: Path) -> None:
    model = small_model(0)
    optimizer = OPTIMIZERS["adamw"](model)
    save_checkpoint(tmp_path, Checkpoint(0, model.state_dict(), optimizer.state_dict(), [], [], ""))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert_same(loaded.optimizer, optimizer.state_dict())
    OPTIMIZERS["adamw"](model).load_state_dict(loaded.optimizer)


def test_numbers_that_are_not_finite_are_restored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(1, {}, {"state": {}, "param_groups": []}, [], [math.inf, math.nan], ""))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.losses[0] == math.inf and math.isnan(loaded.losses[1])


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step))
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_file(tmp_path, 100).name]


def test_newest_checkpoint_is_by_step_and_not_by_time(tmp_path: Path) -> None:
    keep_both(tmp_path, 999_999, 1_000_000)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1_000_000


def test_crash_while_writing_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint(1, fill=5))

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_file(tmp_path, 1).name]
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1 and loaded.model["w"].tolist() == [5, 5, 5]


def encode_with_checksum(tensors: dict[str, Tensor], description: Any) -> bytes:
    """Return a .safetensors file with its checksum, computed with zeros in place of the checksum."""
    data = save(tensors, metadata={"simclr": json.dumps(description), "checksum": "0" * 64})
    assert data.count(b"0" * 64) == 1
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode())


def encode_description(**changes: Any) -> bytes:
    """Return an intact file with a changed description."""
    description = {
        "format_version": FORMAT_VERSION, "step": 2, "metrics": [], "losses": [], "optimizer_numbers": {},
        "optimizer_groups": [], "images": "", **changes,
    }  # fmt: skip
    description = {key: value for key, value in description.items() if value != "missing"}
    return encode_with_checksum({"model.w": torch.ones(3)}, description)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut to a byte": lambda data: data[:1],
    "cut in the header": lambda data: data[:40],
    "cut in the tensors": lambda data: data[:-1],
    "grown": lambda data: data + b"x",
    "huge header": lambda data: struct.pack("<Q", 2**40) + data[8:],
    "header not JSON": lambda data: data[:8] + b"\xff" * (len(data) - 8),
    "not ours": lambda data: save({"model.w": torch.zeros(3)}),
    "no description": lambda data: save({"model.w": torch.zeros(3)}, metadata={"simclr": "{"}),
    "description a list": lambda data: encode_with_checksum({"model.w": torch.ones(3)}, []),
    "no checksum": lambda data: data.replace(b'"checksum"', b'"digits"'),
    "another's checksum": lambda data: (
        data[: data.index(b'"checksum":"') + 10]
        + encode_description()[encode_description().index(b'"checksum":"') + 10 :][:64]
        + data[data.index(b'"checksum":"') + 74 :]
    ),
    "no step": lambda data: encode_description(step="missing"),
    "no version": lambda data: encode_description(format_version="missing"),
    "step null": lambda data: encode_description(step=None),
    "numbers a list": lambda data: encode_description(optimizer_numbers=[1]),
    "stranger's tensor": lambda data: encode_with_checksum(
        {"w": torch.ones(3)}, {"format_version": FORMAT_VERSION, "optimizer_numbers": {}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_older_checkpoint_is_loaded_if_the_newest_is_damaged(tmp_path: Path, damage: str) -> None:
    keep_both(tmp_path, 1, 2)
    newest = checkpoint_file(tmp_path, 2)
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_damaged_checkpoints_are_an_error(tmp_path: Path, damage: str) -> None:
    keep_both(tmp_path, 1, 2)
    for step in (1, 2):
        checkpoint_file(tmp_path, step).write_bytes(DAMAGES[damage](checkpoint_file(tmp_path, step).read_bytes()))
    with pytest.raises(RunError, match="damaged") as caught:
        load_checkpoint(tmp_path)
    assert str(checkpoint_file(tmp_path, 2)) in caught.value.problem and caught.value.exit_code == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="requires named pipes")
def test_a_pipe_is_skipped(tmp_path: Path) -> None:
    keep_both(tmp_path, 1, 2)
    checkpoint_file(tmp_path, 2).unlink()
    os.mkfifo(checkpoint_file(tmp_path, 2))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1


def test_an_intact_file_is_loaded(tmp_path: Path) -> None:
    checkpoint_file(tmp_path, 2).write_bytes(encode_description())
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.model["w"].tolist() == [1, 1, 1]


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    path = checkpoint_file(tmp_path, 1)
    intact = path.read_bytes()
    assert len(intact) < 1000
    for position in range(len(intact)):
        for bit in range(8):
            data = bytearray(intact)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(RunError):
                load_checkpoint(tmp_path)


def test_newer_format_is_an_error_even_with_an_older_checkpoint(tmp_path: Path) -> None:
    keep_both(tmp_path, 1, 2)
    checkpoint_file(tmp_path, 2).write_bytes(encode_description(format_version=FORMAT_VERSION + 1))
    with pytest.raises(RunError, match=r"newer format.*[Uu]pgrade"):
        load_checkpoint(tmp_path)


def test_other_files_are_ignored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / ".simclr-tmp-abc").write_bytes(b"half")
    (tmp_path / "step-000000009.safetensors.bak").write_bytes(b"x")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1
