"""Stored images: an image's pixels are read as they were added, whatever happened to the files between."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.core.errors import Interrupted, MachineError
from simclr_cli.images import formats
from simclr_cli.images import pixel_store as module
from simclr_cli.images.census import ImageFile
from simclr_cli.images.pixel_store import (
    MAX_FILES,
    MAX_UNUSED_WEEKS,
    NOT_STORED,
    WEEK_SECONDS,
    Entry,
    PixelStore,
    current_week,
    read_rows,
)

SIDE = 3
ROW = 3 * SIDE * SIDE
Found = NDArray[np.uint8] | str | None  # pixels, a reason to skip it, or not stored


def image(name: str, version: int = 0) -> ImageFile:
    """Return a file; each version has its own modification time."""
    return ImageFile(name, "PNG", 20, 30, 100, 1_000 + version)


def drawn(name: str, version: int = 0) -> NDArray[np.uint8]:
    seed = [version, *os.fsencode(name)]
    return np.random.default_rng(seed).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)


def given(*names: str, version: int = 0) -> list[tuple[ImageFile, Found]]:
    return [(image(name, version), drawn(name, version)) for name in names]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stored_in(folder: PixelStore) -> dict[tuple[str, int], list[int]]:
    """Return the pixels of every image that has a row, by name and version."""
    having = [(name, entry) for name, entry in folder.entries.items() if entry.row != NOT_STORED]
    rows = np.array([entry.row for _, entry in having], dtype=np.int64)
    pixels = read_rows(folder.open_maps(), rows, folder.side)
    return {
        (name, entry.modified_ns - 1_000): p.flatten().tolist() for (name, entry), p in zip(having, pixels, strict=True)
    }


def expected(*images: tuple[str, int]) -> dict[tuple[str, int], list[int]]:
    return {(name, version): drawn(name, version).flatten().tolist() for name, version in images}


def assert_tidy(folder: Path) -> None:
    """Assert that a folder holds the index and the files that it names, nothing else."""
    named = [name for name, _ in json.loads((folder / "index.json").read_bytes())["files"]]
    assert files_in(folder) == sorted(["index.json", *named])


def test_what_is_entered_is_read_and_outlives_the_process(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path / "12", SIDE)
    folder.add([*given("a", "b"), (image("c"), "truncated"), (image("d"), None), *given("e")])
    for opened in (folder, PixelStore(tmp_path / "12", SIDE)):
        assert stored_in(opened) == expected(("a", 0), ("b", 0), ("e", 0))
        assert (opened.stored_count, opened.row_count) == (3, 3)
        assert opened.find_entry(image("c")) == Entry(100, 1_000, NOT_STORED, "truncated", current_week())
        assert opened.find_entry(image("d")) == Entry(100, 1_000, NOT_STORED, None, current_week())
        assert opened.find_entry(image("x")) is None
    assert_tidy(tmp_path / "12")


def test_empty_folder_holds_nothing(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path / "a/b", SIDE)
    assert (folder.row_count, folder.stored_count, folder.open_maps(), folder.entries) == (0, 0, (), {})
    folder.mark_used([], 0)
    assert not (tmp_path / "a").exists()  # it only looks


def test_adding_writes_no_more_than_what_is_added(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b"))
    (first,) = tmp_path.glob("*.u8")
    before = (first.stat().st_mtime_ns, first.read_bytes())
    folder.add(given("c"))
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    (second,) = set(tmp_path.glob("*.u8")) - {first}
    assert second.read_bytes() == drawn("c").tobytes()
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 0), ("c", 0))


def test_adding_nothing_with_pixels_makes_no_file_of_pixels(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add([(image("a"), "damaged"), (image("b"), None)])
    folder.add([])
    assert files_in(tmp_path) == ["index.json"]
    assert list(PixelStore(tmp_path, SIDE).entries) == ["a", "b"]
    assert PixelStore(tmp_path, SIDE).open_maps() == ()


@pytest.mark.parametrize(
    "changed", [ImageFile("a", "PNG", 20, 30, 101, 1_000), ImageFile("a", "PNG", 20, 30, 100, 1_001)]
)
def test_image_of_another_size_or_time_is_another(tmp_path: Path, changed: ImageFile) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a"))
    assert folder.find_entry(image("a")) is not None and folder.find_entry(changed) is None
    folder.mark_used([changed], 9)
    assert folder.entries == {}


def test_later_version_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b"))
    folder.add(given("b", version=1))
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 1))


@pytest.mark.skipif(os.name != "posix", reason="the names are those of POSIX")
def test_any_name_is_kept(tmp_path: Path) -> None:
    strange = [os.fsdecode(b"\xff\xfe.png"), "new\nline", '"', "é/Ω", "../up", " ", "-1", "null"]
    PixelStore(tmp_path, SIDE).add(given(*strange))
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(*((name, 0) for name in strange))


def test_maps_are_read_only(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b"))
    (file,) = folder.open_maps()
    assert (file.shape, file.dtype, file.flags.writeable) == ((2, 3, SIDE, SIDE), np.uint8, False)


# Rows


def test_rows_are_counted_through_all_files() -> None:
    whole = np.arange(10 * ROW, dtype=np.int64).astype(np.uint8).reshape(10, 3, SIDE, SIDE)
    rows = np.random.default_rng(0).integers(0, 10, 40)
    for cuts in ([], [4], [1, 2, 9], [0, 5, 5]):  # files of no rows too
        assert (read_rows(np.split(whole, cuts), rows, SIDE) == whole[rows]).all()
    assert read_rows(np.split(whole, [3]), np.array([], dtype=np.int64), SIDE).shape == (0, 3, SIDE, SIDE)


# Merging


def test_too_many_files_become_one(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    names = [f"{i:02}" for i in range(MAX_FILES + 1)]
    for name in names[:-1]:
        folder.add(given(name))
    folder.add([(image("skipped"), "damaged"), (image("absent"), None)])
    images = [image(name) for name in (*names, "skipped", "absent")]
    folder.mark_used(images, 99)
    assert len(folder.files) == MAX_FILES  # not too many yet
    folder.add(given(names[-1]))
    before, old = stored_in(folder), folder.open_maps()
    kept = [file.copy() for file in old]
    folder.mark_used(images, 99)
    for opened in (folder, PixelStore(tmp_path, SIDE)):
        assert len(opened.files) == 1
        assert stored_in(opened) == before == expected(*((name, 0) for name in names))
        assert opened.find_entry(image("skipped")) == Entry(100, 1_000, NOT_STORED, "damaged", current_week())
        assert opened.find_entry(image("absent")) == Entry(100, 1_000, NOT_STORED, None, current_week())
    assert_tidy(tmp_path)
    assert all((file == copy).all() for file, copy in zip(old, kept, strict=True))  # whoever has them open


def test_rows_of_nobody_go_when_they_are_most_of_all(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b", "c", "d", "e"))
    folder.mark_used([image("a", 1), image("c", 1)], 99)
    assert (folder.row_count, folder.stored_count) == (5, 3)
    folder.mark_used([image("d", 1)], 99)
    for opened in (folder, PixelStore(tmp_path, SIDE)):
        assert (opened.row_count, opened.stored_count) == (2, 2)
        assert stored_in(opened) == expected(("b", 0), ("e", 0))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.u8")) == 2 * ROW
    assert_tidy(tmp_path)


def test_nothing_is_left_when_all_are_gone(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b"))
    folder.mark_used([image("a", 1), image("b", 1), image("x")], 99)
    assert files_in(tmp_path) == ["index.json"]
    again = PixelStore(tmp_path, SIDE)
    assert (again.entries, again.open_maps()) == ({}, ())


def test_forgotten_but_not_yet_merged_is_found_again_by_the_next_to_open(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b", "c"))
    folder.mark_used([image("a"), image("b"), image("c", 1)], 99)
    assert folder.find_entry(image("c")) is None
    assert PixelStore(tmp_path, SIDE).find_entry(image("c")) is not None  # nothing was written: it may come back
    folder.add(given("d"))
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 0), ("d", 0))


def weeks_later(monkeypatch: pytest.MonkeyPatch, weeks: int) -> None:
    now = time.time() + weeks * WEEK_SECONDS
    monkeypatch.setattr(time, "time", lambda: now)


def test_what_no_command_asks_for_stays_for_weeks_and_goes_with_the_next_rewriting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PixelStore(tmp_path, SIDE).add(given("a", "b", "c"))
    for _ in range(3):
        weeks_later(monkeypatch, MAX_UNUSED_WEEKS)
        PixelStore(tmp_path, SIDE).mark_used([image("a")], 9)
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0))
    assert_tidy(tmp_path)


def test_asking_for_images_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PixelStore(tmp_path, SIDE).add(given("a", "b", "c"))
    for part in ("a", "bc", "a", "bc"):
        weeks_later(monkeypatch, MAX_UNUSED_WEEKS - 1)
        PixelStore(tmp_path, SIDE).mark_used([image(name) for name in part], 9)
    assert len(PixelStore(tmp_path, SIDE).entries) == 3


def test_within_a_week_the_index_is_written_once(tmp_path: Path) -> None:
    PixelStore(tmp_path, SIDE).add(given("a"))
    before = (tmp_path / "index.json").stat().st_ino
    PixelStore(tmp_path, SIDE).mark_used([image("a")], 9)
    assert (tmp_path / "index.json").stat().st_ino == before


@pytest.mark.parametrize(("most_rows", "left"), [(9, "abcd"), (6, "abcd"), (5, "acd"), (4, "cd"), (3, "cd"), (0, "cd")])
def test_where_room_is_short_what_is_asked_for_takes_that_of_the_longest_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_rows: int, left: str
) -> None:
    """Four are stored, two of these are asked for and two that are new; b was not used since before a was."""
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("b"))
    weeks_later(monkeypatch, 1)
    folder.add(given("a", "c", "d"))
    folder.mark_used([image(name) for name in "cdef"], most_rows)
    assert "".join(sorted(folder.entries)) == "abcd"
    assert folder.row_count <= max(len(left), most_rows - 2)  # there is room for those that are new
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(*((name, 0) for name in left))


@pytest.mark.parametrize("seed", range(4))
def test_any_history_gives_what_was_entered_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Against a dict: images come, change and go, some are skipped or find no room, and files are merged."""
    monkeypatch.setattr(module, "MAX_FILES", 4)
    random = np.random.default_rng(seed)
    names = [f"{i}.png" for i in range(12)]
    versions = dict.fromkeys(names, 0)
    known: dict[str, Found] = {}
    folder = PixelStore(tmp_path, SIDE)
    for _ in range(25):
        if random.random() < 0.3:
            folder = PixelStore(tmp_path, SIDE)
        for name in random.choice(names, 2, replace=False).tolist():
            versions[name] += 1
            known.pop(name, None)
        there = sorted(random.choice(names, random.integers(3, 13), replace=False).tolist())
        images = [image(name, versions[name]) for name in there]
        folder.mark_used(images, 99)
        assert folder.row_count <= 2 * folder.stored_count and len(folder.files) <= 4
        new = folder.split(images)[0]
        assert {entry.name for entry in new} >= set(there) - set(known)  # it knows no more than was entered
        found: list[Found] = [
            (drawn(entry.name, versions[entry.name]), "damaged", None)[random.choice(3, p=[0.7, 0.15, 0.15])]
            for entry in new
        ]
        folder.add(zip(new, found, strict=True))
        known.update(zip((entry.name for entry in new), found, strict=True))
        for opened in (folder, PixelStore(tmp_path, SIDE)):
            assert set(there) <= set(opened.entries)
            having = {(name, versions[name]) for name in known if isinstance(known[name], np.ndarray)}
            old = {found for found in stored_in(opened) if found[1] != versions[found[0]]}  # changed, not asked for yet
            assert stored_in(opened) == expected(*having, *old) and not {name for name, _ in old} & set(there)
            for entry in images:
                kept, what = opened.find_entry(entry), known[entry.name]
                assert kept is not None and kept.reason == (what if isinstance(what, str) else None)
        assert_tidy(tmp_path)


