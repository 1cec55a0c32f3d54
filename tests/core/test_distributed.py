"""What is shared out among processes, and how; the processes themselves: cli/test_processes."""

import pytest
import torch

from simclr_cli.core.distributed import AT_ONCE, Ranks, _in_messages, _together
from simclr_cli.core.errors import MachineError
from simclr_cli.core.world import PeerLost, Place


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 6, 7, 8, 100])
def test_parts_are_everything_once_in_order_and_even(count: int, total: int) -> None:
    parts = [Ranks(Place(rank, count)).part(total) for rank in range(count)]
    assert [i for part in parts for i in range(total)[part]] == list(range(total))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert parts == [Ranks(Place(0, count)).part(total, rank) for rank in range(count)]


def test_alone_nothing_is_exchanged() -> None:
    ranks, rows = Ranks(), torch.rand(5, 2)
    assert ranks.alone and ranks.first and ranks.gather(rows, 5) is rows
    assert ranks.collect({"a": "\udcff"}) == [{"a": "\udcff"}] and ranks.share([1]) == [1] and ranks.most(3) == 3
    assert list(ranks.rows_in_order(rows)) == [rows]
    kept = rows.clone()
    ranks.add([rows])
    assert torch.equal(rows, kept) and ranks.beside() == 1
    with ranks.in_turn():
        pass


def test_messages_are_of_one_kind_and_bounded_in_size() -> None:
    sizes = [1, AT_ONCE - 1, 1, 5, AT_ONCE + 3, 2]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    tensors.insert(4, torch.empty(3, dtype=torch.float64, device="meta"))
    messages = list(_in_messages(tensors))
    assert [id(t) for some in messages for t in some] == [id(t) for t in tensors]
    assert [[t.numel() for t in some] for some in messages] == [[1, AT_ONCE - 1], [1, 5], [3], [AT_ONCE + 3], [2]]
    assert list(_in_messages([])) == []


def test_a_broken_connection_is_a_peer_that_is_gone() -> None:
    with pytest.raises(PeerLost, match="has ended") as caught:
        with _together():
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1234\nmore")
    assert isinstance(caught.value, MachineError) and "more" not in str(caught.value)
    with pytest.raises(RuntimeError, match="out of memory"):
        with _together():
            raise torch.OutOfMemoryError("CUDA out of memory")
