"""`simclr finetune`: a classifier from an encoder or from scratch, with any share of the labels; timm loads it."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from simclr_cli.api import FinetuneResult, FinetuneSettings, PredictSettings
from simclr_cli.commands.finetune import finetune
from simclr_cli.commands.predict import load_classifier, predict
from simclr_cli.core.errors import InputError, Interrupted, RunError, SettingsError
from simclr_cli.core.events import Choice, Event, Note, PlanMade, StepDone
from simclr_cli.images.synthetic import CLASSES

pytestmark = pytest.mark.usefixtures("no_trial")

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def tuned(own: Any, *, said: list[Event] | None = None, **values: Any) -> FinetuneResult:
    report = [].append if said is None else said.append
    return finetune(FinetuneSettings(**{"runs": own.runs, "epochs": 2, **values}), report=report)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Draw three classes of 16 noisy images that differ by color."""
    for number, name in enumerate(("blue", "green", "red")):
        for i in range(16):
            generator = np.random.default_rng([number, i])
            pixels = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., 2 - number] += 120
            path = tmp_path / "colors" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "colors"


def test_files_and_figures_of_a_classifier(own: Any) -> None:
    said: list[Event] = []
    result = tuned(own, said=said)
    out = Path(result.out)
    assert out == own.run.path / "classifier" and names_in(out) == [
        "README.md", "config.json", "model.safetensors"
    ]  # fmt: skip
    assert (result.labels, result.train_images, result.test_images) == (38, 38, 10)
    assert result.classes == CLASSES and not result.scratch and result.encoder == str(own.run.path)
    assert 0 <= result.accuracy.low <= result.accuracy.top_1 <= result.accuracy.high <= 100
    config = json.loads((out / "config.json").read_text())
    assert config["label_names"] == list(CLASSES) and config["num_classes"] == 10
    assert config["simclr"]["model_checksum"] == result.model_checksum
    assert config["simclr"]["training"]["encoder_checksum"] == own.result.model_checksum
    plan = next(event for event in said if isinstance(event, PlanMade))
    assert plan == result.plan and plan.steps == sum(isinstance(event, StepDone) for event in said) > 0
    assert {choice.name for choice in plan.choices} >= {"labels", "epochs", "batch size", "learning rate"}
    assert Note("The held-out images were also used for pretraining, without their labels.") in said
    assert "38 images at 40 px" in (out / "README.md").read_text()


def test_separable_classes_are_learned_from_scratch_and_predicted(own: Any, colors: Path) -> None:
    result = tuned(own, images=colors, scratch=True, epochs=10, batch_size=8, learning_rate=0.5)
    assert result.out == str(own.run.path / "classifier-scratch") and result.scratch
    assert result.accuracy.top_1 == 100 and result.chance == pytest.approx(100 / 3)
    found = predict(PredictSettings(queries=(colors / "red", colors / "blue"), runs=own.runs, top=2))
    assert [one.label for one in found.predictions] == ["red"] * 16 + ["blue"] * 16
    assert min(one.probability for one in found.predictions) > 0.5


def test_scratch_starts_from_the_runs_random_weights_and_not_its_trained_ones(own: Any) -> None:
    tiny = {"learning_rate": 1e-12, "epochs": 1}
    made = {scratch: Path(tuned(own, scratch=scratch, **tiny).out) for scratch in (True, False)}
    trained, _ = own.run.read_encoder()[1], None
    state = {scratch: load_classifier(out, torch.device("cpu"))[0].encoder.backbone.state_dict()
             for scratch, out in made.items()}  # fmt: skip
    assert torch.allclose(state[False]["conv1.0.weight"], trained["conv1.0.weight"], atol=1e-6)
    assert not torch.allclose(state[True]["conv1.0.weight"], trained["conv1.0.weight"], atol=1e-3)


def chosen_start(said: list[Event]) -> Choice:
    plan = next(event for event in said if isinstance(event, PlanMade))
    return next(choice for choice in plan.choices if choice.name == "start")


