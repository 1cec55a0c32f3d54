"""Colors of a folder: gray by the pixels and not by the mode of the file, and two colors as characters have."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from simclr_cli.images.colors import Colors, describe_colors, has_two_colors, is_gray, sample_colors
from simclr_cli.images.decode import Pixels
from simclr_cli.images.scan import take_census


def draw_character(seed: int, side: int = 105, ink: tuple[int, ...] = (0, 0, 0), scale: int = 1) -> Image.Image:
    """Draw strokes on white, with soft edges where it is drawn at a larger scale."""
    image = Image.new("RGB", (side * scale, side * scale), "white")
    points = np.random.default_rng(seed).integers(0, side * scale, (6, 2)).tolist()
    ImageDraw.Draw(image).line([tuple(point) for point in points], fill=ink, width=3 * scale)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def photo(seed: int, *, gray: bool) -> Pixels:
    """Smooth noise, as in a photo."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 1 if gray else 3), dtype=np.uint8)
    wide = np.broadcast_to(noise, (8, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(wide).resize((96, 96), Image.Resampling.BICUBIC))


def test_gray_is_no_color_but_for_rounding() -> None:
    gray = photo(0, gray=True).clip(0, 250)
    for change, expected in ((0, True), (3, True), (4, False)):
        changed = gray.copy()
        changed[3, 3, 1] += change
        assert is_gray(changed) == expected


def test_characters_have_two_colors_and_photos_have_not() -> None:
    assert all(has_two_colors(np.asarray(draw_character(i))) for i in range(5))
    assert all(has_two_colors(np.asarray(draw_character(i, ink=(200, 20, 20), scale=8))) for i in range(5))
    assert has_two_colors(255 - np.asarray(draw_character(9)))
    small = [draw_character(i, scale=6).resize((28, 28), Image.Resampling.LANCZOS) for i in range(5)]  # as in MNIST
    assert all(has_two_colors(255 - np.asarray(image)) for image in small)
    assert not any(has_two_colors(photo(i, gray=gray)) for i in range(5) for gray in (True, False))
    assert not has_two_colors(np.full((20, 20, 3), 90, np.uint8))  # one
    near = np.full((20, 20, 3), 90, np.uint8)
    near[:10] += 60
    assert not has_two_colors(near)  # no contrast


def test_a_folder_is_judged_by_pixels_whatever_the_mode_of_its_files(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(photo(i, gray=True)).save(tmp_path / f"{i}.jpg", quality=70)  # RGB
    census = take_census(tmp_path)
    assert sample_colors(census, 1) == Colors(6, are_gray=True)
    Image.fromarray(photo(9, gray=False)).save(tmp_path / "9.jpg")
    assert not sample_colors(take_census(tmp_path), 1).are_gray
    (tmp_path / "5.jpg").write_bytes((tmp_path / "5.jpg").read_bytes()[:40])
    assert sample_colors(census, 1) == Colors(5, are_gray=True)  # what can be decoded


def test_a_folder_of_characters(tmp_path: Path) -> None:
    for i in range(12):
        draw_character(i).convert("1").save(tmp_path / f"{i}.png")
    assert sample_colors(take_census(tmp_path), 1) == Colors(12, are_gray=True, have_two=True)
    assert describe_colors([]) == Colors()
