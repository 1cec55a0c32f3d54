"""`simclr doctor`: every fault, faked in the facts, is diagnosed with its figure and the command that fixes it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import DoctorResult, DoctorSettings
from simclr_cli.api.manage import FAULTS
from simclr_cli.commands.doctor import doctor, run_checks
from simclr_cli.core.events import silent
from simclr_cli.core.text import quote_words
from simclr_cli.diagnose import machine as machine_checks
from simclr_cli.diagnose.folders import FolderFacts, OutputFolder, collect_folder_facts
from simclr_cli.diagnose.machine import (
    MachineFacts,
    Requirement,
    TorchFacts,
    check_packages,
    collect_machine_facts,
    inspect_torch,
)

GB = 1_000_000_000
KILLED = 6 if os.name == "nt" else -6  # the exit code after os.kill(pid, 6)
NEEDS = (
    Requirement("simclr-cli", "torch", ">=2.10", "2.10.0"),
    Requirement("simclr-cli", "pillow", ">=11.3", "13.0.0"),
    Requirement("torchvision", "torch", "==2.10.0", "2.10.0+cu128"),
)
TORCH = TorchFacts(version="2.10.0+cu128", cuda="12.8", threads=8)
ON_GPU = replace(TORCH, gpus=("H100",), gpu_faults=((),))
MACHINE = MachineFacts(NEEDS, TORCH, cores=8, memory=16 * GB, shared_memory=8 * GB, open_files=1024)
FOLDERS = FolderFacts(OutputFolder("/cache"), OutputFolder("simclr-runs"), images="my photos", image_count=1000)


def needs(by: str, name: str, version: str, installed: str) -> MachineFacts:
    return replace(MACHINE, requirements=(*NEEDS, Requirement(by, name, version, installed)))


def torch(driver: str = "570.86", visible: str | None = None, **facts: Any) -> MachineFacts:
    return replace(MACHINE, torch=replace(TORCH, **facts), driver=driver, visible_gpus=visible)


def gpus(*faults: tuple[str, ...], shared_memory: int = 8 * GB) -> MachineFacts:
    facts = replace(TORCH, gpus=("H100",) * len(faults), gpu_faults=faults)
    return replace(MACHINE, torch=facts, driver="570.1", shared_memory=shared_memory)


def skipped(*files: tuple[str, str]) -> FolderFacts:
    return replace(FOLDERS, skipped=files)


HEIC = "HEIC is not supported (convert it to JPEG or PNG)"
RAW = "camera raw is not supported (export it as JPEG or TIFF)"
OLD = "its compute capability is 6.1, and this build of torch is for 7.5 to 12.0"
# (name, facts, words of the diagnosis, words of the command)
FAKED: list[tuple[str, MachineFacts | FolderFacts, str, str]] = [
    ("old package", needs("simclr-cli", "numpy", ">=2.0", "1.26.4"), "requires numpy>=2.0, but 1.26.4 is installed",
     f"--upgrade {quote_words('numpy>=2.0')}"),
    ("missing package", needs("simclr-cli", "timm", ">=1.0.26", "none"), "but none is",
     f"--upgrade {quote_words('timm>=1.0.26')}"),
    ("mismatched torchvision", needs("torchvision", "torch", "==2.9.1", "2.10.0"), "torchvision requires torch==2.9.1",
     "--upgrade torch torchvision"),
    ("mismatched torchvision", needs("torchvision", "torch", ">=2.11.0", "2.10.0"), "torch>=2.11.0, but 2.10.0",
     "--upgrade torch torchvision"),
    ("broken torch", replace(MACHINE, torch=TorchFacts(error="operator torchvision::nms does not exist")),
     "torchvision::nms", "--force-reinstall torch torchvision"),
    ("CPU-only torch", torch(cuda=None, version="2.10.0+cpu"), "torch 2.10.0+cpu, built without CUDA, does not use",
     "--reinstall torch torchvision --torch-backend auto"),
    ("hidden GPU", torch(visible=""), "CUDA_VISIBLE_DEVICES is ''", "unset CUDA_VISIBLE_DEVICES"),
    ("old driver", torch("470.1", no_gpu="too old"), "(driver 470.1): too old", "sudo ubuntu-drivers install"),
    ("unused GPU", torch("550.1"), "built for CUDA 12.8, does not use the NVIDIA GPU (driver 550.1).",
     "--torch-backend auto"),
    ("unused GPU", torch("?"), "(driver ?)", "--torch-backend auto"),
    ("unsupported GPU", gpus((), ("unsupported GPU", OLD)), f"does not use GPU 1, H100: {OLD}.",
     "--torch-backend auto"),
    ("failing GPU", gpus(("failing GPU", "all are busy")), "use GPU 0, H100: all are busy.", "nvidia-smi"),
    ("disagreeing GPU", gpus(("disagreeing GPU", "its loss differs from the CPU's by 50 %")), "by 50 %",
     "--upgrade torch torchvision"),
    ("little memory", replace(MACHINE, memory=3 * GB // 2), "1.5 GB of memory is free", "ps -eo rss,pid,comm"),
    ("no memory", replace(MACHINE, memory=GB // 2), "0.5 GB of memory is free", "ps -eo rss,pid,comm"),
    ("small /dev/shm", gpus(*[()] * 8, shared_memory=67_108_864), "0.067 GB free; --devices 8 needs up to 0.16 GB",
     "docker run --shm-size=1g"),
    ("few open files", replace(MACHINE, open_files=64), "may open 64 files", "ulimit -n 1024"),
    ("crowded cores", replace(MACHINE, core_quota=2.5), "use 2.5 of 8 cores", "export OMP_NUM_THREADS=2"),
    ("no images", replace(FOLDERS, no_images=f"No image: 5 skipped ({HEIC})."), "5 skipped",
     "find 'my photos' -iname '*.hei[cf]'"),
    ("no images", replace(FOLDERS, no_images="This user has no permission to read the folder x."),
     "no permission to read the folder x", "sudo chmod -R a+rX 'my photos'"),
    ("no images", replace(FOLDERS, no_images="It is empty."), "It is empty.", "simclr doctor FOLDER"),
    ("HEIC images", skipped(("a.heic", HEIC), ("b.heic", HEIC)), "2 HEIC files in my photos, the first is a.heic",
     'heif-convert "$f" "${f%.*}.jpg"; done\' sh \'{}\' +'),
    ("camera raw images", skipped(("a.nef", RAW)), "1 camera raw file in my photos", "exiftool -r"),
    ("unreadable images", skipped(("a.png", "no permission to read it")), "1 unreadable file",
     "chmod -R a+rX 'my photos'"),
    ("skipped images", skipped(("a.png", "empty file (0 bytes)")), "1 x empty file (0 bytes)",
     "simclr doctor 'my photos' --json"),
    ("cache not writable", replace(FOLDERS, cache=OutputFolder("/cache", "Permission denied")),
     "/cache cannot be written to", "export SIMCLR_CACHE="),
    ("runs not writable", replace(FOLDERS, runs=OutputFolder("runs", "Read-only file system")), "Read-only file system",
     "--runs ~/simclr-runs"),
    ("little disk", replace(FOLDERS, runs=OutputFolder("simclr-runs", free_bytes=GB // 10)),
     "0.1 GB is free for simclr-runs", "simclr cache --clear"),
    ("newer run", replace(FOLDERS, newer_runs=("a is of a newer format.",)), "a is of a newer format", "pipx upgrade"),
]  # fmt: skip


def diagnose(*facts: MachineFacts | FolderFacts) -> DoctorResult:
    machine, folders = MACHINE, FOLDERS
    for fact in facts:
        machine, folders = (fact, folders) if isinstance(fact, MachineFacts) else (machine, fact)
    return run_checks(machine, folders)


@pytest.mark.parametrize(
    ("python", "command"),
    [("/usr/bin/python", "/usr/bin/python -m pip install"), ("'/a b/python'", "'/a b/python' -m pip install"),
     (r"C:\py\python.exe", r"C:\py\python.exe -m pip install"),
     (r'"C:\a b\python.exe"', r'pip --python "C:\a b\python.exe" install')],
)  # fmt: skip
def test_pip_is_called_as_every_shell_of_the_system_reads_it(python: str, command: str) -> None:
    """PowerShell takes a quoted first word for text, and cmd knows no & before one."""
    assert machine_checks._choose_pip(python, has_pip=True) == command
    assert machine_checks._choose_pip(python, has_pip=False) == f"uv pip install --python {python}"


@pytest.mark.parametrize(("name", "facts", "what", "command"), FAKED, ids=[row[0] for row in FAKED])
def test_a_fault_is_named_with_its_figure_and_the_command_that_fixes_it(
    name: str, facts: MachineFacts | FolderFacts, what: str, command: str
) -> None:
    result = diagnose(facts)
    (diagnosis,) = result.diagnoses
    assert (diagnosis.name, diagnosis.grade) == (name, FAULTS[name][0])
    assert what in diagnosis.what and command in diagnosis.command
    assert diagnosis.what.endswith(".") and diagnosis.why.endswith(".")
    assert shlex.split(diagnosis.command, comments=True)
    assert result.exit_code == (5 if diagnosis.grade == "fault" else 0)


def test_every_known_fault_is_faked() -> None:
    assert {row[0] for row in FAKED} == set(FAULTS) and diagnose().checks == len(FAULTS)


@pytest.mark.parametrize(
    "facts",
    [
        MACHINE,
        replace(MACHINE, torch=ON_GPU, driver="570.1"),
        gpus((), ()),
        replace(MACHINE, shared_memory=None, open_files=-1, core_quota=8.0),
        needs("torchvision", "torch", ">=2.9", "2.10.0"),
        replace(FOLDERS, images=""),
    ],
)
def test_without_faults_there_are_no_diagnoses(facts: MachineFacts | FolderFacts) -> None:
    assert diagnose(facts).diagnoses == () and diagnose(facts).exit_code == 0


def test_faults_come_first_and_the_files_are_named() -> None:
    result = diagnose(replace(MACHINE, core_quota=1.0, open_files=10), skipped(("a.heic", HEIC), ("b.png", "a loop")))
    assert [one.name for one in result.diagnoses] == [
        "few open files",
        "crowded cores",
        "HEIC images",
        "skipped images",
    ]
    assert [one.files for one in result.diagnoses][2:] == [("a.heic",), ("b.png",)]


def test_a_real_folder_of_images(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "inspect_torch", lambda: TORCH)
    folder, run = tmp_path / "photos", tmp_path / "runs" / "new"
    folder.mkdir()
    run.mkdir(parents=True)
    for source in list(images.rglob("*.png"))[:2]:
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 32)
    (folder / "b.nef").write_bytes(b"II*\0")
    (folder / "notes.txt").touch()
    (folder / "@eaDir").mkdir()
    (run / "config.json").write_text(json.dumps({"format_version": 999}))
    result = doctor(DoctorSettings(images=folder, runs=tmp_path / "runs"))
    found = {one.name: one for one in result.diagnoses}
    assert found["HEIC images"].files == ("a.heic",) and found["camera raw images"].files == ("b.nef",)
    assert str(run / "config.json") in found["newer run"].what and "version 999" in found["newer run"].what
    assert f"{folder}: 2 images, 2 skipped, 2 other files (1 @eaDir/, 1 .txt)" in result.machine
    unused = {file.name: file.reason for file in result.unused}
    assert list(unused) == ["a.heic", "b.nef", "@eaDir/", "notes.txt"]
    assert "HEIC" in unused["a.heic"] and unused["notes.txt"] == "not an image"


def test_a_folder_without_images_is_a_fault_and_not_an_error(tmp_path: Path) -> None:
    facts = collect_folder_facts(tmp_path, tmp_path / "runs", torch=False, report=silent)
    assert f"There is no image in {tmp_path}" in facts.no_images and diagnose(facts).exit_code == 5


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file" / "cache"))
    facts = collect_folder_facts(None, tmp_path / "new" / "runs", torch=True, report=silent)
    assert facts.runs.error == "" and facts.runs.free_bytes < 2**62 and facts.cache.error == "Not a directory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_requirements_are_read_from_metadata() -> None:
    facts = collect_machine_facts(TORCH)
    ours = {one.name for one in facts.requirements if one.by == "simclr-cli"}
    assert ours >= {"torch", "torchvision", "timm", "pillow", "numpy"} and "pyarrow" not in ours
    assert any((one.by, one.name) == ("torchvision", "torch") for one in facts.requirements)
    assert facts.cores >= 1 and not [one for one in run_checks(facts, FOLDERS).diagnoses if "package" in one.name]


def test_run_from_its_source_the_requirements_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.distributions
    absent = ("simclr-cli", "timm")
    monkeypatch.setattr(
        machine_checks, "distributions", lambda name: installed(name=name) if name not in absent else ()
    )
    facts = collect_machine_facts(TORCH)
    assert {one.name for one in facts.requirements if one.by == "simclr-cli"} >= {"torch", "timm", "pillow", "filelock"}
    (missing,) = check_packages(facts)
    assert missing.name == "missing package" and "requires timm>=" in missing.what


def test_folders_are_inspected_although_a_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simclr_cli.store.run_info", None)
    monkeypatch.setitem(sys.modules, "simclr_cli.images.scan", None)
    facts = collect_folder_facts(tmp_path, tmp_path / "runs", torch=True, report=silent)
    assert facts.newer_runs == () and "a library is missing or broken" in facts.no_images


CUDA = """
class version:
    cuda = "12.8"