def test_a_file_of_weights_is_where_fine_tuning_starts(
    own: Any, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a run: its mean and std are timm's, and the classifier goes into the working folder."""
    torch.manual_seed(5)
    state = timm.create_model("tiny_resnet", num_classes=0).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    encoder, said = "tiny_resnet=w.safetensors", []
    result = tuned(own, said=said, images=colors, encoder=encoder, image_size=40, epochs=1, learning_rate=1e-12)
    assert (result.out, result.encoder, result.scratch) == ("classifier", encoder, False)
    assert chosen_start(said) == Choice("start", encoder, "as set")
    assert not any("also used for pretraining" in event.text for event in said if isinstance(event, Note))
    loaded = load_classifier(tmp_path / "classifier", torch.device("cpu"))[0].encoder
    assert all(torch.allclose(loaded.backbone.state_dict()[name], state[name]) for name in state if "weight" in name)
    assert loaded.spec.image_size == 40 and loaded.spec.std == tuple(timm.get_pretrained_cfg("tiny_resnet").std)
    config = json.loads((tmp_path / "classifier" / "config.json").read_text())
    assert config["simclr"]["training"]["encoder"] == encoder


def test_without_a_run_the_default_encoder_is_fine_tuned(
    colors: Path, default_encoder: nn.Module, tmp_path: Path
) -> None:
    said: list[Event] = []
    settings = FinetuneSettings(images=colors, runs=tmp_path / "none", out=tmp_path / "made", epochs=1)
    result = finetune(settings, report=said.append)
    assert result.encoder == "tiny_resnet.r160_in1k" and result.classes == ("blue", "green", "red")
    assert chosen_start(said) == Choice("start", "tiny_resnet.r160_in1k", "no run")
    with pytest.raises(SettingsError, match="The encoder random:tiny_resnet has no images of its own"):
        finetune(FinetuneSettings(encoder="random:tiny_resnet", out=tmp_path / "other"))


@pytest.mark.parametrize(
    ("fraction", "labels", "name", "epochs"),
    [(0.01, 10, "classifier-1-percent", 60), (0.5, 18, "classifier-50-percent", 30)],
)
def test_share_of_the_labels(own: Any, fraction: float, labels: int, name: str, epochs: int) -> None:
    """Draw from 38 labels in classes of 3 or 4: at least one per class; half of 3 or 4 is 2."""
    said: list[Event] = []

    def report(event: Event) -> None:
        said.append(event)
        if isinstance(event, PlanMade):
            raise Interrupted("Stopped.", "")

    with pytest.raises(Interrupted):
        finetune(FinetuneSettings(runs=own.runs, labels_fraction=fraction), report=report)
    plan = next(event for event in said if isinstance(event, PlanMade))
    chosen = {choice.name: choice.value for choice in plan.choices}
    assert chosen["epochs"] == str(epochs) and Path(plan.run).name == name
    used, of = chosen["labels"].split(" of ")
    assert of == "38" and (int(used) == labels or (fraction == 0.5 and 16 <= int(used) <= 20))


def test_batch_size_is_limited_by_the_memory(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.commands.finetune.measure_bytes_per_view", lambda *_: 1000)
    for free, batch in ((10**9, 8), (15_000, 4), (0, 2)):  # of 38: at most a quarter; 6 fit; and norms need two
        monkeypatch.setattr("simclr_cli.commands.finetune.get_free_memory", lambda _, free=free: free)
        assert tuned(own, epochs=1, out=own.runs / str(free)).batch_size == batch


def test_same_seed_same_weights(own: Any, tmp_path: Path) -> None:
    made = [tuned(own, out=tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert made[0].model_checksum == made[1].model_checksum != made[2].model_checksum
    assert made[0].accuracy == made[1].accuracy


# The card's Image.open is closed by the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_card_in_plain_timm_gives_the_probabilities_of_predict(
    own: Any, tmp_path: Path, colors: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the card without simclr_cli; at 32 px with a deep small stem, at 24 px with a plain one."""
    paths = sorted((colors / "red").iterdir())[:4]
    codes, found = [], []
    for size in (40, 32, 24):
        name = {32: "random:resnet10t", 24: "random:resnet18"}
        start = {} if size == 40 else {"encoder": name[size], "image_size": size}
        out = tmp_path / str(size)
        tuned(own, images=colors, out=out, epochs=2, learning_rate=2.0, labels_fraction=0.2, **start)
        found.append(predict(PredictSettings(queries=tuple(paths), classifier=out, top=3)))
        codes += CODE.findall((out / "README.md").read_text().replace("THIS/FOLDER", str(out)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in [name for name in sys.modules if name.partition(".")[0] == "simclr_cli"]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    capsys.readouterr()
    for ours, code in zip(found, codes, strict=True):
        cut = code.index("with torch.inference_mode")
        plain: dict[str, Any] = {}
        exec(code[:cut], plain)
        assert tuple(plain["names"]) == ours.labels == ("blue", "green", "red")
        for path, one in zip(paths, ours.predictions, strict=True):
            exec(code[cut:].replace("image.jpg", str(path)), plain)
            by_name = {each.label: each.probability for each in one.classes}
            expected = pytest.approx(plain["probabilities"].tolist(), abs=1e-6)
            assert [by_name[name] for name in plain["names"]] == expected
            assert capsys.readouterr().out.split()[0] == one.label
        assert np.ptp([one.probability for one in ours.predictions]) > 1e-4  # or anything would agree


def test_timm_fills_the_head_and_knows_the_names(own: Any) -> None:
    result = tuned(own)
    model = timm.create_model(f"local-dir:{result.out}", pretrained=True)
    _, linear, _ = load_classifier(Path(result.out), torch.device("cpu"))
    assert torch.equal(model.get_classifier().weight, linear.weight)
    assert model.get_classifier().weight.abs().max() > 0
    assert model.pretrained_cfg["label_names"] == list(CLASSES)


def test_table_of_labels_and_names_of_any_kind(own: Any, tmp_path: Path) -> None:
    names = ["a, b", 'with "quotes"', "zeile\nzwei"]
    images = sorted(path.relative_to(own.images).as_posix() for path in own.images.rglob("*.*"))[:30]
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *((name, names[i % 3]) for i, name in enumerate(images))])
    result = tuned(own, labels=tmp_path / "labels.csv", epochs=1)
    assert result.classes == tuple(sorted(names)) and result.labels + result.test_images == 30
    assert load_classifier(Path(result.out), torch.device("cpu"))[2] == result.classes


def test_held_out_folder(own: Any, tmp_path: Path, draw: Callable[..., Any]) -> None:
    for i, name in enumerate(("bricks", "dots")):
        draw(tmp_path / "test" / name / "1.png", i)
    result = tuned(own, test=tmp_path / "test", epochs=1)
    assert (result.train_images, result.test_images) == (48, 2)
    for i in range(2):
        draw(tmp_path / "test" / "clouds" / f"{i}.png", i)
    with pytest.raises(InputError, match="None of the classes"):
        tuned(own, test=tmp_path / "test", out=tmp_path / "other")


def test_a_held_out_class_whose_training_images_are_all_broken_is_an_error(
    own: Any, tmp_path: Path, draw: Callable[..., Any]
) -> None:
    draw(tmp_path / "test" / "dots" / "1.png")
    for path in (own.images / "dots").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # the header is whole
    with pytest.raises(InputError, match=f"No image of dots in {own.images} can be decoded, and") as caught:
        tuned(own, test=tmp_path / "test", epochs=1)
    assert caught.value.remedy == f"Add whole images of it, or remove it from {tmp_path / 'test'}."


def test_classifier_is_never_overwritten(own: Any, checksum: Callable[[Path], Any]) -> None:
    out = Path(tuned(own).out)
    before = checksum(out)
    with pytest.raises(RunError, match=r"classifier already exists, and a classifier is never overwritten"):
        tuned(own)
    assert checksum(out) == before


def test_images_and_run_do_not_change(own: Any, checksum: Callable[[Path], Any], tmp_path: Path) -> None:
    before = checksum(own.images), checksum(own.run.path)
    tuned(own, out=tmp_path / "made")
    assert (checksum(own.images), checksum(own.run.path)) == before


@pytest.mark.parametrize("at", [StepDone, PlanMade])
def test_stop_leaves_nothing_behind(own: Any, at: type[Event], checksum: Callable[[Path], Any]) -> None:
    before = checksum(own.run.path)

    def report(event: Event) -> None:
        if isinstance(event, at):
            raise Interrupted("Stopped by Ctrl-C.", "")

    with pytest.raises(Interrupted, match="nothing was written"):
        finetune(FinetuneSettings(runs=own.runs), report=report)
    assert checksum(own.run.path) == before


def test_failure_while_writing_leaves_nothing_behind(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simclr_cli.store.models.write_json", full)
    before = names_in(own.run.path)
    with pytest.raises(OSError, match="No space"):
        tuned(own, epochs=1)
    assert names_in(own.run.path) == before


def test_broken_images_are_counted_and_skipped(own: Any) -> None:
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    cut = (own.images / "dots" / "0001.jpg").read_bytes()
    (own.images / "dots" / "0001.jpg").write_bytes(cut[: len(cut) * 3 // 4])
    result = tuned(own, epochs=1)
    assert result.skipped == 2 and result.train_images + result.test_images == 47


def test_folder_without_classes_asks_for_labels(own: Any, tmp_path: Path, draw: Callable[..., Any]) -> None:
    for i in range(3):
        draw(tmp_path / "flat" / f"{i}.png", i)
    with pytest.raises(InputError, match="do not look like classes"):
        tuned(own, images=tmp_path / "flat")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": Path(), "test": Path()}, "--labels has the classes of one folder only"),
        (
            {"scratch": True, "encoder": "random:resnet18", "images": Path()},
            "--scratch starts from random weights, as does this --encoder",
        ),
        ({"run": "a", "encoder": "resnet18", "images": Path()}, "--run and --encoder name two encoders"),
        ({"labels_fraction": 0.0}, "must be more than 0"),
        ({"batch_size": 1}, "must be at least 2"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        FinetuneSettings(**values)
