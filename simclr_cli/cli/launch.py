"""Launch of a command in several processes on this machine (--devices N), which connect as under torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from simclr_cli.cli.signals import SAVE_SIGNAL, block_signals, create_interrupted, on_signal, quick_end, say_stopping
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.hardware import ON_WINDOWS, describe_shared_memory_shortage

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.multiprocessing.spawn import ProcessContext


GRACE_SECONDS = 5  # for the other processes to end after one has failed, before they are killed


def launch_processes(
    count: int, device: str | None, run_command: Callable[..., int], arguments: tuple[Any, ...], report: Report
) -> int:
    """Run a command in `count` processes. When one fails, the others are ended.

    On the first Ctrl-C or SIGTERM the processes stop, on the second they are killed. On SIGUSR1 the main one saves.

    Args:
        run_command: runs the command in one process and returns its exit code.
        arguments: of `run_command` in each process, except the last one, `launched`.

    Returns:
        The exit code of the first process that failed, or 0.

    Raises:
        MachineError: this machine has too few GPUs, or no way between them; or one of the processes was killed.
        Interrupted: a stop was requested before the processes started.
    """
    processes: list[BaseProcess] = []
    forwarded: list[int] = []  # the signal that stopped the processes

    def forward(number: int) -> None:
        if number == SAVE_SIGNAL:
            _send_signal(processes[:1], number)
        elif not forwarded:
            forwarded.append(number)
            say_stopping()
            _send_signal(processes, number)
        else:
            _kill(processes)
            os._exit(128 + number)

    with on_signal(forward):
        from torch.multiprocessing.spawn import start_processes

        store = _open_store(count, device, report)
        if forwarded:
            raise create_interrupted(forwarded[0])
        with block_signals():  # a starting process receives its signals once it handles them
            context: ProcessContext = start_processes(  # type: ignore[no-untyped-call]
                _run_process, (run_command, *arguments, True), nprocs=count, join=False, start_method="spawn"
            )
        processes += context.processes
        for number in forwarded:  # while the processes were starting
            _send_signal(processes, number)
        code = _join_processes(context, forwarded)
        del store  # the processes needed it until now
        return code


def _open_store(count: int, device: str | None, report: Report) -> TCPStore:
    """Open the store through which the processes connect, and set its address in their environment."""
    import torch
    from torch.distributed import TCPStore, is_nccl_available  # type: ignore[attr-defined]

    from simclr_cli.images.threads import count_workers

    gpus = torch.cuda.device_count() if device is None or device.startswith("cuda") else 0
    if 0 < gpus < count:
        raise MachineError(f"--devices is {count}, and this machine has {gpus} GPUs.", f"Use --devices {gpus}.")
    if gpus and not is_nccl_available():
        raise MachineError("This torch has no NCCL, by which GPUs communicate.", "Use one GPU, or Linux (WSL 2).")
    if gpus and (lack := describe_shared_memory_shortage(count)):
        report(Note(lack, warning=True))
    # At a free port; torch for Windows is built without libuv.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=not ON_WINDOWS)
    os.environ.update(
        WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # so that the processes open no other store
    )  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_workers() // count)))
    return store


def _join_processes(context: ProcessContext, forwarded: Sequence[int]) -> int:
    """Wait for the processes, and return the exit code of the first one that failed, or 0."""
    from multiprocessing.connection import wait

    from torch.multiprocessing.spawn import ProcessExitedException

    main, *others = context.processes
    wait([process.sentinel for process in context.processes])
    if forwarded:  # the main process saves, however slow the disk is; the others may be in the middle of a step
        main.join()
        _kill(others)
    try:
        while not context.join(grace_period=GRACE_SECONDS):
            pass
    except ProcessExitedException as failed:
        if forwarded and (main.exitcode or 0) > 0:
            return int(main.exitcode)
        if failed.exit_code >= 0:
            return failed.exit_code
        if -failed.exit_code in forwarded:  # the signal came when the process had stopped and was ending
            return 128 - failed.exit_code
        raise MachineError(
            f"Process {failed.error_index} of {len(context.processes)} was killed ({failed.signal_name}).",
            "If memory ran out, use a smaller --micro-batch (embed: --batch-size). Resume a training with --resume.",
        ) from None
    return 0


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()


def _send_signal(processes: Sequence[BaseProcess], number: int) -> None:
    if ON_WINDOWS:
        return  # each process gets Ctrl-C from the console itself, and os.kill would end it at once
    for process in processes:
        if process.is_alive() and process.pid:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, number)


def _run_process(rank: int, run_command: Callable[..., int], *arguments: Any) -> None:
    """Run one of the processes, in its own process group, so that Ctrl-C reaches it only through the launcher."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    with quick_end():
        raise SystemExit(run_command(*arguments))