class cuda:
    init = staticmethod(lambda: None)
    get_device_name = staticmethod(lambda gpu: "H100")
    get_arch_list = staticmethod(lambda: ["sm_75", "sm_90a", "compute_90"])
    get_device_capability = staticmethod(lambda gpu: (6, 1) if gpu == "cuda:0" else (12, 0))
class device:
    def __new__(cls, kind, number=None):
        return Name(kind if number is None else f"{kind}:{number}")
class Name(str):
    type = property(lambda self: self.partition(":")[0])
class accelerator:
    current_accelerator = staticmethod(lambda check_available: device("cuda"))
    device_count = staticmethod(lambda: 2)
get_device_module = lambda gpu: cuda
get_num_threads = lambda: 4
class ones:
    def __init__(self, size, device):
        self.device = device
    def add_(self, value):
        if self.device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image\\nmore")
        return self
    item = staticmethod(lambda: 2.0)
__version__ = "2.10.0"
"""


@pytest.mark.parametrize(
    ("fake_torch", "fake_torchvision", "facts"),
    [
        ("", "raise RuntimeError('operator torchvision::nms does not exist\\nmore')",
         TorchFacts(error="RuntimeError: operator torchvision::nms does not exist")),
        ("import os, sys; sys.stderr.write('OMP: Error #15\\n'); sys.stderr.flush(); os._exit(3)", "",
         TorchFacts(error="OMP: Error #15")),
        ("import os; os.kill(os.getpid(), 6)", "", TorchFacts(error=f"its process ended with {KILLED}")),
        (CUDA, "print('talk')", TorchFacts("2.10.0", "12.8", 4, ("H100",) * 2, (
            ["unsupported GPU", "its compute capability is 6.1, and this build of torch is for 7.5 to 9.0"],
            ["unsupported GPU", "torch cannot compute on it (CUDA error: no kernel image)"],
        ))),
        (CUDA.replace("lambda: None", "lambda: 1 / 0").replace("1 / 0", "(_ for _ in ()).throw(RuntimeError('old'))"),
         "", TorchFacts("2.10.0", "12.8", 4, no_gpu="old")),
    ],
    ids=["torchvision of another torch", "two OpenMPs", "killed", "no kernels", "no driver"],
)  # fmt: skip
def test_facts_of_torch_and_of_one_that_crashes_its_process(
    fake_torch: str, fake_torchvision: str, facts: TorchFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(fake_torch)
    (tmp_path / "torchvision.py").write_text(fake_torchvision)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert inspect_torch() == facts


def test_a_torch_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(subprocess, "run", late)
    assert inspect_torch().error == "no answer within 120 s"


@pytest.mark.long  # it imports torch and torchvision in a process of its own
def test_this_machine_is_inspected_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctor(DoctorSettings())
    assert list(tmp_path.iterdir()) == []
    assert not {one.name for one in result.diagnoses} & {"broken torch", "mismatched torchvision", "old package"}
    assert any("torch " in line for line in result.machine)
