"""The duplicates command: planted duplicates are found, the best first; moved and restored, nothing has changed."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.api import DuplicatesResult, DuplicatesSettings
from simclr_cli.commands import duplicates as module
from simclr_cli.commands.duplicates import duplicates
from simclr_cli.core.errors import InputError, Interrupted, SettingsError
from simclr_cli.core.events import Event, Note, Progress, silent
from simclr_cli.core.text import unescape_name
from simclr_cli.diagnose.inputs import check_inputs
from simclr_cli.images.cache_location import locate_cache
from simclr_cli.images.formats import TemporarilyUnusable
from simclr_cli.search import update as update_module
from simclr_cli.search.duplicate_groups import find_duplicates
from simclr_cli.store.moves import JOURNAL


def find(own: Any, report: Callable[[Event], None] = lambda _: None, **values: Any) -> DuplicatesResult:
    return duplicates(DuplicatesSettings(runs=own.runs, **values), report=report)


@pytest.fixture
def planted(own: Any) -> Any:
    """Add to the run's folder two exact duplicates and a small one of one image, and an exact one of another."""
    folder = own.images
    scene = Image.fromarray(np.random.default_rng(5).integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96))
    scene.save(folder / "scene.png")
    scene.resize((60, 60)).save(folder / "dots" / "a-small-one.png")
    shutil.copy2(folder / "scene.png", folder / "dots" / "=scene.png")
    shutil.copy2(folder / "scene.png", folder / "dots" / "scene\udcff.png")
    shutil.copy2(folder / "bricks" / "0000.png", folder / "zzz.png")
    return own


def names(result: DuplicatesResult, own: Any) -> list[list[str]]:
    return [[str(Path(image.path).relative_to(own.images)) for image in group.images] for group in result.groups]


SCENE = ["dots/=scene.png", "dots/scene\udcff.png", "scene.png", "dots/a-small-one.png"]
BRICKS = ["bricks/0000.png", "zzz.png"]


def test_planted_duplicates_are_found_and_the_best_comes_first(planted: Any) -> None:
    result = find(planted, min_similarity=0.8)
    assert names(result, planted) == [SCENE, BRICKS]
    assert (result.searched, result.threshold, result.duplicates) == (53, 0.8, 4)
    first = result.groups[0].images
    assert [image.exact for image in first] == [True, True, True, False]
    assert [image.similarity for image in first[:3]] == [1, 1, 1] and 0.8 <= first[3].similarity <= 1
    assert [(image.width, image.height, image.hash_distance) for image in first[:3]] == [(96, 96, 0)] * 3
    assert (first[3].width, first[3].height) == (60, 60) and first[3].hash_distance in range(9)
    assert result.groups[0].bytes == sum(Path(image.path).stat().st_size for image in first[1:])
    assert result.bytes == sum(group.bytes for group in result.groups)
    assert [names(find(planted, kind=kind), planted) for kind in ("exact", "near")] == [
        [SCENE[:3], BRICKS],
        [["dots/=scene.png", "dots/a-small-one.png"]],
    ]


def test_the_threshold_is_taken_from_views(planted: Any) -> None:
    library = module.open_library(DuplicatesSettings(runs=planted.runs), lambda _: None)
    _, calibration = module.open_index(library, lambda _: None)
    result = find(planted)
    assert (result.folder, result.encoder) == (str(planted.images), str(planted.run.path))
    assert result.threshold == pytest.approx(min(0.999, calibration.view_quantile(50)))
    assert names(result, planted) == [SCENE, BRICKS]


def test_moved_and_restored_the_folder_is_as_it_was(
    planted: Any, tmp_path: Path, checksum: Callable[[Path], Any]
) -> None:
    files = lambda: {name: value for name, value in checksum(planted.images).items() if value[1]}  # noqa: E731
    before, folder = files(), tmp_path / "moved"
    moved = find(planted, min_similarity=0.8, move_to=folder)
    assert (moved.moved, moved.moved_to, moved.not_moved) == (4, str(folder), ())
    gone = {path for group in names(moved, planted) for path in group[1:]}
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == gone | {JOURNAL}
    assert len(files()) == len(before) - 4
    assert find(planted, min_similarity=0.8).groups == ()
    with pytest.raises(SettingsError, match="are not restored"):
        find(planted, move_to=folder)
    (tmp_path / "empty").mkdir()
    check_inputs(DuplicatesSettings(restore=folder, images=tmp_path / "empty"))  # into any folder
    back = find(planted, restore=folder, images=planted.images)
    assert (back.folder, back.encoder, back.searched) == (None, None, 0)
    assert (back.moved, back.moved_to, back.not_moved) == (4, str(planted.images), ())
    assert files() == before and list(folder.iterdir()) == []
    assert names(find(planted, min_similarity=0.8), planted) == [SCENE, BRICKS]


