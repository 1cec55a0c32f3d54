"""The cache command: caches are listed and cleared; that loses nothing but time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import (
    CacheResult,
    CacheSettings,
    DuplicatesResult,
    DuplicatesSettings,
    FolderCache,
    PretrainResult,
)
from simclr_cli.commands.cache import cache
from simclr_cli.commands.duplicates import duplicates
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Event, Progress
from simclr_cli.images.scan import take_census

Train = Callable[..., PretrainResult]


@pytest.fixture
def root() -> Path:
    """Return the folder of this test's caches."""
    return Path(os.environ["SIMCLR_CACHE"])


def call(images: Path | None = None, *, clear: bool = False) -> CacheResult:
    return cache(CacheSettings(images=images, clear=clear))


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def count_decoded(events: list[Event]) -> int:
    """Return how many images a run decoded."""
    return max((event.done for event in events if isinstance(event, Progress) and event.stage == "decoding"), default=0)


def two_folders(tmp_path: Path, draw: Callable[..., Any]) -> tuple[Path, Path]:
    for name in ("one", "two"):
        for i in range(4):
            draw(tmp_path / name / f"{i}.png", i)
    return tmp_path / "one", tmp_path / "two"


def test_no_cache_is_an_empty_result_and_makes_nothing(root: Path, tmp_path: Path) -> None:
    root.mkdir()
    for images in (None, tmp_path, tmp_path / "nowhere"):
        for clear in (False, True):
            assert call(images, clear=clear) == CacheResult(str(root), clear, 0, ())
    assert list(root.iterdir()) == []
    root.rmdir()
    assert call() == CacheResult(str(root), False, 0, ()) and call(clear=True).caches == ()
    assert not root.exists()


def test_headers_and_pixels_of_a_run_are_listed(
    root: Path, tmp_path: Path, draw: Callable[..., Any], train: Train
) -> None:
    one, two = two_folders(tmp_path, draw)
    before = datetime.now(UTC) - timedelta(seconds=2)
    train(one, batch_size=4)
    train(one, batch_size=4, image_size=20)
    take_census(two)  # headers only
    found = call()
    assert (found.root, found.cleared) == (str(root), False)
    assert found.bytes == sum(kept.bytes for kept in found.caches) == count_bytes(root)
    kept = {kept.folder: kept for kept in found.caches}
    assert kept.keys() == {str(one), str(two)}
    assert kept[str(one)].sides == (30, 48)  # half as much again as is trained on, but no more than there is
    assert kept[str(one)].bytes == count_bytes(Path(kept[str(one)].path)) > 4 * 3 * (30 * 30 + 48 * 48)
    assert kept[str(two)].sides == ()
    for entry in kept.values():
        used = datetime.fromisoformat(entry.used)
        assert used.utcoffset() == timedelta(0) and before <= used <= datetime.now(UTC)
        assert Path(entry.path).parent == root


def search(images: Path, **values: Any) -> DuplicatesResult:
    chosen = {"encoder": "random:tiny_resnet", "image_size": 40, "min_similarity": 0.9, **values}
    return duplicates(DuplicatesSettings(images=images, **chosen))


