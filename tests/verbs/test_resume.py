"""A stopped run goes on where it stopped, with its own settings and pictures, to the same weights."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simclr_cli.errors import InputError, Interrupted, RunError, SettingsError
from simclr_cli.events import EpochDone, Event, StepDone
from simclr_cli.results import PretrainResult
from simclr_cli.settings import PretrainSettings
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs import pretrain as pretrain_module
from simclr_cli.verbs.pretrain import pretrain

Train = Callable[..., PretrainResult]


def stop_at(kind: type[Event], count: int) -> Callable[[Event], None]:
    """A report that asks for a stop at the count-th event of a kind, as the face does after Ctrl-C."""
    seen = [0]

    def report(event: Event) -> None:
        seen[0] += isinstance(event, kind)
        if isinstance(event, kind) and seen[0] == count:
            raise Interrupted("Stopped by Ctrl-C.", "Nothing was lost; type the command again.")

    return report


def resume(runs: Path, **values: Any) -> PretrainResult:
    return pretrain(PretrainSettings(resume=True, runs=runs, **values))


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in RunFolder(run).metrics_file.read_text().splitlines()]


@pytest.fixture
def stopped(own: Any, train: Train, tmp_path: Path) -> Path:
    """A run of 2 epochs of 3 steps, stopped after the fifth; its pictures are the test's own."""
    with pytest.raises(Interrupted):
        train(own.pictures, run="half", epochs=2, report=stop_at(StepDone, 5))
    return tmp_path / "runs" / "half"


