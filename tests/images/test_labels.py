"""Labels by class folders and by tables."""

import os
from pathlib import Path

import pytest

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Event, Note
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.labels import label_held_out_images, label_images


def census_of(*names: str) -> Census:
    images = tuple(ImageFile(name, "PNG", 4, 6, 100, 1) for name in sorted(names, key=os.fsencode))
    return Census(Path("/images"), images, (), 0)


def labeled_names(census: Census) -> list[str]:
    return [image.name for image in census.images]


CLASSES = census_of("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
FLAT = census_of("a.png", "b.png", "c.png", "d.png")


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_class_folders_are_the_labels() -> None:
    census, labels = label_images(CLASSES)
    assert census == CLASSES
    assert labels == {"cat/1.png": "cat", "cat/2.png": "cat", "dog/1.png": "dog", "dog/2.png": "dog"}


def test_no_class_folders_and_no_table_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"--labels FILE\.csv") as caught:
        label_images(FLAT)
    assert caught.value.exit_code == 3


def test_table_labels_the_images_it_names_and_no_others(tmp_path: Path) -> None:
    census, labels = label_images(FLAT, table(tmp_path, "path,label\na.png,x\nc.png,y\nelsewhere.png,z\n"))
    assert [image.name for image in census.images] == ["a.png", "c.png"]
    assert labels == {"a.png": "x", "c.png": "y"}


def test_table_goes_before_the_folders(tmp_path: Path) -> None:
    _, labels = label_images(CLASSES, table(tmp_path, "path,label\ncat/1.png,old\ndog/1.png,young\n"))
    assert labels == {"cat/1.png": "old", "dog/1.png": "young"}


def test_table_that_names_no_image_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"such as a\.png"):
        label_images(FLAT, table(tmp_path, "path,label\n/abs/a.png,x\n"))


def test_table_of_one_class_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one class"):
        label_images(FLAT, table(tmp_path, "path,label\na.png,x\nb.png,x\nelsewhere.png,y\n"))


def test_held_out_folder_may_hold_a_single_image() -> None:
    census = census_of("cat/9.png")
    assert label_held_out_images(census, frozenset({"cat", "dog"})) == (census, {"cat/9.png": "cat"})


def test_few_held_out_images_of_no_known_class_are_excluded_and_named() -> None:
    events: list[Event] = []
    census, labels = label_held_out_images(
        census_of("cat/1.png", "dog/1.png", "bird/1.png"), frozenset({"cat", "dog"}), events.append
    )
    assert [image.name for image in census.images] == list(labels) == ["cat/1.png", "dog/1.png"]
    assert isinstance(events[0], Note) and "1 of 3 images" in events[0].text and "bird/1.png" in events[0].text


def test_images_without_a_class_folder_are_excluded_and_named() -> None:
    events: list[Event] = []
    census, labels = label_images(census_of("stray.png", *labeled_names(CLASSES)), None, events.append)
    assert [image.name for image in census.images] == list(labels) == labeled_names(CLASSES)
    assert isinstance(events[0], Note) and events[0].warning and "(stray.png)" in events[0].text


def test_held_out_folder_with_several_splits_is_an_input_error() -> None:
    names = [f"{split}/{label}/1.png" for split in ("train", "test") for label in ("cat", "dog")]
    with pytest.raises(InputError, match="test, train are splits") as caught:
        label_held_out_images(census_of(*names), frozenset({"cat", "dog"}))
    assert "--test" in caught.value.remedy


@pytest.mark.parametrize("names", [("cat/1.png", "bird/1.png"), ("cat/1.png", "2.png"), ("cat",)])
def test_held_out_images_of_no_known_class_are_an_input_error(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="None of the classes cat, dog fits"):
        label_held_out_images(census_of(*names), frozenset({"cat", "dog"}))