# Damage


class Crash(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Crash at the n-th thing done to the disk."""
    left = number

    def before(function: Any) -> Any:
        def guarded(*given: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return function(*given, **more)

        return guarded

    monkeypatch.setattr(os, "fsync", before(os.fsync))
    for name in ("open", "replace", "unlink"):
        monkeypatch.setattr(Path, name, before(getattr(Path, name)))


def crashing_everywhere(
    monkeypatch: pytest.MonkeyPatch, path: Path, action: Callable[[PixelStore], None]
) -> list[dict[tuple[str, int], list[int]]]:
    """Open and act, again and again, crashing later each time until it goes through: what is found after each."""
    found = []
    for number in range(60):
        folder, done = PixelStore(path, SIDE), True
        with monkeypatch.context() as patch:
            crash_at(patch, number)
            try:
                action(folder)
            except Crash:
                done = False
        found.append(stored_in(PixelStore(path, SIDE)))
        if done:
            return found
    raise AssertionError("it never ends")


def test_crash_anywhere_in_adding_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = expected(("a", 0), ("b", 0)), expected(("a", 0), ("b", 1), ("c", 0))
    PixelStore(tmp_path, SIDE).add(given("a", "b"))
    found = crashing_everywhere(monkeypatch, tmp_path, lambda folder: folder.add([*given("b", version=1), *given("c")]))
    turn = found.index(new)
    assert turn > 3 and found == [old] * turn + [new] * (len(found) - turn)


def test_crash_anywhere_in_merging_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = expected(*((name, 0) for name in "abcde")), expected(("b", 0), ("e", 0))
    PixelStore(tmp_path, SIDE).add(given(*"abcde"))
    found = crashing_everywhere(
        monkeypatch, tmp_path, lambda folder: folder.mark_used([image(name, 1) for name in "acd"], 99)
    )
    turn = found.index(new)
    assert turn > 3 and found == [old] * turn + [new] * (len(found) - turn)


@pytest.mark.parametrize("error", [Interrupted("Stopped.", "Go on."), MachineError("Gone.", "Mount it.")])
def test_what_came_before_a_stop_is_kept(tmp_path: Path, error: Exception) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b"))

    def stopping() -> Iterator[tuple[ImageFile, Found]]:
        yield from given("c", "b", version=1)
        raise error

    with pytest.raises(type(error)):
        folder.add(stopping())
    assert stored_in(folder) == stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 1), ("c", 1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_error_while_images_come_leaves_the_folder_as_it_was(tmp_path: Path, error: Any) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a", "b"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing() -> Iterator[tuple[ImageFile, Found]]:
        yield from given("c", "b", version=1)
        raise error

    with pytest.raises(error):
        folder.add(failing())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert stored_in(folder) == stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 0))
    folder.add(given("d"))  # and it can go on
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 0), ("d", 0))


def test_full_disk_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PixelStore(tmp_path, SIDE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MachineError, match="No space left"):
            folder.add(given("a"))
    assert files_in(tmp_path) == []
    folder.add(given("a"))
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0))


def test_pixels_that_no_index_names_go_at_the_next_save(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add(given("a"))
    (tmp_path / "pixels-0123456789abcdef.u8").write_bytes(bytes(ROW))
    (tmp_path / "mine.u8").write_bytes(b"mine")
    folder.add(given("b"))
    (tmp_path / "mine.u8").unlink()  # whoever put it there
    assert_tidy(tmp_path)


# Two at once


def test_who_saves_last_wins_and_neither_reads_what_it_did_not_enter(tmp_path: Path) -> None:
    PixelStore(tmp_path, SIDE).add(given("a", "b"))
    one, other = PixelStore(tmp_path, SIDE), PixelStore(tmp_path, SIDE)
    one.add(given("c", version=1))
    early = one.open_maps()
    other.add(given("c", version=2))
    assert stored_in(other) == stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0), ("b", 0), ("c", 2))
    with pytest.raises(OSError):  # its file is gone: known, not read wrongly
        one.open_maps()
    row = one.entries["c"].row
    assert (read_rows(early, np.array([row]), SIDE)[0] == drawn("c", 1)).all()  # who had it open keeps it


def test_who_saves_by_what_another_has_merged_away_is_not_trusted(tmp_path: Path) -> None:
    PixelStore(tmp_path, SIDE).add(given("a", "b", "c"))
    one, other = PixelStore(tmp_path, SIDE), PixelStore(tmp_path, SIDE)
    other.mark_used([image("a", 1), image("b", 1)], 9)  # merges
    one.add(given("d"))
    with pytest.raises(OSError):
        one.open_maps()
    assert stored_in(PixelStore(tmp_path, SIDE)) == {}  # an index of files that are not all there
    PixelStore(tmp_path, SIDE).add(given("e"))
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("e", 0))
    assert_tidy(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
def test_index_of_another_user_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that colleagues share: any of them may write files there, none may change another's."""
    PixelStore(tmp_path, SIDE).add(given("a"))

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", deny)
    assert stored_in(PixelStore(tmp_path, SIDE)) == expected(("a", 0))


def test_opening_says_when_it_was_used(tmp_path: Path) -> None:
    PixelStore(tmp_path, SIDE).add(given("a"))
    os.utime(tmp_path / "index.json", (1, 1))
    PixelStore(tmp_path, SIDE)
    assert (tmp_path / "index.json").stat().st_mtime > 1_000


# Damaged indexes


def rewrite(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_bytes())
    (folder / "index.json").write_text(json.dumps({**index, **changes}))


def row_of(folder: Path, name: str) -> tuple[list[Any], list[Any]]:
    """The index's list of images, and this one's entry in it: name, bytes, time, row, reason, week."""
    images = json.loads((folder / "index.json").read_bytes())["images"]
    return images, next(entry for entry in images if entry[0] == name)


def with_row(folder: Path, name: str, row: Any, reason: Any = None) -> None:
    images, entry = row_of(folder, name)
    entry[3:5] = [row, reason]
    rewrite(folder, images=images)


@pytest.fixture
def folder_of_three(tmp_path: Path) -> Path:
    folder = PixelStore(tmp_path / "cache", SIDE)
    folder.add(given("a", "b"))
    folder.add(given("c"))
    return tmp_path / "cache"


THREE = expected(("a", 0), ("b", 0), ("c", 0))


@pytest.mark.parametrize("row", [3, 4, -2, 10**9, 10**30, -(10**30), 0, 2, "x", None, [1], {}])
def test_row_that_cannot_be_is_not_trusted(folder_of_three: Path, row: Any) -> None:
    """Behind the last one, before the first, another image's, or no number at all."""
    with_row(folder_of_three, "b", row)
    assert PixelStore(folder_of_three, SIDE).entries == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (1, "damaged"),
        (-1, 3),
        (-1, ["x"]),
        (-1, True),
    ],
)
def test_reason_that_cannot_be_is_not_trusted(folder_of_three: Path, row: int, reason: Any) -> None:
    """With a row after all, or for a reason that is no text: an intact image would always be skipped."""
    with_row(folder_of_three, "b", row, reason)
    assert PixelStore(folder_of_three, SIDE).entries == {}


