"""Rank and world size by the environment of torchrun or srun."""

import pytest

from simclr_cli.core.errors import SettingsError
from simclr_cli.core.world import World, get_master_address, get_store_prefix


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, World(3, 8, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, World(3, 8, 3)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}, World(0, 2, 0)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "2"}, World(0, 2, 0, True)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, World(2, 4, 0)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_RESTART_COUNT": "1"},
         World(2, 4, 0, True)),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, World()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, World()),  # in a batch script, outside srun
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "9", "SLURM_PROCID": "5"}, World(1, 2, 1)),
    ],
)  # fmt: skip
def test_world_is_read_from_torchrun_or_srun(environment: dict[str, str], expected: World) -> None:
    assert World.from_environment(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "2"}, {"RANK": "0", "WORLD_SIZE": "0"},
    ],
)  # fmt: skip
def test_an_invalid_environment_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="environment"):
        World.from_environment(environment)


def test_number_of_devices_must_be_the_world_size() -> None:
    two = {"RANK": "0", "WORLD_SIZE": "2"}
    assert (
        World.from_environment(two, devices=2) == World.from_environment(two, devices=1) == World.from_environment(two)
    )
    for environment, devices in ((two, 3), ({}, 2)):
        with pytest.raises(SettingsError, match=f"--devices is {devices}"):
            World.from_environment(environment, devices=devices)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"), ("a1,a2", "a1"), ("node[017-020,033],other", "node017"), ("gpu[3,5]", "gpu3"),
        ("big-iron-[9-12]", "big-iron-9"),
    ],
)  # fmt: skip
def test_master_of_a_slurm_step_is_its_first_node(nodes: str, first: str) -> None:
    address = get_master_address({"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "1234567"})
    assert address == {"MASTER_ADDR": first, "MASTER_PORT": "24567"}


def test_a_given_master_address_is_kept() -> None:
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert get_master_address({**given, "SLURM_STEP_NODELIST": "a", "SLURM_JOB_ID": "9"}) == given
    assert get_master_address({})["MASTER_ADDR"] == "localhost"


def test_a_restart_on_one_machine_does_not_read_the_messages_of_the_first_attempt() -> None:
    one_machine = {"GROUP_WORLD_SIZE": "1"}
    prefixes = [get_store_prefix({**one_machine, "TORCHELASTIC_RESTART_COUNT": str(count)}) for count in range(3)]
    assert len(set(prefixes)) == 3
    two_machines = {"GROUP_WORLD_SIZE": "2"}  # each machine counts its own restarts
    for environment in ({**two_machines, "TORCHELASTIC_RESTART_COUNT": "1"}, two_machines, {}):
        assert get_store_prefix(environment) == "simclr"
