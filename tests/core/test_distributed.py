"""Shards, buckets and errors of the process group; tests with several processes are in cli/test_processes."""

import pytest
import torch

from simclr_cli.core.distributed import MAX_VALUES_PER_MESSAGE, ProcessGroup, _bucket_tensors, _detect_lost_peer
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


def test_a_broken_connection_is_a_lost_peer() -> None:
    with pytest.raises(PeerLostError, match="has ended") as caught:
        with _detect_lost_peer():
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1234\nmore")
    assert isinstance(caught.value, MachineError) and "more" not in str(caught.value)
    with pytest.raises(RuntimeError, match="out of memory"):
        with _detect_lost_peer():
            raise torch.OutOfMemoryError("CUDA out of memory")
