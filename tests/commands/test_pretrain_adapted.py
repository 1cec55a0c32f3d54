"""Pretraining from trained weights: the plan, the start that stays in the run, the guard, and what probe shows."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Hub
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from simclr_cli.api import EmbedSettings, PretrainResult, ProbeSettings, SimilarSettings
from simclr_cli.commands import pretrain
from simclr_cli.commands.embed import embed
from simclr_cli.commands.probe import probe
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import Interrupted, MachineError, SettingsError
from simclr_cli.core.events import EpochDone, Event, Note, PlanMade, Progress, StepDone
from simclr_cli.encode.load import load_named_encoder
from simclr_cli.images.labels import split_stratified
from simclr_cli.images.scan import take_census
from simclr_cli.store.run import RunFolder
from simclr_cli.train import guard
from simclr_cli.train.guard import Candidate, choose
from simclr_cli.train.outcome import Outcome

Train = Callable[..., PretrainResult]
ADAPTED = {"backbone": None, "image_size": 32, "batch_size": 16, "epochs": 3}  # own size 40 px


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "photos"))


def lines(result: PretrainResult) -> dict[str, tuple[str, str]]:
    assert result.plan is not None
    return {choice.name: (choice.value, choice.reason) for choice in result.plan.choices}


def test_trained_weights_at_hand_are_adapted_by_default(folder: Path, default_encoder: nn.Module, train: Train) -> None:
    said: list[Event] = []
    result = train(folder, **ADAPTED, report=said.append)
    plan = lines(result)
    assert plan["weights"] == ("trained", "timm's, whose own image size is 40 px")
    assert plan["backbone"][0] == "tiny_resnet.r160_in1k" and plan["loss"][0] == "distill"
    assert plan["freeze batch norm"][0] == "on" and plan["learning rate"][0] == "0.0005"
    note = next(one.text for one in said if isinstance(one, Note) and "may serve" in one.text)
    assert f"simclr similar IMAGE --images {folder} --encoder tiny_resnet.r160_in1k needs no training" in note
    run = RunFolder(Path(result.run))
    kept = load_file(run.start_folder / "model.safetensors")
    weights = default_encoder.state_dict()
    assert (
        all(torch.equal(kept[name], weights[name]) for name in kept) and len(kept) == len(weights) - 2
    )  # no classifier
    epochs = [one for one in said if isinstance(one, EpochDone)]
    measured = [one.validation.agreement for one in epochs if one.validation]
    assert measured and all(0 <= agreement <= 100 for agreement in measured if agreement is not None)
    assert result.outcome and "weights are kept: " in result.outcome
    outcome = json.loads(run.outcome_file.read_text())
    assert set(outcome["candidates"]) == {"adapted", "interpolated", "start"}


def test_the_start_in_the_run_is_an_encoder_and_its_library_is_in_the_cache(
    folder: Path, default_encoder: nn.Module, train: Train
) -> None:
    run = RunFolder(Path(train(folder, **ADAPTED).run))
    start = load_named_encoder(str(run.start_folder), EmbedSettings(), torch.device("cpu"), lambda _: None)
    stock = load_named_encoder(
        "tiny_resnet.r160_in1k", EmbedSettings(image_size=40), torch.device("cpu"), lambda _: None
    )  # fmt: skip
    assert start.checksum == stock.checksum
    said: list[Event] = []
    query = next(folder.rglob("*.png"))
    similar(SimilarSettings(queries=(query,), images=folder, encoder=str(run.start_folder)), report=said.append)
    assert not any(isinstance(one, Note) and "embedding" in one.text for one in said)  # kept from the training


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_an_interrupted_adaptation_resumes_bit_for_bit_without_the_hub(
    folder: Path, default_encoder: nn.Module, hub: Hub, train: Train, layer_decay: float | None
) -> None:
    whole = train(folder, **ADAPTED, run="whole", layer_decay=layer_decay)

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 1):
            raise Interrupted("Stopped.", "")

    with pytest.raises(Interrupted):
        train(folder, **ADAPTED, run="parts", report=stop, layer_decay=layer_decay)
    shutil.rmtree(hub.folder)
    resumed = train(folder, run="parts", resume=True, **dict.fromkeys(ADAPTED))
    assert resumed.model_checksum == whole.model_checksum
    outcomes = [json.loads(RunFolder(Path(result.run)).outcome_file.read_text()) for result in (whole, resumed)]
    assert outcomes[0] == outcomes[1]


def test_an_adaptation_stopped_while_it_compares_resumes(
    folder: Path, default_encoder: nn.Module, train: Train
) -> None:
    whole = train(folder, **ADAPTED, run="whole")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "comparing":
            raise Interrupted("Stopped.", "")

    with pytest.raises(Interrupted, match="Stopped after step 9 of 9; all of it is saved") as caught:
        train(folder, **ADAPTED, run="parts", report=stop)
    assert "--resume" in caught.value.remedy
    resumed = train(folder, run="parts", resume=True, **dict.fromkeys(ADAPTED))
    assert resumed.model_checksum == whole.model_checksum


def test_without_weights_training_starts_at_random_and_says_why(folder: Path, hub: Hub, train: Train) -> None:
    plan = lines(train(folder, image_size=32))
    assert plan["weights"] == ("none", "random: trained ones of tiny_resnet are not on this machine")
    assert plan["loss"] == ("nt-xent", "the paper's") and plan["freeze batch norm"][0] == "off"
    with pytest.raises(MachineError, match="The weights of tiny_resnet are not on this machine"):
        train(folder, weights="trained", run="other")


def test_weights_none_is_the_papers_way(folder: Path, default_encoder: nn.Module, train: Train) -> None:
    result = train(folder, **{**ADAPTED, "backbone": "tiny_resnet"}, weights="none")
    assert lines(result)["weights"] == ("none", "as set") and not RunFolder(Path(result.run)).start_folder.exists()
    with pytest.raises(SettingsError, match="--loss distill keeps what trained weights know"):
        train(folder, weights="none", loss="distill")


def test_simclr_from_trained_weights_at_their_own_size(folder: Path, default_encoder: nn.Module, train: Train) -> None:
    plan = lines(train(folder, **{**ADAPTED, "image_size": 40, "epochs": 1}))
    assert plan["loss"][0] == "nt-xent" and plan["learning rate"][0] == "0.0001"
    assert plan["crop min"][0] == "0.08"  # the paper's views


@pytest.mark.parametrize("part", ["norms", "last", "head"])
def test_a_part_is_trained_and_the_rest_stays(
    folder: Path, default_encoder: nn.Module, train: Train, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "choose", lambda candidates, **_: ("adapted", "for this test"))
    run = RunFolder(Path(train(folder, **{**ADAPTED, "image_size": 40}, train=part).run))
    start, end = load_file(run.start_folder / "model.safetensors"), load_file(run.weights_file)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    if part == "head":
        assert changed == set()
    elif part == "norms":
        assert changed and all(start[name].ndim == 1 for name in changed)
    else:
        assert changed and all(name.startswith("layer4") for name in changed)


def test_the_start_is_exported_at_its_own_size_if_adaptation_is_worse(
    folder: Path, default_encoder: nn.Module, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "choose", lambda candidates, **_: ("start", "for this test"))
    monkeypatch.setattr(pretrain, "judge_distillation", lambda _: Outcome("collapsed", "It has collapsed. Train anew."))
    result = train(folder, **ADAPTED)
    run = RunFolder(Path(result.run))
    start, end = load_file(run.start_folder / "model.safetensors"), load_file(run.weights_file)
    assert all(torch.equal(start[name], end[name]) for name in start)
    assert json.loads((run.encoder_folder / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 40, 40]
    assert result.outcome is not None and result.outcome.startswith("The start's weights are kept: for this test.")
    assert result.state == "unchanged"  # what has collapsed is not exported


def test_probe_shows_the_start_and_not_twice_what_is_the_same(
    folder: Path, default_encoder: nn.Module, train: Train, tmp_path: Path
) -> None:
    result = train(folder, **ADAPTED)
    scores = probe(ProbeSettings(run=result.run, out=tmp_path / "probe")).scores
    names = ["trained", "untrained", "raw pixels", "color histogram", "start"]
    assert [score.representation for score in scores] == names  # the default encoder is the start


def candidate(agreement: float, uniformity: float, gain: tuple[float, float, float] | None = None) -> Candidate:
    return Candidate(agreement, uniformity, None if gain is None else 50.0, gain)


@pytest.mark.parametrize(("adapted", "interpolated", "distilled", "sizes", "kept"), [
    (candidate(40, -2), candidate(35, -2), True, "larger", "interpolated"),
    (candidate(40, -2), candidate(35, -2), True, "smaller", "adapted"),
    (candidate(40, -2), candidate(31, -2), True, "larger", "start"),  # the start finds 30 %
    (candidate(31, -2), candidate(40, -2), True, "smaller", "start"),
    (candidate(40, -2, (-4, -6, -2)), candidate(40, -2, (-3, -5, -1)), True, "smaller", "start"),  # labels decide
    (candidate(40, -2, (1, -3, 5)), candidate(40, -2, (2, -2, 6)), True, "larger", "start"),  # a gain may be chance
    (candidate(40, -2, (1, -0.9, 3)), candidate(40, -2, (0, -1, 1)), True, "larger", "adapted"),
    (candidate(20, -2, (1, -1, 3)), candidate(20, -2, (2, -1, 5)), True, "smaller", "interpolated"),  # but is faster
    (candidate(20, -2, (-0.5, -3, 2)), candidate(20, -2, (-0.8, -3, 1)), True, "smaller", "adapted"),
    (candidate(20, -2, (-1.5, -4, 1)), candidate(20, -2, (-1.1, -3, 1)), True, "smaller", "start"),
    (candidate(20, -2, (4, 2, 6)), candidate(20, -2, (1, -1, 3)), True, "larger", "adapted"),
    (candidate(20, -2, (3, 1, 5)), candidate(20, -2, (4, 2, 6)), False, "own", "interpolated"),
    (candidate(90, -2.6), candidate(95, -2.5), False, "own", "adapted"),
    (candidate(10, -3.5), candidate(60, -2.5), False, "own", "interpolated"),
    (candidate(10, -0.1), candidate(60, -3.3), False, "own", "start"),
])  # fmt: skip
def test_guard(adapted: Candidate, interpolated: Candidate, distilled: bool, sizes: str, kept: str) -> None:
    start = candidate(30, -2.5)
    candidates = {"adapted": adapted, "interpolated": interpolated, "start": start}
    found, reason = choose(
        candidates, distilled=distilled, is_used_larger=sizes == "larger", is_smaller=sizes == "smaller"
    )
    assert found == kept and reason


def test_the_guard_measures_labeled_images_at_the_size_of_use(
    folder: Path, default_encoder: nn.Module, train: Train, tmp_path: Path
) -> None:
    """Precision at 10 and linear accuracy of the start, anew from what `embed` writes."""
    result = train(folder, **{**ADAPTED, "image_size": 40}, train_size=32)
    run = RunFolder(Path(result.run))
    outcome = json.loads(run.outcome_file.read_text())
    settings = EmbedSettings(images=folder, encoder=str(run.start_folder), out=tmp_path / "start.npy")
    embed(settings)
    h = torch.nn.functional.normalize(torch.from_numpy(np.load(tmp_path / "start.npy")), dim=1)
    labels = np.array(take_census(folder, workers=1).labels)
    precision = []
    for i in range(len(h)):
        nearest = sorted((j for j in range(len(h)) if j != i), key=lambda j: -float(h[i] @ h[j]))[:10]
        precision.append(sum(labels[j] == labels[i] for j in nearest) / 10)
    x, right = np.load(tmp_path / "start.npy"), np.zeros(len(h))
    first = split_stratified(np.unique(labels, return_inverse=True)[1], 0.5, 0)
    for half in (first, ~first):
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-6, max_iter=1000))
        right[half] = linear.fit(x[~half], labels[~half]).predict(x[half]) == labels[half]
    score = 100 * (np.mean(precision) + np.mean(right)) / 2
    assert outcome["candidates"]["start"]["score"] == pytest.approx(score, abs=1.5)  # one linear prediction may differ
    assert outcome["candidates"]["start"]["gain"][0] == 0 and outcome["candidates"]["adapted"]["gain"] is not None


def test_hours_plan_epochs_and_size_and_say_so(folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of 48 images of 40 px takes a second for each epoch of the run."""
    monkeypatch.setattr("simclr_cli.train.prepare.estimate_seconds", lambda model, settings, *_: 36.0 * settings.epochs)
    plans: list[PlanMade] = []

    def report(event: Event) -> None:
        if isinstance(event, PlanMade):
            plans.append(event)

    result = train(folder, hours=1, epochs=None, image_size=None, dry_run=True, report=report, weights="none")
    plan = lines(result)
    assert plan["epochs"] == ("85", "to end within 1 hours at the measured pace, 36 s per epoch")
    with pytest.raises(SettingsError, match="One epoch takes longer than"):
        train(folder, hours=0.001, epochs=None, dry_run=True, weights="none")
    assert dataclasses.asdict(plans[0])["choices"]
