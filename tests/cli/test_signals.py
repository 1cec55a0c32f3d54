"""Ctrl-C and SIGTERM: a training is saved, and resuming it leads to the same weights."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simclr_cli.api import PretrainSettings
from simclr_cli.cli.console import Reporter
from simclr_cli.cli.signals import block_signals, stop_on_signal
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.errors import Interrupted, MachineError, Terminated
from simclr_cli.core.events import Note

EPOCHS = 12
# There os.kill ends a process at once, whatever the signal.
sends_signals = pytest.mark.skipif(sys.platform == "win32", reason="on Windows only the console sends Ctrl-C")


def stop_training(command: str, photos: Path, cwd: Path, number: signal.Signals) -> tuple[int, str, str]:
    """Start a training as a process, and send it a signal after its first epoch."""
    options = f"--backbone test_resnet --image-size 40 --batch-size 8 --epochs {EPOCHS}".split()
    with subprocess.Popen(
        [command, "pretrain", str(photos), *options],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        try:
            seen = []
            for line in process.stderr:
                seen.append(line)
                if line.startswith("epoch 1 "):
                    break
            time.sleep(0.01)  # into a step
            process.send_signal(number)
            seen.append(process.stderr.read())
            code = process.wait(timeout=60)
        finally:
            process.kill()
        return code, process.stdout.read(), "".join(seen)


@sends_signals
def test_ctrl_c_saves_and_resume_ends_at_the_weights_of_an_undisturbed_run(
    command: str,
    photos: Path,
    tmp_path: Path,
    simclr: Callable[..., Any],
    no_trial: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, stdout, talk = stop_training(command, photos, tmp_path, signal.SIGINT)
    assert (code, stdout) == (130, ""), talk
    assert "Stopping (again: at once)" in talk and "Traceback" not in talk
    assert talk.endswith("Resume with: simclr pretrain --resume --run photos\n")
    assert "Error: Stopped after step" in talk and f"of {3 * EPOCHS}; all of it is saved." in talk
    assert not list((tmp_path / "simclr-runs").rglob(".*"))  # no lock, nothing unfinished

    monkeypatch.chdir(tmp_path)
    code, stdout, talk = simclr("pretrain", "--resume", "--run", "photos")
    assert (code, stdout) == (0, f"{Path('simclr-runs/photos')}\n"), talk
    assert "\nepoch 1 " not in talk and f"\nepoch {EPOCHS} " in talk and "lock" not in talk
    options = {"backbone": "test_resnet", "image_size": 40, "batch_size": 8, "epochs": EPOCHS}
    undisturbed = pretrain(PretrainSettings(images=photos, run="calm", **options))
    for file in ("encoder/model.safetensors", "projection_head.safetensors"):
        one, other = load_file(Path("simclr-runs/photos") / file), load_file(Path(undisturbed.run) / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@sends_signals
def test_sigterm_saves_too(command: str, photos: Path, tmp_path: Path) -> None:
    code, stdout, talk = stop_training(command, photos, tmp_path, signal.SIGTERM)
    assert (code, stdout) == (143, ""), talk
    assert "simclr pretrain --resume --run photos" in talk and "Traceback" not in talk
    assert list((tmp_path / "simclr-runs" / "photos" / "checkpoint").glob("step-*.safetensors"))


STOPS = [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)]
# One call of C that takes days, in which Python's own handlers never run; argv: seconds to stop, training.
LONG_STEP = """
import hashlib, sys
from simclr_cli.cli import signals
from simclr_cli.cli.console import Reporter
from simclr_cli.core.errors import MachineError

class Training:
    def save(self):
        if sys.argv[2] == "full":
            raise MachineError("The disk is full.", "Free some space.")
        return 3

    def save_and_interrupt(self, kind):
        return kind(f"Stopped after step {self.save()}.", "Resume.")

signals.SECONDS_TO_STOP = float(sys.argv[1])
with Reporter() as reporter, signals.stop_on_signal(reporter):
    if sys.argv[2] != "no":
        reporter.stop.training = Training()
    print("step 4", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@contextlib.contextmanager
def long_step(seconds_to_stop: float, training: str = "yes") -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", LONG_STEP, str(seconds_to_stop), training],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and process.stdout.readline() == "step 4\n"
            yield process
        finally:
            process.kill()


def test_first_signal_requests_a_stop_and_handlers_are_restored(capfd: pytest.CaptureFixture[str]) -> None:
    for number, kind in STOPS:
        reporter, before = Reporter(), signal.getsignal(number)
        with stop_on_signal(reporter):
            signal.raise_signal(number)
            while reporter.stop.request is None:  # another thread handles the signal
                time.sleep(0.001)
            assert type(reporter.stop.request) is kind
            with pytest.raises(kind):
                reporter.report(Note("next event"))
        assert "Stopping (again: at once)" in capfd.readouterr().err
        assert signal.getsignal(number) is before and signal.set_wakeup_fd(-1) == -1


@sends_signals
@pytest.mark.parametrize(("number", "kind"), STOPS)
def test_second_signal_ends_a_long_step_at_once(number: signal.Signals, kind: type[Interrupted]) -> None:
    with long_step(seconds_to_stop=600) as process:
        process.send_signal(number)
        assert process.stderr is not None
        assert [process.stderr.readline() for _ in range(2)] == ["\n", "Stopping (again: at once) ...\n"]
        process.send_signal(number)
        assert process.wait(timeout=60) == kind.exit_code and process.stderr.read() == ""


@sends_signals
@pytest.mark.parametrize(("number", "kind"), STOPS)
def test_a_long_step_is_not_waited_for(number: signal.Signals, kind: type[Interrupted]) -> None:
    with long_step(seconds_to_stop=0.1) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == kind.exit_code
    assert said == "\nStopping (again: at once) ...\nError: Stopped after step 3.\nResume.\n"


@sends_signals
def test_a_command_without_a_training_is_not_waited_for_either() -> None:
    with long_step(0.1, "no") as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.endswith("Error: Stopped by SIGTERM.\nNothing was lost; run the command again.\n")


@sends_signals
def test_failure_to_save_is_an_error() -> None:
    with long_step(0.1, "full") as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        assert process.stderr.readline() == "Not saved: The disk is full. Free some space.\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == MachineError.exit_code and said.endswith(
        "Error: The disk is full.\nFree some space.\n"
    )


@sends_signals
@pytest.mark.parametrize(
    ("training", "words"), [("yes", "Saved at step 3.\n"), ("no", "Nothing to save: no training is running.\n")]
)
def test_sigusr1_saves_and_continues(training: str, words: str) -> None:
    with long_step(600, training) as process:
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            assert process.stderr is not None and process.stderr.readline() == words
        assert process.poll() is None


@sends_signals
def test_signals_wait_for_a_process_that_is_still_starting() -> None:
    """Its parent blocks them; otherwise Ctrl-C would end in the traceback of an import."""
    late = "import time; print(flush=True); time.sleep(0.2);" + LONG_STEP
    with block_signals():
        process = subprocess.Popen(
            [sys.executable, "-c", late, "0.1", "yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.endswith("Error: Stopped after step 3.\nResume.\n")


def test_ctrl_c_before_any_work_is_no_traceback(simclr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simclr_cli.cli.app.keep_freed_memory", interrupted)
    assert simclr("demo") == (130, "", "Error: Stopped by Ctrl-C.\nNothing was lost; run the command again.\n")
