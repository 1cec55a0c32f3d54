"""The advice of the preview: each figure against counting by hand, each sentence only where it is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from simclr_cli.api.views import ResolvedViews
from simclr_cli.commands.preview import advise, count_blank_views, measure_enlarged_share
from simclr_cli.core.seeds import Purpose, create_torch_generator
from simclr_cli.engine.augment import ViewRecipe, draw_parameters
from simclr_cli.images.colors import Colors

COLORED = Colors(24)
WHOLE = ViewRecipe(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))


def resolved(**given: Any) -> ResolvedViews:
    plain = {"crop_min": 0.08, "color_strength": 1.0, "grayscale": 0.2, "flip": 0.5, "rotate": 0.0, "blur": 0.5}
    return ResolvedViews(**{"images": Path(), "image_size": 64, "workers": 1, **plain, **given})


@pytest.mark.parametrize(
    ("true", "stored", "size", "share"),
    [(31, 96, 64, 1.0), (32, 96, 64, 0.0), (400, 96, 64, 0.0), (400, 31, 64, 1.0), (400, 32, 64, 0.0)],
)
def test_whole_images_are_enlarged_by_their_stored_pixels(true: int, stored: int, size: int, share: float) -> None:
    """An image has no more pixels than its own, nor than are stored."""
    assert measure_enlarged_share(torch.tensor([[true, true]] * 5), WHOLE, stored, size, seed=0) == share


def test_share_of_enlarged_crops_equals_counting_them() -> None:
    sizes = torch.randint(20, 400, (300, 2), generator=torch.Generator().manual_seed(1))
    crops = draw_parameters(sizes, ViewRecipe(), create_torch_generator(7, Purpose.VIEWS, 1, 0)).crop.tolist()
    count = 0
    for (height, width), (_, _, h, w) in zip(sizes.tolist(), crops, strict=True):
        seen = h * min(1, 96 / height) * w * min(1, 96 / width)
        count += seen < (64 / 2) ** 2
    assert 0 < count < 300
    assert measure_enlarged_share(sizes, ViewRecipe(), 96, 64, seed=7) == pytest.approx(count / 300)


def test_blank_views_are_counted() -> None:
    views = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    views[1], views[3] = 1.0, 0.4
    assert count_blank_views(views) == 2


@pytest.mark.parametrize(
    ("enlarged", "words", "remedy"),
    [(0.0, "No crop is", False), (0.004, "Less than 1 %", False), (0.1, "10 %", False), (0.11, "11 %", True)],
)
def test_many_enlarged_crops_come_with_a_remedy(enlarged: float, words: str, remedy: bool) -> None:
    sentence = advise(resolved(), enlarged, COLORED, 0, 48)[0]
    assert sentence.startswith(words) and "64 px" in sentence
    assert ("--crop-min" in sentence) == remedy


def test_color_advice_follows_the_settings() -> None:
    def color_advice(is_gray: bool = False, **given: Any) -> str:
        return " ".join(advise(resolved(**given), 0.0, Colors(24, are_gray=is_gray), 0, 48)[1:])

    assert "80 %" in color_advice() and "72 degrees" in color_advice()  # 0.8 s, and 0.2 s of the circle
    assert "40 %" in color_advice(color_strength=0.5) and "36 degrees" in color_advice(color_strength=0.5)
    assert "--preset grayscale" in color_advice(True)
    assert "--preset grayscale" not in color_advice(True, grayscale=0.0)
    assert "nothing changes" in color_advice(True, color_strength=0.0)
    assert "shortcut" in color_advice(color_strength=0.0, grayscale=0.0)
    assert "20 %" in color_advice(color_strength=0.0) and "shortcut" not in color_advice(color_strength=0.0)


@pytest.mark.parametrize(
    ("blank", "words"), [(0, None), (1, "1 of these 48 views is"), (2, "2 of these 48 views are ")]
)
def test_blank_views_are_mentioned_if_there_are_any(blank: int, words: str | None) -> None:
    sentences = advise(resolved(), 0.0, COLORED, blank, 48)
    assert len(sentences) == (2 if words is None else 3)
    assert words is None or sentences[2].startswith(words)
