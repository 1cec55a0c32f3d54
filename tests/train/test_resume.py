"""A stopped run goes on where it stopped, with its own settings and images, to the same weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simclr_cli.api import PretrainResult, PretrainSettings
from simclr_cli.commands import pretrain as pretrain_module
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.errors import InputError, Interrupted, RunError, SettingsError
from simclr_cli.core.events import EpochDone, Event, Note, StepDone, silent
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.images.scan import take_census
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder, find_run, list_runs
from simclr_cli.store.run_info import read_run_info
from simclr_cli.train.resume import open_run, record_run

Train = Callable[..., PretrainResult]
pytestmark = pytest.mark.usefixtures("no_page")


def stop_at(kind: type[Event], count: int) -> Callable[[Event], None]:
    """A report that asks for a stop at the count-th event of a kind, as the face does after Ctrl-C."""
    seen = [0]

    def report(event: Event) -> None:
        seen[0] += isinstance(event, kind)
        if isinstance(event, kind) and seen[0] == count:
            raise Interrupted("Stopped by Ctrl-C.", "Nothing was lost; type the command again.")

    return report


def resume(runs: Path, *, report: Callable[[Event], None] = silent, **values: Any) -> PretrainResult:
    return pretrain(PretrainSettings(resume=True, runs=runs, **values), report=report)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in RunFolder(run).metrics_file.read_text().splitlines()]


@pytest.fixture
def stopped(own: Any, train: Train, tmp_path: Path) -> Path:
    """A run of 2 epochs of 3 steps, stopped after the fifth; its images are the test's own."""
    with pytest.raises(Interrupted):
        train(own.images, run="half", epochs=2, report=stop_at(StepDone, 5))
    return tmp_path / "runs" / "half"


