"""The plan: each automatic setting by a table, with its reason."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr_cli.api import PreviewSettings, ResolvedSettings
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.engine.augment import create_view_recipe
from simclr_cli.images.colors import Colors
from simclr_cli.train.plan import (
    MEMORY_SHARE,
    MIN_SECONDS_TO_COMPILE,
    PEAK_OVER_KEPT,
    RULES,
    VIEW_RULES,
    Circumstances,
    choose_compile,
    choose_micro_batch,
    fit_to_decoded_images,
    resolve,
    resolve_views,
    warn_of_views,
)
from simclr_cli.train.rules import InitialWeights

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def plan(
    images: int = 1000, short_side: int = 256, device: torch.device = CPU, *, is_modern: bool = True, **given: Any
) -> tuple[ResolvedSettings, dict[str, Any]]:
    """The settings resolved for a run of an hour, and the choices by name."""
    here = Circumstances(images, short_side, device, has_fast_bfloat16=device == GPU and is_modern)
    settings, choices = resolve(ResolvedSettings(images=Path(), **given), here)
    settings, compiling = choose_compile(settings, here, 3600)
    choices = (*choices, compiling)
    assert len({choice.name for choice in choices}) == len(choices)
    return settings, {choice.name: choice for choice in choices}


@pytest.mark.parametrize("device", [CPU, GPU, torch.device("mps")])
@pytest.mark.parametrize("images", [2, 15, 16, 500, 200_000])
@pytest.mark.parametrize("short_side", [1, 32, 500])
def test_nothing_stays_automatic_and_each_choice_has_a_reason(
    device: torch.device, images: int, short_side: int
) -> None:
    settings, choices = plan(images, short_side, device)
    open_ = [f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) is None]
    # a choice between kinds, a name, what is tried out, what is the command's own
    assert open_ == ["preset", "hours", "run", "micro_batch", "cache_gb"]
    assert set(choices) == {name.replace("_", " ") for name in (*RULES, "compile")} - {"preset"}
    assert all(choice.reason and choice.value for choice in choices.values())
    here = Circumstances(images, short_side, device)
    again, _ = resolve(settings, here)
    assert again == settings == choose_compile(settings, here, 0)[0]  # what was resolved once stays


def test_every_setting_that_may_be_automatic_has_a_rule() -> None:
    automatic = {f.name for f in dataclasses.fields(ResolvedSettings) if f.default is None}
    assert automatic - {"images", "run", "cache_gb", "hours"} == {*RULES, "micro_batch", "compile"}


@pytest.mark.parametrize(
    ("short_side", "device", "expected"),
    [
        (20, CPU, 32), (32, CPU, 32), (38, CPU, 32), (39, CPU, 48), (52, CPU, 64), (500, CPU, 64),
        (64, GPU, 64), (100, GPU, 96), (103, GPU, 128), (180, GPU, 224), (4000, GPU, 224),
    ],
)  # fmt: skip
def test_image_size_is_the_largest_at_most_a_quarter_above_the_median(
    short_side: int, device: torch.device, expected: int
) -> None:
    settings, choices = plan(short_side=short_side, device=device)
    assert settings.image_size == expected
    assert str(short_side) in choices["image size"].reason
    assert ("reasonable" in choices["image size"].reason) == (short_side > expected == (64 if device == CPU else 224))


@pytest.mark.parametrize(
    ("images", "device", "expected"),
    [
        (2, CPU, 2), (15, CPU, 15), (16, CPU, 4), (31, CPU, 4), (100, CPU, 16), (1000, CPU, 64), (1024, CPU, 64),
        (10**6, CPU, 64), (1000, GPU, 128), (2048, GPU, 512), (10**6, GPU, 512),
    ],
)  # fmt: skip
def test_batch_size_is_a_power_of_two_of_at_most_a_quarter(images: int, device: torch.device, expected: int) -> None:
    assert plan(images, device=device)[0].batch_size == expected


@pytest.mark.parametrize(
    ("images", "device", "expected"),
    [
        (2, CPU, 100), (1500, CPU, 100), (3000, CPU, 50), (15_000, CPU, 10), (10**6, CPU, 10),
        (1000, GPU, 800), (50_000, GPU, 400), (10**6, GPU, 100),
    ],
)  # fmt: skip
def test_epochs_follow_the_images_to_be_seen(images: int, device: torch.device, expected: int) -> None:
    assert plan(images, device=device)[0].epochs == expected


@pytest.mark.parametrize(("epochs", "expected"), [(1, 0), (9, 0), (10, 1), (55, 5), (100, 10), (1000, 10)])
def test_warm_up_is_the_papers_ten_epochs_but_at_most_a_tenth(epochs: int, expected: int) -> None:
    assert plan(epochs=epochs)[0].warmup_epochs == expected


@pytest.mark.parametrize(
    ("image_size", "temperature", "strength", "blur"), [(32, 0.5, 0.5, 0.0), (33, 0.1, 1.0, 0.5), (224, 0.1, 1.0, 0.5)]
)
def test_views_and_temperature_are_the_papers_for_the_size(
    image_size: int, temperature: float, strength: float, blur: float
) -> None:
    """RECIPE: views 3 and 5, NT-Xent."""
    settings, _ = plan(image_size=image_size)
    assert (settings.temperature, settings.color_strength, settings.blur) == (temperature, strength, blur)


@pytest.mark.parametrize(
    ("given", "optimizer", "rule", "rate", "decay"),
    [
        ({"batch_size": 512}, "adamw", "none", 0.002, 0.01),
        ({"batch_size": 1024}, "lars", "sqrt", 0.075, 1e-6),
        ({"optimizer": "sgd"}, "sgd", "sqrt", 0.075, 1e-6),
        ({"optimizer": "lars", "lr_rule": "linear"}, "lars", "linear", 0.3, 1e-6),
        ({"optimizer": "adamw", "learning_rate": 0.1, "weight_decay": 0.0}, "adamw", "none", 0.1, 0.0),
    ],
)
def test_optimizer_rule_rate_and_decay_go_together(
    given: dict[str, Any], optimizer: str, rule: str, rate: float, decay: float
) -> None:
    settings, _ = plan(images=10**5, **given)
    chosen = (settings.optimizer, settings.lr_rule, settings.learning_rate, settings.weight_decay)
    assert chosen == (optimizer, rule, rate, decay)


@pytest.mark.parametrize(("decoded", "held_out", "batch"), [(48, 16, 32), (47, 0, 32), (32, 0, 32), (31, 0, 31)])
def test_what_too_few_images_could_be_decoded_for_is_given_up(decoded: int, held_out: int, batch: int) -> None:
    """First the held-out images, where what is left for training is less than a batch; then a part of the batch."""
    wanted = ResolvedSettings(images=Path(), batch_size=32, held_out=16)
    chosen, changed = fit_to_decoded_images(wanted, decoded, held_out_is_fixed=False)
    assert (chosen.held_out, chosen.batch_size) == (held_out, batch)
    assert [choice.name for choice in changed] == ["held out"] * (not held_out) + ["batch size"] * (batch < 32)
    if held_out:
        assert fit_to_decoded_images(wanted, decoded, held_out_is_fixed=True) == (wanted, [])
    else:
        with pytest.raises(InputError, match="leaves less than a batch of 32"):
            fit_to_decoded_images(wanted, decoded, held_out_is_fixed=True)


def test_the_reason_of_the_rate_names_the_peak() -> None:
    _, choices = plan(images=10**5, batch_size=4096)
    assert "4.8" in choices["learning rate"].reason  # 0.075 * sqrt(4096)


@pytest.mark.parametrize(
    ("images", "short_side", "device", "expected"),
    [
        (50_000, 224, GPU, "resnet50"),
        (49_999, 224, GPU, "resnet18"),
        (50_000, 96, GPU, "resnet18"),
        (10**6, 500, CPU, "resnet18"),
    ],
)
def test_backbone_grows_with_the_data_on_a_gpu(
    images: int, short_side: int, device: torch.device, expected: str
) -> None:
    assert plan(images, short_side, device)[0].backbone == expected


@pytest.mark.parametrize(("image_size", "backbone"), [(128, "resnet50"), (127, "resnet18")])
def test_backbone_grows_with_the_image_size_that_is_asked_for(image_size: int, backbone: str) -> None:
    assert plan(50_000, 224, GPU, image_size=image_size)[0].backbone == backbone


@pytest.mark.parametrize(
    ("device", "expected"), [(GPU, "bfloat16"), (CPU, "float32"), (torch.device("mps"), "float32")]
)
def test_precision_follows_the_device(device: torch.device, expected: str) -> None:
    assert plan(device=device)[0].precision == expected


def test_a_gpu_without_bfloat16_in_hardware_computes_in_float32() -> None:
    settings, choices = plan(device=GPU, is_modern=False)
    assert settings.precision == "float32" and "GPU" in choices["precision"].reason


def test_what_was_set_stays_and_is_said_to_be_set() -> None:
    given = {"image_size": 40, "batch_size": 20, "epochs": 7, "temperature": 0.3, "color_strength": 0.0, "blur": 0.1,
             "warmup_epochs": 0, "backbone": "convnext_atto", "precision": "bfloat16", "workers": 3}  # fmt: skip
    settings, choices = plan(**given)
    assert {name: getattr(settings, name) for name in given} == given
    assert all(choices[name.replace("_", " ")].reason == "as set" for name in given)


def test_a_batch_shrinks_to_the_images_there_are_and_the_rate_with_it() -> None:
    settings, choices = plan(images=100, batch_size=256, lr_rule="linear", optimizer="lars")
    assert settings.batch_size == 100
    assert "256" in choices["batch size"].reason and choices["batch size"].value == "100 images"
    assert f"{0.3 * 100 / 256:.4g}" in choices["learning rate"].reason


@pytest.mark.parametrize("images", [0, 1])
def test_fewer_than_two_images_are_refused(images: int) -> None:
    with pytest.raises(InputError, match="at least 2"):
        plan(images=images)


def test_no_image_at_all_is_not_called_one() -> None:
    with pytest.raises(InputError) as caught:
        plan(images=0)
    assert "only one" not in caught.value.problem


def test_a_warm_up_longer_than_the_automatic_epochs_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--warmup-epochs 11 is more than .*10"):
        plan(images=10**6, warmup_epochs=11)


def test_settings_are_not_changed_in_place() -> None:
    settings = ResolvedSettings(images=Path())
    resolve(settings, Circumstances(100, 64, CPU))
    assert settings.batch_size is None


@pytest.mark.parametrize("image_size", [32, 64, 224])
def test_without_a_preset_a_preview_is_planned_as_a_run_is(image_size: int) -> None:
    settings, choices = plan(image_size=image_size)
    resolved, few = resolve_views(PreviewSettings(images=Path(), image_size=image_size), Circumstances(1000, 256, CPU))
    assert create_view_recipe(resolved) == create_view_recipe(settings) and resolved.image_size == image_size
    assert [choice.name for choice in few] == [name.replace("_", " ") for name in VIEW_RULES if name != "preset"]
    assert all(choice == choices[choice.name] for choice in few)


@pytest.mark.parametrize(
    ("device", "seconds", "expected", "word"),
    [
        (CPU, 10**6, "off", "a CPU"),
        (torch.device("mps"), 10**6, "off", "no gain on a GPU"),
        (GPU, MIN_SECONDS_TO_COMPILE - 1, "off", "does not pay"),
        (GPU, 0, "off", "does not pay"),
        (GPU, MIN_SECONDS_TO_COMPILE, "on", "which pays"),
        (torch.device("cuda:1"), 10**6, "on", "which pays"),
    ],
)
def test_compiling_is_for_long_runs_on_nvidias_gpus(
    device: torch.device, seconds: float, expected: str, word: str
) -> None:
    settings = ResolvedSettings(images=Path())
    chosen, choice = choose_compile(settings, Circumstances(1000, 64, device), seconds)
    assert (chosen.compile, choice.name, choice.value) == (expected, "compile", expected)
    assert word in choice.reason
    assert dataclasses.replace(chosen, compile=None) == settings


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("seconds", [0, 10**6])
@pytest.mark.parametrize("given", ["on", "off"])
def test_compiling_is_as_the_user_sets_it(device: torch.device, seconds: float, given: str) -> None:
    settings = ResolvedSettings(images=Path(), compile=given)
    chosen, choice = choose_compile(settings, Circumstances(1000, 64, device), seconds)
    assert chosen == settings and (choice.value, choice.reason) == (given, "as set")


# --- Micro-batches ---

EACH = 1_000_000  # bytes that an image keeps


@pytest.mark.parametrize(
    ("batch", "processes", "holds", "given", "expected"),
    [
        (64, 1, 64, None, 64), (64, 1, 63, None, 32), (64, 1, 1, None, 1), (4096, 1, 700, None, 512),
        (4096, 8, 700, None, 512), (4096, 8, 500, None, 256), (65, 4, 17, None, 17), (64, 1, 0, None, 1),
        (64, 1, 2, 48, 48), (64, 1, 1000, 100, 64), (64, 4, 1000, 100, 16),
    ],
)  # fmt: skip
def test_micro_batch_is_what_the_memory_holds(
    batch: int, processes: int, holds: int, given: int | None, expected: int
) -> None:
    memory = int((holds + 0.5) * EACH * PEAK_OVER_KEPT / MEMORY_SHARE)
    here = Circumstances(10_000, 64, CPU, processes, memory)
    chosen, _ = resolve(ResolvedSettings(images=Path(), batch_size=batch, micro_batch=given), here)
    chosen, choice = choose_micro_batch(chosen, here, EACH, 0, sees_batch=True)
    assert chosen.micro_batch == expected and choice.value == f"{expected} images"
    several = expected < -(-batch // processes)
    assert ("computed twice" in choice.reason) == ("batch norm" in choice.reason) == several
    assert (choice.reason == "as set") == (given is not None and not several)
    assert "batch norm" not in choose_micro_batch(chosen, here, EACH, 0, sees_batch=False)[1].reason


@pytest.mark.parametrize(
    ("behind_cut", "expected"), [(0, 64), (20 * EACH, 64), (37 * EACH, 32), (90 * EACH, 8), (200 * EACH, 1)]
)
def test_memory_of_head_and_loss_is_left_beside_a_micro_batch(behind_cut: int, expected: int) -> None:
    """100 images fit; half of that again is the peak of a micro-batch, when the memory of the loss is free."""
    here = Circumstances(10_000, 64, CPU, 1, int(100 * EACH / MEMORY_SHARE) + 1)
    chosen, _ = resolve(ResolvedSettings(images=Path(), batch_size=64), here)
    assert choose_micro_batch(chosen, here, EACH, behind_cut, sees_batch=True)[0].micro_batch == expected


def test_there_cannot_be_more_processes_than_images_in_a_batch() -> None:
    with pytest.raises(SettingsError, match="5 processes"):
        resolve(ResolvedSettings(images=Path(), batch_size=4), Circumstances(100, 64, CPU, 5))
    resolve(ResolvedSettings(images=Path(), batch_size=5), Circumstances(100, 64, CPU, 5))


GRAY, TWO = Colors(24, are_gray=True), Colors(24, are_gray=True, have_two=True)


def test_gray_images_take_the_preset_for_them() -> None:
    here = Circumstances(1000, 256, CPU, colors=GRAY)
    settings, choices = resolve(ResolvedSettings(images=Path()), here)
    reasons = {choice.name: choice for choice in choices}
    assert settings.preset == "grayscale" and settings.grayscale == 0
    assert reasons["preset"].reason == "all 24 sampled images are gray"
    assert reasons["blur"].reason.startswith("the preset grayscale: ")
    explicit, _ = resolve(ResolvedSettings(images=Path(), preset="photo", blur=0.1), here)
    assert (explicit.preset, explicit.grayscale, explicit.blur) == ("photo", 0.2, 0.1)


def test_views_of_distillation_stay_for_gray_images() -> None:
    start = InitialWeights("trained", "for this test", "resnet18", own_size=224)
    here = Circumstances(1000, 256, CPU, start=start, colors=GRAY)
    settings, _ = resolve(ResolvedSettings(images=Path()), here)
    assert (settings.loss, settings.preset, settings.color_strength) == ("distill", None, 0.0)


def test_views_that_destroy_what_matters_are_warned_of() -> None:
    def warn(colors: Colors, **given: Any) -> str:
        settings = resolve(ResolvedSettings(images=Path(), **given), Circumstances(1000, 105, CPU, colors=colors))[0]
        return " ".join(warn_of_views(settings, colors))

    assert warn(Colors(24)) == warn(GRAY) == ""
    assert "Use --preset grayscale" in warn(GRAY, preset="photo")
    assert warn(GRAY, preset="aerial").endswith("Add --grayscale 0.") and warn(GRAY, grayscale=0.5).endswith("0.")
    words = warn(TWO)
    assert "a crop of 8 % shows one stroke" in words and words.endswith("add --flip 0 --crop-min 0.4.")
    assert "--flip 0 --rotate 0 --crop-min 0.4" in warn(TWO, rotate=1.0)
    assert "have: a rotation (probability 1) makes another one" in warn(TWO, rotate=1.0, flip=0.0)
    assert warn(TWO, flip=0.0, crop_min=0.4) == ""
