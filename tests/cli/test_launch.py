"""The launch of several processes where the system is Windows: its store, and how processes are stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest
from torch.distributed import TCPStore

from simclr_cli.cli import launch
from simclr_cli.core import distributed
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import silent
from simclr_cli.core.world import World

pytestmark = pytest.mark.xdist_group("ports")
VARIABLES = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "OMP_NUM_THREADS")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch as on Windows, and restore the environment."""
    monkeypatch.setattr(launch, "ON_WINDOWS", True)
    monkeypatch.setattr(distributed, "ON_WINDOWS", True)
    for name in VARIABLES:
        monkeypatch.setenv(name, os.environ.get(name, "1"))


@pytest.mark.usefixtures("windows")
def test_the_store_and_its_clients_need_no_libuv() -> None:
    store = launch._open_store(2, "cpu", silent)
    assert isinstance(store, TCPStore) and not store.libuvBackend
    store.set("key", "value")
    for rank in range(2):
        client = distributed._connect_store(World(rank, 2))
        assert client.get("key") == b"value" and not client.libuvBackend


def test_processes_are_stopped_by_the_console_and_killed_by_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    launch._send_signal([process], signal.SIGINT)
    assert len(sent) == (0 if launch.ON_WINDOWS else 1)
    monkeypatch.setattr(launch, "ON_WINDOWS", True)
    launch._send_signal([process], signal.SIGINT)
    assert sent == [(process.pid, signal.SIGINT)][: len(sent)] and process.is_alive()
    monkeypatch.undo()
    launch._kill([process])
    process.join(30)
    assert process.exitcode not in (None, 0)
    launch._kill([process])  # it has ended


def test_gpus_need_nccl_and_processors_do_not(windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    for device in (None, "cuda"):
        with pytest.raises(MachineError, match=r"no NCCL.*Use one GPU"):
            launch._open_store(2, device, silent)
    assert launch._open_store(2, "cpu", silent).port > 0
