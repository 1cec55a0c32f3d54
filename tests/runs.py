"""A small folder of images and a small trained run, shared by many tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from simclr_cli.api import PretrainResult, PretrainSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core import events
from simclr_cli.core.events import Event
from simclr_cli.images.synthetic import draw_images
from simclr_cli.store.manifest import write_manifest
from simclr_cli.store.run import RunFolder
from simclr_cli.train.monitor import Monitor
from simclr_cli.train.outcome import Scores

LIKE = timm.get_pretrained_cfg("test_resnet").to_dict()
default_cfgs = generate_default_cfgs({
    "tiny_resnet.r160_in1k": {**LIKE, "hf_hub_id": "timm/"}, "mini_resnet.none": LIKE
})  # fmt: skip


def _resnet(name: str, channels: tuple[int, ...], pretrained: bool, given: dict[str, Any]) -> ResNet:
    narrow = {"stem_width": 8, "stem_type": "deep", "avg_down": True, "channels": channels}
    made = {"block": BasicBlock, "layers": (1, 1, 1, 1), **narrow, **given}
    return timm.models.build_model_with_cfg(ResNet, name, pretrained, **made)


@register_model
def tiny_resnet(pretrained: bool = False, **given: Any) -> ResNet:
    """timm's test_resnet with fewer channels, but for the last ones: hundreds of trainings take half the time."""
    return _resnet("tiny_resnet", (8, 8, 16, 96), pretrained, given)


@register_model
def mini_resnet(pretrained: bool = False, **given: Any) -> ResNet:
    """The same with so few that a run of it can be committed."""
    return _resnet("mini_resnet", (4, 4, 8, 16), pretrained, given)


SMALL: dict[str, Any] = {"backbone": "tiny_resnet", "image_size": 40, "batch_size": 16, "epochs": 2}


@dataclass(frozen=True)
class Trained:
    """A finished run, and all that was reported on the way."""

    images: Path
    runs: Path
    result: PretrainResult
    events: tuple[Event, ...]

    @property
    def run(self) -> RunFolder:
        return RunFolder(Path(self.result.run))

    @property
    def name(self) -> str:
        return self.run.path.name


@pytest.fixture(scope="session")
def images(once: Callable[..., Path]) -> Path:
    """48 images of 10 classes in many formats; not to be changed."""
    return once("drawn", lambda folder: draw_images(folder / "pics", seed=0, count=48, size=48)) / "pics"


