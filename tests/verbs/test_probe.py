"""`probe`: held-out scores of the trained and the untrained encoder, whatever way the labels come."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simclr_cli
from simclr_cli.engine.probes import knn_votes
from simclr_cli.errors import InputError, SettingsError
from simclr_cli.events import Event, Note
from simclr_cli.images.drawing import CLASSES, draw_pictures
from simclr_cli.results import ProbeResult
from simclr_cli.settings import ProbeSettings
from simclr_cli.verbs import probe as probe_module
from simclr_cli.verbs.probe import probe, stratified


@pytest.fixture(autouse=True)
def quick_linear_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three strengths of l2 instead of 45: how it fits is the engine's matter, and tested there."""
    monkeypatch.setattr("simclr_cli.engine.probes.L2_VALUES", (1e-4, 1e-1, 1e2))


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
    assert [score.representation for score in result.scores] == ["trained", "untrained"]
    assert all(0 <= value <= 100 for s in result.scores for value in (s.knn_20.top_1, s.knn_200.top_1, s.linear.top_1))
    assert result.classes == CLASSES
    assert (result.train_pictures, result.test_pictures, result.refused) == (38, 10, 0)  # one of 4 or 5 of each class
    assert result.chance == pytest.approx(10) and result.split == "stratified, 20% held out by seed 0"
    assert result.model_digest == trained.result.model_digest and result.encoder == str(trained.run.path)
    assert Note("The held-out pictures were among those trained on, without their labels.") in said


def test_same_seed_gives_the_same_result(trained: Any) -> None:
    assert run_probe(trained, seed=3) == run_probe(trained, seed=3)


