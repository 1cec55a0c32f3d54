"""Several processes: the steps of one process, kills, failures, stops, and resuming with another world size."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.core.distributed import ProcessGroup

pytestmark = pytest.mark.xdist_group("ports")
WORKERS = Path(__file__).parents[1] / "workers"
PATIENCE = 240  # seconds until a test fails
# No batch norm in this backbone; small rates, so that float32's rounding is not multiplied in 20 steps.
PLAIN = (
    "--backbone test_convnext --image-size 32 --epochs 20 --batch-size 24 --blur 0 "
    "--optimizer sgd --lr-rule none --learning-rate 0.003"
).split()


def torchrun(count: int, *options: str) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone", *options]
    return [*run, "--"]  # before Python 3.12 torchrun takes our --run for one of its own


def together(
    count: int, command: list[str], cwd: Path, environment: Callable[[int], dict[str, str]]
) -> list[tuple[str, str]]:
    """Run several processes to a successful end, and return the (stdout, stderr) of each."""
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(started(command, cwd=cwd, env=environment(rank))) for rank in range(count)]
        ended = [(process.communicate(timeout=PATIENCE), process.returncode) for process in all_of_them]
    assert [code for _, code in ended] == [0] * count, ended
    return [printed for printed, _ in ended]


def by_torchrun(count: int, **more: str) -> Callable[[int], dict[str, str]]:
    """Return a function from rank to the environment that torchrun sets."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    all_of_them = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), **more}
    return lambda rank: {**all_of_them, "RANK": str(rank), "LOCAL_RANK": str(rank)}


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes by /proc")
LONG = pytest.mark.long  # .ci/run has these too, after the suite
FULL = pytest.mark.skipif(os.environ.get("SIMCLR_TORTURE") != "full", reason="long: only by SIMCLR_TORTURE=full")


