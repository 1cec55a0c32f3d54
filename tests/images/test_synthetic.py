"""Images of the demo: reproducible, varied on disk, and not classified by color or raw pixels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from simclr_cli.images.synthetic import CLASSES, draw_image, draw_images

DRAWN = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_images(folder, seed=0, count=DRAWN)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def drawn(per_class: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return pixels (n, side, side, 3) and class numbers (n,)."""
    images = [
        np.asarray(draw_image(name, np.random.default_rng([5, c, i]), side, side))
        for c, name in enumerate(CLASSES)
        for i in range(per_class)
    ]
    return np.stack(images), np.repeat(np.arange(len(CLASSES)), per_class)


def knn_accuracy(vectors: NDArray[np.floating], labels: NDArray[np.intp], k: int = 20) -> float:
    """Return the leave-one-out accuracy of the k nearest by cosine, each voting with weight exp(cosine / 0.07)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    nearest = np.argsort(-cosine, axis=1)[:, :k]
    weights = np.exp(np.take_along_axis(cosine, nearest, 1) / 0.07)
    votes = np.stack([(weights * (labels[nearest] == c)).sum(1) for c in range(labels.max() + 1)], axis=1)
    return float((votes.argmax(1) == labels).mean())


def test_same_seed_same_files_and_other_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_images(tmp_path / name, seed=seed, count=60)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not set(contents(tmp_path / "a").values()) & set(contents(tmp_path / "c").values())


def test_fewer_images_are_a_prefix_of_more(folder: Path, tmp_path: Path) -> None:
    few = draw_images(tmp_path, seed=0, count=57)
    assert len(few) == 57
    whole = contents(folder)
    assert all(whole[name] == data for name, data in contents(tmp_path).items())


def test_returns_every_file_and_spreads_them_evenly_over_the_classes(tmp_path: Path) -> None:
    paths = draw_images(tmp_path, seed=1, count=43, size=32)
    assert set(paths) == {path for path in tmp_path.rglob("*") if path.is_file()}
    counts = Counter(path.parent.name for path in paths)
    assert tuple(sorted(counts)) == CLASSES
    assert set(counts.values()) == {4, 5}


def test_every_file_loads_and_holds_an_image_with_contrast(folder: Path) -> None:
    for path in sorted(folder.rglob("*.*")):
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image).convert("L" if image.mode != "I;16" else "I")
            pixels = np.asarray(upright)
            assert pixels.std() > 0.01 * (65535 if image.mode == "I;16" else 255), path


def test_some_files_have_odd_shapes_modes_and_formats(folder: Path) -> None:
    formats, modes, sizes, sideways = Counter[str](), Counter[str](), Counter[tuple[int, int]](), 0
    for path in folder.rglob("*.*"):
        with Image.open(path) as image:
            formats[str(image.format)] += 1
            modes[image.mode] += 1
            upright = ImageOps.exif_transpose(image)
            sizes[upright.size] += 1
            if image.getexif().get(0x0112, 1) != 1:
                sideways += 1
                assert (image.size, upright.size) == ((72, 144), (144, 72))
    assert set(formats) >= {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"}
    assert ("AVIF" in formats) == features.check("avif")
    assert set(modes) == {"RGB", "L", "LA", "P", "RGBA", "I;16", "CMYK"}
    assert set(sizes) == {(96, 96), (144, 72), (72, 144), (48, 48), (144, 144)}
    assert sideways > 0
    assert sizes[96, 96] > 0.85 * DRAWN
    assert formats["PNG"] + formats["JPEG"] > 0.9 * DRAWN


def test_transparency_is_partial_and_in_a_corner(folder: Path) -> None:
    seen = 0
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            if image.mode in {"LA", "RGBA"}:
                alpha = np.asarray(image.getchannel("A"))
                assert alpha[0, 0] == 255
                assert 0 < alpha[-1, -1] < 128
                seen += 1
    assert seen > 0


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_takes_any_width_and_height(name: str) -> None:
    image = draw_image(name, np.random.default_rng(0), 31, 18)
    assert (image.size, image.mode) == ((31, 18), "RGB")


def test_raw_pixels_hardly_tell_the_classes() -> None:
    pixels, labels = drawn(per_class=60, side=32)
    assert knn_accuracy(pixels.reshape(len(pixels), -1) / 255 - 0.5, labels) < 0.27  # chance is 0.1


def test_color_histograms_hardly_tell_the_classes() -> None:
    pixels, labels = drawn(per_class=60, side=48)
    bins = (pixels // 32).astype(int) @ np.array([64, 8, 1])
    histograms = np.stack([np.bincount(image.ravel(), minlength=512) for image in bins]).astype(float)
    assert knn_accuracy(histograms, labels) < 0.25  # chance is 0.1