def test_an_interrupted_move_says_how_to_restore(planted: Any, tmp_path: Path, checksum: Callable[[Path], Any]) -> None:
    before = checksum(planted.images).keys()

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "moving" and event.done == 2:
            raise Interrupted("Stopped by Ctrl-C.", "")

    with pytest.raises(Interrupted, match=r"simclr duplicates \S+ --restore") as caught:
        find(planted, stop, kind="exact", move_to=tmp_path / "moved")
    assert caught.value.exit_code == 130 and checksum(planted.images).keys() != before
    find(planted, restore=tmp_path / "moved", images=planted.images)
    assert checksum(planted.images).keys() == before


def test_a_file_that_changed_since_stays(planted: Any, tmp_path: Path) -> None:
    find(planted)
    Image.new("RGB", (50, 50), "red").save(planted.images / "zzz.png")
    result = find(planted, min_similarity=1.0, no_update=True, move_to=tmp_path / "moved")
    assert result.moved == 2
    assert result.not_moved == (f"{planted.images / 'zzz.png'}: changed since it was read",)
    assert (planted.images / "zzz.png").exists()


def test_if_the_best_image_is_gone_the_others_stay(planted: Any, tmp_path: Path) -> None:
    find(planted)
    (planted.images / BRICKS[0]).unlink()
    result = find(planted, min_similarity=1.0, no_update=True, move_to=tmp_path / "moved")
    assert result.moved == 2 and (planted.images / "zzz.png").exists()
    assert result.not_moved == (f"{planted.images / 'zzz.png'}: its best image {BRICKS[0]} is missing or has changed",)


# A folder without a run


