"""`--devices N`: this command in N processes on this machine, which find one another as under torchrun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from simclr_cli.cli.signals import on_stop
from simclr_cli.errors import MachineError

if TYPE_CHECKING:
    from torch.multiprocessing.spawn import ProcessContext


GRACE = 5  # seconds that the other processes have to end by themselves, when one has failed


def launch(count: int, verb: str, settings_class: type[Any], values: dict[str, Any], as_json: bool, debug: bool) -> int:
    """Run one verb in `count` processes; when one fails, the others are ended.

    Returns:
        The exit code of the first one that failed, or 0.

    Raises:
        MachineError: fewer GPUs than that, or one of the processes was killed.
    """
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    from simclr_cli.images.workers import count_workers

    wanted = values.get("device")
    gpus = torch.cuda.device_count() if wanted is None or wanted.startswith("cuda") else 0
    if 0 < gpus < count:
        raise MachineError(f"--devices is {count}, and this machine has {gpus} GPUs.", f"Give --devices {gpus}.")
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # at a port that is free
    os.environ.update(
        WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(meeting.port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # they shall not open another one
    )  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_workers() // count)))
    arguments = (verb, settings_class, values, as_json, debug, True)
    context: ProcessContext = start_processes(  # type: ignore[no-untyped-call]
        _work, arguments, nprocs=count, join=False, start_method="spawn"
    )

    passed_on: set[int] = set()

    def pass_on(number: int) -> None:
        passed_on.add(number)
        for process in context.processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, number)

    with on_stop(pass_on):  # the processes stop by themselves
        try:
            while not context.join(grace_period=GRACE):
                pass
        except ProcessExitedException as failed:
            if failed.exit_code >= 0:
                return failed.exit_code
            if -failed.exit_code in passed_on:  # it had agreed to stop, and was on its way out, when its signal came
                return 128 - failed.exit_code
            raise MachineError(
                f"Process {failed.error_index} of {count} was ended from outside ({failed.signal_name}).",
                "If it was for want of memory, give a smaller --micro-batch; go on with --resume.",
            ) from None
    return 0


def _work(rank: int, *arguments: Any) -> None:
    """One of the processes; in a group of its own, so that Ctrl-C reaches it once, from the one that started it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    from simclr_cli.cli.app import perform

    raise SystemExit(perform(*arguments))
