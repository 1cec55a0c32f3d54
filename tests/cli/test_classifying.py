"""`simclr finetune` and `simclr predict`: messages, tables, JSON, and the state after a stop."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simclr_cli import api as results
from simclr_cli.core.text import escape_unprintable


def fields(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


pytestmark = pytest.mark.usefixtures("no_trial")


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run, for its classifiers."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_messages_and_tables(simclr: Callable[..., Any], runs: Path, photos: Path, tmp_path: Path) -> None:
    code, stdout, talk = simclr("finetune", "--runs", runs, "--epochs", 3)
    out = runs / "photos" / "classifier"
    assert (code, stdout) == (0, f"{out}\n"), talk
    assert "Plan for" in talk and "learning rate" in talk and "epoch 3 " in talk
    assert (
        "Classification accuracy" in talk
        and "held-out images" in talk
        and "Always predicting one class scores 50.0 %" in talk
    )
    assert f"simclr predict IMAGE --classifier {out}" in talk
    (tmp_path / "empty.png").write_bytes(b"")
    name = "\x1b[31mred\t\udcff.png" if sys.platform == "linux" else "red.png"  # elsewhere no such name is allowed
    odd = tmp_path / name
    with odd.open("wb") as stream:
        Image.new("RGB", (40, 40), "white").save(stream, "PNG")
    code, stdout, talk = simclr("predict", odd, tmp_path / "empty.png", photos / "dark", "--runs", runs)
    assert code == 0 and "empty.png: empty file (0 bytes)" in talk and f"Predicting with {out}." in talk
    header, first, *others = stdout.splitlines()
    assert header.split("\t") == ["path", "label", "probability", "next classes"]
    assert escape_unprintable(name) in first and len(first.split("\t")) == 4
    assert len(others) == len(list((photos / "dark").iterdir()))
    assert all(line.split("\t")[1] in {"dark", "light"} for line in (first, *others))
    code, stdout, talk = simclr("finetune", "--runs", runs)
    assert (code, stdout) == (4, "") and "already exists" in talk and "--out FOLDER" in talk


def test_json_holds_the_results(simclr: Callable[..., Any], runs: Path, photos: Path, tmp_path: Path) -> None:
    made = json.loads(simclr("finetune", "--runs", runs, "--epochs", 1, "--json").stdout)
    assert list(made) == fields(results.FinetuneResult) and list(made["accuracy"]) == fields(results.Accuracy)
    assert made["classes"] == ["dark", "light"] and made["batch_size"] == 4
    told = json.loads(simclr("predict", photos, "--runs", runs, "--top", 1, "--json").stdout)
    assert list(told) == fields(results.PredictResult) and told["model_checksum"] == made["model_checksum"]
    assert len(told["predictions"]) == 24
    assert all(list(one) == fields(results.Prediction) for one in told["predictions"])
    assert all(list(each) == fields(results.ClassProbability) for one in told["predictions"] for each in one["classes"])
    code, stdout, _ = simclr("predict", photos, "--runs", runs, "--out", tmp_path / "out.csv")
    assert (code, stdout) == (0, f"{tmp_path / 'out.csv'}\n")
    assert (tmp_path / "out.csv").read_text().startswith("path,label,probability,label_2,probability_2\n")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_leaves_no_classifier(
    simclr: Callable[..., Any], runs: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, exit_code: int
) -> None:
    from simclr_cli.train.supervised import ClassifierStep

    plain = ClassifierStep.__call__

    def third_time(self: ClassifierStep, *batch: Any) -> Any:
        if batch[3] == 2:
            signal.raise_signal(number)
        return plain(self, *batch)

    monkeypatch.setattr(ClassifierStep, "__call__", third_time)
    before = sorted(path.name for path in (runs / "photos").iterdir())
    code, stdout, talk = simclr("finetune", "--runs", runs)
    assert (code, stdout) == (exit_code, "") and "nothing was written" in talk and "Traceback" not in talk
    assert sorted(path.name for path in (runs / "photos").iterdir()) == before
