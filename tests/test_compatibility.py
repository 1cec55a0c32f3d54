"""A run of format 1, committed small, still opens: what docs/compatibility.md promises.

`python tests/test_compatibility.py` makes it again, which is right only when a format changes before its first release.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the script

import runs  # noqa: F401  (registers the backbone)

from simclr_cli import (
    CheckSettings,
    EmbedSettings,
    FinetuneSettings,
    PredictSettings,
    PretrainSettings,
    SimilarSettings,
    check,
    embed,
    finetune,
    predict,
    pretrain,
    similar,
)
from simclr_cli.images.synthetic import draw_images
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_image_list, read_run_info

STORED = Path(__file__).parent / "data" / "format-1"
QUERY = Path("dots/0000.png")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The stored folder, in which the images have the times that they had."""
    folder = Path(shutil.copytree(STORED, tmp_path / "stored"))
    for name, (_, modified_ns) in read_image_list(RunFolder(folder / "runs" / "small")).files.items():
        os.utime(folder / "images" / name, ns=(modified_ns, modified_ns))
    return folder


def test_all_of_it_is_intact_and_read(stored: Path) -> None:
    run = RunFolder(stored / "runs" / "small")
    result = check(CheckSettings(run=str(run.path)))
    assert (result.intact, result.finished) == (True, True) and result.files > 5
    info = read_run_info(run)
    assert (info.settings.backbone, info.settings.epochs, info.settings.rotate) == ("mini_resnet", 2, 0.0)


def test_its_embeddings_are_what_they_were(stored: Path, tmp_path: Path) -> None:
    """To rounding: another processor or torch adds in another order."""
    embed(EmbedSettings(run=str(stored / "runs" / "small"), images=stored / "images", out=tmp_path / "h.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "h.npy"), np.load(stored / "h.npy"), atol=2e-3)
    assert json.loads((tmp_path / "h.rows.json").read_text())["rows"] == sorted(
        path.relative_to(stored / "images").as_posix() for path in (stored / "images").rglob("*.*")
    )


def test_it_is_searched_by_its_stored_embeddings(stored: Path) -> None:
    run = stored / "runs" / "small"
    before = {path.name: path.read_bytes() for path in (run / "vectors").iterdir() if path.suffix == ".bin"}
    result = similar(SimilarSettings(run=str(run), queries=(stored / "images" / QUERY,), top=3))
    assert len(result.queries[0].neighbors) == 3
    assert {path.name: path.read_bytes() for path in (run / "vectors").iterdir() if path.suffix == ".bin"} == before


def test_its_classifier_predicts(stored: Path) -> None:
    classifier = stored / "runs" / "small" / "classifier"
    result = predict(PredictSettings(queries=(stored / "images" / QUERY,), classifier=classifier))
    assert len(result.labels) == 10 and result.predictions[0].label in result.labels


def test_it_is_resumed_with_more_epochs(stored: Path, no_page: None) -> None:
    result = pretrain(PretrainSettings(run="small", runs=stored / "runs", resume=True, epochs=3))
    assert (result.finished, result.epochs) == (True, 3)


def make() -> None:
    """Make the stored folder anew, in a folder whose name says nothing of this machine."""
    place = Path("/stored")
    os.environ["SIMCLR_CACHE"] = str(place / "cache")
    images, run = place / "images", RunFolder(place / "runs" / "small")
    draw_images(images, seed=0, count=20, size=32)
    few = {"backbone": "mini_resnet", "image_size": 32, "batch_size": 8, "optimizer": "sgd"}
    pretrain(PretrainSettings(images=images, runs=run.path.parent, run="small", epochs=2, workers=1, **few))
    embed(EmbedSettings(run=str(run.path), images=images, out=place / "h.npy"))
    similar(SimilarSettings(run=str(run.path), queries=(images / QUERY,)))
    finetune(FinetuneSettings(images=images, run=str(run.path), epochs=1, batch_size=4))
    for path in (run.report_file, *place.rglob(".simclr-lock"), place / "h.rows.json"):
        path.unlink(missing_ok=True)
    shutil.rmtree(place / "cache")
    shutil.rmtree(STORED, ignore_errors=True)
    shutil.move(place, STORED)


if __name__ == "__main__":
    make()
