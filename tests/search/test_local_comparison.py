"""Comparison by blocks: copies of an image match, pages of one template do not, and a watermark is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import compress, draw_page, draw_scene
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from simclr_cli.api import DuplicatesSettings
from simclr_cli.commands.duplicates import duplicates
from simclr_cli.images.fingerprints import compute_fingerprint
from simclr_cli.search.local_comparison import SIDE, Match, Squares, match_squares
from simclr_cli.search.near_duplicates import have_similar_fingerprints


def scale(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def add_watermark(image: Image.Image) -> Image.Image:
    text = Image.new("L", image.size)
    ImageDraw.Draw(text).text((30, 180), "SAMPLE", fill=110, font=ImageFont.load_default(80))
    return Image.composite(Image.new("RGB", image.size, "white"), image, text)


def compare(first: Image.Image, second: Image.Image) -> int:
    squares = [
        np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in (first, second)
    ]
    side = np.array([min(*first.size, *second.size)])
    return int(match_squares(*(torch.tensor(square[None]).float() for square in squares), side)[0])


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": lambda image: compress(image, 30),
    "smaller": lambda image: scale(image, 0.3),
    "larger": lambda image: scale(image, 2),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_match_and_others_do_not(kind: str) -> None:
    images = [draw_scene(0), draw_scene(1), draw_page(0)]
    for i, image in enumerate(images):
        for j, other in enumerate(images):
            assert compare(image, COPIES[kind](other)) == (Match.SAME if i == j else Match.DIFFERENT)


@pytest.mark.parametrize("same_lines", [0, 5, 9])
def test_pages_of_one_template_do_not_match(same_lines: int, tmp_path: Path) -> None:
    """Not even if one line of ten differs, although they are similar as a whole; copies of them match."""
    pages = [draw_page(seed, same_lines=same_lines) for seed in range(1, 5)]
    for number, page in enumerate(pages):
        page.save(tmp_path / f"{number}.png")
        for other in pages[:number]:
            assert compare(page, other) == Match.DIFFERENT
            assert compare(compress(page, 50), other) == Match.DIFFERENT
    fingerprints = [compute_fingerprint(path, False) for path in sorted(tmp_path.iterdir())]
    hashes = np.array([fingerprint.hash for fingerprint in fingerprints], np.uint64)
    colors = np.array([fingerprint.colors for fingerprint in fingerprints])
    i, j = np.triu_indices(4, 1)
    assert have_similar_fingerprints(hashes, colors, i, j).any()
    compress(pages[2], 60).save(tmp_path / "2-again.jpg")
    result = duplicates(DuplicatesSettings(images=tmp_path, encoder="random:test_resnet", min_similarity=-1))
    assert [{Path(image.path).name for image in group.images} for group in result.groups] == [{"2.png", "2-again.jpg"}]


def test_a_watermark_is_on_the_marked_image() -> None:
    for seed in range(4):
        image = draw_scene(seed)
        marked = add_watermark(image)
        assert compare(image, marked) == compare(image, compress(marked, 80)) == Match.OVERLAY_ON_SECOND
        assert compare(marked, image) == Match.OVERLAY_ON_FIRST


def test_an_unusable_image_matches_none() -> None:
    pixels = np.asarray(draw_scene(0, SIDE))
    squares = Squares(lambda rows: [pixels if row else None for row in rows], np.array([SIDE] * 3))
    assert squares.match(np.array([0, 1, 0]), np.array([1, 2, 0])).tolist() == [0, Match.SAME, 0]


def test_the_best_is_neither_upscaled_nor_marked_nor_blurred(tmp_path: Path) -> None:
    for seed in range(3):
        image = draw_scene(seed)
        for kind, copy in {
            "upscaled": scale(image, 2), "marked": add_watermark(image), "small": scale(image, 0.5),
            "blurred": image.filter(ImageFilter.GaussianBlur(1.5)), "original": image,
        }.items():  # fmt: skip
            copy.save(tmp_path / f"{seed}-{kind}.png")
    result = duplicates(DuplicatesSettings(images=tmp_path, encoder="random:test_resnet", min_similarity=-1))
    best = sorted(Path(group.images[0].path).name for group in result.groups)
    assert best == [f"{seed}-original.png" for seed in range(3)]
    assert [len(group.images) for group in result.groups] == [5, 5, 5]


@pytest.mark.parametrize("copies", [["again"], ["again", "half"], ["blurred", "again", "half"]])
def test_what_is_compressed_again_is_not_the_best(tmp_path: Path, copies: list[str]) -> None:
    """Coefficients that are rounded again, more coarsely, may double the sharpness; downscaling raises it too."""
    for seed in range(3):
        image = compress(draw_scene(seed), 70)
        image.save(tmp_path / f"{seed}-original.jpg", quality=70)
        made = {
            "again": (image, 50), "half": (scale(image, 0.5), 85),
            "blurred": (image.filter(ImageFilter.GaussianBlur(1.5)), 95),
        }  # fmt: skip
        for kind in copies:
            made[kind][0].save(tmp_path / f"{seed}-{kind}.jpg", quality=made[kind][1])
    result = duplicates(DuplicatesSettings(images=tmp_path, encoder="random:test_resnet", min_similarity=-1))
    assert sorted(Path(group.images[0].path).stem for group in result.groups) == [f"{i}-original" for i in range(3)]


def test_what_something_was_added_to_is_never_moved(tmp_path: Path) -> None:
    """Filled-in forms match the empty one, which is the best of them; a copy of that one is moved."""
    folder = tmp_path / "forms"
    folder.mkdir()
    empty = draw_page(0)
    empty.save(folder / "empty.png")
    compress(empty, 80).save(folder / "empty-again.jpg")
    for number in range(3):
        filled = empty.copy()
        ImageDraw.Draw(filled).text((40 + 90 * number, 300 + 60 * number), "12 345", fill="black", font_size=30)
        assert compare(empty, filled) == Match.OVERLAY_ON_SECOND
        filled.save(folder / f"filled-{number}.png")
    result = duplicates(
        DuplicatesSettings(images=folder, encoder="random:test_resnet", min_similarity=-1, move_to=tmp_path / "moved")
    )
    stayed = sorted(path.name for path in folder.iterdir())
    assert stayed[0].startswith("empty") and stayed[1:] == [f"filled-{number}.png" for number in range(3)]
    assert result.moved == 1 and len(result.not_moved) == 3
    assert all(f"{stayed[0]} is the same without something" in line for line in result.not_moved)


def test_pages_that_differ_in_a_number_in_small_print_are_never_moved(tmp_path: Path) -> None:
    """At 256 px they are the same. Of one and its copy, the better one stays."""
    folder = tmp_path / "pages"
    folder.mkdir()
    pages = [draw_page(0).resize((1200, 1680), Image.Resampling.LANCZOS) for _ in range(2)]
    for number, page in enumerate(pages):
        ImageDraw.Draw(page).text((900, 1320), f"No. {1234 + 4444 * number}", fill=(60, 60, 60), font_size=18)
        page.save(folder / f"{number}.png")
    pages[0].resize((900, 1260), Image.Resampling.LANCZOS).save(folder / "0-copy.jpg", quality=70)
    assert compare(*pages) == Match.SAME
    result = duplicates(
        DuplicatesSettings(images=folder, encoder="random:test_resnet", min_similarity=-1, move_to=tmp_path / "moved")
    )
    assert len(result.groups) == 1 and result.moved == 1
    assert (folder / "1.png").exists() and "1.png: it differs from" in result.not_moved[0]
