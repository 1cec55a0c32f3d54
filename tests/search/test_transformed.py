"""Mirrored, rotated and cropped duplicates are found and named, pages of a template are not; only direct ones move."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawings import compress, draw_page, draw_scene
from PIL import Image, ImageDraw, ImageOps

from simclr_cli.api import DuplicatesResult, DuplicatesSettings
from simclr_cli.commands.duplicates import duplicates
from simclr_cli.core import events
from simclr_cli.images.fingerprints import downscale_colors, standardize
from simclr_cli.search.transformed import describe_in_any_orientation, orient

ROTATE = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}  # clockwise


def draw(seed: int) -> Image.Image:
    return draw_scene(seed).crop((0, 0, 400, 300))


def find(
    folder: Path, transformed: bool = True, report: events.Report = events.silent, **values: Any
) -> DuplicatesResult:
    settings = DuplicatesSettings(images=folder, encoder="random:test_resnet", min_similarity=-1, **values)
    return duplicates(dataclasses.replace(settings, transformed=transformed), report=report)


def list_groups(result: DuplicatesResult) -> dict[str, dict[str, str | None]]:
    """Return the transforms by name, by the name of the best image."""
    return {
        Path(group.images[0].path).name: {Path(image.path).name: image.transform for image in group.images[1:]}
        for group in result.groups
    }


def test_rotated_pages_that_differ_in_a_number_in_small_print_are_not_moved(tmp_path: Path) -> None:
    (folder := tmp_path / "pages").mkdir()
    pages = [draw_page(0).resize((1200, 1680), Image.Resampling.LANCZOS) for _ in range(2)]
    for number, page in enumerate(pages):
        ImageDraw.Draw(page).text((900, 1320), f"No. {1234 + 4444 * number}", fill=(60, 60, 60), font_size=18)
    pages[0].save(folder / "0.png")
    pages[0].transpose(ROTATE[90]).save(folder / "0-turned.jpg", quality=80)
    pages[1].transpose(ROTATE[180]).save(folder / "1-turned.jpg", quality=80)
    result = find(folder, move_to=tmp_path / "moved")
    assert result.moved == 1 and {path.name for path in folder.iterdir()} == {"0.png", "1-turned.jpg"}
    assert "1-turned.jpg: it differs from 0.png in a detail" in result.not_moved[0]


def test_duplicates_are_found_and_named(tmp_path: Path) -> None:
    """Each of another image; without the option none is found."""
    expected = {}
    for degrees, mirrored in [(0, True), *((degrees, mirrored) for degrees in ROTATE for mirrored in (False, True))]:
        image = draw(len(expected))
        image.save(tmp_path / f"{len(expected)}.png")
        copy = ImageOps.mirror(image) if mirrored else image
        copy = copy.transpose(ROTATE[degrees]) if degrees else copy
        copy.save(tmp_path / f"{len(expected)}-copy.jpg", quality=80)
        rotated = f"rotated by {degrees} degrees" if degrees else ""
        expected[f"{len(expected)}.png"] = "mirrored" * mirrored + " and " * (mirrored and degrees > 0) + rotated
    for left, top, right, bottom in [(5, 4, 5, 4), (40, 0, 0, 0), (70, 20, 10, 40), (0, 0, 40, 30), (40, 30, 40, 30)]:
        image = draw(len(expected))
        image.save(tmp_path / f"{len(expected)}.png")
        compress(ImageOps.crop(image, (left, top, right, bottom)), 80).save(tmp_path / f"{len(expected)}-copy.jpg")
        expected[f"{len(expected)}.png"] = "cropped"
    told: list[events.Event] = []
    names = {name: {name.replace(".png", "-copy.jpg"): transform} for name, transform in expected.items()}
    assert list_groups(find(tmp_path, report=told.append)) == names
    searched = [event.done for event in told if isinstance(event, events.Progress) and event.total == 4 * len(names)]
    assert searched == sorted(searched) and len(searched) > 1  # twice: mirrored or rotated, and cropped
    assert not any(find(tmp_path, transformed=False).groups)


def test_pages_of_one_template_are_in_no_group(tmp_path: Path) -> None:
    for seed in range(1, 5):
        page = draw_page(seed)
        (page if seed < 4 else ImageOps.mirror(page)).save(tmp_path / f"{seed}.png")
        draw_page(seed, same_lines=9).crop((0, 0, 600, 800 - 20 * seed)).save(tmp_path / f"{seed}-other.png")
    assert find(tmp_path).groups == ()


def test_only_duplicates_of_the_best_that_show_no_more_are_moved(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    draw(0).save(folder / "best.png")
    mirrored = ImageOps.mirror(draw(0))
    mirrored.save(folder / "mirrored.jpg", quality=80)
    ImageOps.crop(mirrored, 30).save(folder / "mirrored and cropped.jpg", quality=80)
    small = draw(1).resize((240, 180), Image.Resampling.LANCZOS)
    small.save(folder / "small.png")
    ImageOps.crop(draw(1), 20).save(folder / "large crop.png")
    result = find(folder, move_to=tmp_path / "moved")
    assert list_groups(result) == {
        "best.png": {"mirrored.jpg": "mirrored", "mirrored and cropped.jpg": None},
        "large crop.png": {"small.png": "uncropped"},
    }
    assert not (folder / "mirrored.jpg").exists() and result.moved == 1
    assert [Path(line.partition(":")[0]).name for line in result.not_moved] == ["mirrored and cropped.jpg", "small.png"]
    assert "shows more" in result.not_moved[1]


def test_no_similar_orientation_is_missed() -> None:
    """The rows by which pairs are proposed are at least as similar as the colors in the best of the 8 orientations."""
    colors = np.array([downscale_colors(draw_scene(seed, 32)) for seed in range(6)])
    pixels = torch.from_numpy(colors.reshape(-1, 16, 16, 3)).permute(0, 3, 1, 2)
    oriented = [orient(pixels, k).permute(0, 2, 3, 1).flatten(1).numpy() for k in range(8)]
    rows = [describe_in_any_orientation(values) for values in oriented]
    for turned, values in zip(oriented, rows, strict=True):
        np.testing.assert_allclose(values, rows[0], atol=1e-5)
        assert (rows[0] @ rows[0].T >= standardize(turned) @ standardize(colors).T - 1e-5).all()
