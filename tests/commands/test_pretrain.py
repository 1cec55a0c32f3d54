"""`pretrain`: what it makes, in which order, and what it refuses, leaving the user's files as they are."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from simclr_cli.api import PretrainResult, PretrainSettings, ResolvedSettings
from simclr_cli.commands import pretrain as pretrain_module
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.errors import InputError, MachineError, RunError, SettingsError, TrainingError
from simclr_cli.core.events import CensusTaken, Choice, EpochDone, Event, Note, PlanMade, Progress, StepDone
from simclr_cli.images.cache_location import cache_root, list_caches
from simclr_cli.images.scan import take_census
from simclr_cli.store.history import TIMING_KEYS
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info
from simclr_cli.train import rules
from simclr_cli.train import step as step_module

Train = Callable[..., PretrainResult]


def same_weights(one: str, other: str) -> bool:
    a, b = (load_file(RunFolder(Path(run)).weights_file) for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def choice(plan: PlanMade | None, name: str) -> tuple[str, str]:
    assert plan is not None
    return next((found.value, found.reason) for found in plan.choices if found.name == name)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def add_bad_files(folder: Path, whole: Path) -> dict[str, str]:
    """Files that promise an image and hold none; returns a word of the reason by name."""
    data = whole.read_bytes()
    middle = len(data) // 2
    contents = {
        "bricks/bad-zero.png": (b"", "empty file"),
        "bricks/bad-text.jpg": (b"I am a letter.", "not an image"),
        "checks/bad-heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not supported"),
        "dots/bad-bomb.png": (bomb(), "pixels"),
        "dots/bad-header.png": (data[:12] + b"\xff" * 40, "damaged"),
        "plaid/bad-truncated.png": (data[:middle], "damaged"),
        "rings/bad-corrupt.png": (data[:middle] + bytes(40) + data[middle + 40 :], "damaged"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: word for name, (_, word) in contents.items()}


# What it makes


def test_run_folder_holds_what_the_plan_of_the_house_lists(trained: Any) -> None:
    names = {str(path.relative_to(trained.run.path)) for path in trained.run.path.rglob("*") if path.is_file()}
    expected = "config.json images.json skipped.json metrics.jsonl speed.jsonl outcome.json report.html"
    expected += " projection_head.safetensors manifest.json"
    expected += " encoder/config.json encoder/model.safetensors encoder/README.md checkpoint/step-000000006.safetensors"
    assert {name for name in names if not name.startswith(("vectors/", "probe/"))} == set(expected.split())


def test_result_says_what_the_run_folder_says(trained: Any) -> None:
    rows = [json.loads(line) for line in trained.run.metrics_file.read_text().splitlines()]
    result = trained.result
    assert result.finished
    assert (result.epochs, result.images, result.skipped) == (2, 48, 0)
    assert f"Outcome of the training: {result.outcome}\n" in (trained.run.encoder_folder / "README.md").read_text()
    assert (result.first_loss, result.last_loss) == (rows[0]["loss"], rows[1]["loss"])
    assert (
        result.model_checksum
        == json.loads((trained.run.encoder_folder / "config.json").read_text())["simclr"]["model_checksum"]
    )
    names = [field.name for field in dataclasses.fields(EpochDone)]
    assert all(list(row) == [name for name in names if name not in TIMING_KEYS] for row in rows)


def test_config_holds_every_setting_resolved(trained: Any) -> None:
    config = json.loads(trained.run.config_file.read_bytes())
    wanted = {field.name for field in dataclasses.fields(ResolvedSettings)} - {
        "resume",
        "accept_changes",
        "dry_run",
        "runs",
        "cache_gb",
        "devices",
        "checkpoint_seconds",
        "tensorboard",
        "hours",
        "offline",
        "accept_license",
    }
    assert set(config["settings"]) == wanted
    assert [name for name, value in config["settings"].items() if value is None] == ["preset"]  # a choice of kinds
    assert config["settings"]["images"] == str(trained.images)
    assert config["census"]["images"] == 48
    assert set(config["versions"]) == {"torch", "torchvision", "timm", "pillow", "numpy"}


def test_census_comes_before_the_plan_and_the_plan_before_training(trained: Any) -> None:
    kinds = [type(event) for event in trained.events]
    order = [CensusTaken, PlanMade, StepDone, EpochDone]
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    stages = {event.stage for event in trained.events if isinstance(event, Progress)}
    assert stages == {"reading headers", "decoding", "embedding a sample for report.html"}
    assert kinds.count(StepDone) == 6 and kinds.count(EpochDone) == 2
    assert all(math.isfinite(event.loss) for event in trained.events if isinstance(event, StepDone | EpochDone))
    speeds = [event.images_per_second for event in trained.events if isinstance(event, StepDone | EpochDone)]
    assert min(speeds) > 1 and max(speeds) < 1e5  # whatever the machine


def test_plan_gives_a_reason_for_each_choice(trained: Any) -> None:
    plan = trained.result.plan
    automatic = {field.name for field in dataclasses.fields(PretrainSettings) if field.default is None}
    assert {c.name.replace(" ", "_") for c in plan.choices} == automatic - {
        "images",
        "run",
        "cache_gb",
        "preset",
        "hours",
    }
    assert all(c.reason for c in plan.choices)
    assert plan.steps == 6 and plan.seconds > 0
    assert choice(plan, "epochs") == ("2", "as set")


def test_dry_run_writes_nothing(images: Path, tmp_path: Path, no_trial: None) -> None:
    events: list[Event] = []
    settings = PretrainSettings(images=images, runs=tmp_path / "runs", dry_run=True, backbone="tiny_resnet")
    result = pretrain(settings, report=events.append)
    assert not result.finished and result.model_checksum is None
    assert isinstance(events[-1], PlanMade)
    assert list(tmp_path.iterdir()) == []


def test_same_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others(images: Path, train: Train) -> None:
    one, again, other = (train(images, run=name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert same_weights(one.run, again.run) and one.model_checksum == again.model_checksum
    assert not same_weights(one.run, other.run)


def test_number_of_workers_changes_nothing(images: Path, train: Train) -> None:
    one, other = train(images, run="a", workers=1), train(images, run="b", workers=5)
    assert one.model_checksum == other.model_checksum


IMAGE_BYTES = 3 * 60 * 60  # stored: half as much again as the 40 px that are trained on


def losses_of(run: str) -> list[float]:
    return [json.loads(line)["loss"] for line in RunFolder(Path(run)).metrics_file.read_text().splitlines()]


@pytest.mark.parametrize("stored", [0, 20])
def test_images_that_are_decoded_again_in_every_epoch_give_the_same_run(
    images: Path, train: Train, stored: int
) -> None:
    """None of them stored, or some."""
    streamed = train(images, run="streamed", epochs=2, cache_gb=(stored + 0.5) * IMAGE_BYTES / 1e9)
    (cache,) = list_caches()
    assert sum(path.stat().st_size for path in Path(cache.path).rglob("*.u8")) == stored * IMAGE_BYTES
    kept = train(images, run="kept", epochs=2)
    assert same_weights(streamed.run, kept.run) and streamed.model_checksum == kept.model_checksum
    assert losses_of(streamed.run) == losses_of(kept.run)


@pytest.mark.parametrize(("stored", "again", "dry_run"), [(0, "100%", False), (24, "50%", False), (24, "50%", True)])
def test_lack_of_room_is_said_once_with_the_share_that_is_decoded_again(
    images: Path, train: Train, stored: int, again: str, dry_run: bool
) -> None:
    events: list[Event] = []
    cache_gb = (stored + 0.5) * IMAGE_BYTES / 1e9
    train(images, cache_gb=cache_gb, dry_run=dry_run, report=events.append)
    warnings = [event for event in events if isinstance(event, Note) and event.warning]
    assert len(warnings) == 1
    assert f"{again} of the images are decoded again in every epoch" in warnings[0].text
    assert "--cache-gb" in warnings[0].text and str(cache_root()) in warnings[0].text
    plan = next(place for place, event in enumerate(events) if isinstance(event, PlanMade))
    assert events[plan + 1] is warnings[0]


@pytest.mark.parametrize("cache_gb", [None, 48.5 * IMAGE_BYTES / 1e9])
def test_where_there_is_room_nothing_is_said_of_it(images: Path, train: Train, cache_gb: float | None) -> None:
    events: list[Event] = []
    train(images, cache_gb=cache_gb, report=events.append)
    assert not [event for event in events if isinstance(event, Note)]


def test_the_largest_budget_that_is_a_setting_is_a_budget(images: Path, train: Train) -> None:
    assert train(images, cache_gb=1e9, dry_run=True).plan


def test_on_a_disk_without_room_images_are_streamed_and_it_is_said(
    images: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what is free is less than an image."""
    monkeypatch.setattr("simclr_cli.images.cache.get_free_bytes", lambda _: IMAGE_BYTES)
    events: list[Event] = []
    assert train(images, report=events.append).finished
    (warning,) = (event for event in events if isinstance(event, Note))
    assert "half of what is free there" in warning.text and "100% of the images" in warning.text