@pytest.fixture(scope="module")
def undisturbed_lars(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainResult:
    """A run by LARS that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(tmp_path_factory.mktemp("lars-cache")))
        patch.setattr(pretrain_module, "seconds_a_picture", lambda *_: 0.01)
        runs = tmp_path_factory.mktemp("lars") / "runs"
        settings = {"backbone": "test_resnet", "image_size": 40, "batch_size": 16, "epochs": 2, "optimizer": "lars"}
        return pretrain(PretrainSettings(images=pictures, runs=runs, **settings))


def test_a_run_of_before_there_were_turns_and_presets_goes_on_to_the_same_weights(
    trained: Any, pictures: Path, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(pictures, run="old", epochs=2, report=stop_at(StepDone, 4))
    run = RunFolder(tmp_path / "runs" / "old")
    config = run.config()
    assert config["settings"].pop("turn") == 0.0 and config["settings"].pop("preset") is None
    run.write_config(config)
    result = resume(tmp_path / "runs")
    assert result.model_digest == trained.result.model_digest
    assert run.settings()["turn"] == 0.0


@pytest.mark.parametrize("steps", [1, 3, 5], ids=["first epoch", "end of an epoch", "second epoch"])
def test_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    trained: Any, pictures: Path, train: Train, tmp_path: Path, steps: int
) -> None:
    with pytest.raises(Interrupted, match=f"Stopped after step {steps} of 6") as caught:
        train(pictures, run="pics", epochs=2, report=stop_at(StepDone, steps))
    assert "simclr pretrain --resume --run pics" in caught.value.remedy
    result = resume(tmp_path / "runs")
    assert result.finished and Path(result.run) == tmp_path / "runs" / "pics"
    for file in ("encoder/model.safetensors", "projector.safetensors"):
        one, other = load_file(trained.run.path / file), load_file(Path(result.run) / file)
        assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert result.model_digest == trained.result.model_digest
    losses = [[row["loss"] for row in metrics(run)] for run in (trained.run.path, Path(result.run))]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("steps", "first", "then"), [(2, 0.0, 0.0), (5, 0.0, None), (2, None, 0.0), (5, 2e-4, 0.0)])
def test_resumed_run_is_the_same_whatever_part_of_its_pictures_is_stored_before_and_after(
    undisturbed_lars: PretrainResult,
    pictures: Path,
    train: Train,
    tmp_path: Path,
    steps: int,
    first: float | None,
    then: float | None,
) -> None:
    """--cache-gb is of the command: each may decode ahead, or whatever it needs, or some of it."""
    with pytest.raises(Interrupted, match=f"Stopped after step {steps} of 6"):
        train(pictures, epochs=2, optimizer="lars", cache_gb=first, report=stop_at(StepDone, steps))
    result = resume(tmp_path / "runs", cache_gb=then)
    assert result.model_digest == undisturbed_lars.model_digest
    losses = [[row["loss"] for row in metrics(Path(run))] for run in (undisturbed_lars.run, result.run)]
    assert losses[0] == losses[1]
    assert "cache_gb" not in RunFolder(Path(result.run)).settings()


def test_stop_during_the_last_step_leaves_only_the_export_to_do(trained: Any, pictures: Path, train: Train) -> None:
    with pytest.raises(Interrupted, match="Stopped after step 6 of 6"):
        train(pictures, epochs=2, report=stop_at(StepDone, 6))
    assert train(pictures, epochs=2, resume=True).model_digest == trained.result.model_digest


def test_stop_before_training_leaves_nothing_to_resume(pictures: Path, train: Train) -> None:
    with pytest.raises(Interrupted):
        train(pictures, report=stop_at(Event.__args__[0], 1))  # type: ignore[attr-defined]
    assert train(pictures).finished


def test_unfinished_run_asks_for_resume(stopped: Path, own: Any, train: Train) -> None:
    with pytest.raises(RunError, match="was begun and is not finished") as caught:
        train(own.pictures, run="half")
    assert "simclr pretrain --resume --run half" in caught.value.remedy


def test_resume_with_other_settings_is_refused(stopped: Path) -> None:
    with pytest.raises(SettingsError, match=r"has --temperature 0\.1, and goes on with its own settings"):
        resume(stopped.parent, temperature=0.7)
    with pytest.raises(SettingsError, match="--epochs"):
        resume(stopped.parent, epochs=50)


def test_resume_takes_the_runs_own_settings_repeated_and_another_number_of_workers(stopped: Path) -> None:
    assert resume(stopped.parent, run="half", epochs=2, batch_size=16, workers=1).finished


@pytest.mark.parametrize("change", ["added", "removed", "changed"])
def test_resume_after_the_pictures_changed_is_refused(
    stopped: Path, own: Any, draw: Callable[..., Any], change: str
) -> None:
    picture = own.pictures / "bricks" / "0000.png"
    if change == "added":
        draw(own.pictures / "bricks" / "new.png")
    elif change == "removed":
        picture.unlink()
    else:
        os.utime(picture, ns=(0, picture.stat().st_mtime_ns + 1))
    with pytest.raises(RunError, match=r"have changed since .* began \(48 then, (47|48|49) now\)"):
        resume(stopped.parent)


def test_resume_with_files_that_could_not_be_decoded(own: Any, train: Train, tmp_path: Path) -> None:
    whole = (own.pictures / "bricks" / "0001.jpg").read_bytes()
    (own.pictures / "bricks" / "0001.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (own.pictures / "bricks" / "empty.png").write_bytes(b"")
    with pytest.raises(Interrupted):
        train(own.pictures, report=stop_at(StepDone, 1))
    result = resume(tmp_path / "runs")
    assert (result.finished, result.pictures, result.refused) == (True, 47, 2)


def test_nothing_to_resume(pictures: Path, tmp_path: Path, trained: Any) -> None:
    with pytest.raises(RunError, match="There is no stopped run under"):
        resume(tmp_path / "runs")
    with pytest.raises(RunError, match=r"There is no run .*nowhere to go on with"):
        resume(tmp_path / "runs", run="nowhere")
    with pytest.raises(RunError, match="is finished"):
        resume(trained.runs, run=trained.name)


def test_resume_after_the_folder_is_gone(stopped: Path, own: Any) -> None:
    own.pictures.rename(own.pictures.with_name("moved"))
    with pytest.raises(RunError, match=r"no longer in .*pics"):
        resume(stopped.parent)


def test_config_of_a_resumed_run_stays_that_of_the_first_start(stopped: Path) -> None:
    before = RunFolder(stopped).config()["settings"]
    resume(stopped.parent)
    assert RunFolder(stopped).config()["settings"] == before


def test_stop_at_the_end_of_an_epoch_is_saved_too(pictures: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        train(pictures, epochs=2, report=stop_at(EpochDone, 1))
    assert "--resume" in caught.value.remedy  # "type the command again" ends in "was begun and is not finished"
    assert list((tmp_path / "runs" / "pics" / "checkpoint").iterdir())


def test_metrics_of_an_epoch_stopped_at_its_last_step_keep_its_learning_rate(
    trained: Any, pictures: Path, train: Train
) -> None:
    with pytest.raises(Interrupted):
        train(pictures, epochs=2, report=stop_at(StepDone, 3))
    run = Path(train(pictures, epochs=2, resume=True).run)
    assert metrics(run)[0]["learning_rate"] == metrics(trained.run.path)[0]["learning_rate"]


def test_resume_of_a_folder_does_not_go_on_with_another_folders_run(
    stopped: Path, draw: Callable[..., Any], tmp_path: Path
) -> None:
    for i in range(2):
        draw(tmp_path / "other" / f"{i}.png", i)
    with pytest.raises((RunError, SettingsError)):
        resume(stopped.parent, images=tmp_path / "other")


def test_resume_of_a_named_run_with_another_folder_is_refused(
    stopped: Path, draw: Callable[..., Any], tmp_path: Path
) -> None:
    for i in range(2):
        draw(tmp_path / "other" / f"{i}.png", i)
    with pytest.raises((RunError, SettingsError)):
        resume(stopped.parent, run="half", images=tmp_path / "other")


def test_picture_that_goes_away_while_it_streams_ends_training_and_comes_back_to_the_same_end(
    undisturbed_lars: PretrainResult, own: Any, train: Train, tmp_path: Path
) -> None:
    """It may be any of them: all are moved away, and back with their times."""
    away = own.pictures.with_name("away")

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and own.pictures.exists():
            own.pictures.rename(away)

    with pytest.raises(InputError, match="can no longer be used") as caught:
        train(own.pictures, epochs=2, optimizer="lars", cache_gb=0, report=report)
    assert str(own.pictures) in caught.value.what
    away.rename(own.pictures)
    assert resume(tmp_path / "runs", cache_gb=0).model_digest == undisturbed_lars.model_digest


def test_picture_that_changes_while_it_streams_ends_training_and_comes_back_to_the_same_end(
    undisturbed_lars: PretrainResult, own: Any, train: Train, tmp_path: Path
) -> None:
    """In the last epoch, of which the checkpoint knows nothing yet; as they were, pictures are what they were."""
    times = {path: path.stat().st_mtime_ns for path in own.pictures.rglob("*.*")}

    def report(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            for path in times:
                os.utime(path, ns=(1, 1))

    with pytest.raises(InputError, match="changed since its folder was looked at") as caught:
        train(own.pictures, epochs=2, optimizer="lars", cache_gb=0, report=report)
    assert caught.value.exit_code == 3 and "--resume" in caught.value.remedy
    for path, time in times.items():
        os.utime(path, ns=(time, time))
    assert resume(tmp_path / "runs", cache_gb=0).model_digest == undisturbed_lars.model_digest


def test_way_to_go_on_names_the_folder_of_runs(pictures: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        train(pictures, report=stop_at(StepDone, 1))
    assert f"--runs {tmp_path / 'runs'}" in caught.value.remedy


def test_every_setting_either_may_differ_on_resuming_or_is_checked() -> None:
    from simclr_cli.verbs.resume import MAY_DIFFER

    assert set(MAY_DIFFER) <= {field.name for field in dataclasses.fields(PretrainSettings)}
