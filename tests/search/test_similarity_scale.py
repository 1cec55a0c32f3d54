"""The similarity scale against counting."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simclr_cli.api import OutliersSettings
from simclr_cli.core.events import silent
from simclr_cli.core.seeds import Purpose, create_torch_generator
from simclr_cli.encode.embed import embed_views
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.augment import ViewRecipe, create_view_recipe
from simclr_cli.images.cache import defer_decoding
from simclr_cli.images.scan import take_census
from simclr_cli.search.library import open_index, open_library
from simclr_cli.search.similarity_scale import PERCENT_LEVELS, measure_scale, read_scale
from simclr_cli.store.run_info import read_run_info

NO_MEAN = np.zeros(16, np.float32)


def unit(rows: int, seed: int) -> np.ndarray:
    h = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def test_levels_rise_from_0_to_100_and_are_fine_at_the_top() -> None:
    assert PERCENT_LEVELS[0] == 0 and PERCENT_LEVELS[-1] == 100 and (np.diff(PERCENT_LEVELS) > 0).all()
    assert np.diff(PERCENT_LEVELS).max() <= 1 + 1e-9 and (PERCENT_LEVELS > 99.9).sum() > 200


def test_percentages_equal_counting() -> None:
    sample, first = unit(400, 0), unit(200, 1)
    second = first + 0.3 * unit(200, 2)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    scale = measure_scale(sample, first, second, NO_MEAN)
    random = (sample @ sample.T)[np.triu_indices(400, 1)]
    views = (first * second).sum(axis=1)
    assert (scale.random_pairs, scale.view_pairs) == (len(random), 200)
    for similarity in np.linspace(-0.9, 1.0, 39):
        assert scale.above_random(similarity) == pytest.approx(100 * (random < similarity).mean(), abs=0.5)
        assert scale.above_views(similarity) == pytest.approx(100 * (views < similarity).mean(), abs=1.0)
    top = float(np.quantile(random, 0.9998))
    assert scale.above_random(top) == pytest.approx(99.98, abs=0.005)
    for percent in (1, 50, 99, 99.95):
        assert scale.view_quantile(percent) == pytest.approx(float(np.quantile(views, percent / 100)), abs=0.01)


def test_equal_pairs_are_not_below_each_other() -> None:
    equal = np.repeat(unit(1, 0), 30, axis=0)
    scale = measure_scale(equal, equal, equal, NO_MEAN)
    value = float(scale.random[0])
    assert scale.above_random(value) == 0 and scale.above_views(value) == 0
    assert scale.above_random(value + 0.01) == 100 and scale.above_random(value - 0.01) == 0


def test_without_pairs_nothing_counts_as_similar() -> None:
    scale = measure_scale(unit(1, 0), unit(0, 0), unit(0, 0), NO_MEAN)
    assert scale.above_random(1.0) == 0 and scale.above_views(1.0) == 0 and scale.view_quantile(50) > 1


def test_percentages_of_few_pairs_are_limited_by_their_number() -> None:
    sample = unit(5, 3)  # ten pairs
    similarity = sample @ sample.T
    scale = measure_scale(sample, sample, sample, NO_MEAN)
    highest = float(similarity[np.triu_indices(5, 1)].max())
    assert scale.above_random(highest) == pytest.approx(90) and scale.above_random(highest - 5e-7) == pytest.approx(90)
    assert scale.above_random(highest - 1e-3) <= 90 and scale.above_random(highest + 1e-3) == 100


def measure_views(loaded: LoadedEncoder, folder: Path, recipe: ViewRecipe, size: int, seed: int) -> np.ndarray:
    """Return the similarity of two views of each image of a small folder, lowest first."""
    decoded = defer_decoding(take_census(folder), size, 1)
    generator = create_torch_generator(seed, Purpose.SIMILARITY)
    with torch.inference_mode():
        first, second = embed_views(loaded.encoder, recipe, decoded, np.arange(len(decoded)), generator)
    return np.sort(F.cosine_similarity(first, second).numpy())


def test_views_are_those_of_the_run_or_else_the_papers_at_the_size_of_the_encoder(own: Any) -> None:
    settings = read_run_info(own.run).settings
    cases: list[tuple[dict[str, Any], ViewRecipe, int, int]] = [
        ({"run": own.name}, create_view_recipe(settings), settings.image_size, settings.seed),
        ({"run": own.name, "image_size": 48}, create_view_recipe(settings), 48, settings.seed),
        ({"encoder": "random:tiny_resnet", "image_size": 48, "seed": 5}, ViewRecipe(), 48, 0),
    ]
    for values, recipe, size, seed in cases:
        library = open_library(OutliersSettings(images=own.images, runs=own.runs, **values), silent)
        scale = open_index(library, silent)[1]
        expected = np.quantile(measure_views(library.loaded, own.images, recipe, size, seed), PERCENT_LEVELS / 100)
        np.testing.assert_allclose(scale.views, expected, atol=1e-5)
        assert scale.view_pairs == 48


@pytest.mark.parametrize("encoder", ["random:tiny_resnet"])
def test_the_centered_scale_is_that_of_centered_embeddings(own: Any, encoder: str) -> None:
    library = open_library(OutliersSettings(images=own.images, runs=own.runs, encoder=encoder, image_size=32), silent)
    index = open_index(library, silent)[0]
    scale, h = read_scale(index, centered=True), index.h[0 : len(index)].astype(np.float64)
    assert scale is not None
    np.testing.assert_allclose(scale.mean, h.mean(axis=0), atol=1e-6)
    h -= h.mean(axis=0)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    random = (h @ h.T)[np.triu_indices(len(h), 1)]
    np.testing.assert_allclose(scale.random, np.quantile(random, PERCENT_LEVELS / 100), atol=1e-5)


def test_few_images_are_not_centered(own: Any, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    shutil.copytree(own.images / "dots", folder)
    for path in sorted(folder.iterdir())[9:]:
        path.unlink()
    library = open_library(OutliersSettings(images=folder, runs=own.runs, run=own.name), silent)
    scale = read_scale(open_index(library, silent)[0], centered=True)
    assert scale is not None and not scale.mean.any()
