"""Ctrl-C and SIGTERM: the work is saved, the way on is named, and it leads to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simclr_cli.cli.app import _listening
from simclr_cli.cli.console import Face
from simclr_cli.errors import Interrupted, Terminated
from simclr_cli.events import Note
from simclr_cli.settings import PretrainSettings
from simclr_cli.verbs.pretrain import pretrain

EPOCHS = 12


def stop_training(command: str, photos: Path, cwd: Path, number: signal.Signals) -> tuple[int, str, str]:
    """Start a training as a process, and send it a signal once its first epoch is done."""
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


def test_ctrl_c_saves_and_resume_ends_at_the_weights_of_an_undisturbed_run(
    command: str, photos: Path, tmp_path: Path, simclr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, stdout, talk = stop_training(command, photos, tmp_path, signal.SIGINT)
    assert (code, stdout) == (130, ""), talk
    assert "Stopping after this step" in talk and "Traceback" not in talk
    assert talk.endswith("Go on with: simclr pretrain --resume --run photos\n")
    assert "Error: Stopped after step" in talk and f"of {3 * EPOCHS}; all of it is saved." in talk

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simclr_cli.verbs.pretrain.seconds_a_picture", lambda *_: 0.01)
    code, stdout, talk = simclr("pretrain", "--resume", "--run", "photos")
    assert (code, stdout) == (0, "simclr-runs/photos\n"), talk
    assert "\nepoch 1 " not in talk and f"\nepoch {EPOCHS} " in talk
    options = {"backbone": "test_resnet", "image_size": 40, "batch_size": 8, "epochs": EPOCHS}
    undisturbed = pretrain(PretrainSettings(images=photos, run="calm", **options))
    for file in ("encoder/model.safetensors", "projector.safetensors"):
        one, other = load_file(Path("simclr-runs/photos") / file), load_file(Path(undisturbed.run) / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_sigterm_saves_too(command: str, photos: Path, tmp_path: Path) -> None:
    code, stdout, talk = stop_training(command, photos, tmp_path, signal.SIGTERM)
    assert (code, stdout) == (143, ""), talk
    assert "simclr pretrain --resume --run photos" in talk and "Traceback" not in talk
    assert list((tmp_path / "simclr-runs" / "photos" / "checkpoint").glob("step-*.safetensors"))


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_first_signal_asks_for_a_stop_and_the_second_ends_at_once(
    number: signal.Signals, kind: type[Interrupted], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    face, before = Face(), signal.getsignal(number)
    with _listening(face):
        signal.raise_signal(number)
        assert type(face.stop) is kind and ended == []
        assert "Stopping after this step (again: at once)" in capfd.readouterr().err
        with pytest.raises(kind):
            face.report(Note("next event"))
        signal.raise_signal(number)
        assert ended == [kind.exit_code]
    assert signal.getsignal(number) is before


def test_ctrl_c_before_any_work_is_no_traceback(simclr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simclr_cli.cli.app.importlib.import_module", interrupted)
    assert simclr("demo") == (130, "", "Error: Stopped by Ctrl-C.\nNothing was lost; type the command again.\n")
