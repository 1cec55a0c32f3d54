"""A checkpoint comes back bit for bit, and training goes on from it as if nothing had been."""

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


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """As training has them: weights with decay, the rest without."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": weights, "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, Maker] = {
    "sgd": lambda model: torch.optim.SGD(groups(model), lr=0.1, momentum=0.9, nesterov=True),
    "sgd-plain": lambda model: torch.optim.SGD(groups(model), lr=1 / 3),
    "adamw": lambda model: torch.optim.AdamW(groups(model), lr=0.002, betas=(0.9, 0.95)),
    "lars": lambda model: with_rate(Lars(groups(model), momentum=0.9, eta=0.01), 0.3),
    # As training makes them: in few kernels.
    "our lars": lambda model: with_rate(create_optimizer(model, "lars", weight_decay=1e-2), 30.0),
    "our sgd": lambda model: with_rate(create_optimizer(model, "sgd", weight_decay=1e-2), 0.1),
    "our adamw": lambda model: with_rate(create_optimizer(model, "adamw", weight_decay=1e-2), 0.002),
}


def with_rate(optimizer: torch.optim.Optimizer, rate: float) -> torch.optim.Optimizer:
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
    """Every leaf of a nest of dicts and lists; a tuple is a list, for JSON knows one of them only."""
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


def file_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"


def keep_both(folder: Path, older: int, newer: int) -> None:
    """As a crash leaves them between the new one's writing and the old one's removal."""
    save_checkpoint(folder, checkpoint(older))
    kept = file_of(folder, older).read_bytes()
    save_checkpoint(folder, checkpoint(newer))
    file_of(folder, older).write_bytes(kept)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    model = small_model(0)
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, range(3))
    metrics = [{"epoch": 0, "loss": 1 / 3, "rank": None, "note": "\udcff"}, {"epoch": 1, "loss": 1e-300}]
    losses = [0.1, 1 / 7, 5e-324]
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    save_checkpoint(tmp_path, Checkpoint(3, model.state_dict(), optimizer.state_dict(), metrics, losses, "f00d"))

    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.metrics, loaded.losses, loaded.images) == (3, metrics, losses, "f00d")
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


def test_momenta_of_lars_are_in_the_file(tmp_path: Path) -> None:
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


def test_optimizer_before_its_first_step_comes_back(tmp_path: Path) -> None:
    model = small_model(0)
    optimizer = OPTIMIZERS["adamw"](model)
    save_checkpoint(tmp_path, Checkpoint(0, model.state_dict(), optimizer.state_dict(), [], [], ""))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert_same(loaded.optimizer, optimizer.state_dict())
    OPTIMIZERS["adamw"](model).load_state_dict(loaded.optimizer)


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(1, {}, {"state": {}, "param_groups": []}, [], [math.inf, math.nan], ""))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.losses[0] == math.inf and math.isnan(loaded.losses[1])


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step))
    assert [path.name for path in tmp_path.iterdir()] == [file_of(tmp_path, 100).name]


def test_newest_is_by_step_and_not_by_time(tmp_path: Path) -> None:
    keep_both(tmp_path, 999_999, 1_000_000)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1_000_000


def test_crash_while_writing_leaves_the_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint(1, fill=5))

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == [file_of(tmp_path, 1).name]
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1 and loaded.model["w"].tolist() == [5, 5, 5]


def sealed(tensors: dict[str, Tensor], description: Any) -> bytes:
    """A .safetensors file with its checksum: that of the file with zeros in the checksum's place."""
    data = save(tensors, metadata={"simclr": json.dumps(description), "checksum": "0" * 64})
    assert data.count(b"0" * 64) == 1
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode())


def described(**changes: Any) -> bytes:
    """A whole file with a description that is not as it should be."""
    description = {
        "format_version": FORMAT_VERSION, "step": 2, "metrics": [], "losses": [], "optimizer_numbers": {},
        "optimizer_groups": [], "images": "", **changes,
    }  # fmt: skip
    kept = {key: value for key, value in description.items() if value != "missing"}
    return sealed({"model.w": torch.ones(3)}, kept)


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
    "description a list": lambda data: sealed({"model.w": torch.ones(3)}, []),
    "no checksum": lambda data: data.replace(b'"checksum"', b'"digits"'),
    "another's checksum": lambda data: (
        data[: data.index(b'"checksum":"') + 10]
        + described()[described().index(b'"checksum":"') + 10 :][:64]
        + data[data.index(b'"checksum":"') + 74 :]
    ),
    "no step": lambda data: described(step="missing"),
    "no version": lambda data: described(format_version="missing"),
    "step null": lambda data: described(step=None),
    "numbers a list": lambda data: described(optimizer_numbers=[1]),
    "stranger's tensor": lambda data: sealed(
        {"w": torch.ones(3)}, {"format_version": FORMAT_VERSION, "optimizer_numbers": {}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_newest_that_is_damaged_gives_way_to_the_older(tmp_path: Path, damage: str) -> None:
    keep_both(tmp_path, 1, 2)
    newest = file_of(tmp_path, 2)
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_damaged_is_a_run_error(tmp_path: Path, damage: str) -> None:
    keep_both(tmp_path, 1, 2)
    for step in (1, 2):
        file_of(tmp_path, step).write_bytes(DAMAGES[damage](file_of(tmp_path, step).read_bytes()))
    with pytest.raises(RunError, match="damaged") as caught:
        load_checkpoint(tmp_path)
    assert str(file_of(tmp_path, 2)) in caught.value.what and caught.value.exit_code == 4


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    keep_both(tmp_path, 1, 2)
    file_of(tmp_path, 2).unlink()
    os.mkfifo(file_of(tmp_path, 2))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1


def test_the_checksum_is_of_the_whole_file(tmp_path: Path) -> None:
    file_of(tmp_path, 2).write_bytes(described())
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.model["w"].tolist() == [1, 1, 1]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    path = file_of(tmp_path, 1)
    whole = path.read_bytes()
    assert len(whole) < 1000
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(RunError):
                load_checkpoint(tmp_path)


def test_newer_format_is_a_run_error_and_no_older_one_is_taken(tmp_path: Path) -> None:
    keep_both(tmp_path, 1, 2)
    file_of(tmp_path, 2).write_bytes(described(format_version=FORMAT_VERSION + 1))
    with pytest.raises(RunError, match=r"newer format.*[Uu]pgrade"):
        load_checkpoint(tmp_path)


def test_strays_are_not_taken_for_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / ".simclr-tmp-abc").write_bytes(b"half")
    (tmp_path / "step-000000009.safetensors.bak").write_bytes(b"x")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded.step == 1