@pytest.fixture(scope="module")
def undisturbed_lars(images: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainResult:
    """A run by LARS that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(tmp_path_factory.mktemp("lars-cache")))
        patch.setattr("simclr_cli.train.prepare.estimate_seconds", lambda *_: 1.0)
        patch.setattr(pretrain_module, "try_report", lambda *_, **__: None)
        runs = tmp_path_factory.mktemp("lars") / "runs"
        settings = {"backbone": "tiny_resnet", "image_size": 40, "batch_size": 16, "epochs": 2, "optimizer": "lars"}
        return pretrain(PretrainSettings(images=images, runs=runs, **settings))


def test_a_run_of_before_there_were_turns_and_presets_goes_on_to_the_same_weights(
    trained: Any, images: Path, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(images, run="old", epochs=2, report=stop_at(StepDone, 4))
    run = RunFolder(tmp_path / "runs" / "old")
    config = json.loads(run.config_file.read_bytes())
    assert config["settings"].pop("rotate") == 0.0 and config["settings"].pop("preset") is None
    run.write_config(config)
    result = resume(tmp_path / "runs")
    assert result.model_checksum == trained.result.model_checksum
    assert read_run_info(run).settings.rotate == 0.0


@pytest.mark.parametrize("steps", [1, 3, 5], ids=["first epoch", "end of an epoch", "second epoch"])
def test_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    trained: Any, images: Path, train: Train, tmp_path: Path, steps: int
) -> None:
    with pytest.raises(Interrupted, match=f"Stopped after step {steps} of 6") as caught:
        train(images, run="pics", epochs=2, report=stop_at(StepDone, steps))
    assert "simclr pretrain --resume --run pics" in caught.value.remedy
    result = resume(tmp_path / "runs")
    assert result.finished and Path(result.run) == tmp_path / "runs" / "pics"
    for file in ("encoder/model.safetensors", "projection_head.safetensors"):
        one, other = load_file(trained.run.path / file), load_file(Path(result.run) / file)
        assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert result.model_checksum == trained.result.model_checksum
    losses = [[row["loss"] for row in metrics(run)] for run in (trained.run.path, Path(result.run))]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("steps", "first", "then"), [(2, 0.0, 0.0), (5, 0.0, None), (2, None, 0.0), (5, 2e-4, 0.0)])
def test_resumed_run_is_the_same_whatever_part_of_its_images_is_stored_before_and_after(
    undisturbed_lars: PretrainResult,
    images: Path,
    train: Train,
    tmp_path: Path,
    steps: int,
    first: float | None,
    then: float | None,
) -> None:
    """--cache-gb is of the command: each may decode ahead, or whatever it needs, or some of it."""
    with pytest.raises(Interrupted, match=f"Stopped after step {steps} of 6"):
        train(images, epochs=2, optimizer="lars", cache_gb=first, report=stop_at(StepDone, steps))
    result = resume(tmp_path / "runs", cache_gb=then)
    assert result.model_checksum == undisturbed_lars.model_checksum
    losses = [[row["loss"] for row in metrics(Path(run))] for run in (undisturbed_lars.run, result.run)]
    assert losses[0] == losses[1]
    assert "cache_gb" not in json.loads(RunFolder(Path(result.run)).config_file.read_bytes())["settings"]


def test_stop_during_the_last_step_leaves_only_the_export_to_do(trained: Any, images: Path, train: Train) -> None:
    with pytest.raises(Interrupted, match="Stopped after step 6 of 6"):
        train(images, epochs=2, report=stop_at(StepDone, 6))
    said: list[Any] = []
    resumed = train(images, epochs=2, resume=True, report=said.append)
    assert resumed.model_checksum == trained.result.model_checksum
    assert not any(isinstance(one, Note) and one.text.startswith("Going on") for one in said)


def test_stop_before_training_leaves_nothing_to_resume(images: Path, train: Train) -> None:
    with pytest.raises(Interrupted):
        train(images, report=stop_at(Event.__args__[0], 1))  # type: ignore[attr-defined]
    assert train(images).finished


def test_unfinished_run_asks_for_resume(stopped: Path, own: Any, train: Train) -> None:
    with pytest.raises(RunError, match="was started and is not finished") as caught:
        train(own.images, run="half")
    assert "simclr pretrain --resume --run half" in caught.value.remedy


@pytest.mark.parametrize(("device", "precision"), [("cuda", "float32"), ("cpu", "bfloat16")])
def test_a_run_of_a_gpu_continues_in_float32_and_uncompiled_where_these_are_faster(
    stopped: Path, device: str, precision: str
) -> None:
    """One that was trained so on a CPU was asked to be, and keeps its own precision."""
    file = stopped / "config.json"
    config = json.loads(file.read_text())
    config["settings"].update(device=device, precision="bfloat16", micro_batch=1)
    config["settings"]["compile"] = "on" if device == "cuda" else "off"
    file.write_text(json.dumps(config))
    events: list[Event] = []
    assert resume(stopped.parent, report=events.append).finished
    after = json.loads(file.read_text())["settings"]
    assert (after["precision"], after["micro_batch"]) == (precision, 16 if precision == "float32" else 1)
    assert after["compile"] == "off"
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("the run continues in float32" in text for text in notes) == (precision == "float32")


def test_resume_with_other_settings_is_refused(stopped: Path) -> None:
    with pytest.raises(SettingsError, match=r"has --temperature 0\.1, and keeps its own settings"):
        resume(stopped.parent, temperature=0.7)
    with pytest.raises(SettingsError, match="--head-layers"):
        resume(stopped.parent, head_layers=3)


def test_resume_takes_the_runs_own_settings_repeated_and_another_number_of_workers(stopped: Path) -> None:
    assert resume(stopped.parent, run="half", epochs=2, batch_size=16, workers=1).finished


@pytest.mark.parametrize("change", ["added", "removed", "changed"])
def test_resume_after_the_images_changed_is_refused(
    stopped: Path, own: Any, draw: Callable[..., Any], change: str
) -> None:
    image = own.images / "bricks" / "0000.png"
    if change == "added":
        draw(own.images / "bricks" / "new.png")
    elif change == "removed":
        image.unlink()
    else:
        os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    name, words = ("new.png" if change == "added" else "0000.png"), "of the same size but another modification time"
    kind = words if change == "changed" else change
    with pytest.raises(RunError, match=r"have changed since .* was started \(48 then, (47|48|49) now\)") as caught:
        resume(stopped.parent)
    assert caught.value.problem.endswith(f": 1 {kind} (bricks/{name}).") and "--accept-changes" in caught.value.remedy


def test_resume_with_files_that_could_not_be_decoded(own: Any, train: Train, tmp_path: Path) -> None:
    whole = (own.images / "bricks" / "0001.jpg").read_bytes()
    (own.images / "bricks" / "0001.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (own.images / "bricks" / "empty.png").write_bytes(b"")
    with pytest.raises(Interrupted):
        train(own.images, report=stop_at(StepDone, 1))
    result = resume(tmp_path / "runs")
    assert (result.finished, result.images, result.skipped) == (True, 47, 2)


def test_nothing_to_resume(images: Path, tmp_path: Path, trained: Any) -> None:
    with pytest.raises(RunError, match="There is no interrupted run under"):
        resume(tmp_path / "runs")
    with pytest.raises(RunError, match=r"There is no run .*nowhere to resume"):
        resume(tmp_path / "runs", run="nowhere")
    with pytest.raises(RunError, match="is finished"):
        resume(trained.runs, run=trained.name)


def test_a_folder_that_was_moved_far_away_is_asked_for_and_known_again(
    trained: Any, stopped: Path, own: Any, tmp_path: Path
) -> None:
    far = tmp_path / "far" / "elsewhere"
    far.parent.mkdir()
    own.images.rename(far)
    with pytest.raises(RunError, match=r"no longer in .*pics") as caught:
        resume(stopped.parent)
    assert "--images FOLDER" in caught.value.remedy
    events: list[Event] = []
    result = resume(stopped.parent, images=far, report=events.append)  # the run itself is not named
    assert result.model_checksum == trained.result.model_checksum
    assert read_run_info(RunFolder(stopped)).settings.images == far
    assert Note(f"The images of {stopped} are in {far} now; they were in {own.images}.") in events
    assert Note("Resuming after step 5 of 6, in epoch 2 of 2.") in events


# More epochs


def test_a_finished_run_goes_on_to_more_epochs_and_its_encoder_is_kept(own: Any) -> None:
    run = own.run
    files = [run.weights_file, run.encoder_folder / "README.md", run.projection_head_file, run.outcome_file]
    before, rows = [file.read_bytes() for file in files], read_epochs(run)
    run.probe_folder.mkdir()
    (run.probe_folder / "probe.json").write_bytes(b"probed")
    seen: list[tuple[bool, list[str]]] = []

    def report(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append((run.is_finished, [found.path.name for found in list_runs(own.runs) if found.is_finished]))

    result = resume(own.runs, epochs=3, report=report)  # without a name: the only run there is
    assert result.finished and result.epochs == 3 and seen == [(False, [])] * 3
    kept = run.path / "encoder-2-epochs"
    assert [(kept / file.name).read_bytes() for file in files] == before
    assert (kept / "probe" / "probe.json").read_bytes() == b"probed" and not run.probe_folder.exists()
    assert run.read_encoder()[0]["simclr"]["model_checksum"] == result.model_checksum != own.result.model_checksum
    assert [row["loss"] for row in read_epochs(run)][:2] == [row["loss"] for row in rows]
    config = json.loads(run.config_file.read_bytes())
    assert (config["settings"]["epochs"], config["extended"], len(read_epochs(run))) == (3, [2], 3)
    choice = next(choice for choice in result.plan.choices if choice.name == "epochs")
    assert choice.value == "3" and choice.reason.startswith("it had 2; every further step has the learning rate")
    assert dataclasses.asdict(choice) in config["choices"] and len(config["choices"]) == len(result.plan.choices)
    assert find_run(None, own.runs) == run
    for epochs in (2, 3):
        with pytest.raises(SettingsError, match=f"has done 3 epochs; --epochs {epochs} is not more"):
            resume(own.runs, run=own.name, epochs=epochs)
    assert run.is_finished


def test_a_stopped_run_goes_on_to_more_epochs_as_the_finished_one_does(
    own: Any, images: Path, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(images, epochs=2, report=stop_at(StepDone, 6))
    with pytest.raises(SettingsError, match="has done 2 epochs; --epochs 1 is not more"):
        resume(tmp_path / "runs", epochs=1)
    result = resume(tmp_path / "runs", epochs=3)
    assert result.model_checksum == resume(own.runs, epochs=3).model_checksum
    run = RunFolder(Path(result.run))
    assert read_run_info(run).extended == (2,) and not list(run.path.glob("encoder-*"))


@pytest.mark.parametrize("steps", [3, 5])
def test_a_stopped_run_ends_where_it_is_with_the_epochs_that_are_done(
    images: Path, train: Train, tmp_path: Path, steps: int
) -> None:
    """Of 4 epochs of 3 steps, after the first whole one, and within the second."""
    with pytest.raises(Interrupted):
        train(images, epochs=4, warmup_epochs=2, report=stop_at(StepDone, steps))
    (run,) = list_runs(tmp_path / "runs")
    checkpoint = load_checkpoint(run.checkpoint_folder)
    assert checkpoint is not None and checkpoint.step == steps
    with pytest.raises(RunError, match="There is no finished run") as caught:
        find_run(None, tmp_path / "runs")
    command = f"simclr pretrain --resume --run {run.path.name} --runs {tmp_path / 'runs'} --epochs 1"
    assert caught.value.remedy.endswith(f"; or end it now, and use it: {command}")
    events: list[Event] = []
    result = resume(tmp_path / "runs", epochs=1, report=events.append)
    assert not any(isinstance(event, StepDone) for event in events)
    assert result.finished and (result.epochs, result.state) == (1, json.loads(run.outcome_file.read_text())["state"])
    assert result.plan and (result.plan.steps, result.plan.steps_done, result.plan.seconds) == (3, 3, 0)
    _, weights = run.read_encoder()
    assert all(torch.equal(checkpoint.model[f"encoder.backbone.{name}"], value) for name, value in weights.items())
    assert resume(tmp_path / "runs", epochs=4).finished  # and goes on


def test_a_resumed_run_tells_what_is_left_and_in_the_end_of_the_whole(stopped: Path) -> None:
    file = RunFolder(stopped).path / "checkpoint"
    seconds = load_checkpoint(file).metrics[0]["seconds"]  # type: ignore[union-attr]
    result = resume(stopped.parent)
    assert result.plan and (result.plan.steps, result.plan.steps_done) == (6, 5)
    assert result.plan.seconds == pytest.approx(1 / 6)  # the whole is estimated to take a second
    rows = read_epochs(RunFolder(stopped))
    assert result.seconds > seconds + rows[1]["seconds"] and result.first_loss == rows[0]["loss"]


def test_a_dry_run_to_more_epochs_changes_nothing(own: Any, checksum: Callable[..., Any]) -> None:
    before = checksum(own.run.path)
    resume(own.runs, epochs=3, dry_run=True)
    assert checksum(own.run.path) == before


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_finished_run_without_a_whole_checkpoint_stays_finished(own: Any, no_trial: None, harm: str) -> None:
    for file in own.run.checkpoint_folder.iterdir():
        file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match="checkpoint"):
        resume(own.runs, epochs=3)
    assert own.run.read_encoder()[0]["simclr"]["model_checksum"] == own.result.model_checksum


def test_killed_at_any_rename_on_the_way_to_more_epochs_nothing_is_lost(own: Any, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    census = take_census(own.images)
    chosen = dataclasses.replace(read_run_info(own.run).settings, epochs=3)
    projector = checksum_file(own.run.projection_head_file)

    def settled(run: RunFolder, left: float) -> bool:
        """Return whether it came to its end; if not, the process was killed after so many renames."""

        def counted(plain: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
            def rename(path: Path, target: Path) -> Path:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return plain(path, target)

            return rename

        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "rename"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                record_run(run, chosen, census, (), census, read_run_info(run))
            except Killed:
                return False
        return True

    for renames in itertools.count():
        run = RunFolder(Path(shutil.copytree(own.run.path, tmp_path / f"killed-{renames}")))
        ended = settled(run, renames)
        if not ended:
            kept = run.encoder_folder if run.is_finished else run.path / "encoder-2-epochs"
            assert checksum_file(kept / "model.safetensors") == own.result.model_checksum
            head = run.projection_head_file if run.is_finished else kept / "projection_head.safetensors"
            assert checksum_file(head) == projector
            assert read_run_info(run).settings.epochs in (2, 3) and load_checkpoint(run.checkpoint_folder) is not None
            assert settled(run, math.inf)
        assert read_run_info(run).settings.epochs == 3 and read_run_info(run).extended == (2,)
        assert [path.name for path in run.path.glob("encoder*")] == ["encoder-2-epochs"]
        if ended:
            break
    assert renames >= 6


# Images that have changed


def test_changes_that_are_accepted_begin_the_epoch_again_whenever_it_is_stopped(
    stopped: Path, own: Any, draw: Callable[..., Any], tmp_path: Path
) -> None:
    for i in range(20):
        draw(own.images / "bricks" / f"new{i}.png", i)
    (own.images / "bricks" / "0000.png").unlink()
    twin = Path(shutil.copytree(stopped, tmp_path / "twin" / "half"))
    events: list[Event] = []
    result = resume(stopped.parent, accept_changes=True, report=events.append)
    assert result.finished and result.images == 67
    notes = [event.text for event in events if isinstance(event, Note)]
    words = "20 added (bricks/new0.png, bricks/new1.png, bricks/new10.png, bricks/new11.png, bricks/new12.png, ...)"
    assert any(f"as they are now: {words}, 1 removed (bricks/0000.png)." in note for note in notes)
    assert any("Resuming after step 4 of 8, in epoch 2 of 2. The images have changed since" in note for note in notes)
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3, 4]
    change = {"after_epochs": 1, "added": 20, "removed": 1, "changed": 0, "touched": 0}
    run = RunFolder(stopped)
    info = read_run_info(run)
    assert list(info.image_changes) == [change] and info.census["images"] == 67

    class PowerCut(BaseException):
        pass

    def cut(event: Event) -> None:
        if isinstance(event, StepDone):
            raise PowerCut

    with pytest.raises(PowerCut):  # before anything of the new images is saved
        resume(twin.parent, accept_changes=True, report=cut)
    with pytest.raises(Interrupted):
        resume(twin.parent, report=stop_at(StepDone, 3))
    assert resume(twin.parent).model_checksum == result.model_checksum
    assert list(read_run_info(RunFolder(twin)).image_changes) == [change]
    assert RunFolder(twin).metrics_file.read_bytes() == run.metrics_file.read_bytes()


def test_a_image_that_is_mended_is_noticed(own: Any, train: Train, tmp_path: Path) -> None:
    """It was skipped, and would be one more."""
    image = own.images / "bricks" / "0001.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(Interrupted):
        train(own.images, report=stop_at(StepDone, 1))
    image.write_bytes(whole)
    with pytest.raises(RunError, match=r"1 changed \(bricks/0001\.jpg\)"):
        resume(tmp_path / "runs")


def test_too_few_images_are_left_for_a_batch(stopped: Path, own: Any) -> None:
    for path in sorted(own.images.rglob("*.*"))[:40]:
        path.unlink()
    with pytest.raises(InputError, match="has batches of 16, and there are only 8 images now"):
        resume(stopped.parent, accept_changes=True)


def test_a_copy_without_its_times_is_taken_if_that_is_accepted(
    trained: Any, stopped: Path, own: Any, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(own.images, tmp_path / "copied", copy_function=shutil.copyfile))
    with pytest.raises(RunError, match="48 of the same size but another modification time"):
        resume(stopped.parent, run="half", images=copied)
    assert resume(stopped.parent, run="half", images=copied, accept_changes=True).finished
    assert read_run_info(RunFolder(stopped)).settings.images == copied


def test_a_restart_resumes_its_run_and_a_plan_alone_does_so_too(stopped: Path, own: Any) -> None:
    for dry_run in (False, True):
        again = PretrainSettings(images=own.images, runs=stopped.parent, run="half", dry_run=dry_run)
        run, resolved, previous = open_run(again, restarted=True)
        assert run.path == stopped and previous is not None
        assert resolved.resume and resolved.dry_run == dry_run and resolved.epochs == 2


def test_config_of_a_resumed_run_stays_that_of_the_first_start(stopped: Path) -> None:
    before = read_run_info(RunFolder(stopped)).settings
    resume(stopped.parent)
    assert read_run_info(RunFolder(stopped)).settings == before


def test_stop_at_the_end_of_an_epoch_is_saved_too(images: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        train(images, epochs=2, report=stop_at(EpochDone, 1))
    assert "--resume" in caught.value.remedy  # "run the command again" ends in "was started and is not finished"
    assert list((tmp_path / "runs" / "pics" / "checkpoint").iterdir())


def test_metrics_of_an_epoch_stopped_at_its_last_step_keep_its_learning_rate(
    trained: Any, images: Path, train: Train
) -> None:
    with pytest.raises(Interrupted):
        train(images, epochs=2, report=stop_at(StepDone, 3))
    run = Path(train(images, epochs=2, resume=True).run)
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


def test_image_that_goes_away_while_it_streams_ends_training_and_comes_back_to_the_same_end(
    undisturbed_lars: PretrainResult, own: Any, train: Train, tmp_path: Path
) -> None:
    """It may be any of them: all are moved away, and back with their times."""
    away = own.images.with_name("away")

    def report(event: Event) -> None:
        if isinstance(event, StepDone) and own.images.exists():
            own.images.rename(away)

    with pytest.raises(InputError, match="can no longer be used") as caught:
        train(own.images, epochs=2, optimizer="lars", cache_gb=0, report=report)
    assert str(own.images) in caught.value.problem
    away.rename(own.images)
    assert resume(tmp_path / "runs", cache_gb=0).model_checksum == undisturbed_lars.model_checksum


def test_image_that_changes_while_it_streams_ends_training_and_comes_back_to_the_same_end(
    undisturbed_lars: PretrainResult, own: Any, train: Train, tmp_path: Path
) -> None:
    """In the last epoch, of which the checkpoint knows nothing yet; as they were, images are what they were."""
    times = {path: path.stat().st_mtime_ns for path in own.images.rglob("*.*")}

    def report(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            for path in times:
                os.utime(path, ns=(1, 1))

    with pytest.raises(InputError, match="changed since its folder was scanned") as caught:
        train(own.images, epochs=2, optimizer="lars", cache_gb=0, report=report)
    assert caught.value.exit_code == 3 and "--resume" in caught.value.remedy
    for path, time in times.items():
        os.utime(path, ns=(time, time))
    assert resume(tmp_path / "runs", cache_gb=0).model_checksum == undisturbed_lars.model_checksum


def test_way_to_go_on_names_the_folder_of_runs(images: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        train(images, report=stop_at(StepDone, 1))
    assert f"--runs {tmp_path / 'runs'}" in caught.value.remedy


def test_every_setting_either_may_differ_on_resuming_or_is_checked() -> None:
    from simclr_cli.train.resume import RESUME_SETTINGS

    assert set(RESUME_SETTINGS) <= {field.name for field in dataclasses.fields(PretrainSettings)}