def test_encoders_whose_embeddings_are_kept_are_counted(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, two = two_folders(tmp_path, draw)
    take_census(two)
    for seed in (0, 1, 1):
        search(one, seed=seed)
    found = call()
    assert {kept.folder: kept.encoders for kept in found.caches} == {str(one): 2, str(two): 0}
    assert found.bytes == count_bytes(root) > 2 * 4 * 96 * 4  # two indexes of four rows of 96 floats
    next(root.glob("*/embeddings-*/index.json")).unlink()  # as before the end of the first search
    assert call(one).caches[0].encoders == 1


def test_clearing_removes_embeddings_and_pages_and_changes_no_result(
    root: Path, tmp_path: Path, draw: Callable[..., Any], checksum: Callable[[Path], Any]
) -> None:
    """The pages of --open: of an index, and of exact duplicates, which have none."""
    one, _ = two_folders(tmp_path, draw)
    first, exact = search(one, open=True), duplicates(DuplicatesSettings(images=one, kind="exact", open=True))
    pages, images = [Path(str(result.out)) for result in (first, exact)], checksum(one)
    assert all(page.is_file() and page.is_relative_to(root) for page in pages) and pages[0] != pages[1]
    shown = call(one)
    assert shown.bytes == count_bytes(root) and shown.caches[0].encoders == 1
    assert call(one, clear=True).bytes == shown.bytes
    assert list(root.iterdir()) == [] and call().caches == () and checksum(one) == images
    assert search(one, open=True) == first and pages[0].is_file()


def test_one_folder_is_found_by_any_path_to_it(
    tmp_path: Path, draw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_folders(tmp_path, draw)
    take_census(one)
    take_census(two)
    (tmp_path / "link").symlink_to(one)
    monkeypatch.chdir(tmp_path)
    for path in (one, Path("one"), Path("link"), Path("two/../one")):
        assert [kept.folder for kept in call(path).caches] == [str(one)]
    assert call(tmp_path).caches == ()


def test_clearing_removes_one_cache_and_changes_no_result(
    root: Path, tmp_path: Path, draw: Callable[..., Any], train: Train, checksum: Callable[[Path], Any]
) -> None:
    one, two = two_folders(tmp_path, draw)
    events: list[list[Event]] = [[], [], []]
    first = train(one, batch_size=4, report=events[0].append)
    train(two, batch_size=4)
    images, shown = checksum(tmp_path / "one"), call(one)
    result = call(one, clear=True)
    assert result.cleared and result.caches == shown.caches and result.bytes == shown.bytes > 0
    assert [kept.folder for kept in call().caches] == [str(two)]
    assert not Path(shown.caches[0].path).exists()
    assert checksum(tmp_path / "one") == images
    again = train(one, batch_size=4, report=events[1].append)
    more = train(one, batch_size=4, report=events[2].append)
    assert first.model_checksum == again.model_checksum == more.model_checksum
    assert [count_decoded(seen) for seen in events] == [4, 4, 0]


def test_caches_of_missing_folders_are_cleared_too(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, two = two_folders(tmp_path, draw)
    take_census(one)
    take_census(two)
    shutil.rmtree(one)
    assert [kept.folder for kept in call(one).caches] == [str(one)]
    assert len(call(clear=True).caches) == 2
    assert call().caches == () and list(root.iterdir()) == []


def test_files_of_others_are_neither_listed_nor_deleted(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, _ = two_folders(tmp_path, draw)
    take_census(one)
    own = Path(call().caches[0].path)
    strangers = [root / "letter.txt", root / "other" / "file.bin", own / "notes.txt", own / "48" / "mine.u8",
                 own / "embeddings-1" / "mine.txt", own / "embeddings-1" / "pages" / "mine.txt"]  # fmt: skip
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 1000)
    assert call().bytes < 1000
    call(clear=True)
    assert all(path.exists() for path in strangers) and call().caches == ()


def test_a_run_continues_while_its_cache_is_cleared(tmp_path: Path, draw: Callable[..., Any], train: Train) -> None:
    """Mapped files stay mapped."""
    one, _ = two_folders(tmp_path, draw)
    cleared: list[FolderCache] = []

    def report(event: Event) -> None:
        if type(event).__name__ == "StepDone" and not cleared:
            cleared.extend(call(clear=True).caches)

    undisturbed = train(one, batch_size=4, epochs=3, run="calm")
    made = train(one, batch_size=4, epochs=3, run="cleared", report=report)
    assert len(cleared) == 1 and made.model_checksum == undisturbed.model_checksum


def stuck(tmp_path: Path, draw: Callable[..., Any]) -> tuple[Path, Path]:
    """Return a cache with a file that cannot be deleted, like another user's: a folder with its name."""
    one, _ = two_folders(tmp_path, draw)
    take_census(one)
    path = Path(call().caches[0].path) / "48" / "index.json"
    path.mkdir(parents=True)
    return one, path


def test_failed_deletion_is_a_machine_error_with_the_path(tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, path = stuck(tmp_path, draw)
    with pytest.raises(MachineError, match="Cannot clear") as caught:
        call(one, clear=True)
    assert str(path.parents[1]) in caught.value.problem and "permissions" in caught.value.remedy


def test_a_cache_that_cannot_be_cleared_is_still_listed(tmp_path: Path, draw: Callable[..., Any]) -> None:
    """Otherwise what remains could be neither seen nor cleared again; Ctrl-C has the same effect."""
    one, path = stuck(tmp_path, draw)
    with pytest.raises(MachineError):
        call(one, clear=True)
    path.rmdir()
    assert [kept.folder for kept in call().caches] == [str(one)]


def test_damaged_headers_are_skipped(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, two = two_folders(tmp_path, draw)
    for text in ("", "[]", "{}", '{"folder": 1', "\xff"):
        take_census(one)
        take_census(two)
        (Path(call(one).caches[0].path) / "headers.json").write_text(text, encoding="latin-1")
        assert [kept.folder for kept in call().caches] == [str(two)]
