"""`cache`: what is kept of folders of images, shown and cleared; nothing is lost with it but time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import CacheResult, CacheSettings, FolderCache, PretrainResult
from simclr_cli.commands.cache import cache
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Event, Progress
from simclr_cli.images.scan import take_census

Train = Callable[..., PretrainResult]


@pytest.fixture
def root() -> Path:
    """Where this test's caches live."""
    return Path(os.environ["SIMCLR_CACHE"])


def look(images: Path | None = None, *, clear: bool = False) -> CacheResult:
    return cache(CacheSettings(images=images, clear=clear))


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def decoded(events: list[Event]) -> int:
    """How many images a run had to decode."""
    return max((event.done for event in events if isinstance(event, Progress) and event.stage == "decoding"), default=0)


def two_folders(tmp_path: Path, draw: Callable[..., Any]) -> tuple[Path, Path]:
    for name in ("one", "two"):
        for i in range(4):
            draw(tmp_path / name / f"{i}.png", i)
    return tmp_path / "one", tmp_path / "two"


def test_nothing_kept_is_an_empty_answer_and_makes_nothing(root: Path, tmp_path: Path) -> None:
    root.mkdir()
    for images in (None, tmp_path, tmp_path / "nowhere"):
        for clear in (False, True):
            assert look(images, clear=clear) == CacheResult(str(root), clear, 0, ())
    assert list(root.iterdir()) == []
    root.rmdir()
    assert look() == CacheResult(str(root), False, 0, ()) and look(clear=True).caches == ()
    assert not root.exists()


def test_a_run_leaves_its_folders_headers_and_pixels_and_they_are_shown(
    root: Path, tmp_path: Path, draw: Callable[..., Any], train: Train
) -> None:
    one, two = two_folders(tmp_path, draw)
    before = datetime.now(UTC) - timedelta(seconds=2)
    train(one, batch_size=4)
    train(one, batch_size=4, image_size=20)
    take_census(two)  # looked at, and not decoded
    found = look()
    assert (found.root, found.cleared) == (str(root), False)
    assert found.bytes == sum(kept.bytes for kept in found.caches) == sizes(root)
    kept = {kept.folder: kept for kept in found.caches}
    assert kept.keys() == {str(one), str(two)}
    assert kept[str(one)].sides == (30, 48)  # half as much again as is trained on, but no more than there is
    assert kept[str(one)].bytes == sizes(Path(kept[str(one)].path)) > 4 * 3 * (30 * 30 + 48 * 48)
    assert kept[str(two)].sides == ()
    for entry in kept.values():
        used = datetime.fromisoformat(entry.used)
        assert used.utcoffset() == timedelta(0) and before <= used <= datetime.now(UTC)
        assert Path(entry.path).parent == root


def test_one_folder_only_by_any_path_that_leads_to_it(
    tmp_path: Path, draw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_folders(tmp_path, draw)
    take_census(one)
    take_census(two)
    (tmp_path / "link").symlink_to(one)
    monkeypatch.chdir(tmp_path)
    for path in (one, Path("one"), Path("link"), Path("two/../one")):
        assert [kept.folder for kept in look(path).caches] == [str(one)]
    assert look(tmp_path).caches == ()


def test_cleared_is_gone_others_stay_and_training_again_gives_the_same(
    root: Path, tmp_path: Path, draw: Callable[..., Any], train: Train, checksum: Callable[[Path], Any]
) -> None:
    one, two = two_folders(tmp_path, draw)
    events: list[list[Event]] = [[], [], []]
    first = train(one, batch_size=4, report=events[0].append)
    train(two, batch_size=4)
    images, shown = checksum(tmp_path / "one"), look(one)
    result = look(one, clear=True)
    assert result.cleared and result.caches == shown.caches and result.bytes == shown.bytes > 0
    assert [kept.folder for kept in look().caches] == [str(two)]
    assert not Path(shown.caches[0].path).exists()
    assert checksum(tmp_path / "one") == images
    again = train(one, batch_size=4, report=events[1].append)
    more = train(one, batch_size=4, report=events[2].append)
    assert first.model_checksum == again.model_checksum == more.model_checksum
    assert [decoded(seen) for seen in events] == [4, 4, 0]


def test_all_is_cleared_also_of_folders_that_are_gone(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, two = two_folders(tmp_path, draw)
    take_census(one)
    take_census(two)
    shutil.rmtree(one)
    assert [kept.folder for kept in look(one).caches] == [str(one)]
    assert len(look(clear=True).caches) == 2
    assert look().caches == () and list(root.iterdir()) == []


def test_what_is_not_simclrs_is_neither_shown_nor_deleted(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, _ = two_folders(tmp_path, draw)
    take_census(one)
    own = Path(look().caches[0].path)
    strangers = [root / "letter.txt", root / "other" / "file.bin", own / "notes.txt", own / "48" / "mine.u8"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x" * 1000)
    assert look().bytes < 1000
    look(clear=True)
    assert all(path.exists() for path in strangers) and look().caches == ()


def test_a_run_goes_on_while_its_cache_is_cleared(tmp_path: Path, draw: Callable[..., Any], train: Train) -> None:
    """What is mapped stays mapped."""
    one, _ = two_folders(tmp_path, draw)
    cleared: list[FolderCache] = []

    def report(event: Event) -> None:
        if type(event).__name__ == "StepDone" and not cleared:
            cleared.extend(look(clear=True).caches)

    undisturbed = train(one, batch_size=4, epochs=3, run="calm")
    made = train(one, batch_size=4, epochs=3, run="cleared", report=report)
    assert len(cleared) == 1 and made.model_checksum == undisturbed.model_checksum


def stuck(tmp_path: Path, draw: Callable[..., Any]) -> tuple[Path, Path]:
    """A cache with a file that cannot be deleted: a folder of its name. As another user's would be."""
    one, _ = two_folders(tmp_path, draw)
    take_census(one)
    path = Path(look().caches[0].path) / "48" / "index.json"
    path.mkdir(parents=True)
    return one, path


def test_what_cannot_be_deleted_is_a_machine_error_that_names_it(tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, path = stuck(tmp_path, draw)
    with pytest.raises(MachineError, match="Cannot clear") as caught:
        look(one, clear=True)
    assert str(path.parents[1]) in caught.value.what and "rights" in caught.value.remedy


def test_what_could_not_be_cleared_is_still_listed(tmp_path: Path, draw: Callable[..., Any]) -> None:
    """Else what is left, gigabytes perhaps, can be neither seen nor cleared any more; a Ctrl-C does the same."""
    one, path = stuck(tmp_path, draw)
    with pytest.raises(MachineError):
        look(one, clear=True)
    path.rmdir()
    assert [kept.folder for kept in look().caches] == [str(one)]


def test_damaged_headers_are_passed_over(root: Path, tmp_path: Path, draw: Callable[..., Any]) -> None:
    one, two = two_folders(tmp_path, draw)
    for text in ("", "[]", "{}", '{"folder": 1', "\xff"):
        take_census(one)
        take_census(two)
        (Path(look(one).caches[0].path) / "headers.json").write_text(text, encoding="latin-1")
        assert [kept.folder for kept in look().caches] == [str(two)]