@pytest.mark.parametrize("row", [1.0, True, "1", 1.5])
def test_row_in_another_guise_gives_no_wrong_pixels(folder_of_three: Path, row: Any) -> None:
    with_row(folder_of_three, "b", row)
    assert stored_in(PixelStore(folder_of_three, SIDE)) in (THREE, {})


@pytest.mark.parametrize("rows", [0, 1, 3, -1, -2, 10**18, 10**400, None, "x", [2]])
def test_count_of_rows_that_is_not_the_files_is_not_trusted(folder_of_three: Path, rows: Any) -> None:
    index = json.loads((folder_of_three / "index.json").read_bytes())
    index["files"][0][1] = rows
    (folder_of_three / "index.json").write_text(json.dumps(index))
    opened = PixelStore(folder_of_three, SIDE)
    assert (opened.entries, opened.open_maps()) == ({}, ())


@pytest.mark.parametrize("rows", [2.0, True, "2", 2.9])
def test_count_of_rows_in_another_guise_gives_no_wrong_pixels(folder_of_three: Path, rows: Any) -> None:
    index = json.loads((folder_of_three / "index.json").read_bytes())
    index["files"][0][1] = rows
    (folder_of_three / "index.json").write_text(json.dumps(index))
    assert stored_in(PixelStore(folder_of_three, SIDE)) in (THREE, {})