def test_knn_scores_are_those_of_the_written_out_vote(trained: Any, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "test", seed=1, pictures=30, size=48)
    result = run_probe(trained, images=trained.pictures, test=tmp_path / "test", knn_temperature=0.5)
    encoder = simclr_cli.load_encoder(trained.name, runs=trained.runs)

    def rows(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
        from simclr_cli.images.decode import evaluation_crop

        crops = [evaluation_crop(folder / name, 40, encoder.spec.crop) for name in names_of(folder)]
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        return encoder.represent(pixels), torch.tensor([CLASSES.index(name.split("/")[0]) for name in names_of(folder)])

    (train, labels), (test, truth) = rows(trained.pictures), rows(tmp_path / "test")
    votes = knn_votes(train, labels, test, neighbours=(20, 200), temperature=0.5, classes=10)
    right = [100 * float((counted.argmax(1) == truth).float().mean()) for counted in votes]
    assert [result.scores[0].knn_20.top_1, result.scores[0].knn_200.top_1] == pytest.approx(right)


def test_held_out_folder(trained: Any, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "test", seed=1, pictures=15, size=48)
    said: list[Event] = []
    result = run_probe(trained, test=tmp_path / "test", said=said)
    assert (result.train_pictures, result.test_pictures) == (48, 15)
    assert result.split == f"held out in {tmp_path / 'test'}"
    assert not any("among those trained on" in event.text for event in said if isinstance(event, Note))


def test_held_out_folder_of_another_class_is_refused(trained: Any, tmp_path: Path, draw: Callable[..., Any]) -> None:
    draw(tmp_path / "test" / "clouds" / "1.png")
    with pytest.raises(InputError, match=r"clouds/1.png in .* lies in none of the classes bricks, checks"):
        run_probe(trained, test=tmp_path / "test")


def test_table_of_labels_stands_for_the_folders(trained: Any, tmp_path: Path) -> None:
    rows = [(name, "round" if name.startswith(("dots", "rings")) else "other") for name in names_of(trained.pictures)]
    table = write_table(tmp_path / "labels.csv", rows[:40])
    result = run_probe(trained, images=trained.pictures, labels=table)
    assert result.classes == ("other", "round")
    assert result.train_pictures + result.test_pictures == 40
    assert all(0 <= score.linear.top_1 <= 100 for score in result.scores)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([("bricks/0000.png", "a")], ("file", "class"), "has the columns file, class"),
        ([("bricks/0000.png", "a"), ("bricks/0001.jpg", "a")], ("path", "label"), "gives all pictures one class"),
        ([("nothing.png", "a")], ("path", "label"), "names no picture of"),
        ([("bricks/0000.png", "a"), ("bricks/0000.png", "b")], ("path", "label"), "two labels, a and b"),
        ([("bricks/0000.png", "")], ("path", "label"), "lacks a path or a label in line 2"),
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


def test_labels_with_a_test_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b"):
        (tmp_path / name).write_text("")
    with pytest.raises(SettingsError, match="--labels names the classes of one folder only"):
        ProbeSettings(labels=tmp_path / "a.csv", test=tmp_path / "b")


def test_broken_pictures_are_counted_and_left_out(own: Any) -> None:
    (own.pictures / "bricks" / "empty.png").write_bytes(b"")
    cut = (own.pictures / "dots" / "0001.jpg").read_bytes()
    (own.pictures / "dots" / "0001.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    result = run_probe(own)
    assert result.refused == 2 and result.train_pictures + result.test_pictures == 47


def test_plain_backbone_is_probed_too(trained: Any, pictures: Path) -> None:
    result = run_probe(trained, images=pictures, backbone="test_resnet", image_size=40)
    assert result.encoder == "test_resnet (none)"
    assert [score.representation for score in result.scores] == ["untrained"]  # it is its own twin


def test_untrained_row_is_what_the_run_began_from(own: Any, train: Callable[..., Any]) -> None:
    made = train(own.pictures, run="still", runs=own.runs, seed=4, learning_rate=1e-12, weight_decay=0.0)
    result = run_probe(own, run=Path(made.run).name)
    trained, untrained = result.scores
    # Batch norm's statistics have moved, so the scores may differ a little; the weights have not.
    assert trained.representation == "trained" and untrained.representation == "untrained"
    ready = probe_module.ready_encoder(ProbeSettings(runs=own.runs, run="still"))
    twin = probe_module.untrained_twin(ready, 4).encoder.backbone.state_dict()
    still = ready.encoder.backbone.state_dict()
    assert all(torch.allclose(twin[name], still[name], atol=1e-6) for name in twin if name.endswith("weight"))
    other = probe_module.untrained_twin(ready, 5).encoder.backbone.state_dict()
    assert not torch.equal(twin["conv1.0.weight"], other["conv1.0.weight"])


def test_probe_writes_nothing(trained: Any, digest: Callable[[Path], Any], tmp_path: Path) -> None:
    before = digest(trained.pictures), digest(trained.run.path)
    run_probe(trained)
    assert (digest(trained.pictures), digest(trained.run.path)) == before


# The split


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_split_holds_out_the_share_of_every_class_and_never_all_of_one(share: float) -> None:
    labels = np.repeat(np.arange(5), [2, 3, 10, 40, 100])
    held_out = stratified(labels, share, seed=1)
    for number, size in Counter(labels.tolist()).items():
        count = int(held_out[labels == number].sum())
        assert 1 <= count <= size - 1
        assert abs(count - share * size) <= 1


def test_split_follows_from_the_seed() -> None:
    labels = np.repeat(np.arange(4), 25)
    np.testing.assert_array_equal(stratified(labels, 0.2, 7), stratified(labels, 0.2, 7))
    assert (stratified(labels, 0.2, 7) != stratified(labels, 0.2, 8)).any()


def test_split_of_a_class_of_one_keeps_it_for_training() -> None:
    assert stratified(np.array([0, 1, 1]), 0.5, 0).tolist()[0] is False


def test_another_folder_can_be_probed_when_the_runs_pictures_are_gone(own: Any, tmp_path: Path) -> None:
    moved = Path(shutil.move(own.pictures, tmp_path / "moved"))
    assert run_probe(own, images=moved).test_pictures == 10


def test_labels_that_leave_nothing_to_hold_out_are_refused(trained: Any, tmp_path: Path) -> None:
    rows = [(name, f"class {i}") for i, name in enumerate(names_of(trained.pictures)[:5])]
    with pytest.raises(InputError, match="No class has two pictures, so none can be held out"):
        run_probe(trained, labels=write_table(tmp_path / "labels.csv", rows))
