"""Every reader of ours, given arbitrary bytes and mutated files of its own: an object, or an error with a remedy."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simclr_cli.api import PretrainSettings, SimilarSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.report import read_probe
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import SimclrError
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.core.text import as_cell, name_of
from simclr_cli.encode.model_card import labels_from_config, spec_from_config
from simclr_cli.images.cache_location import list_caches
from simclr_cli.images.labels import read_labels
from simclr_cli.images.pixel_store import PixelFolder
from simclr_cli.images.scan import take_census
from simclr_cli.images.synthetic import draw_images
from simclr_cli.search.similarity_scale import calibration_of
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index import read_index
from simclr_cli.store.manifest import MANIFEST, read_manifest
from simclr_cli.store.models import read_description, read_weights
from simclr_cli.store.moves import JOURNAL, Moved, move_out, read_journal
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_images, read_run_info
from simclr_cli.store.vectors import Vectors, read_vectors, write_vectors

pytestmark = pytest.mark.long

MODEL = "a" * 64
JSONS = [
    "0",
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    '"x"',
    "[]",
    "{}",
    "[[[[]]]]",
    "9" * 5_000,
    '"\\ud800"',
    '"\\u0000"',
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that it may leave, vectors, a journal, a table, and a cache."""
    place = tmp_path_factory.mktemp("readers")
    draw_images(place / "images", seed=0, count=12, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(place / "cache"))
        tiny: dict[str, Any] = {"backbone": "test_resnet", "image_size": 40, "batch_size": 8, "epochs": 1}
        pretrain(PretrainSettings(images=place / "images", runs=place / "runs", run="r", **tiny))
        query = next((place / "images").rglob("*.*"))
        similar(SimilarSettings(queries=(query,), run="r", runs=place / "runs"))
    run = RunFolder(place / "runs/r")
    (run.path / "probe").mkdir()
    (run.path / "probe/probe.json").write_text('{"classes": ["a", "b"], "scores": [], "images": 3}')
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    save_checkpoint(run.checkpoints, Checkpoint(1, state, optimizer.state_dict(), [], [1.0], "f" * 64))
    write_vectors(place / "v.npy", Vectors(np.zeros((2, 3), np.float32), ("a", "b"), "/p", MODEL, True, "f" * 64))
    (place / "noted").mkdir()
    (place / "home").mkdir()
    (place / "away").mkdir()
    (place / "home/a.png").write_bytes(b"a")
    move_out(place / "home", place / "away", [Moved("a.png", checksum_file(place / "home/a.png"))], lambda *_: None)
    (place / "labels.csv").write_bytes(b'path,label\n"a.png",cat\nb.png,dog\n./=c.png,"c,at"\n')
    (place / "name.txt").write_bytes(as_cell(os.fsdecode(b"=\xff\n\\x.png")).encode())
    return place


def run_of(file: Path) -> RunFolder:
    return RunFolder(next(parent for parent in file.parents if parent.name == "r"))


def read_index_of(file: Path) -> Any:
    found = read_index(file.parent, model_checksum=checksum_file(run_of(file).weights_file))
    return found and (calibration_of(found), found.names, found.path(0), found.h[0 : len(found)], found.known.images)


def read_encoder_config(file: Path) -> Any:
    config = read_description(file, "Restore it.")
    with contextlib.suppress(SimclrError):
        labels_from_config(file, config)
    return spec_from_config(file, config)


def read_caches(file: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(file.parents[1]))
        return list_caches(), take_census(file.parents[2] / "images", workers=1)


READERS: dict[str, Callable[[Path], Any]] = {
    "runs/r/config.json": lambda file: read_run_info(run_of(file)).settings,
    "runs/r/metrics.jsonl": lambda file: read_epochs(run_of(file)),
    "runs/r/speed.jsonl": lambda file: read_epochs(run_of(file)),
    "runs/r/images.json": lambda file: read_images(run_of(file)),
    "runs/r/skipped.json": lambda file: run_of(file).read_skipped(),
    "runs/r/projection_head.safetensors": read_weights,
    "runs/r/probe/probe.json": read_probe,
    "runs/r/encoder/config.json": read_encoder_config,
    "runs/r/encoder/model.safetensors": read_weights,
    "runs/r/checkpoint/step-*.safetensors": lambda file: load_checkpoint(file.parent),
    "runs/r/vectors/index.json": read_index_of,
    "runs/r/vectors/images-*.bin": read_index_of,
    "runs/r/vectors/names-*.bin": read_index_of,
    f"away/{JOURNAL}": lambda file: read_journal(file.parent),
    f"runs/r/{MANIFEST}": lambda file: read_manifest(file.parent),
    "v.npy": lambda file: read_vectors(file, model_checksum=MODEL),
    "v.rows.json": lambda file: read_vectors(file.with_name("v.npy"), model_checksum=MODEL),
    "labels.csv": read_labels,
    "cache/*/headers.json": read_caches,
    "cache/*/*/index.json": lambda file: PixelFolder(file.parent, int(file.parent.name)).maps(),
    "name.txt": lambda file: name_of(file.read_bytes().decode("utf-8", "replace")),
}


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Arbitrary bytes, or the file with some bytes changed, cut, put in, or a value of its JSON replaced."""
    how = draw(st.sampled_from(["bytes", "flips", "cut", "insert", "value", "value", "value"]))
    if how == "bytes":
        return draw(st.binary(max_size=200))
    at = draw(st.integers(0, max(0, min(len(valid), 4_000) - 1)))  # the beginnings say the most
    if how == "cut":
        return valid[:at] + valid[at + draw(st.integers(1, 100)) :]
    if how == "insert":
        return valid[:at] + draw(st.binary(min_size=1, max_size=20)) + valid[at:]
    data = bytearray(valid)
    if how == "flips" or not (values := _values(valid)):
        for _ in range(draw(st.integers(1, 5))):
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    start, stop = draw(st.sampled_from(values))
    return valid[:start] + draw(st.sampled_from(JSONS)).encode() + valid[stop:]


def _values(data: bytes) -> list[tuple[int, int]]:
    """Where, in the text that a file begins with, values of JSON stand."""
    start = data.find(b"{")
    found, text = [], data[max(start, 0) : start + 3_000].decode("latin-1")
    decoder = json.JSONDecoder()
    for at, character in enumerate(text):
        if character in ":[," and start >= 0:
            with contextlib.suppress(ValueError):
                skipped = len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
                _, end = decoder.raw_decode(text, at + 1 + skipped)
                found.append((start + at + 1 + skipped, start + end))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_reader(place: Path, name: str, times: Callable[[int, int], int], figure: Callable[[str, Any], None]) -> None:
    file = next(place.glob(name))
    valid, examples, failures = file.read_bytes(), times(30, 2_000), []
    READERS[name](file)  # as it is, it can be read

    @settings(
        max_examples=examples, derandomize=examples == 30, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutated(valid))
    def read(data: bytes) -> None:
        file.write_bytes(data)
        try:
            READERS[name](file)
        except SimclrError as error:
            assert error.what and error.remedy
        except Exception:
            failures.append(data)
            raise

    try:
        read()
    finally:
        file.write_bytes(valid)
        figure("readers", {"reader": name, "examples": examples, "failures": len(failures)})