def test_empty_file_of_no_rows_is_no_obstacle(tmp_path: Path) -> None:
    folder = PixelStore(tmp_path, SIDE)
    folder.add([(image("a"), None)])
    (tmp_path / "pixels-0123456789abcdef.u8").touch()
    rewrite(tmp_path, files=[["pixels-0123456789abcdef.u8", 0]])
    assert PixelStore(tmp_path, SIDE).open_maps() == ()


OUTSIDE = ["../decoy.u8", "/decoy.u8", "sub/../../decoy.u8", ".", "..", "", "a\0b", "x" * 300, 3]


@pytest.mark.parametrize("name", OUTSIDE)
def test_file_outside_the_folder_is_never_read(folder_of_three: Path, name: Any) -> None:
    """The decoy has the right size and wrong pixels."""
    decoy = folder_of_three.parent / "decoy.u8"
    decoy.write_bytes(bytes(2 * ROW))
    index = json.loads((folder_of_three / "index.json").read_bytes())
    index["files"][0][0] = str(decoy) if name == "/decoy.u8" else name
    (folder_of_three / "index.json").write_text(json.dumps(index))
    assert PixelStore(folder_of_three, SIDE).entries == {}
    PixelStore(folder_of_three, SIDE).add(given("a"))
    assert decoy.read_bytes() == bytes(2 * ROW)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "3", '"text"', "[1, 2]", "{}", "\0", "[" * 50, '{"version": 2}',
        '{"version": 2, "side": 3, "files": 3, "images": []}',
        '{"version": 2, "side": 3, "files": [["x"]], "images": []}',
        '{"version": 2, "side": 3, "files": {"a": 1}, "images": []}',
        '{"version": 2, "side": 3, "files": [], "images": [["a", 100, 1000, 0, null]]}',
        '{"version": 2, "side": 3, "files": [], "images": [["a", 100, 1000, -1]]}',
        '{"version": 2, "side": 3, "files": [], "images": [["a", NaN, 1000, -1, null]]}',
        '{"version": 2, "side": 3, "files": [], "images": {"a": 1}}',
        '{"version": 2, "side": 3, "files": [], "images": [[["a"], "x", 1000, -1, null]]}',
        '{"version": 2, "side": 3, "files": [["x", 1e999]], "images": []}',
        '{"version": 2, "side": 3, "files": [], "images": [["a", Infinity, 1000, -1, null]]}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)  # fmt: skip
