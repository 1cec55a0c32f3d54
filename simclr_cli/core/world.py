"""Rank and world size of this process, read from the environment that torchrun or srun sets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from simclr_cli.core.errors import MachineError, SettingsError

# Variables that hold the rank, the world size, the local rank and the number of restarts.
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
SRUN_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_RESTART_COUNT")


class PeerLostError(MachineError):
    """Another process of the group has ended."""


@dataclass(frozen=True)
class World:
    """Rank of this process among all processes of the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # rank among the processes on this machine
    was_restarted: bool = False  # by the launcher, after one of the processes failed

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ, *, devices: int = 1) -> World:
        """Read the variables of torchrun, or else those of srun; without them this is a single process.

        Args:
            devices: expected world size; 1 accepts any.

        Raises:
            SettingsError: a variable is missing or invalid, or the world size is not the expected one.
        """
        try:
            by_torchrun = "RANK" in environment and "WORLD_SIZE" in environment
            world = World()
            if by_torchrun or int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
                rank, world_size, local_rank, restarts = TORCHRUN_VARIABLES if by_torchrun else SRUN_VARIABLES
                world = World(
                    int(environment[rank]),
                    int(environment[world_size]),
                    int(environment.get(local_rank, environment[rank])),
                    int(environment.get(restarts, 0)) > 0,
                )
        except (KeyError, ValueError) as error:
            raise SettingsError(
                f"The environment does not define the rank of this process ({error}).",
                "Start several processes by torchrun or srun. For one process, unset RANK, WORLD_SIZE and "
                "SLURM_STEP_NUM_TASKS.",
            ) from None
        if not 0 <= world.rank < world.world_size:
            raise SettingsError(
                f"The environment sets rank {world.rank} in a world of {world.world_size} processes.",
                "Start all processes by torchrun or srun.",
            )
        if devices not in (1, world.world_size):
            raise SettingsError(
                f"--devices is {devices}, but the world size is {world.world_size}.",
                "Remove --devices under torchrun and srun. In Python, start the processes by torchrun.",
            )
        return world


SINGLE_PROCESS = World()


def get_master_address(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT, by default the first node of the SLURM step and a port by the job number."""
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    # node[017-020,033],other -> node017
    first_node = re.sub(r"\[(\w+).*", r"\1", nodes if "[" in nodes.split(",")[0] else nodes.split(",")[0])
    port = 20_000 + int(environment.get("SLURM_JOB_ID", 0)) % 10_000
    defaults = {"MASTER_ADDR": first_node, "MASTER_PORT": str(port)}
    return {name: environment.get(name, default) for name, default in defaults.items()}


def get_store_prefix(environment: Mapping[str, str] = os.environ) -> str:
    """Return a prefix that separates the messages of a restart from those of the failed processes.

    torchrun on one machine keeps one store for all attempts, so a new process may find the address of an old one
    (pytorch issue 135712). Its restart count is the same for all processes on one machine only.
    """
    count = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"simclr-{count}" if environment.get("GROUP_WORLD_SIZE") == "1" else "simclr"
