"""`simclr predict`: its classifier, its images, and output files with any name."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from simclr_cli.api import PredictResult, PredictSettings
from simclr_cli.commands.predict import predict
from simclr_cli.core.errors import InputError, RunError, SettingsError
from simclr_cli.core.events import Event, Note
from simclr_cli.core.text import escape_name_for_csv, escape_value_for_csv, unescape_name
from simclr_cli.encode.load import load_encoder
from simclr_cli.encode.model_card import build_classifier_config
from simclr_cli.engine.classifier import join_classifier
from simclr_cli.images.decode import decode_evaluation_crop
from simclr_cli.images.label_table import read_labels
from simclr_cli.store.models import write_model

LABELS = ("ant", "bee", "c,at", 'd"og', "-el\nk", "frög")


def make(own: Any, folder: Path, seed: int = 0, **training: Any) -> Path:
    """Write a classifier with the run's encoder and random weights."""
    encoder = load_encoder(own.name, runs=own.runs)
    linear = nn.Linear(encoder.width, len(LABELS))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.normal_(0, 0.3, generator=generator)
        linear.bias.normal_(generator=generator)
    state = join_classifier(encoder, linear).state_dict()
    write_model(folder, state, build_classifier_config(encoder, LABELS, training), "card")
    return folder


@pytest.fixture
def classifier(own: Any) -> Path:
    return make(own, own.run.path / "classifier")


def run(own: Any, *images: Path, **values: Any) -> PredictResult:
    return predict(PredictSettings(queries=images, **{"runs": own.runs, **values}))


def test_probabilities_are_softmax_of_the_logits_of_embeds_crop(own: Any, classifier: Path) -> None:
    from simclr_cli.commands.predict import load_classifier

    result = run(own, own.images / "dots", top=6)
    ready, linear, labels = load_classifier(classifier, torch.device("cpu"))
    assert result.labels == LABELS == labels and result.classifier == str(classifier)
    assert len(result.predictions) == len(list((own.images / "dots").iterdir()))
    for one in result.predictions:
        pixels = torch.tensor(decode_evaluation_crop(Path(one.path), 40, 0.875)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = linear(ready.encoder.embed(pixels)).softmax(1)[0]
        ours = {each.label: each.probability for each in one.classes}
        assert [ours[name] for name in LABELS] == pytest.approx(expected.tolist(), abs=1e-6)
        ordered = [each.probability for each in one.classes]
        assert ordered == sorted(ordered, reverse=True) and sum(ordered) == pytest.approx(1)
        assert (one.label, one.probability) == (one.classes[0].label, one.classes[0].probability)


@pytest.mark.parametrize(("low", "cautious"), [(33.0, True), (34.0, False), ("x", False)])
def test_predictions_of_a_classifier_that_is_no_better_than_chance_carry_a_caution(
    own: Any, low: Any, cautious: bool
) -> None:
    make(own, own.run.path / "classifier", chance=33.0, accuracy={"top_1": 40.0, "low": low})
    events: list[Event] = []
    predict(PredictSettings(queries=(next(own.images.rglob("*.png")),), runs=own.runs), report=events.append)
    warned = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert [text.startswith("Predictions may mean little") for text in warned] == [True] * cautious


def test_more_classes_than_there_are_is_all_of_them(own: Any, classifier: Path) -> None:
    assert len(run(own, own.images / "dots", top=99).predictions[0].classes) == len(LABELS)
    assert len(run(own, own.images / "dots", top=1).predictions[0].classes) == 1


def test_files_that_are_not_images_are_skipped_with_a_reason(own: Any, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    broken = (own.images / "dots" / "0001.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(broken[: len(broken) // 2])
    bad = [tmp_path / name for name in ("empty.jpg", "words.txt", "link.png", "cut.jpg")]
    result = run(own, *bad, own.images / "dots" / "0001.jpg")
    assert len(result.predictions) == 1 and len(result.skipped) == 4
    assert "empty file (0 bytes)" in result.skipped[0] and "not an image" in result.skipped[1]
    assert "broken link" in result.skipped[2] and "damaged" in result.skipped[3]
    with pytest.raises(InputError, match="No image could be decoded"):
        run(own, *bad)


def hostile(folder: Path, draw: Callable[..., Any]) -> list[Path]:
    names = [b"a,b.png", b'q"uote.png', b"new\nline.png", b"\x1b[31mred.png", b"latin-\xe9.png", b"=1+1.png"]
    paths = [Path(os.fsdecode(os.fsencode(folder) + b"/" + name)) for name in names]
    for i, path in enumerate(paths):
        draw(path, i)
    return paths


def test_csv_holds_every_name(own: Any, classifier: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    paths = hostile(tmp_path / "odd", draw)
    result = run(own, *paths, out=tmp_path / "out.csv", top=2)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["path", "label", "probability", "label_2", "probability_2"]
    assert [unescape_name(row[0]) for row in rows] == [str(path) for path in paths]
    assert result.out == str(tmp_path / "out.csv")
    labels = {}
    for row, prediction in zip(rows, result.predictions, strict=True):
        first, second = prediction.classes
        assert row[1] == escape_value_for_csv(prediction.label) and row[3] == escape_value_for_csv(second.label)
        assert [float(row[2]), float(row[4])] == pytest.approx([first.probability, second.probability], abs=1e-6)
        labels[escape_name_for_csv(prediction.path)] = escape_value_for_csv(prediction.label)
    assert read_labels(tmp_path / "out.csv") == labels


def test_json_holds_every_name(own: Any, classifier: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    paths = hostile(tmp_path / "odd", draw)
    result = run(own, *paths, out=tmp_path / "out.json")
    kept = json.loads((tmp_path / "out.json").read_bytes())
    assert kept == json.loads(json.dumps(dataclasses.asdict(result)))
    assert [one["path"] for one in kept["predictions"]] == [str(path) for path in paths]


def test_damaged_or_foreign_folders_are_named(own: Any, classifier: Path, tmp_path: Path) -> None:
    image = own.images / "dots" / "0001.jpg"
    with pytest.raises(RunError, match="names no classes, so it does not describe a classifier"):
        run(own, image, classifier=own.run.encoder_folder)
    with pytest.raises(RunError, match="There is no"):
        run(own, image, classifier=tmp_path)
    weights = classifier / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(RunError, match="its checksum differs"):
        run(own, image)
    weights.unlink()
    with pytest.raises(RunError, match=r"There is no .*model.safetensors"):
        run(own, image, classifier=classifier)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"queries": ()}, "No image was given"),
        ({"top": 0}, "must be at least 1"),
        ({"out": Path("a.txt")}, r"must end in .csv or .json"),
        ({"run": "a", "classifier": Path()}, "name two classifiers"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        PredictSettings(**{"queries": (Path(),), **values})
