"""Images of 16 bits that use fewer: one scale from the census to training, embeddings, search and other folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import EmbedSettings, FinetuneSettings, PretrainResult, SimilarSettings
from simclr_cli.commands.embed import embed
from simclr_cli.commands.finetune import finetune
from simclr_cli.commands.predict import load_classifier
from simclr_cli.core.events import CensusTaken, silent
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.load import load_run_encoder
from simclr_cli.search.library import open_index, open_library
from simclr_cli.store.run import RunFolder
from simclr_cli.store.vectors import read_vectors

RANDOM = "random:resnet10t"


def draw(folder: Path, count: int, bits: int, *, stored_bits: int = 16) -> Path:
    """Draw gray images whose values use `bits` of 16, or the same images in 8 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        blocks = np.random.default_rng(i).integers(0, 2**bits, (6, 6))
        blocks[0, 0] = 2**bits - 1
        values = blocks.repeat(8, axis=0).repeat(8, axis=1)
        values = values / (2**bits - 1) * 255 if stored_bits == 8 else values
        dtype = np.uint8 if stored_bits == 8 else np.uint16
        Image.fromarray(np.round(values).astype(dtype)).save(folder / f"{i:02}.png")
    return folder


def embeddings(folder: Path, out: Path, encoder: str = RANDOM, **values: Any) -> dict[str, np.ndarray]:
    made = embed(EmbedSettings(images=folder, encoder=encoder, image_size=40, out=out, workers=0, **values))
    vectors = read_vectors(Path(made.out), model_checksum=made.model_checksum)
    return dict(zip(vectors.rows, vectors.values, strict=True))


def test_embeddings_are_those_of_the_same_images_in_8_bits(tmp_path: Path) -> None:
    deep = embeddings(draw(tmp_path / "deep", 4, 11), tmp_path / "deep.npy")
    plain = embeddings(draw(tmp_path / "plain", 4, 11, stored_bits=8), tmp_path / "plain.npy")
    for name, h in deep.items():
        assert float(h @ plain[name]) == pytest.approx(1, abs=1e-4)


def test_scale_is_that_of_the_folder_in_each_of_its_parts(tmp_path: Path) -> None:
    """A brighter image that comes later changes the embeddings of all, as if all were embedded together."""
    folder = draw(tmp_path / "pics", 4, 10)
    settings = SimilarSettings(queries=(folder / "00.png",), images=folder, encoder=RANDOM, image_size=40, workers=0)

    def search(bits: int) -> dict[str, np.ndarray]:
        index, _ = open_index(open_library(settings, silent), silent)
        assert index.bits == bits
        return dict(zip(index.names, index.h[:], strict=True))

    search(10)
    bright = np.full((48, 48), 4095, np.uint16)
    bright[:24] = 0
    Image.fromarray(bright).save(folder / "later.png")
    found, expected = search(12), embeddings(folder, tmp_path / "all.npy")
    assert set(found) == set(expected)
    for name, h in expected.items():
        assert float(found[name] @ h) == pytest.approx(1, abs=1e-5)


def test_run_keeps_its_scale_and_brings_it_to_other_folders(
    tmp_path: Path, train: Callable[..., PretrainResult]
) -> None:
    folder, told = draw(tmp_path / "pics", 24, 12), []
    result = train(folder, report=told.append)
    assert [event.summary["bits"] for event in told if isinstance(event, CensusTaken)] == [12]
    run = RunFolder(Path(result.run))
    assert json.loads(run.config_file.read_text())["census"]["bits"] == 12
    assert load_run_encoder(run, resolve_device("cpu")).encoder.spec.bits == 12

    dark = draw(tmp_path / "dark", 4, 10)
    own = embeddings(dark, tmp_path / "own.npy", str(run.path))
    for path in dark.iterdir():  # in 8 bits, as dark as they are on the scale of the run
        values = np.asarray(Image.open(path)).astype(float)
        Image.fromarray(np.round(values / 4095 * 255).astype(np.uint8)).save(path)
    plain = embeddings(dark, tmp_path / "plain.npy", str(run.path))
    for name, h in own.items():
        assert float(h @ plain[name]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("scratch", [False, True])
def test_classifier_keeps_the_scale_of_its_images(tmp_path: Path, no_trial: None, trained: Any, scratch: bool) -> None:
    for name in ("a", "b"):
        draw(tmp_path / "pics" / name, 4, 12)
    made = finetune(
        FinetuneSettings(
            images=tmp_path / "pics", encoder=str(trained.run.path), epochs=1, batch_size=4, workers=0,
            out=tmp_path / "classifier", scratch=scratch,
        )
    )  # fmt: skip
    classifier, _, _ = load_classifier(Path(made.out), resolve_device("cpu"))
    assert classifier.encoder.spec.bits == 12
    assert "divided by 4,095" in (tmp_path / "classifier" / "README.md").read_text()
