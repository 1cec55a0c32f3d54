"""One of two processes, connected: the one of rank WAITING waits for the other, which prints its number and sleeps."""

import os
import sys
import time

import torch

from simclr_cli.core.distributed import join_process_group
from simclr_cli.core.world import PeerLostError, World

with join_process_group(World.from_environment(), torch.device("cpu")) as processes:
    processes.barrier()
    try:
        if processes.rank != int(sys.argv[1]):
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            time.sleep(600)
        processes.barrier()
    except PeerLostError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)
