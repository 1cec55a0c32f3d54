"""The folder of a run is found where it was moved to, and told from every other; changes are named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.core.errors import RunError
from simclr_cli.images.scan import take_census
from simclr_cli.store.history import write_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_image_list
from simclr_cli.train.resume_images import compare_images, find_image_folder, has_images_of, record_images


@pytest.fixture
def begun(tmp_path: Path, draw: Callable[..., Any]) -> RunFolder:
    """A run that was begun with 7 images in places/pics."""
    for i in range(7):
        draw(tmp_path / "places" / "pics" / f"{i % 2}" / f"{i}.png", i)
    return keep(RunFolder(tmp_path / "runs" / "a"), tmp_path / "places" / "pics")


def keep(run: RunFolder, folder: Path) -> RunFolder:
    record_images(run, take_census(folder))
    run.write_config({})
    return run


PLACES = {
    "renamed": "places/other-name",
    "beside the runs": "pics",
    "among the runs": "runs/pics",
    "here": "here/pics",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_was_moved_is_found_and_a_decoy_is_not(
    begun: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., Any], place: str
) -> None:
    before, there = tmp_path / "places" / "pics", tmp_path / PLACES[place]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(before, tmp_path / "places" / "decoy")
    draw(tmp_path / "places" / "decoy" / "1" / "5.png", seed=1, side=64)
    before.rename(there)
    assert find_image_folder(begun, before, None) == there
    assert has_images_of(begun, before, there) and not has_images_of(begun, before, tmp_path / "places" / "decoy")


def test_what_the_person_says_goes_first_then_where_it_was(begun: RunFolder, tmp_path: Path) -> None:
    assert find_image_folder(begun, tmp_path / "places" / "pics", None) == tmp_path / "places" / "pics"
    assert find_image_folder(begun, tmp_path / "places" / "pics", tmp_path) == tmp_path


def test_a_folder_that_is_nowhere_is_asked_for(begun: RunFolder, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "places")
    with pytest.raises(RunError, match=r"are no longer in .*places/pics") as caught:
        find_image_folder(begun, tmp_path / "places" / "pics", None)
    assert "--images FOLDER" in caught.value.remedy


def test_every_kind_of_change_is_named(begun: RunFolder, tmp_path: Path, draw: Callable[..., Any]) -> None:
    folder = tmp_path / "places" / "pics"
    before = read_image_list(begun).files
    assert not compare_images(before, take_census(folder))
    (folder / "0" / "0.png").unlink()
    for i in range(7):
        draw(folder / "2" / f"{i}.png")
    draw(folder / "1" / "1.png", side=64)
    os.utime(folder / "0" / "2.png", ns=(0, 1))
    assert compare_images(before, take_census(folder)).words == (
        "7 added (2/0.png, 2/1.png, 2/2.png, 2/3.png, 2/4.png, ...), 1 removed (0/0.png), 1 changed (1/1.png), "
        "1 of the same size but another modification time (0/2.png)"
    )


def test_changes_are_kept_with_the_epoch_that_they_came_after(
    begun: RunFolder, tmp_path: Path, draw: Callable[..., Any]
) -> None:
    folder = tmp_path / "places" / "pics"
    keep(begun, folder)
    assert read_image_list(begun).changes == []
    write_epochs(begun, [{"epoch": 1, "images_per_second": 1.0, "seconds": 1.0}])
    draw(folder / "8.png")
    keep(begun, folder)
    keep(begun, folder)
    found = read_image_list(begun)
    assert found.changes == [{"after_epochs": 1, "added": 1, "removed": 0, "changed": 0, "touched": 0}]
    assert len(found.files) == 8 and "8.png" in found.files


def test_what_a_start_that_was_killed_left_is_not_taken_for_a_change(
    tmp_path: Path, begun: RunFolder, draw: Callable[..., Any]
) -> None:
    """It had written down the images, and was no run yet."""
    begun.config_file.unlink()
    draw(tmp_path / "places" / "pics" / "8.png")
    keep(begun, tmp_path / "places" / "pics")
    assert read_image_list(begun).changes == []
