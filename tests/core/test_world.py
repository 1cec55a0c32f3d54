"""Which process this is, by the environment that torchrun or srun makes."""

import pytest

from simclr_cli.core.errors import SettingsError
from simclr_cli.core.world import Place, attempt, meeting_point


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Place(3, 8, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Place(3, 8, 3)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}, Place(0, 2, 0)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "2"}, Place(0, 2, 0, True)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, Place(2, 4, 0)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_RESTART_COUNT": "1"},
         Place(2, 4, 0, True)),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Place()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Place()),  # in a batch script, outside srun
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "9", "SLURM_PROCID": "5"}, Place(1, 2, 1)),
    ],
)  # fmt: skip
def test_place_is_what_torchrun_or_srun_says(environment: dict[str, str], expected: Place) -> None:
    assert Place.found(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "2"}, {"RANK": "0", "WORLD_SIZE": "0"},
    ],
)  # fmt: skip
def test_an_environment_that_cannot_be_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="environment"):
        Place.found(environment)


def test_devices_are_as_many_as_there_are_processes() -> None:
    two = {"RANK": "0", "WORLD_SIZE": "2"}
    assert Place.found(two, devices=2) == Place.found(two, devices=1) == Place.found(two)
    for environment, devices in ((two, 3), ({}, 2)):
        with pytest.raises(SettingsError, match=f"--devices is {devices}"):
            Place.found(environment, devices=devices)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"), ("a1,a2", "a1"), ("node[017-020,033],other", "node017"), ("gpu[3,5]", "gpu3"),
        ("big-iron-[9-12]", "big-iron-9"),
    ],
)  # fmt: skip
def test_processes_of_a_slurm_step_meet_on_its_first_node(nodes: str, first: str) -> None:
    found = meeting_point({"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "1234567"})
    assert found == {"MASTER_ADDR": first, "MASTER_PORT": "24567"}


def test_where_to_meet_may_be_said() -> None:
    said = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert meeting_point({**said, "SLURM_STEP_NODELIST": "a", "SLURM_JOB_ID": "9"}) == said
    assert meeting_point({})["MASTER_ADDR"] == "localhost"


def test_a_restart_on_one_machine_does_not_read_the_messages_of_the_firstattempt() -> None:
    one = {"GROUP_WORLD_SIZE": "1"}
    names = [attempt({**one, "TORCHELASTIC_RESTART_COUNT": str(count)}) for count in range(3)]
    assert len(set(names)) == 3
    many = {"GROUP_WORLD_SIZE": "2"}  # each machine counts by itself
    assert attempt({**many, "TORCHELASTIC_RESTART_COUNT": "1"}) == attempt(many) == attempt({})
