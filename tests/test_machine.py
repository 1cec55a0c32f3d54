"""How much memory is free, by what the system says."""

from pathlib import Path

import pytest
import torch

from simclr_cli import machine

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("limit", "use", "expected"),
    [
        ("max", "5", 2**40),
        (str(10**9), str(4 * 10**8), 6 * 10**8),
        (str(10**9), str(2 * 10**9), 0),
        (None, None, 2**40),
    ],
)
def test_a_container_may_leave_less_than_the_machine_has(
    limit: str | None, use: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (str(tmp_path / "max"), str(tmp_path / "current"))
    for name, text in zip(names, (limit, use), strict=True):
        if text is not None:
            Path(name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CGROUPS", (names, ("/no/such", "/file")))
    monkeypatch.setattr(machine, "_available", lambda: 2**40)
    assert machine.free_memory(CPU) == expected


def test_this_machine_has_some() -> None:
    assert 2**24 < machine.free_memory(CPU) < 2**50
