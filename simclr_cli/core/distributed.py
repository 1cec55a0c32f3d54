"""Process group of a run: collectives of torch.distributed on tensors, objects and rows.

All processes run the same commands on the same images, each on its own shard. The main process prints and writes.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from simclr_cli.core.errors import MachineError, first_line, is_out_of_memory
from simclr_cli.core.hardware import ON_WINDOWS
from simclr_cli.core.world import SINGLE_PROCESS, PeerLostError, World, get_master_address, get_store_prefix

# A process that has ended is noticed at once by gloo, whose connections end with it; NCCL's may not. So values on the
# CPU go through gloo, and whoever waits for long waits there: while the main process reads a large folder, measures or
# saves. NCCL exchanges tensors of a step only.
GLOO_TIMEOUT = datetime.timedelta(days=1)
NCCL_TIMEOUT = datetime.timedelta(minutes=10)
CONNECT_TIMEOUT = datetime.timedelta(minutes=10)  # until the last process has started
MAX_VALUES_PER_MESSAGE = 2**24


class ProcessGroup:
    """The processes of one run. A single process exchanges nothing and does not use torch.distributed.

    Every process must make the same calls in the same order. Each raises PeerLostError when another one has ended.
    """

    def __init__(self, world: World = SINGLE_PROCESS) -> None:
        self.rank, self.world_size, self.local_rank = world.rank, world.world_size, world.local_rank
        self.was_restarted = world.was_restarted
        self.local_world_size = 1  # processes of this run on this machine
        self.gloo: dist.ProcessGroup | None = None  # for values on the CPU, if the default group is of GPUs

    @property
    def is_single(self) -> bool:
        return self.world_size == 1

    @property
    def is_main(self) -> bool:
        """True on the process that prints and writes."""
        return self.rank == 0

    def shard(self, total: int, rank: int | None = None) -> slice:
        """Return the contiguous part of `total` items of a rank, by default this one; sizes differ by at most one."""
        rank = self.rank if rank is None else rank
        return slice(rank * total // self.world_size, (rank + 1) * total // self.world_size)

    def all_gather(self, shard: Tensor, total: int) -> Tensor:
        """Return all `total` rows in order, on every process, identical to the last bit.

        Args:
            shard: (n, ...), the rows `shard(total)` of this process.
        """
        if self.is_single:
            return shard
        lengths = [len(range(total)[self.shard(total, rank)]) for rank in range(self.world_size)]
        padded = shard.new_zeros(max(lengths), *shard.shape[1:])  # collectives need equal shapes
        padded[: len(shard)] = shard
        gathered = shard.new_empty(self.world_size * len(padded), *shard.shape[1:])
        with _detect_lost_peer():
            dist.all_gather_into_tensor(gathered, padded, group=None if padded.is_cuda else self.gloo)
        shards = gathered.view(self.world_size, *padded.shape)
        return torch.cat([rows[:length] for rows, length in zip(shards, lengths, strict=True)])

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.is_single:
            return
        for bucket in _bucket_tensors(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _detect_lost_peer():
                dist.all_reduce(flat, group=None if flat.is_cuda else self.gloo)
            for tensor, values in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def max(self, number: int) -> int:
        """Return the largest number of all processes."""
        if self.is_single:
            return number
        value = torch.tensor([number])
        with _detect_lost_peer():
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self.gloo)
        return int(value)

    def min(self, number: int) -> int:
        """Return the smallest number of all processes."""
        return -self.max(-number)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.max(0)

    def broadcast_object(self, value: Any) -> Any:
        """Return the main process's value on all processes; it must be JSON."""
        if self.is_single:
            return value
        message = self._encode(value if self.is_main else None)
        with _detect_lost_peer():
            dist.broadcast(message, src=0, group=self.gloo)
        return json.loads(message.numpy().tobytes())

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the value of every rank, in order, on all processes; it must be JSON."""
        if self.is_single:
            return [value]
        message = self._encode(value)
        gathered = message.new_empty(self.world_size * len(message))
        with _detect_lost_peer():
            dist.all_gather_into_tensor(gathered, message, group=self.gloo)
        return [json.loads(part.numpy().tobytes()) for part in torch.split(gathered, len(message))]

    def _encode(self, value: Any) -> Tensor:
        """Return (n,) uint8 of JSON, padded to the same n on all processes."""
        encoded = json.dumps(value).encode("ascii")  # names that are not UTF-8 survive as escapes
        message = torch.full((self.max(len(encoded)),), ord(" "), dtype=torch.uint8)
        message[: len(encoded)] = torch.from_numpy(np.frombuffer(encoded, np.uint8).copy())
        return message

    def gather_rows(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the rows of all ranks, in order and in chunks, on the main process; yield nothing on the others.

        Args:
            rows: (n, D) on the CPU; n may differ between processes.
        """
        if self.is_single:
            yield rows
            return
        lengths = self.all_gather_object(len(rows))
        chunk_size = max(1, MAX_VALUES_PER_MESSAGE // rows.shape[1])
        for rank, length in enumerate(lengths):
            for start in range(0, length, chunk_size):
                chunk = rows[start : start + chunk_size]
                with _detect_lost_peer():
                    if self.is_main and rank:
                        chunk = torch.empty(min(chunk_size, length - start), rows.shape[1], dtype=rows.dtype)
                        dist.recv(chunk, src=rank, group=self.gloo)
                    elif rank and rank == self.rank:
                        dist.send(chunk, dst=0, group=self.gloo)
                if self.is_main:
                    yield chunk

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block on the main process, then on local rank 0 of each other machine, then on all others.

        For work that is done once per disk, whether the machines share one or not: later processes find it done.
        """
        turn = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        for current_turn in range(3):
            if current_turn == turn:
                yield
            self.barrier()


def _bucket_tensors(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield lists of consecutive tensors of one dtype, up to MAX_VALUES_PER_MESSAGE values or one larger tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        values = sum(t.numel() for t in (*bucket, tensor))
        if bucket and (tensor.dtype != bucket[0].dtype or values > MAX_VALUES_PER_MESSAGE):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextlib.contextmanager
def _detect_lost_peer() -> Iterator[None]:
    """Raise PeerLostError if a collective fails, whose error for an ended peer depends on the backend."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error) or "memory" in str(error) or "Detected mismatch" in str(error):
            raise
        raise PeerLostError(
            f"Another process of this run has ended ({first_line(error)[:200]}).",
            "See its error above, if it printed one. Fix it, then run again with --resume.",
        ) from None


@contextlib.contextmanager
def join_process_group(world: World, device: torch.device) -> Iterator[ProcessGroup]:
    """Join the process group of the run, and leave it at the end.

    Args:
        device: of this process.

    Raises:
        MachineError: the processes cannot connect to each other.
    """
    if world.world_size == 1:
        yield ProcessGroup(world)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.update(get_master_address())
    processes = ProcessGroup(world)
    try:
        store = dist.PrefixStore(get_store_prefix(), _connect_store(world))  # type: ignore[attr-defined]
        backend, timeout = ("nccl", NCCL_TIMEOUT) if device.type == "cuda" else ("gloo", GLOO_TIMEOUT)
        with _without_stdout():
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.world_size, timeout=timeout)
            if device.type == "cuda":
                processes.gloo = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=GLOO_TIMEOUT))
    except (RuntimeError, ValueError, TypeError) as error:  # the last for a port over 65,535
        reason = first_line(error)[:200]
        raise MachineError(
            f"The {world.world_size} processes of this run cannot connect to each other ({reason}).",
            "Start all of them by torchrun or srun, and check MASTER_ADDR and MASTER_PORT.",
        ) from None
    processes.local_world_size = processes.all_gather_object(platform.node()).count(platform.node())
    yield processes
    # Not after an error: the other processes notice when this one ends, which is after it has printed its error.
    dist.destroy_process_group()


def _connect_store(world: World) -> dist.TCPStore:  # type: ignore[name-defined]
    """Connect to the store that the launcher has opened, or that rank 0 opens, as torch's env:// does.

    That fails on Windows: a client of a launcher's store asks for libuv, without which torch is built there.
    """
    opens = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world.world_size, opens, CONNECT_TIMEOUT,
        multi_tenant=True, use_libuv=not ON_WINDOWS,
    )  # fmt: skip


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    """Drop what libraries print on stdout, where results belong: Gloo of torch 2.10 says that it is connected."""
    stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)
