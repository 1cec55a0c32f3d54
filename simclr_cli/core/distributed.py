"""Many processes as one: what they tell one another, by torch.distributed.

All of them run the same commands on the same images, each for its own part; the first one talks and writes.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from simclr_cli.core.errors import MachineError
from simclr_cli.core.world import ALONE, PeerLost, Place, attempt, meeting_point

PATIENCE = datetime.timedelta(days=1)  # while the first process reads a large folder, the others wait for it
AT_ONCE = 2**24  # values that are sent in one message


class Ranks:
    """The processes of one run as this one sees them. Alone, nothing is exchanged, and torch.distributed is not used.

    Every process must make the same calls in the same order. Each of them raises PeerLost when another one is gone.
    """

    def __init__(self, place: Place = ALONE) -> None:
        self.rank, self.count, self.local = place.rank, place.count, place.local
        self.restarted = place.restarted

    @property
    def alone(self) -> bool:
        return self.count == 1

    def beside(self) -> int:
        """How many processes of this run are on this machine."""
        return self.collect(platform.node()).count(platform.node())

    @property
    def first(self) -> bool:
        """Whether this one talks and writes."""
        return self.rank == 0

    def part(self, total: int, rank: int | None = None) -> slice:
        """This one's share of `total` things: contiguous, none more than one larger than another."""
        rank = self.rank if rank is None else rank
        return slice(rank * total // self.count, (rank + 1) * total // self.count)

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Rows of everyone's part -> all `total` rows in order, on everyone, the same to the last bit.

        Args:
            own: (n, ...), this one's `part(total)`.
        """
        if self.alone:
            return own
        lengths = [len(range(total)[self.part(total, rank)]) for rank in range(self.count)]
        padded = own.new_zeros(max(lengths), *own.shape[1:])  # collectives want equal shapes
        padded[: len(own)] = own
        everyone = own.new_empty(self.count * len(padded), *own.shape[1:])
        with _together():
            dist.all_gather_into_tensor(everyone, padded)
        parts = everyone.view(self.count, *padded.shape)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.alone:
            return
        for some in _in_messages(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            with _together():
                dist.all_reduce(flat)
            for tensor, values in zip(some, torch.split(flat, [tensor.numel() for tensor in some]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def most(self, number: int) -> int:
        """The largest of everyone's numbers."""
        if self.alone:
            return number
        value = torch.tensor([number])
        with _together():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def share(self, value: Any) -> Any:
        """What the first process has, on all of them; anything that JSON can hold."""
        if self.alone:
            return value
        message = self._as_bytes(value if self.first else None)
        with _together():
            dist.broadcast(message, src=0)
        return json.loads(message.numpy().tobytes())

    def collect(self, value: Any) -> list[Any]:
        """Everyone's value, in order, on everyone; anything that JSON can hold."""
        if self.alone:
            return [value]
        message = self._as_bytes(value)
        everyone = message.new_empty(self.count * len(message))
        with _together():
            dist.all_gather_into_tensor(everyone, message)
        return [json.loads(part.numpy().tobytes()) for part in torch.split(everyone, len(message))]

    def _as_bytes(self, value: Any) -> Tensor:
        """(n,) uint8 of JSON, n the same on all processes."""
        said = json.dumps(value).encode("ascii")  # names that are not UTF-8 survive as escapes
        message = torch.full((self.most(len(said)),), ord(" "), dtype=torch.uint8)
        message[: len(said)] = torch.from_numpy(np.frombuffer(said, np.uint8).copy())
        return message

    def rows_in_order(self, own: Tensor) -> Iterator[Tensor]:
        """On the first process everyone's rows, one rank after the other, in parts; on the others nothing comes.

        Args:
            own: (n, D) on the CPU, n of each one's own.
        """
        if self.alone:
            yield own
            return
        lengths = self.collect(len(own))
        at_once = max(1, AT_ONCE // own.shape[1])
        for rank, length in enumerate(lengths):
            for start in range(0, length, at_once):
                part = own[start : start + at_once]
                with _together():
                    if self.first and rank:
                        part = torch.empty(min(at_once, length - start), own.shape[1], dtype=own.dtype)
                        dist.recv(part, src=rank)
                    elif rank and rank == self.rank:
                        dist.send(part, dst=0)
                if self.first:
                    yield part

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process, then the first one of each other machine, then the others.

        For what is done once on each disk, whether the machines share one or not: who comes later finds it done.
        """
        turn = 0 if self.first else 1 if self.local == 0 else 2
        for now in range(3):
            if now == turn:
                yield
            self.most(0)  # wait for all


def _in_messages(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype and device, together until they are AT_ONCE values."""
    waiting: list[Tensor] = []
    for tensor in tensors:
        if waiting and (tensor.dtype != waiting[0].dtype or sum(t.numel() for t in (*waiting, tensor)) > AT_ONCE):
            yield waiting
            waiting = []
        waiting.append(tensor)
    if waiting:
        yield waiting


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What one process does with the others; that one of them is gone shows as an error of whichever kind."""
    try:
        yield
    except RuntimeError as error:
        if "memory" in str(error) or "Detected mismatch" in str(error):
            raise
        raise PeerLost(
            f"Another of the processes of this run has ended ({str(error).strip().splitlines()[0][:200]}).",
            "Its own error, if it had one, stands above; mend that, and go on with --resume.",
        ) from None


@contextlib.contextmanager
def connected(place: Place, device: torch.device) -> Iterator[Ranks]:
    """Meet the others, and part from them in the end.

    Args:
        device: of this process.

    Raises:
        MachineError: they cannot be met.
    """
    if place.count == 1:
        yield Ranks(place)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.update(meeting_point())
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store = next(rendezvous("env://", place.rank, place.count, timeout=PATIENCE))[0]
        store.set_timeout(PATIENCE)
        store = dist.PrefixStore(attempt(), store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"The {place.count} processes of this run cannot meet ({str(error).strip().splitlines()[0][:200]}).",
            "Start all of them by torchrun or srun; MASTER_ADDR and MASTER_PORT say where they meet.",
        ) from None
    yield Ranks(place)
    # Not after an error: the others notice when this process has ended, and so after it has said why.
    dist.destroy_process_group()