@contextlib.contextmanager
def started(command: list[str], **given: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a session of its own, and kill all of the session afterwards."""
    environment = {**os.environ, **given.pop("env", {})}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment,
        **given,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            for pid in (process.pid, *children_of(process.pid)):
                with contextlib.suppress(OSError):  # it has ended
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows any signal kills


def children_of(pid: int) -> list[int]:
    """Return the child processes, and their children."""
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            children.append(int(entry.parent.name))
    return children + [grandchild for child in children for grandchild in children_of(child)]


def ranks_under(pid: int) -> dict[int, int]:
    """Return the child processes by rank, as far as they have one already."""
    found = {}
    for child in children_of(pid):
        try:
            environment = Path(f"/proc/{child}/environ").read_bytes()
        except OSError:
            continue
        if match := re.search(rb"(?:^|\0)RANK=(\d+)\0", environment + b"\0"):
            found[int(match.group(1))] = child
    return found


def devices_under(pid: int) -> list[int]:
    """Return the processes that --devices started, in order."""
    found = []
    for child in sorted(children_of(pid)):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def wait_for(happens: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (value := happens()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    return value


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> bytes:
    return (run / "encoder" / "model.safetensors").read_bytes()


# --- The same steps ---


def steps_of_one(folder: Path, loss: str) -> dict[str, Any]:
    """Run the steps of workers/steps.py in one process, and return their record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(WORKERS)
        steps = importlib.import_module("steps")
    return steps.run(folder, 100, loss, ProcessGroup())


@pytest.mark.skipif(sys.platform == "win32", reason="gloo and torchrun as on Linux")
@pytest.mark.parametrize(
    ("count", "most", "loss"), [pytest.param(2, 100, "nt-xent", marks=[LONG, FULL]), (4, 2, "supcon")]
)
def test_any_number_of_processes_takes_the_same_steps(
    count: int, most: int, loss: str, command: str, tmp_path: Path
) -> None:
    """Images, their order, augmentations, losses, gradients and weights are the same."""
    told = by_torchrun(count, SIMCLR_TEST_SCRIPT=str(WORKERS / "steps.py"))
    together(count, [command, str(tmp_path), str(most), loss], tmp_path, told)
    (tmp_path / "alone").mkdir()
    expected = steps_of_one(tmp_path / "alone", loss)
    everyone = []
    for rank in range(count):
        with np.load(tmp_path / f"{rank}.npz") as one:
            everyone.append(dict(one))
    steps = len(expected["losses"])
    assert steps >= 8
    seen = {tuple(row) for one in everyone for row in one["seen"].tolist()}
    assert seen == {tuple(row) for row in expected["seen"].tolist()} and len(seen) == steps * 21
    for one in everyone:
        assert one["losses"] == pytest.approx(expected["losses"], abs=1e-10)
        for key in expected:
            if key.startswith(("gradient", "weight")):
                assert np.abs(one[key] - expected[key]).max() < 1e-9, key
                assert (one[key] == everyone[0][key]).all(), key


@pytest.fixture(scope="module")
def by_one(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of one process with the options PLAIN."""
    place = tmp_path_factory.mktemp("one")
    arguments = [sys.executable, "-m", "simclr_cli", "pretrain", str(photos), *PLAIN, "--run", "one"]
    subprocess.run(
        arguments, cwd=place, check=True, capture_output=True, env={**os.environ, "SIMCLR_CACHE": str(place)}
    )
    return losses(place / "simclr-runs" / "one")


@LONG
def test_devices_give_the_losses_of_one(forked, photos: Path, tmp_path: Path, by_one: list[float]) -> None:
    """The command in float32 prints and writes as one process does."""
    for name, options in (("two", ["--devices", "2"]), ("parts", ["--micro-batch", "7"])):
        answer = forked("pretrain", photos, "--run", name, *PLAIN, *options, cwd=tmp_path)
        assert answer.code == 0, answer.stderr
        assert answer.stdout == f"{Path('simclr-runs', name)}\n"
        assert answer.stderr.count("epoch 20 ") == 1 and answer.stderr.count("Plan for") == 1
    runs = tmp_path / "simclr-runs"
    assert len(by_one) == 20 and by_one[0] - min(by_one) > 0.01
    for name in ("two", "parts"):
        assert losses(runs / name) == pytest.approx(by_one, abs=1e-5)
    config = json.loads((runs / "two" / "config.json").read_text())["settings"]
    assert config["batch_size"] == 24 and config["micro_batch"] == 12 and "devices" not in config


def test_srun_is_understood(command: str, photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    told = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    first, second = together(
        2, [command, "pretrain", str(photos), "--run", "s", *tiny], tmp_path,
        lambda rank: {**told, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
    )  # fmt: skip
    assert first[0] == f"{Path('simclr-runs/s')}\n" and "Plan for" in first[1]
    assert second == ("", "")


# --- Ends ---

SLOW = [*PLAIN[:4], "--epochs", "40", "--batch-size", "8", "--blur", "0", "--checkpoint-seconds", "0"]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoint").glob("step-*.safetensors"))


@LINUX
@LONG
def test_torchrun_resumes_from_the_newest_checkpoint_after_a_kill(photos: Path, tmp_path: Path) -> None:
    arguments = ["-m", "simclr_cli", "pretrain", str(photos), *SLOW, "--run"]
    with started([*torchrun(2), *arguments, "undisturbed"], cwd=tmp_path) as process:
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    run = tmp_path / "simclr-runs" / "killed"
    with started([*torchrun(2, "--max-restarts=1"), *arguments, "killed"], cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(run), process)
        os.kill(ranks_under(process.pid)[1], signal.SIGKILL)
        said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
    assert weights(run) == weights(run.with_name("undisturbed"))
    assert losses(run) == losses(run.with_name("undisturbed"))


@LINUX
@LONG
@pytest.mark.parametrize("victim", [pytest.param(0, marks=FULL), 1])
def test_a_killed_process_ends_all_with_an_error(
    victim: int, installed_command: str, photos: Path, tmp_path: Path
) -> None:
    arguments = [installed_command, "pretrain", str(photos), *SLOW, "--run", "k", "--devices", "2"]
    run = tmp_path / "simclr-runs" / "k"
    with started(arguments, cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(run), process)
        os.kill(devices_under(process.pid)[victim], signal.SIGKILL)
        began = time.monotonic()
        _, said = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - began < 30
    assert process.returncode == 5
    assert said.count("Error:") == 1 and f"Process {victim} of 2 was killed (SIGKILL)" in said
    assert "Traceback" not in said and not (run / "encoder").exists()


@pytest.mark.parametrize("waiting", [0, pytest.param(1, marks=LONG)])
def test_a_killed_process_is_noticed_without_a_launcher(waiting: int, command: str, tmp_path: Path) -> None:
    """As under srun without --kill-on-bad-exit, in the wait for a process that reads a large folder."""
    told = by_torchrun(2, SIMCLR_TEST_SCRIPT=str(WORKERS / "waiting.py"))
    run = [command, str(waiting)]
    with (
        started(run, cwd=tmp_path, env=told(waiting)) as process,
        started(run, cwd=tmp_path, env=told(1 - waiting)) as peer,
    ):
        assert peer.stdout is not None
        os.kill(int(peer.stdout.readline()), signal.SIGKILL)
        began = time.monotonic()
        _, said = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 60
    assert process.returncode == 5 and "Another process of this run has ended" in said and "--resume" in said


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=LONG)])
def test_a_failing_process_ends_all_with_its_own_error(victim: int, command: str, photos: Path, tmp_path: Path) -> None:
    """torchrun is a fork here, as its processes are."""
    failing = ["env", f"SIMCLR_TEST_SCRIPT={WORKERS / 'failing.py'}", command]
    arguments = [*failing, str(victim), "pretrain", str(photos), *SLOW, "--run", "f"]
    run = [command, "--nproc-per-node=2", "--standalone", "--no-python", "--"]
    told = {"SIMCLR_TEST_SCRIPT": str(importlib.util.find_spec("torch.distributed.run").origin)}
    with started([*run, *arguments], cwd=tmp_path, env=told) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert said.count("Error: The GPU fell off the bus.\nPut it back.") == 1
    assert "inside simclr" not in said and "exitcode  : 5" in said


@LONG
def test_an_error_of_all_processes_is_printed_once(forked, photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    answer = forked("pretrain", photos, *tiny, "--devices", "2", "--weights", "no.safetensors", cwd=tmp_path)
    assert answer.code == 4 and answer.stderr.count("no.safetensors") == 1


@LINUX
@LONG
@pytest.mark.parametrize(("number", "code"), [pytest.param(signal.SIGINT, 130, marks=FULL), (signal.SIGTERM, 143)])
def test_a_stopped_run_resumes_with_another_number_of_processes(
    number: signal.Signals, code: int, command: str, forked, photos: Path, tmp_path: Path, by_one: list[float]
) -> None:
    """A run of 2 processes resumes with 1 or 4; the losses are those of one undisturbed process."""
    arguments = [command, "pretrain", str(photos), *PLAIN, "--run", "r", "--devices", "2"]
    run = tmp_path / "simclr-runs" / "r"
    with started(arguments, cwd=tmp_path) as process:
        wait_for(lambda: (run / "metrics.jsonl").exists(), process)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert said.count("Stopping (again: at once)") == 1 and said.count("all of it is saved") == 1
    assert 1 <= len(losses(run)) < 20
    answer = forked("pretrain", "--resume", "--run", "r", "--devices", "4" if code == 130 else "1", cwd=tmp_path)
    assert answer.code == 0, answer.stderr
    assert losses(run) == pytest.approx(by_one, abs=1e-5)


# --- Embedding ---


def test_many_processes_embed_into_one_file_in_order(
    simclr: Callable[..., Any], command: str, trained: Path, photos: Path, tmp_path: Path
) -> None:
    typed = ["embed", str(photos), "--runs", str(trained), "--out"]
    assert simclr(*typed, tmp_path / "one.npy").code == 0
    together(3, [command, *typed, f"{tmp_path}/three.npy"], tmp_path, by_torchrun(3))
    answers = together(2, [command, *typed, f"{tmp_path}/parts.npy", "--shards", "5"], tmp_path, by_torchrun(2))
    assert answers[0][0] == f"{tmp_path}/parts.shards.json\n"
    one, three = (np.load(tmp_path / f"{name}.npy") for name in ("one", "three"))
    assert one.shape[0] == 24
    np.testing.assert_allclose(three, one, atol=1e-6)
    described = [json.loads((tmp_path / f"{name}.rows.json").read_text()) for name in ("one", "three")]
    assert (
        described[0]["rows"] == described[1]["rows"] and described[0]["rows_checksum"] == described[1]["rows_checksum"]
    )
    listed = json.loads((tmp_path / "parts.shards.json").read_text())
    files = [tmp_path / shard["file"] for shard in listed["shards"]]
    np.testing.assert_allclose(np.concatenate([np.load(file) for file in files]), one, atol=1e-6)
    names = [json.loads(file.with_suffix(".rows.json").read_text())["rows"] for file in files]
    assert (
        [name for some in names for name in some] == described[0]["rows"] and listed["rows"] == 24 and len(files) == 5
    )


@LONG
@pytest.mark.parametrize("victim", [pytest.param(0, marks=FULL), 1])
def test_a_process_that_fails_while_embedding_leaves_no_file(
    victim: int, trained: Path, photos: Path, tmp_path: Path
) -> None:
    arguments = ["embed", str(photos), "--runs", str(trained), "--out", str(tmp_path / "vecs.npy"), "--batch-size", "2"]
    with started([*torchrun(2), str(WORKERS / "failing.py"), str(victim), *arguments], cwd=tmp_path) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and said.count("Error: The GPU fell off the bus.") == 1
    assert list(tmp_path.iterdir()) == []
