"""The choice of a device: a GPU is used only if it computes, and computes as the CPU does; otherwise the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stand_in import needs_stand_in, run_on_gpu

from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Event, Note
from simclr_cli.core.world import SINGLE_PROCESS, World
from simclr_cli.encode import device as module
from simclr_cli.encode.device import find_fault, resolve_device
from simclr_cli.images.cache_location import cache_root

DIFFERENCE = "its loss differs from the CPU's by 50 %"
FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


class Machine:
    """GPUs that compute nothing: what each of their checks says, and how often the CPU was compared with one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.comparisons = 0
        self.capabilities = {FIRST: (9, 0), SECOND: (9, 0)}
        self.errors: dict[torch.device, str] = {}
        self.difference = ""
        self.driver = "570.1"
        create = torch.ones
        monkeypatch.setattr(module, "list_gpus", lambda: [FIRST, SECOND])
        monkeypatch.setattr(module, "get_gpu_name", lambda gpu: f"GPU {gpu.index}")
        monkeypatch.setattr(module, "find_nvidia_driver", lambda: self.driver)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_86", "sm_90", "sm_100a", "compute_120"])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: self.capabilities[gpu])
        monkeypatch.setattr(torch, "ones", lambda count, device: self.compute(device) or create(count))
        monkeypatch.setattr("simclr_cli.engine.agreement.compare_with_cpu", self.compare)
        self.restart()

    def compute(self, gpu: torch.device) -> None:
        if error := self.errors.get(gpu):
            raise RuntimeError(f"{error}\nmore")

    def compare(self, gpu: torch.device) -> str:
        self.comparisons += 1
        return self.difference if gpu == FIRST else ""

    @staticmethod
    def restart() -> None:
        """Forget what a process remembers."""
        find_fault.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def choose(name: str | None = None, world: World = SINGLE_PROCESS) -> tuple[str, list[str]]:
    notes: list[Event] = []
    device = resolve_device(name, world, notes.append)
    assert all(isinstance(note, Note) and note.warning for note in notes)
    return str(device), [note.text for note in notes if isinstance(note, Note)]


def old(machine: Machine) -> None:
    machine.capabilities[FIRST] = (6, 1)


def fail(message: str) -> Callable[[Machine], None]:
    return lambda machine: machine.errors.update({FIRST: message})


def disagree(machine: Machine) -> None:
    machine.difference = DIFFERENCE


FAULTS = [
    (old, "unsupported GPU", "its compute capability is 6.1, and this build of torch is for 7.5 to 12.0"),
    (fail("CUDA error: no kernel image is available"), "unsupported GPU", "(CUDA error: no kernel image is available)"),
    (fail("CUDA error: named symbol not found"), "unsupported GPU", "named symbol not found"),
    (fail("CUDA error: all devices are busy"), "failing GPU", "torch cannot compute on it (CUDA error: all devices"),
    (disagree, "disagreeing GPU", DIFFERENCE),
]


