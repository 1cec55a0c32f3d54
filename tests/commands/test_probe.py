"""`simclr probe`: scores of an encoder and its baselines, with labels from folders or a table."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import nn

import simclr_cli
from simclr_cli.api import ProbeResult, ProbeSettings
from simclr_cli.commands import probe as probe_module
from simclr_cli.commands.probe import probe
from simclr_cli.core.errors import InputError, RunError, SettingsError
from simclr_cli.core.events import Event, Note
from simclr_cli.encode.load import create_untrained_encoder
from simclr_cli.engine.encoder import create_encoder
from simclr_cli.engine.probes import knn_votes
from simclr_cli.evaluate import baselines, comparison
from simclr_cli.evaluate.baselines import RawPixels
from simclr_cli.images.synthetic import CLASSES, draw_images
from simclr_cli.train.supervised import LINEAR


@pytest.fixture(autouse=True)
def quick_linear_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try three values of l2 instead of 45: the tests of the engine cover the fit."""
    monkeypatch.setattr("simclr_cli.engine.probes.L2_VALUES", (1e-4, 1e-1, 1e2))
    monkeypatch.setattr(baselines, "PIXEL_SIDE", 8)


REPRESENTATIONS = ["trained", "untrained", "raw pixels", "color histogram"]
DEFAULT = "tiny_resnet.r160_in1k"  # of the fixture default_encoder


def run_probe(trained: Any, *, said: list[Event] | None = None, **values: Any) -> ProbeResult:
    report = [].append if said is None else said.append
    return probe(ProbeSettings(**{"runs": trained.runs, **values}), report=report)


def write_table(path: Path, rows: list[tuple[str, str]], columns: tuple[str, ...] = ("path", "label")) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_class_folders_give_scores_of_the_trained_and_the_untrained_encoder(trained: Any) -> None:
    said: list[Event] = []
    result = run_probe(trained, said=said)
    assert [score.representation for score in result.scores] == REPRESENTATIONS
    assert all(0 <= value <= 100 for s in result.scores for value in (s.knn_20.top_1, s.knn_200.top_1, s.linear.top_1))
    assert result.classes == CLASSES
    assert (result.train_images, result.test_images, result.skipped) == (38, 10, 0)  # one of 4 or 5 of each class
    assert result.chance == pytest.approx(10) and result.split == "stratified, 20% held out by seed 0"
    assert result.model_checksum == trained.result.model_checksum and result.encoder == str(trained.run.path)
    assert Note("The held-out images were also used for pretraining, without their labels.") in said


def test_the_verdict_compares_the_run_and_names_the_best_of_all(trained: Any) -> None:
    """The first sentence is about the run and the untrained encoder; the second has the highest accuracies."""
    result = run_probe(trained)
    names = {"trained": "the run", "untrained": "untrained encoder"}
    by_knn = max(result.scores, key=lambda score: score.knn_20.top_1)
    by_linear = max(result.scores, key=lambda score: score.linear.top_1)
    knn_name, linear_name = (names.get(score.representation, score.representation) for score in (by_knn, by_linear))
    best = f"{knn_name}, {by_knn.knn_20.top_1:.1f} %; by linear probe: {linear_name}, {by_linear.linear.top_1:.1f} %."
    first, _, second = result.verdict.partition(" Best of all by kNN: ")
    assert first.startswith(f"Linear probe accuracy {result.scores[0].linear.top_1:.1f} %: ") and first[-1] == "."
    assert second == best


def test_same_seed_gives_the_same_result(trained: Any) -> None:
    assert run_probe(trained, seed=3) == run_probe(trained, seed=3)


