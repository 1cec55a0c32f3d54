"""Presets: each value with its reason, as in docs/presets.md, and explicit options, which override them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from simclr_cli.api import Preset, PreviewSettings, ResolvedSettings
from simclr_cli.api.views import PRESETS, ViewSettings
from simclr_cli.engine.augment import ViewRecipe, create_view_recipe
from simclr_cli.train.plan import Circumstances, resolve, resolve_views

HERE = Circumstances(1000, 256, torch.device("cpu"))
PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")
VALUES = ["crop_min", "color_strength", "grayscale", "flip", "rotate", "blur"]


def test_every_preset_has_a_value_for_every_setting_within_its_bounds() -> None:
    bounds = {field.name: field.metadata for field in dataclasses.fields(ViewSettings)}
    assert list(PRESETS) == list(get_args(Preset))
    for values in PRESETS.values():
        assert list(values) == VALUES
        for name, (value, reason) in values.items():
            assert (bounds[name]["at_least"] or 0) <= value <= bounds[name]["at_most"] and reason


@pytest.mark.parametrize("preset", get_args(Preset))
def test_docs_page_has_the_presets_of_the_code(preset: Preset) -> None:
    section = PAGE.partition(f"## {preset}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `--([\w-]+)` \| ([\d.]+) \| (.+) \|$", section, re.MULTILINE)
    documented = {name.replace("-", "_"): (float(value), reason) for name, value, reason in rows}
    assert documented == PRESETS[preset]


def test_photo_is_the_papers_recipe_at_any_size_and_small_that_for_cifar() -> None:
    for size in (32, 224):
        photo, small = (
            resolve_views(PreviewSettings(images=Path(), preset=preset, image_size=size), HERE)[0]
            for preset in ("photo", "small")
        )
        assert create_view_recipe(photo) == ViewRecipe()
        assert create_view_recipe(small) == ViewRecipe(strength=0.5, blur=0.0)


@pytest.mark.parametrize("preset", get_args(Preset))
@pytest.mark.parametrize("name", VALUES)
def test_explicit_option_overrides_the_preset(preset: Preset, name: str) -> None:
    settings, choices = resolve(ResolvedSettings(images=Path(), preset=preset, **{name: 0.123}), HERE)
    reasons = {choice.name.replace(" ", "_"): choice.reason for choice in choices}
    for other, (value, reason) in PRESETS[preset].items():
        expected = (0.123, "as set") if other == name else (value, f"the preset {preset}: {reason}")
        assert (getattr(settings, other), reasons[other]) == expected


def test_recipe_of_the_views_is_that_of_the_settings() -> None:
    given = {"crop_min": 0.3, "color_strength": 0.4, "grayscale": 0.1, "flip": 0.0, "rotate": 0.7, "blur": 0.2}
    settings, _ = resolve(ResolvedSettings(images=Path(), **given), HERE)
    recipe = create_view_recipe(settings)
    assert recipe.crop_area == (0.3, 1.0)
    assert (recipe.jitter, recipe.strength, recipe.grayscale, recipe.flip) == (0.8, 0.4, 0.1, 0.0)
    assert (recipe.rotate, recipe.blur) == (0.7, 0.2)
    assert create_view_recipe(dataclasses.replace(settings, color_strength=0.0)).jitter == 0
