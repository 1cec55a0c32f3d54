"""The run of benchmarks/gpu.py: a part that fails, dies, or takes too long keeps what it had, and the others stand."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAVE = "import json, os, sys, time; open(sys.argv[1], 'w').write(json.dumps({'known': 1})); "


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("program", "limit", "ended", "known"),
    [
        (SAVE, 20, "finished", 1),
        (SAVE + "os.kill(os.getpid(), 9)", 20, "signal 9", 1),
        (SAVE + "print('the reason'); sys.exit(3)", 20, "exit code 3", 1),
        ("import torch_of_another_machine", 20, "exit code 1", None),
        (SAVE + "os.fork(); time.sleep(60)", 0.5, "killed at its limit", 1),
    ],
)
def test_a_part_keeps_its_figures_however_it_ends(
    gpu: ModuleType, tmp_path: Path, program: str, limit: float, ended: str, known: int | None
) -> None:
    file, start = tmp_path / "part.json", time.monotonic()
    finished = gpu.run_part(file, [sys.executable, "-S", "-c", program, str(file)], limit, os.environ)
    figures = json.loads(file.read_text())
    assert finished == (ended == "finished")
    assert (figures["ended"], figures.get("known")) == (ended, known)
    assert ("log" in figures) != finished
    if "reason" in program:
        assert "the reason" in figures["log"]
    assert time.monotonic() - start < 30
    assert [path.name for path in tmp_path.iterdir()] == ["part.json"]


def test_each_part_has_a_file_and_one_that_dies_harms_no_other(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a Python that only saves a figure, and dies in one of the parts."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" = steps ] && kill -9 $$\necho "{\\"part\\": \\"$2\\"}" > "$4"\n')
    python.chmod(0o755)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out), "--data", str(tmp_path)])
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    assert gpu.main() == 1
    found: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in out.iterdir()}
    assert found.keys() == gpu.LIMITS.keys()
    assert {name for name, figures in found.items() if figures["ended"] != "finished"} == {"steps"}
    assert sum(list(gpu.LIMITS.values())[:-1]) <= gpu.TOTAL_SECONDS - 60  # so that something is left for the last part


@pytest.mark.parametrize("name", ["cifar", "cifar-10 images"])
def test_data_may_be_a_folder(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data", name, "train").mkdir(parents=True)
    assert gpu.unpack(Path("data"), "cifar", tmp_path / "work") == tmp_path / "data" / name


def test_figures_that_are_no_numbers_are_valid_json(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.save_json(tmp_path / "part.json", {"loss": float("nan"), "rates": [1.5, float("inf")]})
    assert json.loads((tmp_path / "part.json").read_text()) == {"loss": "NaN", "rates": [1.5, "Infinity"]}


def test_decoder_in_place_of_a_missing_one_gives_equal_pixels(gpu: ModuleType, tmp_path: Path) -> None:
    import io

    import numpy as np
    import simplejpeg
    from PIL import Image

    namespace: dict[str, Any] = {}
    exec(gpu.SIMPLEJPEG, namespace)
    image = Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    for colors in ("RGB", "GRAY"):
        expected = simplejpeg.decode_jpeg(stream.getvalue(), colorspace=colors)
        found = namespace["decode_jpeg"](stream.getvalue(), colorspace=colors, strict=True)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 3
    with pytest.raises(ValueError):
        namespace["decode_jpeg"](stream.getvalue()[:200])