def test_knn_scores_are_those_of_the_written_out_vote(trained: Any, tmp_path: Path) -> None:
    draw_images(tmp_path / "test", seed=1, count=30, size=48)
    result = run_probe(trained, images=trained.images, test=tmp_path / "test", knn_temperature=0.5)
    encoder = simclr_cli.load_encoder(trained.name, runs=trained.runs)

    def rows(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
        from simclr_cli.images.decode import decode_evaluation_crop

        crops = [decode_evaluation_crop(folder / name, 40, encoder.spec.crop_fraction) for name in names_of(folder)]
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        return encoder.embed(pixels), torch.tensor([CLASSES.index(name.split("/")[0]) for name in names_of(folder)])

    (train, labels), (test, truth) = rows(trained.images), rows(tmp_path / "test")
    votes = knn_votes(train, labels, test, neighbors=(20, 200), temperature=0.5, classes=10)
    right = [100 * float((counted.argmax(1) == truth).float().mean()) for counted in votes]
    assert [result.scores[0].knn_20.top_1, result.scores[0].knn_200.top_1] == pytest.approx(right)


def test_held_out_folder(trained: Any, tmp_path: Path) -> None:
    draw_images(tmp_path / "test", seed=1, count=15, size=48)
    said: list[Event] = []
    result = run_probe(trained, test=tmp_path / "test", said=said)
    assert (result.train_images, result.test_images) == (48, 15)
    assert result.split == f"held out in {tmp_path / 'test'}"
    assert not any("used for pretraining" in event.text for event in said if isinstance(event, Note))


@pytest.mark.parametrize("overlapping", [".", "dots", ".."])
def test_held_out_folder_that_overlaps_that_of_training_is_an_error(trained: Any, overlapping: str) -> None:
    with pytest.raises(InputError, match=r"--test .* overlaps the folder of training images"):
        run_probe(trained, test=trained.images / overlapping)


def test_held_out_folder_of_another_class_is_an_error(trained: Any, tmp_path: Path, draw: Callable[..., Any]) -> None:
    draw(tmp_path / "test" / "clouds" / "1.png")
    with pytest.raises(InputError, match=r"None of the classes bricks, checks.*: clouds/1.png"):
        run_probe(trained, test=tmp_path / "test")


def test_table_of_labels_stands_for_the_folders(trained: Any, tmp_path: Path) -> None:
    rows = [(name, "round" if name.startswith(("dots", "rings")) else "other") for name in names_of(trained.images)]
    table = write_table(tmp_path / "labels.csv", rows[:40])
    result = run_probe(trained, images=trained.images, labels=table)
    assert result.classes == ("other", "round")
    assert result.train_images + result.test_images == 40
    assert all(0 <= score.linear.top_1 <= 100 for score in result.scores)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([("bricks/0000.png", "a")], ("id", "kind"), "has the columns id, kind"),
        ([("bricks/0000.png", "a"), ("bricks/0001.jpg", "a")], ("path", "label"), "gives all images one class"),
        ([("nothing.png", "a")], ("path", "label"), "names no image in"),
        ([("bricks/0000.png", "a"), ("bricks/0000.png", "b")], ("path", "label"), "two labels, a and b"),
        ([("bricks/0000.png", "")], ("path", "label"), "has no rows with a label"),
    ],
)
def test_tables_that_cannot_be_used(
    trained: Any, tmp_path: Path, rows: list[tuple[str, str]], columns: tuple[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run_probe(trained, labels=write_table(tmp_path / "labels.csv", rows, columns))


def test_folder_without_classes_asks_for_labels(trained: Any, tmp_path: Path, draw: Callable[..., Any]) -> None:
    for i in range(3):
        draw(tmp_path / "flat" / f"{i}.png", i)
    with pytest.raises(InputError, match="do not look like classes") as caught:
        run_probe(trained, images=tmp_path / "flat")
    assert "--labels FILE.csv" in caught.value.remedy


def test_labels_with_a_test_folder_are_an_error(tmp_path: Path) -> None:
    for name in ("a.csv", "b"):
        (tmp_path / name).write_text("")
    with pytest.raises(SettingsError, match="--labels has the classes of one folder only"):
        ProbeSettings(labels=tmp_path / "a.csv", test=tmp_path / "b")


def test_broken_images_are_counted_and_skipped(own: Any) -> None:
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    cut = (own.images / "dots" / "0001.jpg").read_bytes()
    (own.images / "dots" / "0001.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    result = run_probe(own)
    assert result.skipped == 2 and result.train_images + result.test_images == 47


def test_random_weights_are_the_untrained_baseline_itself(trained: Any, images: Path) -> None:
    result = run_probe(trained, images=images, encoder="random:tiny_resnet", image_size=40)
    assert result.encoder == "random:tiny_resnet"
    assert [score.representation for score in result.scores] == REPRESENTATIONS[1:]
    assert result.folder is None and re.match(r"Linear probe accuracy [\d.]+ % \(untrained encoder\): ", result.verdict)


def test_weights_from_a_file_are_probed_by_the_name_of_their_architecture(
    trained: Any, images: Path, tmp_path: Path
) -> None:
    """Their untrained twin has the same size and normalization, and they are compared with raw pixels."""
    save_file(timm.create_model("tiny_resnet").state_dict(), tmp_path / "w.safetensors")
    encoder, said = f"tiny_resnet={tmp_path / 'w.safetensors'}", []
    result = run_probe(trained, said=said, images=images, encoder=encoder, image_size=40)
    assert (result.encoder, result.folder) == (encoder, None)
    assert [score.representation for score in result.scores] == ["tiny_resnet", *REPRESENTATIONS[1:]]
    assert result.verdict.startswith(f"Linear probe accuracy {result.scores[0].linear.top_1:.1f} % (tiny_resnet): ")
    assert not any("also used for pretraining" in event.text for event in said if isinstance(event, Note))
    with pytest.raises(SettingsError, match="has no images of its own"):
        run_probe(trained, encoder=encoder)


def test_untrained_baseline_has_the_weights_that_the_run_started_from(own: Any, train: Callable[..., Any]) -> None:
    made = train(own.images, run="still", runs=own.runs, seed=4, learning_rate=1e-12, weight_decay=0.0)
    result = run_probe(own, run=Path(made.run).name)
    trained, untrained, *_ = result.scores
    # Batch norm's statistics have moved, so the scores may differ a little; the weights have not.
    assert trained.representation == "trained" and untrained.representation == "untrained"
    ready = probe_module.resolve_encoder(ProbeSettings(runs=own.runs, run="still"))
    twin = create_untrained_encoder(ready, 0).encoder.backbone.state_dict()
    still = ready.encoder.backbone.state_dict()
    assert all(torch.allclose(twin[name], still[name], atol=1e-6) for name in twin if name.endswith("weight"))
    other = create_encoder(ready.encoder.spec, seed=5).backbone.state_dict()
    assert not torch.equal(twin["conv1.0.weight"], other["conv1.0.weight"])


def test_probe_writes_into_its_own_folder_only(own: Any, checksum: Callable[[Path], Any]) -> None:
    before = checksum(own.images), checksum(own.run.path)
    result = run_probe(own)
    assert result.folder == str(own.run.probe_folder)
    assert checksum(own.images) == before[0]
    after = checksum(own.run.path)
    new = {bytes.fromhex(name).decode() for name in after.keys() - before[1].keys()}
    assert new == {"probe", "probe/probe.json", "probe/confusion.png"}
    assert all(after[name] == before[1][name] for name in before[1])
    kept = json.loads((own.run.probe_folder / "probe.json").read_text())
    assert kept == json.loads(json.dumps(dataclasses.asdict(result)))


def test_class_scores_and_confusions_count_the_same_images(trained: Any, tmp_path: Path) -> None:
    draw_images(tmp_path / "test", seed=1, count=40, size=48)
    result = run_probe(trained, test=tmp_path / "test", out=tmp_path / "out")
    assert sum(cell.count for cell in result.confusion) == 40
    for one in result.per_class:
        row = {cell.predicted: cell.count for cell in result.confusion if cell.label == one.name}
        column = {cell.label: cell.count for cell in result.confusion if cell.predicted == one.name}
        assert sum(row.values()) == one.test_images == 4
        assert one.recall == pytest.approx(100 * row.get(one.name, 0) / 4)
        precision = 100 * column.get(one.name, 0) / sum(column.values()) if column else None
        assert one.precision == (None if precision is None else pytest.approx(precision))
    assert result.scores[0].linear.top_1 == pytest.approx(
        100 * sum(cell.count for cell in result.confusion if cell.label == cell.predicted) / 40
    )
    assert (tmp_path / "out" / "confusion.png").is_file()


def test_a_wrong_label_is_the_first_label_error(trained: Any, tmp_path: Path) -> None:
    """Move one of the images, which differ by color, into the other class."""
    for number in range(40):
        folder = tmp_path / "pics" / ("dark" if number % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 90, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels + (0 if number % 2 else 160)).save(folder / f"{number:02}.png")
    (tmp_path / "pics" / "dark" / "07.png").rename(tmp_path / "pics" / "light" / "07.png")
    result = run_probe(trained, images=tmp_path / "pics", out=tmp_path / "out")
    first = result.label_errors[0]
    assert (first.path, first.label, first.predicted) == ("light/07.png", "light", "dark")
    assert first.probability < 0.5


def test_few_labels_are_probed_in_several_draws(trained: Any, tmp_path: Path) -> None:
    result = run_probe(trained, labels_fraction="1", labels_per_class="1", draws=2, out=tmp_path)
    rows = {(few.representation, few.wanted): few for few in result.few_labels}
    assert len(rows) == 2 * len(REPRESENTATIONS)
    assert rows["trained", "1 per class"].labels == 10 and rows["trained", "1 per class"].draws == 2
    assert rows["trained", "1 of the labels"].labels == result.train_images
    assert rows["trained", "1 of the labels"].std == 0  # every draw is all of them


# Baselines that are encoders


def test_another_run_a_file_of_weights_and_random_weights_are_compared(
    own: Any, train: Callable[..., Any], tmp_path: Path
) -> None:
    """A --baseline is named as --encoder is; each has its own image size."""
    made = train(own.images, run="other", runs=own.runs, seed=4)
    weights = tmp_path / "w.safetensors"
    shutil.copy(Path(made.run) / "encoder" / "model.safetensors", weights)
    described = str(Path(made.run) / "encoder" / "model.safetensors")  # next to its config.json
    baselines = ("other", described, f"tiny_resnet={weights}", "random:tiny_resnet")
    result = run_probe(own, run=own.name, baseline=baselines)
    assert [score.representation for score in result.scores] == [*REPRESENTATIONS, *baselines]
    scores = {score.representation: score for score in result.scores}
    assert dataclasses.replace(scores["other"], representation="") == dataclasses.replace(
        scores[described], representation=""
    )
    assert all(score.gain is not None for score in result.scores[1:])
    with pytest.raises(SettingsError, match="There is no run and no timm model named 'nothing'"):
        run_probe(own, run=own.name, baseline=("nothing",))
    with pytest.raises(RunError, match="There is no weights file"):
        run_probe(own, run=own.name, baseline=(f"tiny_resnet={tmp_path / 'gone.safetensors'}",))


def test_the_default_encoder_is_a_baseline_if_its_weights_are_at_hand(
    own: Any, default_encoder: nn.Module, tmp_path: Path
) -> None:
    """It is frozen, at the size of the default, and scored as if it were probed itself."""
    assert not default_encoder.training
    said: list[Event] = []
    result = run_probe(own, said=said)
    assert [score.representation for score in result.scores] == [*REPRESENTATIONS, DEFAULT]
    assert not any("That baseline is skipped" in event.text for event in said if isinstance(event, Note))
    alone = run_probe(own, images=own.images, encoder=DEFAULT, image_size=40, out=tmp_path / "alone")
    assert [score.representation for score in alone.scores] == [DEFAULT, *REPRESENTATIONS[1:]]  # not twice
    assert alone.encoder == DEFAULT and alone.scores[0].gain is None
    frozen = result.scores[-1]
    assert (frozen.knn_20, frozen.knn_200, frozen.linear) == (
        alone.scores[0].knn_20, alone.scores[0].knn_200, alone.scores[0].linear,
    )  # fmt: skip


@pytest.mark.usefixtures("hub")
def test_the_default_encoder_is_skipped_if_its_weights_are_not_at_hand(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr_cli.encode.load.DEFAULT_FOR_CPU", (DEFAULT, 40, "small"))
    said: list[Event] = []
    assert [score.representation for score in run_probe(own, said=said).scores] == REPRESENTATIONS
    assert Note(f"The weights of {DEFAULT} are not on this machine. That baseline is skipped.") in said


@pytest.mark.usefixtures("default_encoder")
def test_the_same_encoder_at_two_sizes_has_two_rows(own: Any) -> None:
    """The second has its size in its name, and neither replaces the other."""
    result = run_probe(own, images=own.images, encoder=DEFAULT, image_size=64, baseline=(DEFAULT,))
    names = [score.representation for score in result.scores]
    assert names == [DEFAULT, *REPRESENTATIONS[1:], f"{DEFAULT} at 40 px", f"{DEFAULT} at 160 px"]
    same = run_probe(own, images=own.images, encoder=DEFAULT, image_size=64)
    assert result.scores[0] == same.scores[0] and result.model_checksum == same.model_checksum
    twice = run_probe(own, images=own.images, encoder=DEFAULT, baseline=(DEFAULT, DEFAULT))
    assert [score.representation for score in twice.scores] == [
        DEFAULT, *REPRESENTATIONS[1:], f"{DEFAULT} at 40 px",
    ]  # fmt: skip


def test_weights_of_the_default_encoder_that_do_not_fit_are_an_error(
    own: Any, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(f"timm/{DEFAULT}", model_safetensors=save({"x": torch.zeros(1)}))
    monkeypatch.setattr("simclr_cli.encode.load.DEFAULT_FOR_CPU", (DEFAULT, 40, "small"))
    with pytest.raises(SettingsError, match="does not hold the weights of tiny_resnet"):
        run_probe(own)


def test_the_papers_protocol_evaluates_networks_on_the_same_split(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    trainer = comparison.train_classifier

    def few_epochs(encoder: Any, decoded: Any, rows: Any, labels: Any, classes: int, recipe: Any, **more: Any) -> Any:
        assert recipe == LINEAR
        names = [decoded.census.images[row].name.split("/")[0] for row in rows]
        assert names == [CLASSES[label] for label in labels]
        seen.append(tuple(rows))
        short = dataclasses.replace(recipe, epochs=2)
        return trainer(encoder, decoded, rows, labels, classes, short, **more)

    opened: list[int] = []
    decode_images = comparison.decode_images

    def counted(census: Any, size: int, **more: Any) -> Any:
        opened.append(size)
        return decode_images(census, size, **more)

    monkeypatch.setattr(comparison, "train_classifier", few_epochs)
    monkeypatch.setattr(comparison, "decode_images", counted)
    quick, paper = run_probe(own), run_probe(own, protocol="paper", out=tmp_path)
    assert len(opened) == 1  # for both, which have the same image size
    assert len(seen) == 2 and seen[0] == seen[1] and len(seen[0]) == paper.train_images
    assert [score.linear is not None for score in paper.scores] == [True, True, False, False]
    assert [score.knn_20 for score in paper.scores] == [score.knn_20 for score in quick.scores]
    assert paper.protocol == "paper" and paper.label_errors_note  # by a quick probe of the same h


def test_raw_pixels_and_color_histogram_equal_numpys() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    x = torch.from_numpy(pixels).float() / 255
    means = pixels.reshape(2, 3, 8, 8, 8, 8).mean((3, 5)) / 255
    torch.testing.assert_close(RawPixels()(x), torch.from_numpy(means).float().flatten(1))
    histogram = baselines.ColorHistogram()(x)
    assert histogram.shape == (2, 512)
    for image, row in zip(pixels, histogram, strict=True):
        bins = Counter(map(tuple, (image.astype(int) * 8 // 255).clip(0, 7).reshape(3, -1).T.tolist()))
        for (r, g, b), count in bins.items():
            assert float(row[(r * 8 + g) * 8 + b]) == pytest.approx((count / 4096) ** 0.5, rel=1e-5)


def test_another_folder_can_be_probed_when_the_runs_images_are_gone(own: Any, tmp_path: Path) -> None:
    moved = Path(shutil.move(own.images, tmp_path / "moved"))
    assert run_probe(own, images=moved).test_images == 10


def test_labels_with_nothing_to_hold_out_are_an_error(trained: Any, tmp_path: Path) -> None:
    rows = [(name, f"class {i}") for i, name in enumerate(names_of(trained.images)[:5])]
    with pytest.raises(InputError, match="No class has two images, so none can be held out"):
        run_probe(trained, labels=write_table(tmp_path / "labels.csv", rows))
