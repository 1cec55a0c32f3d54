"""Census of a folder: classes by folders, and images that decoding skips."""

import json
import os
from pathlib import Path

from simclr_cli.images.census import Census, ImageFile, SkippedImage


def names(census: Census) -> list[str]:
    return [image.name for image in census.images]


def census_of(*given: str) -> Census:
    images = tuple(ImageFile(name, "PNG", 4, 6, 100, 1) for name in sorted(given, key=os.fsencode))
    return Census(Path("/images"), images, (), 0)


def test_labels_stand_in_the_order_of_the_images() -> None:
    assert census_of("dog/1", "cat/2", "cat/1", "dog/0").labels == ("cat", "cat", "dog", "dog")


def test_unused_files_are_listed_with_their_reasons_up_to_a_bound() -> None:
    other = ("a/@eaDir/", *(f"{i}.xml" for i in range(20_000)))
    census = Census(Path("/images"), (), (SkippedImage("b", "damaged"),), len(other), other)
    listed = census.list_skipped_and_odd()
    assert len(listed) == 10_001 and listed[0] == ("b", "damaged") and listed[2] == ("0.xml", "not an image")
    assert listed[1][0] == "a/@eaDir/" and "system folder" in listed[1][1]
    assert census.other_kinds == {".xml": 20_000, "@eaDir/": 1}
    assert Census.from_json(json.loads(json.dumps(census.to_json()))) == census


def test_without_moves_images_to_the_skipped() -> None:
    census = census_of("a", "b", "c", "d")
    left = census.without([SkippedImage("d", "truncated")]).without([SkippedImage("b", "truncated")])
    assert names(left) == ["a", "c"]
    assert left.skipped == (SkippedImage("b", "truncated"), SkippedImage("d", "truncated"))
    assert left.fingerprint != census.fingerprint
    assert names(census) == ["a", "b", "c", "d"]
