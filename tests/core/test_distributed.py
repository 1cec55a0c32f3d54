"""Shards, buckets and errors of the process group; tests with several processes are in cli/test_processes."""

import datetime
import socket

import pytest
import torch

from simclr_cli.core import distributed
from simclr_cli.core.distributed import (
    MAX_VALUES_PER_MESSAGE,
    ProcessGroup,
    _bucket_tensors,
    _detect_lost_peer,
    join_process_group,
)
from simclr_cli.core.errors import MachineError
from simclr_cli.core.world import PeerLostError, World


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 6, 7, 8, 100])
def test_shards_cover_everything_once_in_order_and_evenly(count: int, total: int) -> None:
    shards = [ProcessGroup(World(rank, count)).shard(total) for rank in range(count)]
    assert [i for shard in shards for i in range(total)[shard]] == list(range(total))
    sizes = [shard.stop - shard.start for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert shards == [ProcessGroup(World(0, count)).shard(total, rank) for rank in range(count)]


def test_a_single_process_exchanges_nothing() -> None:
    process_group, rows = ProcessGroup(), torch.rand(5, 2)
    assert process_group.is_single and process_group.is_main and process_group.all_gather(rows, 5) is rows
    assert process_group.all_gather_object({"a": "\udcff"}) == [{"a": "\udcff"}]
    assert process_group.broadcast_object([1]) == [1] and process_group.max(3) == 3
    assert list(process_group.gather_rows(rows)) == [rows]
    before = rows.clone()
    process_group.all_reduce([rows])
    assert torch.equal(rows, before) and process_group.local_world_size == 1
    with process_group.main_first():
        pass


def test_buckets_are_of_one_dtype_and_bounded_in_size() -> None:
    most = MAX_VALUES_PER_MESSAGE
    sizes = [1, most - 1, 1, 5, most + 3, 2]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    tensors.insert(4, torch.empty(3, dtype=torch.float64, device="meta"))
    buckets = list(_bucket_tensors(tensors))
    assert [id(t) for bucket in buckets for t in bucket] == [id(t) for t in tensors]
    assert [[t.numel() for t in bucket] for bucket in buckets] == [[1, most - 1], [1, 5], [3], [most + 3], [2]]
    assert list(_bucket_tensors([])) == []


def test_processes_that_never_start_are_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one has failed before it could connect, and no launcher ends the others."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", port)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert datetime.timedelta(minutes=10) >= distributed.CONNECT_TIMEOUT
    monkeypatch.setattr(distributed, "CONNECT_TIMEOUT", datetime.timedelta(seconds=0.2))
    with pytest.raises(MachineError, match="The 2 processes of this run cannot connect"):
        with join_process_group(World(0, 2), torch.device("cpu")):
            pass


def test_the_smallest_number_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ProcessGroup().min(3) == 3
    processes = ProcessGroup(World(0, 2))
    monkeypatch.setattr(processes, "max", lambda number: max(number, -2))  # the other one has 2
    assert processes.min(3) == 2 and processes.min(1) == 1


def test_a_broken_connection_is_a_lost_peer() -> None:
    with pytest.raises(PeerLostError, match="has ended") as caught:
        with _detect_lost_peer():
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1234\nmore")
    assert isinstance(caught.value, MachineError) and "more" not in str(caught.value)
    with pytest.raises(RuntimeError, match="out of memory"):
        with _detect_lost_peer():
            raise torch.OutOfMemoryError("CUDA out of memory")
