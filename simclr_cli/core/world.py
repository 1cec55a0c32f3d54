"""Which of how many processes this is, by the environment: that of torchrun, of srun, or of neither."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from simclr_cli.core.errors import MachineError, SettingsError

# What torchrun and srun say in the environment: rank, count, which of those on this machine, how often begun again.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_RESTART_COUNT")


class PeerLost(MachineError):
    """Another of the processes that work as one is gone."""


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1
    local: int = 0  # which of those on this machine
    restarted: bool = False  # begun again by whoever started it, after one of them had failed

    @staticmethod
    def found(environment: Mapping[str, str] = os.environ, *, devices: int = 1) -> Place:
        """As torchrun, or else srun, says by the environment; alone where neither does.

        Args:
            devices: how many there are to be; 1 for as many as there are.

        Raises:
            SettingsError: what the environment says cannot be, or is something else.
        """
        try:
            by_torchrun = "RANK" in environment and "WORLD_SIZE" in environment
            place = Place()
            if by_torchrun or int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
                rank, count, local, restarts = TORCHRUN if by_torchrun else SRUN
                place = Place(
                    int(environment[rank]),
                    int(environment[count]),
                    int(environment.get(local, environment[rank])),
                    int(environment.get(restarts, 0)) > 0,
                )
        except (KeyError, ValueError) as error:
            raise SettingsError(
                f"The environment does not say which of several processes this is ({error}).",
                "Start them by torchrun or srun, or one alone without RANK, WORLD_SIZE and SLURM_STEP_NUM_TASKS.",
            ) from None
        if not 0 <= place.rank < place.count:
            raise SettingsError(
                f"The environment says that this is process {place.rank} of {place.count}, counted from 0.",
                "Start all of them by torchrun or srun.",
            )
        if devices not in (1, place.count):
            raise SettingsError(
                f"--devices is {devices}, and there are {place.count} processes.",
                "Leave out --devices under torchrun and srun; in Python, start the processes by torchrun.",
            )
        return place


ALONE = Place()


def meeting_point(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT, where they are not set: under SLURM the step's first node, a port by the job."""
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    # node[017-020,033],other -> node017
    first = re.sub(r"\[(\w+).*", r"\1", nodes if "[" in nodes.split(",")[0] else nodes.split(",")[0])
    port = 20_000 + int(environment.get("SLURM_JOB_ID", 0)) % 10_000
    defaults = {"MASTER_ADDR": first, "MASTER_PORT": str(port)}
    return {name: environment.get(name, default) for name, default in defaults.items()}


def attempt(environment: Mapping[str, str] = os.environ) -> str:
    """What keeps the messages of a restart apart from those of the processes that failed.

    torchrun on one machine keeps one store for all attempts, in which a new process may find where an old one was to be
    met (pytorch issue 135712). Its count of restarts is the same for all processes on one machine only.
    """
    count = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"simclr-{count}" if environment.get("GROUP_WORLD_SIZE") == "1" else "simclr"