@pytest.mark.parametrize(("spoil", "name", "reason"), FAULTS)
def test_a_gpu_with_a_fault_is_not_used_and_the_note_says_why(
    machine: Machine, spoil: Callable[[Machine], None], name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(machine)
    fault = find_fault(FIRST)
    assert fault is not None and fault.name == name and reason in fault.reason
    text = f"GPU 0 is not used, because {fault.reason}. simclr doctor says what to do."
    assert choose() == ("cuda:1", [text])  # the next one
    monkeypatch.setattr(module, "list_gpus", lambda: [FIRST])
    assert choose() == ("cpu", [text])


@pytest.mark.parametrize(("spoil", "name", "reason"), FAULTS)
def test_a_named_device_that_computes_is_used_and_another_is_an_error(
    machine: Machine, spoil: Callable[[Machine], None], name: str, reason: str
) -> None:
    spoil(machine)
    assert choose("cuda:1") == ("cuda:1", []) and choose("cpu") == ("cpu", [])
    if name == "disagreeing GPU":
        assert choose("cuda:0") == ("cuda:0", [f"The device cuda:0 is used as named, although {reason}."])
        return
    with pytest.raises(MachineError, match="The device cuda:0 cannot be used here") as caught:
        choose("cuda:0")
    assert reason in caught.value.problem and "--device cpu" in caught.value.remedy


@pytest.mark.parametrize(("spoil", "name", "reason"), FAULTS)
def test_processes_never_compute_on_different_kinds_of_devices(
    machine: Machine, spoil: Callable[[Machine], None], name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(machine)
    assert choose(world=World(3, 4, 1)) == ("cuda:1", [])
    with pytest.raises(MachineError, match="Process 2 of 4 cannot use its GPU, cuda:0, because") as caught:
        choose(world=World(2, 4, 0))
    assert reason in caught.value.problem
    monkeypatch.setattr(module, "list_gpus", lambda: [torch.device("mps")])
    assert choose(world=World(2, 4, 0)) == ("cpu", [])
    with pytest.raises(MachineError, match="Only one process can compute on mps"):
        choose("mps", World(2, 4, 0))


def test_srun_may_show_each_process_its_own_gpu_only(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "list_gpus", lambda: [FIRST])
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert choose(world=World(3, 4, 3)) == choose("cuda", World(3, 4, 3)) == ("cuda:0", [])


def test_equal_gpus_that_are_not_used_are_named_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.capabilities = dict.fromkeys((FIRST, SECOND), (6, 1))
    monkeypatch.setattr(module, "get_gpu_name", lambda _: "GTX 1080")
    device, notes = choose()
    assert device == "cpu" and len(notes) == 1


@pytest.mark.parametrize(
    ("capability", "fits"),
    [((7, 0), False), ((7, 5), True), ((8, 0), False), ((8, 6), True), ((8, 9), True), ((9, 0), True), ((10, 0), True),
     ((11, 0), False), ((12, 0), True), ((12, 1), True), ((13, 0), True)],
)  # fmt: skip
def test_kernels_fit_their_major_version_and_ptx_any_later_one(
    machine: Machine, capability: tuple[int, int], fits: bool
) -> None:
    machine.capabilities[FIRST] = capability
    assert (find_fault(FIRST) is None) == fits


def test_a_gpu_without_a_fault_is_compared_once_for_each_version(machine: Machine) -> None:
    assert choose() == choose() == ("cuda", [])
    machine.restart()
    assert choose() == ("cuda", []) and machine.comparisons == 1
    machine.driver = "580.2"
    machine.restart()
    assert choose() == ("cuda", []) and machine.comparisons == 2
    assert len(json.loads((cache_root() / "gpu-checks.json").read_text())) == 2


def test_neither_a_failure_nor_a_difference_is_kept(machine: Machine) -> None:
    fail("CUDA error: out of memory")(machine)
    assert choose()[0] == "cuda:1"
    machine.errors.clear()
    machine.difference = DIFFERENCE
    machine.restart()
    assert DIFFERENCE in choose()[1][0]
    machine.difference = ""
    machine.restart()
    assert choose() == ("cuda", [])


@pytest.mark.parametrize("content", [b"{", b'{"a": 1}', b"[1, " + b"[" * 10**5])
def test_a_damaged_cache_does_not_matter(machine: Machine, content: bytes) -> None:
    cache_root().mkdir(exist_ok=True)
    (cache_root() / "gpu-checks.json").write_bytes(content)
    assert choose() == ("cuda", [])


def test_a_cache_that_cannot_be_written_to_does_not_matter(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file" / "cache"))
    assert choose() == ("cuda", [])
    machine.restart()
    assert choose() == ("cuda", []) and machine.comparisons == 2


def test_an_unavailable_device_is_an_error() -> None:
    for name in ("mps", "xpu", "cuda:63"):
        with pytest.raises(MachineError, match=f"The device {name} cannot be used here"):
            resolve_device(name)


@needs_stand_in
@pytest.mark.parametrize(
    ("capability", "computed", "device", "words"),
    [("6.1", True, "cpu", "compute capability is 6.1"), ("9.0", True, "cuda", ""), ("9.0", False, "cpu", "differs")],
)
def test_old_and_wrong_gpus_are_not_used(
    images: Path, tmp_path: Path, capability: str, computed: bool, device: str, words: str
) -> None:
    answer = run_on_gpu(
        "pretrain", images, "--dry-run", "--weights", "none", "--json",
        computed=computed, folder=tmp_path, FORBID_FLOAT64="1", CAPABILITY=capability,
    )  # fmt: skip
    assert answer.returncode == 0 and words in answer.stderr, answer.stderr
    assert f'"{device}"' in answer.stdout
