"""Labels by class folders and by tables."""

import os
from pathlib import Path

import pytest

from simclr_cli.core.errors import InputError
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.labels import label_held_out_images, label_images, read_labels


def census_of(*names: str) -> Census:
    images = tuple(ImageFile(name, "PNG", 4, 6, 100, 1) for name in sorted(names, key=os.fsencode))
    return Census(Path("/images"), images, (), 0)


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,label\na.png,x\n", {"a.png": "x"}),
        ("\ufeffpath,label\na.png,x\n", {"a.png": "x"}),  # as Excel saves it
        ("path,label\r\na.png,x\r\n", {"a.png": "x"}),
        ('path,label\n"a, b.png","say ""hi"""\n', {"a, b.png": 'say "hi"'}),
        ('path,label\n"new\nline.png",x\n', {"new\nline.png": "x"}),
        ("label,split,path\nx,train,a.png\n", {"a.png": "x"}),
        ("path,label\n\na.png,x\n\n", {"a.png": "x"}),
        ("path,label\na.png,x\na.png,x\n", {"a.png": "x"}),  # twice the same is no contradiction
        ("path,label\né.png,größe\n", {"é.png": "größe"}),
        ("path,label\n", {}),
    ],
)
def test_tables_as_they_come(tmp_path: Path, content: str, expected: dict[str, str]) -> None:
    assert read_labels(table(tmp_path, content)) == expected


def test_table_may_name_files_that_are_not_utf8(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, b"path,label\ncaf\xe9.png,x\n")) == {"caf\udce9.png": "x"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "columns none"),
        ("path\na.png\n", "has the columns path"),
        ("file,class\na.png,x\n", "has the columns file, class"),
        ("path;label\na.png;x\n", "has the columns path;label"),
        ("path,label\na.png,\n", "lacks a path or a label in line 2"),
        ("path,label\na.png,x\n,y\n", "in line 3"),
        ("path,label\na.png\n", "lacks a path or a label"),
        ("path,label\na.png,x\nb.png,x\na.png,y\n", "gives a.png two labels, x and y"),
        (b"\xff\xfep\0a\0t\0h\0", "has the columns"),  # UTF-16
    ],
)
def test_unusable_tables_are_input_errors_with_the_reason(tmp_path: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        read_labels(table(tmp_path, content))
    assert caught.value.exit_code == 3


def test_missing_table_and_folder_as_table_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_labels(path)


def test_field_without_an_end_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(table(tmp_path, 'path,label\n"' + "a" * 200_000))


def test_held_out_folder_may_hold_a_single_image() -> None:
    assert label_held_out_images(census_of("cat/9.png"), frozenset({"cat", "dog"})) == {"cat/9.png": "cat"}


@pytest.mark.parametrize("names", [("cat/1.png", "bird/1.png"), ("cat/1.png", "2.png"), ("cat",)])
def test_held_out_image_of_no_known_class_is_an_input_error(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="lies in none of the classes cat, dog"):
        label_held_out_images(census_of(*names), frozenset({"cat", "dog"}))
