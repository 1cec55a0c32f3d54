"""Census of a folder: classes by folders, and images that decoding skips."""

import os
from pathlib import Path

import pytest

from simclr_cli.images.census import Census, ImageFile, SkippedImage


def names(census: Census) -> list[str]:
    return [image.name for image in census.images]


def census_of(*given: str) -> Census:
    images = tuple(ImageFile(name, "PNG", 4, 6, 100, 1) for name in sorted(given, key=os.fsencode))
    return Census(Path("/images"), images, (), 0)


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (("cat/1", "cat/2", "dog/1", "dog/2"), ("cat", "dog")),
        (("cat/1", "cat/x/y/2", "dog/1", "dog/x/2"), ("cat", "dog")),  # of the first level, whatever lies below
        (("Zebra/1", "Zebra/2", "ant/1", "ant/2"), ("Zebra", "ant")),
        (("1.png", "cat/1", "cat/2", "dog/1", "dog/2"), ()),  # one lies outside
        (("cat/1", "cat/2"), ()),  # one folder only
        (("cat/1", "cat/2", "dog/1"), ()),  # a single image in one
        (("1", "2", "3"), ()),
        (("train/1", "train/2", "test/1", "test/2"), ()),  # these are splits
        (("Train/1", "Train/2", "VAL/1", "VAL/2", "test/1", "test/2"), ()),
        (("train/1", "train/2", "bus/1", "bus/2"), ("bus", "train")),  # here a train is a vehicle
        (("é/1", "é/2", "\udcff/1", "\udcff/2"), ("é", "\udcff")),
    ],
)
def test_folders_look_like_classes(given: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert census_of(*given).classes == classes


def test_labels_stand_in_the_order_of_the_images() -> None:
    assert census_of("dog/1", "cat/2", "cat/1", "dog/0").labels == ["cat", "cat", "dog", "dog"]


def test_without_moves_images_to_the_skipped() -> None:
    census = census_of("a", "b", "c", "d")
    left = census.without([SkippedImage("d", "truncated")]).without([SkippedImage("b", "truncated")])
    assert names(left) == ["a", "c"]
    assert left.skipped == (SkippedImage("b", "truncated"), SkippedImage("d", "truncated"))
    assert left.fingerprint != census.fingerprint
    assert names(census) == ["a", "b", "c", "d"]