@pytest.mark.usefixtures("default_encoder")
def test_a_folder_is_searched_with_the_default_encoder(planted: Any, tmp_path: Path) -> None:
    settings = DuplicatesSettings(images=planted.images, runs=tmp_path / "none", min_similarity=0.8)
    result = duplicates(settings)
    assert (result.folder, result.encoder) == (str(planted.images), "tiny_resnet.r160_in1k")
    assert names(result, planted) == [SCENE, BRICKS] and result.threshold == 0.8
    assert not planted.run.vectors_folder.exists()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that records every file whose checksum is computed from now on."""
    paths: list[Path] = []
    compute = update_module.checksum_image

    def record(path: Path) -> str:
        paths.append(path)
        return compute(path)

    monkeypatch.setattr(update_module, "checksum_image", record)
    return paths


@pytest.mark.usefixtures("hub")
def test_exact_duplicates_need_neither_run_nor_encoder_nor_weights(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: Callable[[Path], Any]
) -> None:
    """The groups are those of an index, with the same values for each image."""
    index, _ = module.open_index(module.open_library(DuplicatesSettings(runs=planted.runs), silent), silent)
    found = find_duplicates(index, "exact", 0, workers=1)
    expected = tuple(module.describe_group(group, index, found) for group in found.groups)
    before = checksum(planted.images)
    monkeypatch.setattr(module, "open_library", lambda *_: pytest.fail("an encoder was loaded"))
    settings = DuplicatesSettings(images=planted.images, runs=tmp_path / "none", kind="exact")
    result = duplicates(settings)
    assert result.groups == expected and names(result, planted) == [SCENE[:3], BRICKS]
    assert (result.folder, result.encoder, result.threshold) == (str(planted.images), None, None)
    assert (result.searched, result.duplicates, result.bytes) == (53, 3, sum(group.bytes for group in expected))
    assert checksum(planted.images) == before and not (tmp_path / "none").exists()


def test_exact_duplicates_are_read_only_if_their_sizes_are_equal(
    tmp_path: Path, draw: Callable[..., Any], hashed: list[Path]
) -> None:
    folder = tmp_path / "pics"
    for seed in range(2):  # uncompressed: of equal size, with other content
        draw(folder / f"{seed}.png", seed)
        with Image.open(folder / f"{seed}.png") as image:
            image.save(folder / f"{seed}.bmp")
        (folder / f"{seed}.png").write_bytes((folder / f"{seed}.png").read_bytes() + bytes(seed))  # of another size
    (folder / "more").mkdir()
    shutil.copy(folder / "1.bmp", folder / "more" / "copy.bmp")
    result = duplicates(DuplicatesSettings(images=folder, kind="exact"))
    assert sorted(hashed) == [folder / "0.bmp", folder / "1.bmp", folder / "more" / "copy.bmp"]
    assert [[image.path for image in group.images] for group in result.groups] == [
        [str(folder / "1.bmp"), str(folder / "more" / "copy.bmp")]
    ]
    assert result.searched == 5


def test_exact_duplicates_of_a_run_are_searched_in_its_images(planted: Any, tmp_path: Path) -> None:
    by_run, by_folder = (
        find(planted, kind="exact", run=planted.name),
        find(planted, kind="exact", images=planted.images),
    )
    assert by_run == by_folder and names(by_run, planted) == [SCENE[:3], BRICKS]
    assert (by_run.folder, by_run.encoder) == (str(planted.images), None)
    assert not planted.run.vectors_folder.exists()
    moved = find(planted, kind="exact", move_to=tmp_path / "moved")
    assert moved.moved == 3 and find(planted, kind="exact").groups == ()


def test_an_unreadable_file_is_no_exact_duplicate_and_is_reported(
    planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = update_module.checksum_image

    def closed(path: Path) -> str:
        if path.name == "zzz.png":
            raise TemporarilyUnusable("permission denied")
        return compute(path)

    monkeypatch.setattr(update_module, "checksum_image", closed)
    said: list[Event] = []
    result = find(planted, said.append, kind="exact")
    assert names(result, planted) == [SCENE[:3]] and result.searched == 52
    warnings = [event.text for event in said if isinstance(event, Note) and event.warning]
    assert warnings == ["Skipped 1 file; the first is zzz.png (permission denied)."]


def test_the_page_of_exact_duplicates_is_in_the_cache_of_the_folder(planted: Any) -> None:
    result = duplicates(DuplicatesSettings(images=planted.images, kind="exact", open=True))
    assert result.out == str(locate_cache(planted.images) / "pages" / "duplicates.html")
    assert "53 images, 2 groups, 3 duplicates" in Path(result.out).read_text(encoding="utf-8")


def test_a_folder_within_the_images_is_an_error(planted: Any, checksum: Callable[[Path], Any]) -> None:
    before = checksum(planted.images)
    with pytest.raises(SettingsError, match="overlaps the folder"):
        find(planted, move_to=planted.images / "moved")
    assert checksum(planted.images) == before


def test_without_duplicates_nothing_is_moved(own: Any, tmp_path: Path) -> None:
    result = find(own, kind="exact", move_to=tmp_path / "moved")
    assert (result.groups, result.duplicates, result.moved, result.moved_to) == ((), 0, 0, None)
    with pytest.raises(InputError, match="nothing was moved there"):
        find(own, restore=tmp_path / "moved")


def test_an_indirect_duplicate_is_shown_and_not_moved(own: Any, tmp_path: Path) -> None:
    """A gradual change, each image a near-duplicate of the next: those that do not match the best one stay."""
    draw = np.random.default_rng(3)
    first, last = (Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96)) for _ in range(2))
    for step in range(41):
        Image.blend(first, last, step / 40).save(own.images / f"step-{step:02}.png")
    result = find(own, min_similarity=-1.0, kind="near", move_to=tmp_path / "moved")
    group = max(result.groups, key=lambda group: len(group.images))
    assert len(group.images) > 20
    stayed = [line for line in result.not_moved if "a duplicate of other duplicates" in line]
    assert len(stayed) > 5
    for image in group.images[1:]:
        path = Path(image.path)
        moved = not path.exists()
        assert moved == (not any(line.startswith(f"{path}:") for line in stayed))
        assert not moved or (image.hash_distance is not None and image.hash_distance <= 8)


@pytest.mark.parametrize("ending", [".json", ".csv", ".html"])
def test_results_are_written(planted: Any, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"found{ending}"
    result = find(planted, min_similarity=0.8, out=out)
    assert result.out == str(out)
    if ending == ".json":
        assert [len(group["images"]) for group in json.loads(out.read_text())["groups"]] == [4, 2]
    elif ending == ".csv":
        with out.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [unescape_name(row["path"]) for row in rows] == [
            image.path for group in result.groups for image in group.images
        ]
        assert [row["best"] for row in rows] == ["True", "False", "False", "False", "True", "False"]
    else:
        page = out.read_text(encoding="utf-8")
        assert page.count("data:image") >= 6 and "53 images, 2 groups, 4 duplicates" in page


def test_a_hard_link_frees_nothing_and_is_never_moved(planted: Any, tmp_path: Path) -> None:
    """The small image has a second name, so it stays although it is not the best; the folder is shown as typed."""
    small = planted.images / "dots" / "a-small-one.png"
    (planted.images / "linked.png").hardlink_to(small)
    result = find(planted, min_similarity=0.8, move_to=tmp_path / "moved")
    assert [len(group.images) for group in result.groups] == [4, 2] and result.folder == str(planted.images)
    assert result.groups[0].bytes == sum(image.bytes for image in result.groups[0].images[1:] if image.width == 96)
    assert result.moved == 3 and small.exists() and (planted.images / "linked.png").exists()
    (line,) = result.not_moved
    assert "other names (links)" in line