# torch.compile


def test_on_a_cpu_nothing_is_compiled_and_the_run_says_so(trained: Any) -> None:
    assert read_run_info(trained.run).settings.compile == "off"
    assert choice(trained.result.plan, "compile") == ("off", "no gain on a CPU, and compiling takes a minute")
    assert not [event for event in trained.events if isinstance(event, Note)]


def test_compiling_is_kept_with_the_run_and_changes_little(
    images: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    events: list[Event] = []
    on = train(images, run="on", compile="on", report=events.append)
    off = train(images, run="off", compile="off")
    torch._dynamo.reset()
    assert [read_run_info(RunFolder(Path(made.run))).settings.compile for made in (on, off)] == ["on", "off"]
    assert choice(on.plan, "compile") == ("on", "as set") and not [e for e in events if isinstance(e, Note)]
    assert losses_of(on.run) == pytest.approx(losses_of(off.run), rel=1e-3)


def test_without_a_compiler_training_goes_on_with_one_warning(
    images: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(_: Any, **__: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation.")

    expected = train(images, run="off")
    monkeypatch.setattr(torch, "compile", no_compiler)
    events: list[Event] = []
    made = train(images, run="on", compile="on", report=events.append)
    (note,) = (event for event in events if isinstance(event, Note))
    assert note.warning and "torch.compile" in note.text and "working triton" in note.text
    assert made.model_checksum == expected.model_checksum
    assert read_run_info(RunFolder(Path(made.run))).settings.compile == "on"  # there may be one where it goes on


def test_the_users_images_stay_as_they_are_and_no_socket_is_opened(
    images: Path, train: Train, checksum: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    before = checksum(images)
    train(images)
    assert checksum(images) == before


# Names of runs


def test_training_again_takes_the_next_free_name(images: Path, train: Train) -> None:
    assert [Path(train(images).run).name for _ in range(3)] == ["pics", "pics-2", "pics-3"]


def test_finished_run_is_never_overwritten(images: Path, train: Train, checksum: Callable[[Path], Any]) -> None:
    made = train(images, run="mine")
    before = checksum(Path(made.run))
    with pytest.raises(RunError, match="finished, and is never overwritten"):
        train(images, run="mine", seed=1)
    assert checksum(Path(made.run)) == before


@pytest.mark.parametrize("is_frozen", [False, True])
def test_batch_norm_that_is_frozen_sees_no_micro_batch(images: Path, train: Train, is_frozen: bool) -> None:
    plan = train(images, freeze_batch_norm=is_frozen, micro_batch=4, dry_run=True).plan
    assert plan is not None
    (reason,) = (choice.reason for choice in plan.choices if choice.name == "micro batch")
    assert ("batch norm sees 4 images" in reason) != is_frozen


def test_dry_run_may_name_a_finished_run(images: Path, train: Train) -> None:
    train(images, run="mine")
    assert not train(images, run="mine", dry_run=True).finished


# Weights to start from


def test_weights_file_of_the_same_architecture_is_where_training_starts(
    images: Path, train: Train, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    state = timm.create_model("tiny_resnet", num_classes=0).state_dict()
    save_file(state, tmp_path / "start.safetensors")
    made = train(images, weights=str(tmp_path / "start.safetensors"), learning_rate=1e-9, weight_decay=0.0)
    trained = load_file(RunFolder(Path(made.run)).weights_file)
    assert all(torch.allclose(trained[name], state[name], atol=1e-6) for name in state if "weight" in name)
    config = json.loads((RunFolder(Path(made.run)).encoder_folder / "config.json").read_text())
    assert tuple(config["pretrained_cfg"]["std"]) == tuple(timm.get_pretrained_cfg("tiny_resnet").std)


def test_weights_of_another_architecture_are_refused(images: Path, train: Train, tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(SettingsError, match=r"does not hold the weights of tiny_resnet: \d+ tensors are missing"):
        train(images, weights=str(tmp_path / "vit.safetensors"))


def test_file_that_holds_no_weights_is_refused(images: Path, train: Train, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not weights at all, but long enough to be read as a header")
    with pytest.raises(RunError, match=r"not a complete \.safetensors file"):
        train(images, weights=str(tmp_path / "text.safetensors"))
    with pytest.raises(RunError, match="There is no weights file"):
        train(images, weights=str(tmp_path / "gone.safetensors"))


def test_unknown_kind_of_weights_is_refused(images: Path, train: Train) -> None:
    with pytest.raises(SettingsError, match="Use none, trained, or the path"):
        train(images, weights="places365")


def test_trained_weights_of_timm_are_where_training_starts(
    images: Path, train: Train, default_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr_cli.train.guard.choose", lambda *_, **__: ("adapted", "for this test"))
    made = train(images, weights="trained", learning_rate=1e-12, weight_decay=0.0, loss="nt-xent")
    trained, state = load_file(RunFolder(Path(made.run)).weights_file), default_encoder.state_dict()
    assert all(torch.allclose(trained[name], state[name], atol=1e-6) for name in trained if "weight" in name)
    config = json.loads((RunFolder(Path(made.run)).encoder_folder / "config.json").read_text())
    assert tuple(config["pretrained_cfg"]["std"]) == tuple(timm.get_pretrained_cfg("tiny_resnet").std)
    assert config["pretrained_cfg"]["input_size"] == [3, 40, 40]


@pytest.mark.usefixtures("hub")
def test_trained_weights_without_network_name_both_ways_out(images: Path, train: Train) -> None:
    with pytest.raises(MachineError) as caught:
        train(images, weights="trained")
    assert "The weights of tiny_resnet are not on this machine" in caught.value.problem
    assert "the use of the network is switched off" in caught.value.problem
    assert "Download model.safetensors from " in caught.value.remedy and "--weights" in caught.value.remedy


# Settings that cannot work


def test_unknown_backbone_names_the_closest_ones(images: Path, train: Train) -> None:
    with pytest.raises(SettingsError, match="resnet18") as caught:
        train(images, backbone="resnet_18")
    assert "'resnet_18'" in caught.value.problem and "closest names" in caught.value.remedy


def test_image_size_that_a_transformer_cannot_take(images: Path, train: Train) -> None:
    with pytest.raises(SettingsError, match="test_vit cannot take images of 40 px") as caught:
        train(images, backbone="test_vit", image_size=40)
    assert "--image-size" in caught.value.remedy


def test_warmup_longer_than_the_automatic_epochs(images: Path, train: Train) -> None:
    with pytest.raises(SettingsError, match="--warmup-epochs 1000 is more than"):
        train(images, epochs=None, warmup_epochs=1000)


def test_unknown_device(images: Path, train: Train) -> None:
    with pytest.raises(SettingsError, match="--device is 'abacus'"):
        train(images, device="abacus")
    with pytest.raises(MachineError, match="The device cuda:99 cannot be used here") as caught:
        train(images, device="cuda:99")
    assert "--device cpu" in caught.value.remedy


def test_loss_that_is_not_finite_ends_training(images: Path, train: Train) -> None:
    with pytest.raises(TrainingError, match=r"The loss became (nan|inf)") as caught:
        train(images, optimizer="sgd", learning_rate=1e30, epochs=20)
    assert "--learning-rate" in caught.value.remedy


# Bad images


def test_bad_files_are_skipped_counted_listed_and_never_trained_on(
    own: Any, train: Train, checksum: Callable[[Path], Any]
) -> None:
    odd = own.images / "checks" / "0000.png"
    odd.write_bytes(odd.read_bytes()[: -len("IEND") - 8])  # all its pixels are there
    clean = train(own.images, run="clean")
    reasons = add_bad_files(own.images, own.images / "bricks" / "0000.png")
    before = checksum(own.images)
    made = train(own.images, run="mixed")
    listed = {entry["name"]: entry["reason"] for entry in json.loads((Path(made.run) / "skipped.json").read_text())}
    assert listed.pop("checks/0000.png") == "used if its pixels are whole: the end is missing"
    assert set(listed) == set(reasons)
    assert all(word in listed[name] for name, word in reasons.items()), listed
    assert (made.skipped, made.images) == (len(reasons), 48)
    assert made.census["odd"] == {"the end is missing": 1}
    assert made.census["skipped"] == len(reasons) == sum(made.census["skipped_because"].values())
    # The proof that none was trained on: the weights are those of the folder without them, bit for bit.
    assert same_weights(clean.run, made.run)
    assert checksum(own.images) == before


def test_image_under_a_wrong_extension_is_read_by_its_content(own: Any, train: Train, draw: Callable[..., Any]) -> None:
    draw(own.images / "bricks" / "a-png.jpg")
    draw(own.images / "bricks" / "no-extension")
    made = train(own.images)
    assert (made.images, made.skipped) == (50, 0)


def test_unreadable_file_is_refused_by_name(own: Any, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.open

    def guarded(self: Path, *args: Any, **values: Any) -> Any:
        if self.name == "0001.jpg" and self.parent.name == "dots":  # as chmod 000 does for anyone but root
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *args, **values)

    monkeypatch.setattr(Path, "open", guarded)
    made = train(own.images, workers=0)  # in this process
    assert json.loads((Path(made.run) / "skipped.json").read_text()) == [
        {"name": "dots/0001.jpg", "reason": "no permission to read it"}
    ]


def test_batch_larger_than_the_folder_shrinks_visibly(images: Path, train: Train) -> None:
    made = train(images, batch_size=64)
    assert choice(made.plan, "batch size") == ("48 images", "reduced from 64: there are no more images")
    assert made.plan is not None and made.plan.steps == 1 and made.finished


def test_batch_shrinks_again_when_decoding_refuses_some(own: Any, train: Train) -> None:
    whole = (own.images / "bricks" / "0001.jpg").read_bytes()  # a JPEG, since its header says nothing of its end
    (own.images / "bricks" / "0001.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    notes: list[Event] = []
    made = train(own.images, batch_size=48, report=notes.append)
    assert any("Batch size: 47 images, not 48" in note.text for note in notes if isinstance(note, Note))
    assert made.finished and made.images == 47


def cut(folder: Path, *names: str) -> None:
    """Cut JPEGs short, whose headers say nothing of their ends: only a full decode finds it."""
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:-300])


def test_held_out_images_that_cannot_be_kept_out_after_decoding_are_an_error(own: Any, train: Train) -> None:
    """Asked for, they are not given up: the plan on screen would be false."""
    cut(own.images, *(f"{kind}/0001.jpg" for kind in ("bricks", "dots")))
    with pytest.raises(InputError, match="--held-out 16 of the 46 images that could be decoded leaves less than"):
        train(own.images, batch_size=32, held_out=16)


def test_held_out_images_are_given_up_visibly_where_they_were_not_asked_for(
    own: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(own.images, *(f"{kind}/0001.jpg" for kind in ("bricks", "dots")))
    monkeypatch.setattr(rules, "MIN_IMAGES_TO_HOLD_OUT", 48)
    monkeypatch.setattr(rules, "HELD_OUT_ONE_IN", 3)  # of 48: 16
    notes: list[Event] = []
    made = train(own.images, batch_size=32, report=notes.append)
    info = read_run_info(RunFolder(Path(made.run)))
    assert info.settings.held_out == 0 and made.finished
    value, reason = choice(made.plan, "held out")
    assert (value, reason) == ("0 images", "not 16: only 46 images could be decoded")
    assert [c for c in info.choices if c.name == "held out"] == [Choice("held out", value, reason)]
    assert any("Held out: 0 images, not 16" in note.text for note in notes if isinstance(note, Note))


def test_one_image_cannot_be_learned_from(tmp_path: Path, train: Train, draw: Callable[..., Any]) -> None:
    draw(tmp_path / "one" / "a.png")
    with pytest.raises(InputError, match="fewer than two images"):
        train(tmp_path / "one")


def test_two_images_are_enough(tmp_path: Path, train: Train, draw: Callable[..., Any]) -> None:
    for i in range(2):
        draw(tmp_path / "two" / f"{i}.png", i)
    made = train(tmp_path / "two", batch_size=None)
    assert choice(made.plan, "batch size") == ("2 images", "all images") and made.finished


def test_one_whole_image_among_broken_ones_is_too_little(
    tmp_path: Path, train: Train, draw: Callable[..., Any]
) -> None:
    draw(tmp_path / "few" / "whole.png")
    for name in ("a.jpg", "b.jpg"):
        Image.effect_noise((48, 48), 50).save(tmp_path / "few" / name)
        (tmp_path / "few" / name).write_bytes((tmp_path / "few" / name).read_bytes()[:-200])
    with pytest.raises(InputError, match="Only one image could be decoded"):
        train(tmp_path / "few", batch_size=None)


def test_run_folder_that_cannot_be_written_is_found_before_decoding(
    images: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(pretrain_module, "decode_images", lambda *_, **__: pytest.fail("decoding began"))
    with pytest.raises(MachineError, match="Cannot write") as caught:
        train(images, runs=tmp_path / "file" / "runs")
    assert str(tmp_path / "file") in caught.value.problem
    assert (tmp_path / "file").read_text() == "not a folder"


def test_symlink_loops_end_and_links_to_images_count(own: Any, train: Train) -> None:
    (own.images / "bricks" / "up").symlink_to(own.images)
    (own.images / "bricks" / "self.png").symlink_to("self.png")
    (own.images / "bricks" / "linked.png").symlink_to("0000.png")
    made = train(own.images)
    skipped = {entry["name"] for entry in json.loads((Path(made.run) / "skipped.json").read_text())}
    assert skipped == {"bricks/up", "bricks/self.png"}
    assert made.images == 49


def test_names_of_any_bytes_are_trained_on(tmp_path: Path, train: Train, draw: Callable[..., Any]) -> None:
    names = [b"line\nbreak.png", b"\x1b[31mred.png", b"[bold]x[/bold].png", b"\xff\xfe not utf-8.png", b"-rf.png"]
    for seed, name in enumerate(names):
        draw(tmp_path / "odd" / name.decode("utf-8", "surrogateescape"), seed)
    (tmp_path / "odd" / "\x1b[2Jbroken.png").write_bytes(b"")
    made = train(tmp_path / "odd", batch_size=None)
    assert (made.images, made.skipped) == (5, 1)
    config = RunFolder(Path(made.run)).config_file.read_bytes()
    assert config.isascii() and b"\x1b" not in config
    assert np.isfinite(made.last_loss)


# --- Other losses, and which images are excluded as negatives ---


def test_supcon_wants_class_folders(images: Path, train: Train, tmp_path: Path) -> None:
    assert train(images, loss="supcon").finished
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(images.rglob("*.png"))[:8]):
        shutil.copy(path, flat / f"{i}.png")
    with pytest.raises(InputError, match="do not look like classes"):
        train(flat, loss="supcon")


def test_groups_are_told_and_reach_the_loss(
    images: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(images, tmp_path / "pics"))
    first = sorted(own.rglob("*.png"))[0]
    shutil.copy(first, first.with_name("copy.png"))
    events: list[Event] = []
    train(own, duplicates="near", report=events.append)
    (note,) = (event.text for event in events if isinstance(event, Note))
    assert note == "Groups excluded as negatives: 1, of 2 images; 47 images are in no group."

    seen: list[Any] = []
    plain = step_module.contrastive_loss
    monkeypatch.setattr(step_module, "contrastive_loss", lambda *given: seen.append(given) or plain(*given))
    train(own, run="by-name", group_by="^([a-m])?", loss="dcl", report=events.append)
    assert seen and all(given[2] == "dcl" for given in seen)
    names = [image.name for image in take_census(own).images]
    groups = torch.cat([given[3] for given in seen[-3:]])
    kinds = {name[0] if name[0] <= "m" else "" for name in names}
    assert len(groups) == 48 and len(groups.unique()) == len(kinds) > 2  # of 49 images, one waits


@pytest.mark.parametrize(
    "given", [{"group_by": "("}, {"loss": "supcon", "group_by": "x"}, {"loss": "supcon", "duplicates": "exact"}]
)
def test_wishes_that_cannot_be_are_refused(given: dict[str, Any], images: Path) -> None:
    with pytest.raises(SettingsError):
        PretrainSettings(images=images, **given)


def test_command_given_again_after_a_failure_goes_on(
    images: Path, tmp_path: Path, no_trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun does: the same command, and TORCHELASTIC_RESTART_COUNT."""
    settings = PretrainSettings(
        images=images,
        runs=tmp_path,
        checkpoint_seconds=0.0,
        backbone="tiny_resnet",
        image_size=40,
        batch_size=16,
        epochs=2,
    )

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 1):
            raise KeyboardInterrupt  # not one of ours: nothing is saved at that moment

    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, report=stop)
    with pytest.raises(RunError, match="was started and is not finished"):
        pretrain(settings)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    events: list[Event] = []
    result = pretrain(settings, report=events.append)
    assert result.finished
    assert [(event.epoch, event.step) for event in events if isinstance(event, StepDone)] == [(2, 1), (2, 2), (2, 3)]
