"""`--devices N`: this command in N processes on this machine, which find one another as under torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from simclr_cli.cli.signals import SAVE, asked_for, held_back, on_signal, quick_end, say_stopping
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.hardware import lack_of_shared_memory

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.multiprocessing.spawn import ProcessContext


GRACE = 5  # seconds that the other processes have to end by themselves, when one has failed


def launch(
    count: int, device: str | None, perform: Callable[..., int], arguments: tuple[Any, ...], report: Report
) -> int:
    """Run one command in `count` processes; when one fails, the others are ended.

    On the first Ctrl-C or SIGTERM they stop by themselves, on the second they are ended; on SIGUSR1 the first saves.

    Args:
        perform: runs the command in one process and returns its exit code.
        arguments: of `perform` in each of them, but for the last, by which they know that they are led.

    Returns:
        The exit code of the first one that failed, or 0.

    Raises:
        MachineError: fewer GPUs than that, or one of the processes was killed.
        Interrupted: a stop was asked for before there were any.
    """
    processes: list[BaseProcess] = []
    passed_on: list[int] = []

    def pass_on(number: int) -> None:
        if number == SAVE:
            _send(processes[:1], number)
        elif not passed_on:
            passed_on.append(number)
            say_stopping()
            _send(processes, number)
        else:
            _send(processes, signal.SIGKILL)
            os._exit(128 + number)

    with on_signal(pass_on):
        from torch.multiprocessing.spawn import start_processes

        meeting = _meeting(count, device, report)
        if passed_on:
            raise asked_for(passed_on[0])
        with held_back():  # what is sent to one that is still starting waits until it listens
            context: ProcessContext = start_processes(  # type: ignore[no-untyped-call]
                _work, (perform, *arguments, True), nprocs=count, join=False, start_method="spawn"
            )
        processes += context.processes
        for number in passed_on:  # while they were started
            _send(processes, number)
        code = _join(context, passed_on)
        del meeting  # until now they needed it
        return code


def _meeting(count: int, device: str | None, report: Report) -> TCPStore:
    """Where the processes find one another as long as it is there; the environment says so to them."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from simclr_cli.images.threads import count_workers

    gpus = torch.cuda.device_count() if device is None or device.startswith("cuda") else 0
    if 0 < gpus < count:
        raise MachineError(f"--devices is {count}, and this machine has {gpus} GPUs.", f"Give --devices {gpus}.")
    if gpus and (lack := lack_of_shared_memory(count)):
        report(Note(lack, warning=True))
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # at a port that is free
    os.environ.update(
        WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(meeting.port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # they shall not open another one
    )  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_workers() // count)))
    return meeting


def _join(context: ProcessContext, passed_on: Sequence[int]) -> int:
    """Wait for the processes; the exit code of the first one that failed, or 0."""
    from multiprocessing.connection import wait

    from torch.multiprocessing.spawn import ProcessExitedException

    first, *others = context.processes
    wait([process.sentinel for process in context.processes])
    if passed_on:  # the first saves, however long the disk takes; the others may be in the middle of a step
        first.join()
        _send(others, signal.SIGKILL)
    try:
        while not context.join(grace_period=GRACE):
            pass
    except ProcessExitedException as failed:
        if passed_on and (first.exitcode or 0) > 0:
            return int(first.exitcode)
        if failed.exit_code >= 0:
            return failed.exit_code
        if -failed.exit_code in passed_on:  # it had agreed to stop, and was on its way out, when its signal came
            return 128 - failed.exit_code
        raise MachineError(
            f"Process {failed.error_index} of {len(context.processes)} was ended from outside ({failed.signal_name}).",
            "If it was for want of memory, give a smaller --micro-batch; go on with --resume.",
        ) from None
    return 0


def _send(processes: Sequence[BaseProcess], number: int) -> None:
    for process in processes:
        if process.is_alive() and process.pid:
            with contextlib.suppress(ProcessLookupError):  # it ended in between
                os.kill(process.pid, number)


def _work(rank: int, perform: Callable[..., int], *arguments: Any) -> None:
    """One of the processes; in a group of its own, so that Ctrl-C reaches it once, from the one that started it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    with quick_end():
        raise SystemExit(perform(*arguments))
