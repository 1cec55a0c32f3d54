"""The image of a confusion matrix."""

import io

import pytest
from PIL import Image

from simclr_cli.api import Confusion
from simclr_cli.pages.confusion_matrix import draw_confusion_matrix


def open_matrix(classes: list[str], cells: list[Confusion]) -> Image.Image:
    image = Image.open(io.BytesIO(draw_confusion_matrix(classes, cells)))
    assert image.format == "PNG"
    return image.convert("RGB")


def read_colors(image: Image.Image) -> set[tuple[int, int, int]]:
    return {color for _, color in image.getcolors(2**24)}


def test_correct_rows_are_blue_and_wrong_ones_are_red() -> None:
    right = read_colors(open_matrix(["a", "b"], [Confusion("a", "a", 5), Confusion("b", "b", 2)]))
    wrong = read_colors(open_matrix(["a", "b"], [Confusion("a", "b", 5), Confusion("b", "a", 2)]))
    assert (22, 98, 170) in right and (190, 62, 24) not in right
    assert (190, 62, 24) in wrong and (22, 98, 170) not in wrong


@pytest.mark.parametrize("count", [2, 10, 61, 1000])
def test_any_number_of_classes_makes_an_image_of_limited_size(count: int) -> None:
    classes = [f"class {i}" for i in range(count)]
    image = open_matrix(classes, [Confusion(name, name, 1) for name in classes])
    assert max(image.size) < 4100


@pytest.mark.parametrize("name", ["x" * 300, "\u202edlrow", "line\nbreak", "\udcff", "猫", "", "🐈"])
def test_any_name_of_a_class_can_be_drawn(name: str) -> None:
    open_matrix([name, "other"], [Confusion(name, "other", 3)])
