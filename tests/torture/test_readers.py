"""Every reader, with arbitrary bytes and mutated files: an object, or an error with a remedy."""

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
from simclr_cli.core.text import escape_name_for_csv, unescape_name
from simclr_cli.encode.model_card import parse_spec
from simclr_cli.images.cache_location import list_caches
from simclr_cli.images.label_table import read_labels
from simclr_cli.images.pixel_store import PixelStore
from simclr_cli.images.scan import take_census
from simclr_cli.images.synthetic import draw_images
from simclr_cli.search.similarity_scale import read_scale
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index_files import read_index
from simclr_cli.store.manifest import MANIFEST, read_manifest
from simclr_cli.store.models import parse_class_names, read_config, read_weights
from simclr_cli.store.moves import JOURNAL, MovedFile, move_files, read_journal
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_image_list, read_run_info
from simclr_cli.store.vectors import Vectors, read_vectors, write_vectors

pytestmark = pytest.mark.long

MODEL = "a" * 64
JSON_VALUES = [
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
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a run with all its possible files, vectors, a journal, a table, and a cache."""
    work = tmp_path_factory.mktemp("readers")
    draw_images(work / "images", seed=0, count=12, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(work / "cache"))
        tiny: dict[str, Any] = {"backbone": "test_resnet", "image_size": 40, "batch_size": 8, "epochs": 1}
        pretrain(PretrainSettings(images=work / "images", runs=work / "runs", run="r", **tiny))
        query = next((work / "images").rglob("*.*"))
        similar(SimilarSettings(queries=(query,), run="r", runs=work / "runs"))
    run = RunFolder(work / "runs/r")
    (run.path / "probe").mkdir()
    (run.path / "probe/probe.json").write_text('{"classes": ["a", "b"], "scores": [], "images": 3}')
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    shutil.rmtree(run.checkpoint_folder, ignore_errors=True)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    save_checkpoint(run.checkpoint_folder, Checkpoint(1, state, optimizer.state_dict(), [], [1.0], "f" * 64))
    write_vectors(work / "v.npy", Vectors(np.zeros((2, 3), np.float32), ("a", "b"), "/p", MODEL, True, "f" * 64))
    (work / "home").mkdir()
    (work / "away").mkdir()
    (work / "home/a.png").write_bytes(b"a")
    move_files(work / "home", work / "away", [MovedFile("a.png", checksum_file(work / "home/a.png"))], lambda *_: None)
    (work / "labels.csv").write_bytes(b'path,label\n"a.png",cat\nb.png,dog\n./=c.png,"c,at"\n')
    (work / "name.txt").write_bytes(escape_name_for_csv(os.fsdecode(b"=\xff\n\\x.png")).encode())
    return work


def get_run(file: Path) -> RunFolder:
    return RunFolder(next(parent for parent in file.parents if parent.name == "r"))


def read_whole_index(file: Path) -> Any:
    index = read_index(file.parent, model_checksum=checksum_file(get_run(file).weights_file))
    if index is None:
        return None
    return read_scale(index), index.names, index.get_path(0), index.h[0 : len(index)], index.include_unfinished().images


def read_encoder_config(file: Path) -> Any:
    config = read_config(file, "Restore it.")
    with contextlib.suppress(SimclrError):
        parse_class_names(file, config)
    return parse_spec(file, config)


def read_caches(file: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(file.parents[1]))
        return list_caches(), take_census(file.parents[2] / "images", workers=1)


READERS: dict[str, Callable[[Path], Any]] = {
    "runs/r/config.json": lambda file: read_run_info(get_run(file)).settings,
    "runs/r/metrics.jsonl": lambda file: read_epochs(get_run(file)),
    "runs/r/speed.jsonl": lambda file: read_epochs(get_run(file)),
    "runs/r/images.json": lambda file: read_image_list(get_run(file)),
    "runs/r/skipped.json": lambda file: get_run(file).read_skipped(),
    "runs/r/projection_head.safetensors": read_weights,
    "runs/r/probe/probe.json": read_probe,
    "runs/r/encoder/config.json": read_encoder_config,
    "runs/r/encoder/model.safetensors": read_weights,
    "runs/r/checkpoint/step-*.safetensors": lambda file: load_checkpoint(file.parent),
    "runs/r/vectors/index.json": read_whole_index,
    "runs/r/vectors/images-*.bin": read_whole_index,
    "runs/r/vectors/names-*.bin": read_whole_index,
    f"away/{JOURNAL}": lambda file: read_journal(file.parent),
    f"runs/r/{MANIFEST}": lambda file: read_manifest(file.parent),
    "v.npy": lambda file: read_vectors(file, model_checksum=MODEL),
    "v.rows.json": lambda file: read_vectors(file.with_name("v.npy"), model_checksum=MODEL),
    "labels.csv": read_labels,
    "cache/*/headers.json": read_caches,
    "cache/*/*/index.json": lambda file: PixelStore(file.parent, int(file.parent.name)).open_maps(),
    "name.txt": lambda file: unescape_name(file.read_bytes().decode("utf-8", "replace")),
}


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw arbitrary bytes, or the file with bytes changed, removed or inserted, or with a JSON value replaced."""
    change = draw(st.sampled_from(["bytes", "flips", "cut", "insert", "value", "value", "value"]))
    if change == "bytes":
        return draw(st.binary(max_size=200))
    position = draw(st.integers(0, max(0, min(len(valid), 4_000) - 1)))  # near the start, where headers are
    if change == "cut":
        return valid[:position] + valid[position + draw(st.integers(1, 100)) :]
    if change == "insert":
        return valid[:position] + draw(st.binary(min_size=1, max_size=20)) + valid[position:]
    data = bytearray(valid)
    if change == "flips" or not (spans := _find_json_values(valid)):
        for _ in range(draw(st.integers(1, 5))):
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    start, stop = draw(st.sampled_from(spans))
    return valid[:start] + draw(st.sampled_from(JSON_VALUES)).encode() + valid[stop:]


def _find_json_values(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of the JSON values near the start of a file."""
    start = data.find(b"{")
    spans, text = [], data[max(start, 0) : start + 3_000].decode("latin-1")
    decoder = json.JSONDecoder()
    for at, character in enumerate(text):
        if character in ":[," and start >= 0:
            with contextlib.suppress(ValueError):
                skipped = len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
                _, end = decoder.raw_decode(text, at + 1 + skipped)
                spans.append((start + at + 1 + skipped, start + end))
    return spans


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_reader(work: Path, name: str, times: Callable[[int, int], int], figure: Callable[[str, Any], None]) -> None:
    file = next(work.glob(name))
    valid, examples, failures = file.read_bytes(), times(30, 2_000), []
    READERS[name](file)  # unchanged, it can be read

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
            assert error.problem and error.remedy
        except Exception:
            failures.append(data)
            raise

    try:
        read()
    finally:
        file.write_bytes(valid)
        figure("readers", {"reader": name, "examples": examples, "failures": len(failures)})
