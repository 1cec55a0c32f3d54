"""Every fault that is looked for, faked in the facts: it is named, with its figure and the command that mends it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.atomic import TEMPORARY_PREFIX
from simclr_cli.events import silent
from simclr_cli.locks import LOCK, locked
from simclr_cli.owner import system
from simclr_cli.results import Diagnosis, DoctorResult
from simclr_cli.settings import DoctorSettings
from simclr_cli.verbs import doctor as module
from simclr_cli.verbs import installation as of_installed
from simclr_cli.verbs import premises as of_folders
from simclr_cli.verbs import torch_facts as asking
from simclr_cli.verbs.doctor import diagnosed, doctor
from simclr_cli.verbs.installation import Installation, Package, parts
from simclr_cli.verbs.premises import Folder, Pictures, Premises, Unfinished, network_of
from simclr_cli.verbs.resources import Resources
from simclr_cli.verbs.torch_facts import TorchFacts, torch_facts

GB = 1_000_000_000
TORCH = TorchFacts(version="2.10.0", cuda="12.8", threads=8, triton=True, openmp=("/lib/libgomp.so.1",))
ON_GPU = replace(TORCH, gpus=("H100",), free=(80 * GB,))
PACKAGES = (
    Package("torch", "2.10", "", "2.10.0"),
    Package("torchvision", "0.25", "", "0.25.0"),
    Package("pillow", "11.3", "", "13.0.0"),
    Package("openTSNE", "1.0.4", "map", "1.0.4"),
)
INSTALLED = Installation(PACKAGES, TORCH, torch_wanted="==2.10.0", pythons=("3.11", "3.12"), commands=("/bin/simclr",))
MACHINE = Resources(
    cores=8, quota=None, threads=8, openmp=None, memory=16 * GB, shared_memory=8 * GB, open_files=1024, encoding="UTF-8"
)
PICTURES = Pictures("photos", pictures=1000, newest=900.0)
FOLDERS = Premises(Folder("/cache"), Folder("simclr-runs"), PICTURES, now=1000.0)


def old(name: str, version: str | None) -> tuple[Package, ...]:
    return tuple(replace(one, installed=version) if one.name == name else one for one in PACKAGES)


def refused(*files: tuple[str, str]) -> dict[str, Any]:
    return {"pictures": replace(PICTURES, refused=files)}


def torch(**facts: Any) -> dict[str, Any]:
    return {"torch": replace(TORCH, **facts)}


HEIC = "HEIC is not supported (convert it to JPEG or PNG)"
RAW = "camera raw is not supported (export it as JPEG or TIFF)"
TWO_GPUS = {"gpus": ("H100", "H100"), "gpu_memory": (GB, 80 * GB)}
# (name, grade, what is not as in health: of what is installed, the machine, the folders; what is said, what mends it)
FAULTS: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = [
    ("old package", "fault", {"packages": old("pillow", "10.4.0")}, {}, {}, "pillow 10.4.0 is installed",
     "pip --upgrade 'pillow>=11.3'"),
    ("missing package", "fault", {"packages": old("pillow", None)}, {}, {}, "pillow is missing",
     "pip --upgrade 'pillow>=11.3'"),
    ("mismatched torchvision", "fault", {"torch_wanted": "==2.9.1"}, {}, {}, "made for torch==2.9.1",
     "pip --upgrade torch torchvision"),
    ("mismatched torchvision", "fault", {"torch_wanted": ">=2.11.0"}, {}, {}, "torch is 2.10.0",
     "pip --upgrade torch torchvision"),
    ("broken torch", "fault", {"torch": TorchFacts(error="operator torchvision::nms does not exist")}, {}, {},
     "torchvision::nms", "pip --force-reinstall torch torchvision"),
    ("unknown Python", "advice", {"python": "3.16"}, {}, {}, "This is Python 3.16", "--python 3.12 simclr-cli"),
    ("CPU-only torch", "advice", {**torch(cuda=None, version="2.10.0+cpu"), "driver": "570.86"}, {}, {},
     "torch 2.10.0+cpu is built without CUDA",
     "--python python --reinstall 'torch>=2.10' torchvision --torch-backend auto"),
    ("CPU-only torch", "advice", {**torch(cuda=None), "driver": "535.10"}, {}, {}, "driver 535.10",
     "--torch-backend auto"),
    ("hidden GPU", "advice", {"driver": "570.86", "hidden": ""}, {}, {}, "CUDA_VISIBLE_DEVICES is ''",
     "unset CUDA_VISIBLE_DEVICES"),
    ("unused GPU", "advice", {**torch(no_gpu="driver too old"), "driver": "470.1"}, {}, {}, "470.1 (driver too old)",
     "sudo ubuntu-drivers install"),
    ("unused GPU", "advice", {**torch(no_gpu="driver too old"), "driver": "550.1"}, {}, {}, "CUDA 12.8",
     "--torch-backend auto"),
    ("unsupported GPU", "fault", {"torch": replace(ON_GPU, unsupported=("sm_120",)), "driver": "570.1"}, {}, {},
     "sm_120",
     "--torch-backend auto"),
    ("no compiler", "advice", {"torch": ON_GPU, "compiler": False}, {}, {}, "no C compiler",
     "sudo apt-get install gcc"),
    ("no triton", "advice", {"torch": replace(ON_GPU, triton=False)}, {}, {}, "triton is not", "pip triton"),
    ("two simclrs", "advice", {"commands": ("/a/bin/simclr", "/b/bin/simclr")}, {}, {},
     "/a/bin/simclr is the one that runs",
     "/b/bin/python -m pip uninstall simclr-cli"),
    ("another version", "advice", {"version": "0.0.9"}, {}, {}, "simclr 0.0.9 is installed", "unset PYTHONPATH"),
    ("two OpenMPs", "advice", torch(openmp=("/a/libgomp.so", "/b/libiomp5.so")), {}, {}, "/b/libiomp5.so",
     "pip --force-reinstall torch numpy"),
    ("extra map", "note", {"packages": old("openTSNE", None)}, {}, {}, "openTSNE is not installed",
     "pip 'openTSNE>=1.0.4'"),
    ("little memory", "advice", {}, {"memory": 3 * GB // 2}, {}, "1.5 GB of memory is free", "ps -eo rss,pid,comm"),
    ("little memory", "fault", {}, {"memory": GB // 2}, {}, "0.5 GB of memory is free", "ps -eo rss,pid,comm"),
    ("busy GPU", "advice", {}, TWO_GPUS, {}, "GPU 0 (H100), 1.0 GB is free", "export CUDA_VISIBLE_DEVICES=1"),
    ("busy GPU", "advice", {}, {"gpus": ("H100",), "gpu_memory": (GB,)}, {}, "1.0 GB is free", "nvidia-smi"),
    ("small /dev/shm", "fault", {}, {"gpus": ("H100",) * 8, "gpu_memory": (80 * GB,) * 8, "shared_memory": 67_108_864},
     {}, "0.067 GB is free in /dev/shm, and --devices 8 takes up to 0.16 GB", "docker run --shm-size=1g"),
    ("few open files", "fault", {}, {"open_files": 64}, {}, "may have 64 files open", "ulimit -n 1024"),
    ("idle cores", "advice", {}, {"openmp": "1", "threads": 1}, {}, "with 1 of 8 cores", "unset OMP_NUM_THREADS"),
    ("crowded cores", "advice", {}, {"openmp": "32", "threads": 32}, {}, "32 threads (by OMP_NUM_THREADS=32)",
     "export OMP_NUM_THREADS=8"),
    ("crowded cores", "advice", {}, {"quota": 2.0}, {}, "may use 2 of 8 cores", "export OMP_NUM_THREADS=2"),
    ("narrow encoding", "advice", {}, {"encoding": "ISO-8859-1"}, {}, "ISO-8859-1", "export LC_ALL=C.UTF-8"),
    ("no pictures", "fault", {}, {}, {"pictures": Pictures("photos",
     error=f"There is no picture: 5 refused ({HEIC}).")},
     "5 refused", "find photos -iname '*.hei[cf]'"),
    ("HEIC pictures", "advice", {}, {}, refused(("a.heic", HEIC), ("b.heic", HEIC)),
     "2 HEIC files in photos, the first of them a.heic", "heif-convert"),
    ("camera raw pictures", "advice", {}, {}, refused(("a.nef", RAW)), "1 camera raw file in photos", "exiftool -r"),
    ("unreadable pictures", "advice", {}, {}, refused(("a.png", "no right to read it")), "1 unreadable file in photos",
     "sudo chmod -R u+rX photos"),
    ("refused pictures", "advice", {}, {}, refused(("a.png", "empty file (0 bytes)")), "1 x empty file (0 bytes)",
     "simclr doctor photos --json"),
    ("pictures on a network", "advice", {}, {}, {"pictures_network": "nfs4"}, "nfs4", "rsync -a photos/ ~/photos/"),
    ("cache not writable", "fault", {}, {}, {"cache": Folder("/cache", refusal="Permission denied")},
     "Permission denied",
     "export SIMCLR_CACHE="),
    ("cache on a network", "advice", {}, {}, {"cache": Folder("/cache", network="nfs")}, "(nfs)",
     "export SIMCLR_CACHE="),
    ("little room in the cache", "advice", {}, {}, {"pictures": replace(PICTURES, shortage="9 GB, and 1 GB is free.")},
     "9 GB", "simclr cache --clear"),
    ("runs not writable", "fault", {}, {}, {"runs": Folder("simclr-runs", refusal="Read-only file system")},
     "Read-only file system", "--runs ~/simclr-runs"),
    ("little disk", "fault", {}, {}, {"runs": Folder("simclr-runs", free=GB // 10)}, "0.1 GB is free",
     "simclr cache --clear"),
    ("clock behind", "advice", {}, {}, {"newest_run": 1000.0 + 3 * 3600}, "3 h 0 min after now",
     "sudo timedatectl set-ntp true"),
    ("stray files", "advice", {}, {}, {"strays": ("simclr-runs/a/.simclr-tmp-1",)}, "1 temporary file of commands",
     "find simclr-runs -name '.simclr-tmp-*'"),
    ("unfinished run", "note", {}, {}, {"unfinished": (Unfinished("runs/a", "simclr pretrain --resume --run a"),)},
     "runs/a was stopped before its end.", "simclr pretrain --resume --run a"),
    ("locked run", "note", {}, {}, {"unfinished": (Unfinished("runs/a", "", "process 7 on other", gone=False),)},
     "process 7 on other", "rm runs/a/.simclr-lock"),
]  # fmt: skip


def looked_at(installed: dict[str, Any], machine: dict[str, Any], folders: dict[str, Any]) -> DoctorResult:
    return diagnosed(replace(INSTALLED, **installed), replace(MACHINE, **machine), replace(FOLDERS, **folders))


@pytest.mark.parametrize(
    ("name", "grade", "installed", "machine", "folders", "what", "command"), FAULTS, ids=[row[0] for row in FAULTS]
)
def test_a_fault_is_named_with_its_figure_and_the_command_that_mends_it(
    name: str, grade: str, installed: dict[str, Any], machine: dict[str, Any], folders: dict[str, Any],
    what: str, command: str,
) -> None:  # fmt: skip
    result = looked_at(installed, machine, folders)
    (found,) = result.diagnoses  # and nothing else
    assert (found.name, found.grade) == (name, grade)
    assert what in found.what and command in found.command
    assert found.what.endswith(".") and found.why.endswith(".")
    assert shlex.split(found.command, comments=True)
    assert result.exit_code == (5 if grade == "fault" else 0)


def test_more_than_twelve_kinds_are_faked_and_every_check_finds_one() -> None:
    assert len({row[0] for row in FAULTS}) >= 30
    found = {name: looked_at(*facts).diagnoses[0].name for name, _, *facts, _, _ in FAULTS}
    assert all(name == other for name, other in found.items())


def test_health_is_silent_with_a_gpu_and_without() -> None:
    assert looked_at({}, {}, {}).diagnoses == ()
    with_gpu = looked_at({"torch": ON_GPU, "driver": "570.1"}, {"gpus": ("H100",), "gpu_memory": (80 * GB,)}, {})
    assert with_gpu.diagnoses == () and with_gpu.exit_code == 0
    assert looked_at({}, {"shared_memory": None, "open_files": None, "threads": 0}, {"pictures": None}).diagnoses == ()


def test_the_worst_comes_first() -> None:
    rows = [row for row in FAULTS if row[0] in ("unfinished run", "idle cores", "old package")]
    result = looked_at(*[{k: v for row in rows for k, v in row[place].items()} for place in (2, 3, 4)])
    assert [one.grade for one in result.diagnoses] == ["fault", "advice", "note"]


@pytest.mark.long  # it imports torch and torchvision in a process of its own
def test_this_machine_is_looked_at_and_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctor(DoctorSettings())
    assert list(tmp_path.iterdir()) == []
    assert not [
        one for one in result.diagnoses if one.name in ("broken torch", "mismatched torchvision", "old package")
    ]
    assert any("torch " in line for line in result.seen) and result.checks >= 20


def test_a_folder_of_pictures_is_looked_at(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "torch_facts", lambda: TORCH)
    folder = tmp_path / "photos"
    folder.mkdir()
    for source in list(pictures.rglob("*.png"))[:2]:
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 32)
    (folder / "b.nef").write_bytes(b"II*\0")
    os.utime(folder / "a.heic", (1, 1))
    later = time.time() + 7200
    os.utime(next(folder.glob("*.png")), (later, later))
    (tmp_path / "runs" / "old").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    stray = tmp_path / "runs" / "old" / f"{TEMPORARY_PREFIX}{system()}-{dead.pid}-{'a' * 16}"
    stray.write_bytes(b"")
    (stray.parent / "config.json").write_text("{}")
    found = {one.name: one for one in doctor(DoctorSettings(images=folder, runs=tmp_path / "runs")).diagnoses}
    assert found["HEIC pictures"].files == ("a.heic",) and found["camera raw pictures"].files == ("b.nef",)
    assert "2 h 0 min" in found["clock behind"].what or "1 h 59 min" in found["clock behind"].what
    assert found["stray files"].files == (str(stray),)
    assert found["unfinished run"].command.startswith("simclr pretrain --resume --run old")


def test_a_run_that_was_killed_is_told_from_one_at_work(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "half"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (found,) = of_folders._unfinished(tmp_path / "runs")
    assert found.path == str(run) and found.command.startswith("simclr pretrain --resume --run half") and found.gone
    with locked(run, "training", silent):
        assert list(of_folders._unfinished(tmp_path / "runs")) == []
        kept = (run / LOCK).read_text()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (run / LOCK).write_text(kept.replace(f'"pid": {os.getpid()}', f'"pid": {int(dead.stdout)}'))
    (found,) = of_folders._unfinished(tmp_path / "runs")
    assert found.gone and "training since" in found.by
    (run / LOCK).write_text(json.dumps({**json.loads(kept), "system": "0" * 8, "host": "elsewhere"}))
    (found,) = of_folders._unfinished(tmp_path / "runs")
    assert not found.gone and "on elsewhere" in found.by


def test_a_folder_without_pictures_is_a_fault_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "torch_facts", lambda: TORCH)
    result = doctor(DoctorSettings(images=tmp_path, runs=tmp_path / "runs"))
    found = next(one for one in result.diagnoses if one.name == "no pictures")
    assert "There is no picture in" in found.what and result.exit_code == 5


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert of_folders._folder(tmp_path / "new" / "runs").refusal == ""
    assert of_folders._folder(tmp_path / "file" / "runs").refusal == "Not a directory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("path", "kind"), [("/data/photos", "nfs4"), ("/data 2/x", "cifs"), ("/database", ""), ("/home/me", "")]
)
def test_file_systems_of_a_network(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\n"
        "//host/y /data\\0402 cifs rw 0 0\n/dev/sdb /home ext4 rw 0 0\n"
    )
    assert network_of(Path(path), mounts) == kind
    assert network_of(Path(path), tmp_path / "none") == ""


def test_what_is_installed_is_read_from_metadata() -> None:
    here = of_installed.installation(TORCH)
    needed = {one.name for one in here.packages if not one.extra}
    assert needed >= {"torch", "torchvision", "timm", "pillow", "numpy"}
    assert {one.extra for one in here.packages if one.extra} == set(of_installed.EXTRAS)
    assert here.python in here.pythons and here.torch_wanted is not None


def test_versions_are_compared_as_numbers() -> None:
    assert parts("2.10.0+cpu") == (2, 10, 0) > parts("2.9") and parts("13.0.0rc1")[:2] == (13, 0)


Ended = namedtuple("Ended", "returncode stdout stderr")


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(-6, "", "OMP: Error #15: Initializing libiomp5.so\n"), "OMP: Error #15"),
        (Ended(-4, "", ""), "ended with -4"),
        (Ended(0, "no JSON\n", ""), "Expecting value"),
        (Ended(0, "", ""), "index out of range"),
    ],
)
def test_a_torch_that_takes_its_process_along(monkeypatch: pytest.MonkeyPatch, ended: Ended, words: str) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    assert words in torch_facts().error


def test_a_torch_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(subprocess, "run", late)
    assert torch_facts().error == "no answer within 120 s"


def test_a_torchvision_of_another_torch(tmp_path: Path) -> None:
    """As it is: the import fails in the middle."""
    (tmp_path / "torch.py").write_text("__version__ = '2.10.0'")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
    answer = subprocess.run(
        [sys.executable, "-m", asking.__name__], capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )  # fmt: skip
    assert json.loads(answer.stdout)["error"] == "RuntimeError: operator torchvision::nms does not exist"


@pytest.mark.parametrize(
    ("kind", "capability", "runs"),
    [("sm_90", (9, 0), True), ("sm_80", (8, 6), True), ("sm_90", (12, 0), False), ("compute_90", (12, 0), True),
     ("sm_90a", (9, 0), True), ("sm_86", (8, 0), False), ("gfx90a", (9, 0), False)],
)  # fmt: skip
def test_which_kernels_run_on_which_gpu(kind: str, capability: tuple[int, int], runs: bool) -> None:
    assert asking._runs_on(kind, *capability) is runs


def test_a_diagnosis_is_plain_data() -> None:
    assert Diagnosis("a", "note", "b.", "c.", "d").files == ()