def test_index_of_any_shape_is_no_obstacle(folder_of_three: Path, text: str) -> None:
    (folder_of_three / "index.json").write_text(text)
    folder = PixelStore(folder_of_three, SIDE)
    assert (folder.entries, folder.files) == ({}, [])
    folder.add(given("a"))
    assert stored_in(PixelStore(folder_of_three, SIDE)) == expected(("a", 0))
    assert_tidy(folder_of_three)


def test_index_cut_anywhere_is_not_trusted(folder_of_three: Path) -> None:
    whole = (folder_of_three / "index.json").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (folder_of_three / "index.json").write_bytes(whole[:length])
        assert PixelStore(folder_of_three, SIDE).entries == {}


def test_index_of_another_side_is_not_trusted(folder_of_three: Path) -> None:
    assert PixelStore(folder_of_three, SIDE + 1).entries == {}
    rewrite(folder_of_three, side=SIDE + 1)
    assert PixelStore(folder_of_three, SIDE).entries == {}


@pytest.mark.parametrize("version", [1, formats.DECODING_VERSION + 1, "2", None])
def test_index_of_another_version_is_not_trusted(folder_of_three: Path, version: Any) -> None:
    rewrite(folder_of_three, version=version)
    assert PixelStore(folder_of_three, SIDE).entries == {}
