"""Fingerprints: hashes are those of imagehash, correlations those of numpy, and blurred images are less sharp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imagehash import phash
from PIL import Image, ImageFilter

from simclr_cli.images.fingerprints import compute_fingerprint, correlation, perceptual_hash, sharpness
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.synthetic import draw_images


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fingerprints")
    draw_images(folder, seed=3, count=40, size=96)
    return sorted(path for path in folder.rglob("*.*") if path.is_file())


def noise(seed: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_hashes_are_those_of_the_library(drawn: list[Path]) -> None:
    images = [Image.open(path).convert("RGB") for path in drawn]
    images += [noise(seed, 5 + 9 * seed, 3 + 40 * seed) for seed in range(12)]
    for image in images:
        assert f"{perceptual_hash(image):016x}" == str(phash(image))
        assert perceptual_hash(image.convert("L")) == perceptual_hash(image)


def test_fingerprint_of_a_file_is_that_of_its_upright_image(drawn: list[Path], tmp_path: Path) -> None:
    image = Image.open(drawn[0]).convert("RGB")
    rotated = tmp_path / "rotated.png"
    exif = Image.Exif()
    exif[0x0112] = 8  # to be rotated by 90 degrees counterclockwise
    image.transpose(Image.Transpose.ROTATE_270).save(rotated, exif=exif)
    assert compute_fingerprint(rotated, False).hash == perceptual_hash(image)
    assert compute_fingerprint(rotated, True).sharpness == pytest.approx(sharpness(image), rel=1e-4)


def test_blank_images_have_one_hash_whatever_their_shade() -> None:
    assert {perceptual_hash(Image.new("L", (64, 64), shade)) for shade in range(1, 256)} == {1 << 63}
    assert sharpness(Image.new("RGB", (9, 300), "red")) == 0


def test_sharpness_is_high_frequencies_over_low_ones() -> None:
    """Of a wave in each half of the frequencies: the ratio of their energies; a plane wave has one frequency."""
    x, y = np.meshgrid(np.arange(96), np.arange(64))
    low, high = np.cos(2 * np.pi * x / 8), np.cos(2 * np.pi * y * 3 / 8)  # 0.25 and 0.75 of the highest frequency
    for share in (0.25, 0.5, 1):
        image = Image.fromarray((128 + 60 * low + 60 * share * high).round().astype(np.uint8))
        assert sharpness(image) == pytest.approx(share**2, rel=0.05)


def test_an_upscaled_image_is_less_sharp_and_a_smaller_one_is_not() -> None:
    image = noise(1, 300, 200).filter(ImageFilter.GaussianBlur(0.6))
    upscaled = image.resize((400, 600), Image.Resampling.LANCZOS)
    assert sharpness(upscaled) < 0.3 * sharpness(image)
    assert sharpness(image.resize((100, 150), Image.Resampling.LANCZOS)) > 0.7 * sharpness(image)


def test_blurred_image_is_less_sharp_and_has_a_similar_hash() -> None:
    image = noise(1, 12, 16).resize((400, 300), Image.Resampling.NEAREST)
    blurred = [image.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 2, 4)]
    told = [sharpness(one) for one in (image, *blurred)]
    assert max(told[1:]) < 0.1 * told[0]
    assert sharpness(image.point(lambda value: value // 2)) == pytest.approx(told[0], rel=0.01)  # darker
    assert all((perceptual_hash(one) ^ perceptual_hash(image)).bit_count() <= 4 for one in blurred)


def test_correlation_is_that_of_numpy_whatever_the_brightness() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 200, (7, 768)).astype(np.uint8) for _ in range(2))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(correlation(first, second), expected, atol=1e-6)
    np.testing.assert_allclose(correlation(first, first + 30), 1, atol=1e-6)
    assert (correlation(first, np.full_like(first, 90)) == 0).all()  # blank


def test_file_without_an_image_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(UnusableImage):
        compute_fingerprint(tmp_path / "a.png", False)