@pytest.fixture(scope="session")
def trained(images: Path, once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of two epochs, trained once for all processes, each of which has a copy of it; not to be changed."""

    def make(folder: Path) -> None:
        said: list[Event] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMCLR_CACHE", str(folder / "cache"))
            result = pretrain(PretrainSettings(images=images, runs=folder / "runs", **SMALL), report=said.append)
        told = {"result": dataclasses.asdict(result), "events": [[type(one).__name__, vars(one)] for one in said]}
        (folder / "told.json").write_text(
            json.dumps(told, default=lambda one: dataclasses.asdict(one) if dataclasses.is_dataclass(one) else None)
        )

    folder = once("trained", make)
    told = json.loads((folder / "told.json").read_text())
    runs = Path(shutil.copytree(folder / "runs", tmp_path_factory.mktemp("trained") / "runs"))
    run = RunFolder(runs / "pics")
    own = {"run": str(run.path), "report": str(run.report_file), "plan": plan_of(told["result"]["plan"])}
    said = (plan_of(one) if kind == "PlanMade" else getattr(events, kind)(**one) for kind, one in told["events"])
    return Trained(images, runs, PretrainResult(**{**told["result"], **own}), tuple(said))


def plan_of(told: dict[str, Any]) -> events.PlanMade:
    """A plan out of its JSON."""
    return events.PlanMade(**{**told, "choices": tuple(events.Choice(**one) for one in told["choices"])})


@pytest.fixture
def own(trained: Trained, tmp_path: Path) -> Trained:
    """A copy of the run and its images that a test may change."""
    folder = Path(shutil.copytree(trained.images, tmp_path / "own" / "pics"))
    run = Path(shutil.copytree(trained.run.path, tmp_path / "own" / "runs" / "pics"))
    for made_later in ("vectors", "probe"):
        shutil.rmtree(run / made_later, ignore_errors=True)
    config = json.loads((run / "config.json").read_text())
    config["settings"]["images"] = str(folder)
    (run / "config.json").write_text(json.dumps(config))
    write_manifest(run, run / "encoder")
    return Trained(folder, run.parent, PretrainResult(**{**vars(trained.result), "run": str(run)}), ())


@dataclass(frozen=True)
class Hub:
    """A cache of the Hugging Face hub, on a machine without a network."""

    folder: Path

    def add(self, repository: str, **files: bytes) -> Path:
        """Save files as if they had been downloaded, with `_` for `.` in their names; return their folder."""
        top = self.folder / f"models--{repository.replace('/', '--')}"
        snapshot = top / "snapshots" / "abc"
        (top / "refs").mkdir(parents=True)
        (top / "refs" / "main").write_text("abc")
        snapshot.mkdir(parents=True)
        (top / "blobs").mkdir()
        for name, content in files.items():
            (top / "blobs" / name).write_bytes(content)
            link = snapshot / name.replace("_", ".")
            try:
                link.symlink_to(top / "blobs" / name)  # as the hub's client does
            except OSError:  # on Windows without the privilege, where it copies
                link.write_bytes(content)
        return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


@pytest.fixture
def default_encoder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The weights of the default encoder at hand: a tiny one, 40 px; its timm model, with a classifier."""
    torch.manual_seed(0)
    model = timm.create_model("tiny_resnet").eval()
    hub.add("timm/tiny_resnet.r160_in1k", model_safetensors=save(model.state_dict()))
    monkeypatch.setattr("simclr_cli.encode.load.DEFAULT_FOR_CPU", ("tiny_resnet.r160_in1k", 40, "small"))
    return model


PAGE = "simclr_cli.commands.pretrain.try_report"  # takes as long as a small training


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run makes no page."""
    monkeypatch.setattr(PAGE, lambda *_, **__: None)


def score_nothing(monitor: Monitor, _: object) -> Scores:
    """Return the scores of a model by which none of the judged images is recognized."""
    return Scores(torch.zeros(len(monitor.judged_rows)), 0)


@pytest.fixture
def train(tmp_path: Path, no_trial: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PretrainResult]:
    """`train(folder, setting=value, ...)`: a run of one small epoch in the test's own folder.

    It is judged, and has a page, if that is asked for: each takes a quarter of the time.
    """

    def run(
        folder: Path,
        *,
        report: Callable[[Event], None] = lambda _: None,
        judged: bool = False,
        page: bool = False,
        **values: Any,
    ) -> PretrainResult:
        chosen = {**SMALL, "epochs": 1, "runs": tmp_path / "runs", **values}
        with monkeypatch.context() as patch:
            if not page:
                patch.setattr(PAGE, lambda *_, **__: None)
            if not judged:
                patch.setattr(Monitor, "score", score_nothing)
            return pretrain(PretrainSettings(images=folder, **chosen), report=report)

    return run


@pytest.fixture
def checksum() -> Callable[[Path], dict[str, tuple[int, str]]]:
    """`checksum(folder)`: time of change and content of everything in it."""

    def look(folder: Path) -> dict[str, tuple[int, str]]:
        return {
            os.fsencode(path.relative_to(folder)).hex(): (
                path.lstat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            )
            for path in sorted(folder.rglob("*"))
        }

    return look


@pytest.fixture(scope="session")
def draw() -> Callable[..., NDArray[np.uint8]]:
    """`draw(path, seed)`: save an image of chance blocks there; returns its pixels."""

    def save(path: Path, seed: int = 0, side: int = 48) -> NDArray[np.uint8]:
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)
        with path.open("wb") as stream:
            Image.fromarray(pixels).save(stream, "PNG")
        return pixels

    return save
