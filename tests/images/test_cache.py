"""Decoded once: the cache holds what `decode_squashed` returns, decodes only what is new, and is not trusted in doubt.

A folder of stored pixels is tested in test_pixel_store.py; here it has images behind it.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.core.errors import InputError, Interrupted, MachineError, Terminated
from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.images import cache, formats
from simclr_cli.images import pixel_store as pixels
from simclr_cli.images.cache import DecodedImages, decode_images, describe_cache_shortage, stored_side
from simclr_cli.images.cache_location import cache_root, locate_cache
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.decode import decode_squashed
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import catch_unusable

SIZE = 8  # trained on; stored at 12
ROW = 3 * 12 * 12
NAMES = ["0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"]


TIMES = itertools.count(10**18, 10**9)  # of change: none twice, however coarse the system's clock


def draw(path: Path, seed: int, height: int = 20, width: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    os.utime(path, ns=(1, next(TIMES)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(5):
        draw(tmp_path / f"images/{i % 2}/{i}.png", i, height=20 + i)
    return tmp_path / "images"


class Decoding:
    """A stand-in for `decode_squashed` that remembers which images it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def __call__(self, path: Path, side: int, bits: int | None = None) -> NDArray[np.uint8]:
        self.names.append(path.relative_to(self.folder).as_posix())
        return decode_squashed(path, side)

    def since(self) -> list[str]:
        """Return what was decoded since the last call."""
        names, self.names = sorted(self.names), []
        return names


@pytest.fixture
def decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Decoding:
    found = Decoding(folder)

    def decode(calls: Iterable[tuple[Path, int]]) -> list[Any]:
        return [catch_unusable(found, *call) for call in calls]

    monkeypatch.setattr(cache, "isolate_batch", lambda *_: decode)
    return found


def damage(path: Path) -> None:
    """Truncate the pixels of a file, not its header."""
    path.write_bytes(path.read_bytes()[:-300])


def nothing(*_: int) -> None:
    pass


def opened(
    folder: Path, size: int = SIZE, progress: Callable[[int, int], None] = nothing, rows: int | None = None
) -> DecodedImages:
    """Open the cache with room for so many images; None: with the default room."""
    side = stored_side(take_census(folder), size)
    budget = None if rows is None else rows * 3 * side * side
    return decode_images(take_census(folder), size, workers=2, progress=progress, budget=budget)


def all_of(decoded: DecodedImages) -> NDArray[np.uint8]:
    return decoded.read(np.arange(len(decoded)))


def assert_right(decoded: DecodedImages, folder: Path, side: int = 12) -> None:
    """Assert that rows are what decoding again returns, for any number of them in any order."""
    paths = [folder / image.name for image in decoded.census.images]
    expected = np.stack([decode_squashed(path, side).transpose(2, 0, 1) for path in paths])
    found = all_of(decoded)
    assert (found.shape, found.dtype) == ((len(decoded), 3, side, side), np.uint8)
    assert (found == expected).all()
    asked = np.random.default_rng(0).integers(0, len(decoded), 7)
    assert (decoded.read(asked) == expected[asked]).all()
    assert decoded.read(asked[:0]).shape == (0, 3, side, side)
    assert decoded.sizes.tolist() == [[image.height, image.width] for image in decoded.census.images]
    assert len(decoded) == len(decoded.rows) == len(decoded.census.images)
    assert (decoded.side, decoded.bytes) == (side, len(decoded) * 3 * side * side)


def never(*_: Any) -> Any:
    raise AssertionError("decoded again")


def pixels_folder(folder: Path, side: int = 12) -> Path:
    return locate_cache(folder) / str(side)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tree_checksum(folder: Path) -> str:
    """Return the checksum of names, contents, permissions and times, the folders' included."""
    checksum = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.stat()
        checksum.update(f"{path}\0{status.st_mtime_ns}\0{status.st_mode}\0".encode())
        checksum.update(path.read_bytes() if path.is_file() else b"")
    return checksum.hexdigest()


def stopping(at: int, error: BaseException) -> Callable[[int, int], None]:
    def stop(done: int, _: int) -> None:
        if done == at:
            raise error

    return stop


STOP = Interrupted("Stopped.", "Go on.")


# Decoded once


def test_pixels_are_those_of_decode_squashed(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    decoded = opened(folder, progress=lambda done, total: seen.append((done, total)))
    assert_right(decoded, folder)
    assert seen == [(i, 5) for i in range(1, 6)]
    assert decoded.stored_count == 5
    assert not any(file.flags.writeable for file in decoded.maps)


def test_second_call_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder)
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    second = opened(folder, progress=never)
    assert (all_of(second) == all_of(first)).all() and second.census == first.census


def test_second_call_decodes_nothing_of_what_is_known_but_has_no_room(folder: Path, decoding: Decoding) -> None:
    opened(folder, rows=2)
    assert decoding.since() == NAMES
    second = opened(folder, progress=never, rows=2)
    assert decoding.since() == []
    assert second.stored_count == 2
    all_of(second)
    assert decoding.since() == NAMES[2:]  # and these at each reading
    assert_right(second, folder)


def test_what_is_read_may_be_changed(folder: Path) -> None:
    decoded = opened(folder, rows=3)
    before = all_of(decoded)
    all_of(decoded)[:] = 0
    assert (all_of(decoded) == before).all()


@pytest.mark.parametrize(
    ("size", "largest", "side"),
    [(8, 30, 12), (32, 100, 48), (224, 4000, 336), (64, 70, 70), (64, 20, 20), (8, 1, 1), (9, 99, 14)],
)
def test_stored_side_is_half_as_much_again_but_no_more_than_there_is(size: int, largest: int, side: int) -> None:
    images = (ImageFile("a", "PNG", largest, 1, 9, 1), ImageFile("b", "PNG", 1, 1, 9, 1))
    assert stored_side(Census(Path(), images, (), 0), size) == side


def test_another_size_is_another_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder, 8)
    assert_right(opened(folder, 10), folder, side=15)
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    assert len(opened(folder, 8)) == len(opened(folder, 10)) == 5


def test_another_folder_of_the_same_names_is_another_cache(folder: Path, tmp_path: Path) -> None:
    opened(folder)
    shutil.copytree(folder, tmp_path / "copy")
    draw(tmp_path / "copy/0/0.png", 99)
    assert_right(opened(tmp_path / "copy"), tmp_path / "copy")
    assert_right(opened(folder), folder)


def test_nothing_in_the_folder_of_images_is_changed(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    before = tree_checksum(folder)
    all_of(opened(folder, rows=2))
    all_of(opened(folder))
    assert tree_checksum(folder) == before


# Images that come, change and go


def test_added_image_costs_only_itself(folder: Path, decoding: Decoding) -> None:
    opened(folder)
    decoding.since()
    draw(folder / "1/new.png", 7)
    draw(folder / "0/1.png", 8)
    seen: list[tuple[int, int]] = []
    decoded = opened(folder, progress=lambda done, total: seen.append((done, total)))
    assert decoding.since() == ["0/1.png", "1/new.png"] and seen == [(1, 2), (2, 2)]
    assert len(decoded) == 7
    assert_right(decoded, folder)


@pytest.mark.parametrize("how", ["content", "size", "time"])
def test_changed_image_costs_only_itself(folder: Path, decoding: Decoding, how: str) -> None:
    opened(folder)
    decoding.since()
    path = folder / "0/2.png"
    time = path.stat().st_mtime_ns
    if how == "content":
        draw(path, 99, height=21)
    elif how == "size":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(time, time))
    else:
        os.utime(path, ns=(time, time + 1))
    decoded = opened(folder)
    assert decoding.since() == ["0/2.png"]
    assert_right(decoded, folder)


def test_changed_image_leaves_the_open_maps_as_they_were(folder: Path) -> None:
    before = opened(folder)
    kept = all_of(before)
    draw(folder / "0/0.png", 99)
    after = opened(folder)
    assert_right(after, folder)
    assert (all_of(before) == kept).all() and (all_of(after)[0] != kept[0]).any()


@pytest.mark.skipif(os.name != "posix", reason="on POSIX what is unlinked stays until it is unmapped")
def test_maps_that_are_open_keep_what_is_merged_away(folder: Path) -> None:
    before = opened(folder)
    kept, file = all_of(before), pixel_file(pixels_folder(folder))
    for name in NAMES[:4]:
        draw(folder / name, 99)
    after = opened(folder)  # most rows were nobody's
    assert not file.exists()
    assert (all_of(before) == kept).all()
    assert_right(after, folder)


def test_removed_image_costs_nothing_and_neither_does_its_return(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder)
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    (folder / "0/2.png").rename(tmp_path / "away.png")
    fewer = opened(folder, progress=never)
    assert [image.name for image in fewer.census.images] == [*NAMES[:1], *NAMES[2:]]
    assert_right(fewer, folder)
    (tmp_path / "away.png").rename(folder / "0/2.png")
    assert_right(opened(folder, progress=never), folder)


def test_renamed_image_is_another(folder: Path, decoding: Decoding) -> None:
    opened(folder)
    decoding.since()
    (folder / "0/2.png").rename(folder / "0/9.png")
    decoded = opened(folder)
    assert decoding.since() == ["0/9.png"]
    assert_right(decoded, folder)


def test_images_that_trade_names_trade_pixels(folder: Path) -> None:
    opened(folder)
    for old, new in (("0/0.png", "x"), ("0/2.png", "0/0.png"), ("x", "0/2.png")):
        (folder / old).rename(folder / new)
    assert_right(opened(folder), folder)


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_a_folder_gives_its_pixels(folder: Path, decoding: Decoding, seed: int) -> None:
    """Nothing that is stored is decoded again, whatever the room and whatever came and went."""
    random = np.random.default_rng(seed)
    names = [f"{i % 3}/{i}.png" for i in range(8)]
    stored: set[tuple[str, int]] = set()
    for turn in range(8):
        for name in random.choice(names, 3, replace=False).tolist():
            if (folder / name).exists() and random.random() < 0.5:
                (folder / name).unlink()
            else:
                draw(folder / name, 100 * turn + len(name), height=int(random.integers(15, 30)))
        census = take_census(folder)
        decoded = opened(folder, rows=int(random.integers(0, 12)))
        identity = {image.name: (image.name, image.modified_ns) for image in census.images}
        again = {identity[name] for name in decoding.since()} & stored
        assert not again
        assert_right(decoded, folder)
        decoding.since()
        rows = zip(decoded.census.images, decoded.rows, strict=True)
        stored = {identity[image.name] for image, row in rows if row != pixels.NOT_STORED}


# Images that cannot be decoded


def test_image_that_cannot_be_decoded_is_skipped_and_remembered(folder: Path, decoding: Decoding) -> None:
    for name in ("0/1.jpg", "0/3.jpg"):
        draw(folder / name, 5)
    damage(folder / "0/1.jpg")
    census = take_census(folder)
    assert len(census.images) == 7  # its header is whole
    results = opened(folder), opened(folder, progress=never), opened(folder, progress=never, rows=0)
    assert decoding.since() == sorted([*NAMES, "0/1.jpg", "0/3.jpg"])
    for result in results:
        left = [image.name for image in result.census.images]
        assert left == ["0/0.png", "0/2.png", "0/3.jpg", "0/4.png", "1/1.png", "1/3.png"]
        assert [entry.name for entry in result.census.skipped] == ["0/1.jpg"]
        assert "damaged" in result.census.skipped[0].reason
        assert_right(result, folder)
    assert decoding.since() == []


def test_skipped_image_is_decoded_again_when_it_changes(folder: Path, decoding: Decoding) -> None:
    whole = (folder / "0/2.png").read_bytes()
    damage(folder / "0/2.png")
    assert len(opened(folder)) == 4
    decoding.since()
    (folder / "0/2.png").write_bytes(whole)
    again = opened(folder)
    assert decoding.since() == ["0/2.png"]
    assert (len(again), again.census.skipped) == (5, ())
    assert_right(again, folder)


def test_skipped_image_takes_no_room(folder: Path) -> None:
    damage(folder / "0/0.png")
    assert opened(folder, rows=4).stored_count == 4


def test_not_one_image_that_can_be_decoded_is_an_input_error(folder: Path, decoding: Decoding) -> None:
    for path in folder.rglob("*.png"):
        damage(path)
    for _ in range(2):
        with pytest.raises(InputError, match="None of the 5 images") as caught:
            opened(folder)
        assert "damaged" in caught.value.problem
    assert decoding.since() == NAMES  # once
    assert files_in(pixels_folder(folder)) == ["index.json"]


@pytest.mark.parametrize("harm", ["gone", "damaged", "changed"])
def test_image_without_room_that_goes_is_an_input_error_when_it_is_read(folder: Path, harm: str) -> None:
    decoded = opened(folder, rows=2)
    if harm == "gone":
        (folder / "1/1.png").unlink()
    elif harm == "damaged":
        damage(folder / "1/1.png")
    else:  # whole, but with other sizes than those that crops are drawn for
        draw(folder / "1/1.png", 77, 31, 90)
    assert (decoded.read(np.array([0, 1])) == np.stack(
        [decode_squashed(folder / name, 12).transpose(2, 0, 1) for name in NAMES[:2]]
    )).all()  # fmt: skip
    with pytest.raises(InputError, match=r"1\.png can no longer be used \(") as caught:
        decoded.read(np.array([0, 3, 4]))
    assert caught.value.exit_code == 3
    if harm == "changed":
        assert "(changed since its folder was scanned)" in caught.value.problem


def test_image_that_changes_before_decoding_is_skipped_and_decoded_next_time(folder: Path) -> None:
    census = take_census(folder)
    draw(folder / "1/1.png", 77, 31, 90)
    decoded = decode_images(census, SIZE, workers=2, progress=nothing)
    assert [entry.reason for entry in decoded.census.skipped] == ["changed since its folder was scanned"]
    assert_right(opened(folder), folder)


# Caches that are not whole


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / "index.json").read_bytes())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


def pixel_file(folder: Path) -> Path:
    return next(folder.glob("*.u8"))


def entry(index: dict[str, Any], number: int, **changes: Any) -> None:
    """Change an image's entry in the index."""
    for place, key in enumerate(("name", "bytes", "modified_ns", "row", "reason")):
        index["images"][number][place] = changes.get(key, index["images"][number][place])


HARMS: dict[str, Callable[[Path], object]] = {
    "index missing": lambda folder: (folder / "index.json").unlink(),
    "index empty": lambda folder: (folder / "index.json").write_bytes(b""),
    "index cut": lambda folder: (folder / "index.json").write_bytes((folder / "index.json").read_bytes()[:40]),
    "index not text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index a list": lambda folder: (folder / "index.json").write_text("[1, 2]"),
    "index a null": lambda folder: (folder / "index.json").write_text("null"),
    "other version": lambda folder: rewrite(folder, lambda index: index.update(version=formats.DECODING_VERSION + 1)),
    "other side": lambda folder: rewrite(folder, lambda index: index.update(side=13)),
    "no files": lambda folder: rewrite(folder, lambda index: index.update(files=[])),
    "files of a strange kind": lambda folder: rewrite(folder, lambda index: index.update(files=3)),
    "pixels of a strange name": lambda folder: rewrite(folder, lambda index: index.update(files=[[3, 5]])),
    "pixels of another folder": lambda folder: rewrite(folder, lambda index: index.update(files=[["../x.u8", 5]])),
    "more rows than there are": lambda folder: rewrite(folder, lambda index: index["files"][0].__setitem__(1, 10**15)),
    "a negative count": lambda folder: rewrite(folder, lambda index: index["files"].append(["x", -1])),
    "images of a strange kind": lambda folder: rewrite(folder, lambda index: index.update(images=[3])),
    "no images": lambda folder: rewrite(folder, lambda index: index.update(images=[])),
    "a row too many": lambda folder: rewrite(folder, lambda index: entry(index, 0, row=5)),
    "a row before the first": lambda folder: rewrite(folder, lambda index: entry(index, 0, row=-2)),
    "a row twice": lambda folder: rewrite(folder, lambda index: entry(index, 0, row=1)),
    "a reason with a row": lambda folder: rewrite(folder, lambda index: entry(index, 0, reason="x")),
    "a reason of a strange kind": lambda folder: rewrite(folder, lambda index: entry(index, 0, row=-1, reason=3)),
    "a row without end": lambda folder: rewrite(folder, lambda index: entry(index, 0, row=float("inf"))),
    "pixels missing": lambda folder: pixel_file(folder).unlink(),
    "pixels cut": lambda folder: os.truncate(pixel_file(folder), 100),
    "pixels a row short": lambda folder: os.truncate(pixel_file(folder), 4 * ROW),
    "pixels empty": lambda folder: os.truncate(pixel_file(folder), 0),
    "pixels grown": lambda folder: os.truncate(pixel_file(folder), 5 * ROW + 1),
    "pixels a row longer": lambda folder: os.truncate(pixel_file(folder), 6 * ROW),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_cache_is_made_anew(folder: Path, harm: str) -> None:
    opened(folder)
    HARMS[harm](pixels_folder(folder))
    seen: list[int] = []
    assert_right(opened(folder, progress=lambda done, _: seen.append(done)), folder)
    assert seen == [1, 2, 3, 4, 5]
    assert len(files_in(pixels_folder(folder))) == 2


GUISES: dict[str, Callable[[dict[str, Any]], object]] = {
    "floats": lambda index: [entry(index, i, row=float(i)) for i in range(5)],
    "strings": lambda index: [entry(index, i, row=str(i)) for i in range(5)],
    "booleans": lambda index: [entry(index, i, row=bool(i)) for i in range(2)],
    "halves": lambda index: entry(index, 4, row=4.5),
    "a count as a string": lambda index: index.update(files=[[index["files"][0][0], "5"]]),
    "a count as a float": lambda index: index.update(files=[[index["files"][0][0], 5.5]]),
    "a time as a float": lambda index: entry(index, 0, modified_ns=float(index["images"][0][2])),
    "a size as a boolean": lambda index: entry(index, 0, bytes=True),
    "a file of another folder": lambda index: index.update(files=[["../" + index["files"][0][0], 5]]),
    "another file besides": lambda index: index["files"].append(index["files"][0]),
}


@pytest.mark.parametrize("guise", GUISES)
def test_index_in_a_strange_guise_gives_no_wrong_pixels(folder: Path, guise: str) -> None:
    """The cache is read, or made anew."""
    opened(folder)
    rewrite(pixels_folder(folder), GUISES[guise])
    assert_right(opened(folder), folder)
    assert_right(opened(folder), folder)


# Stopped on the way


@pytest.mark.parametrize("error", [STOP, Terminated("Stopped.", "Go on.")])
@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_what_was_decoded_before_a_stop_is_kept(
    folder: Path, decoding: Decoding, stop_at: int, error: Interrupted
) -> None:
    threads = set(threading.enumerate())
    with pytest.raises(Interrupted) as caught:
        opened(folder, progress=stopping(stop_at, error))
    assert caught.value is error
    assert set(threading.enumerate()) == threads
    decoding.since()
    seen: list[tuple[int, int]] = []
    decoded = opened(folder, progress=lambda done, total: seen.append((done, total)))
    assert decoding.since() == NAMES[stop_at:]
    assert seen == [(i + 1, 5 - stop_at) for i in range(5 - stop_at)]
    assert_right(decoded, folder)
    assert not [name for name in files_in(pixels_folder(folder)) if name.startswith(TEMPORARY_PREFIX)]


def test_stopped_again_and_again_it_comes_to_an_end(folder: Path, decoding: Decoding) -> None:
    for i in range(5):
        with pytest.raises(Interrupted):
            opened(folder, progress=stopping(1, STOP))
        assert decoding.since()[0] == NAMES[i]
    assert_right(opened(folder, progress=never), folder)


def test_stop_keeps_what_is_skipped_or_has_no_room_too(folder: Path, decoding: Decoding) -> None:
    damage(folder / "0/0.png")
    with pytest.raises(Interrupted):
        opened(folder, progress=stopping(3, STOP), rows=1)
    decoding.since()
    decoded = opened(folder, rows=1)
    assert decoding.since() == NAMES[3:]
    assert (decoded.stored_count, len(decoded)) == (1, 4)
    assert_right(decoded, folder)


def test_stop_while_images_are_added_keeps_the_old_ones(folder: Path, decoding: Decoding) -> None:
    opened(folder)
    for i in range(3):
        draw(folder / f"2/{i}.png", 50 + i)
    with pytest.raises(Interrupted):
        opened(folder, progress=stopping(2, STOP))
    decoding.since()
    assert_right(opened(folder), folder)
    assert decoding.since()[:1] == ["2/2.png"]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_killed_before_the_first_commit_leaves_nothing_that_is_trusted(folder: Path, stop_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        opened(folder, progress=stopping(stop_at, KeyboardInterrupt()))
    assert files_in(pixels_folder(folder)) == []
    assert_right(opened(folder), folder)


@pytest.mark.parametrize("stop_at", [1, 2])
def test_killed_while_adding_leaves_the_old_cache_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    old: Census = take_census(folder)
    before = all_of(decode_images(old, SIZE, workers=2, progress=nothing))
    files = contents(pixels_folder(folder))
    draw(folder / "0/0.png", 99)
    draw(folder / "0/8.png", 98)
    with pytest.raises(KeyboardInterrupt):
        opened(folder, progress=stopping(stop_at, KeyboardInterrupt()))
    assert contents(pixels_folder(folder)) == files
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    assert (all_of(decode_images(old, SIZE, workers=2, progress=never)) == before).all()


def test_crash_between_pixels_and_index_leaves_nothing_that_is_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    assert len(files_in(pixels_folder(folder))) == 1
    seen: list[int] = []
    assert_right(opened(folder, progress=lambda done, _: seen.append(done)), folder)
    assert len(seen) == 5
    assert len(files_in(pixels_folder(folder))) == 2  # and what it left is gone


def test_long_decoding_is_saved_on_the_way(folder: Path, decoding: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every image, if that takes long enough; a crash then costs the one under way."""
    monkeypatch.setattr(pixels, "COMMIT_SECONDS", -1)
    seen: list[int] = []

    def crash(done: int, _: int) -> None:
        seen.append(len(list(pixels_folder(folder).glob("*.u8"))))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(folder, progress=crash)
    assert seen == [1, 2, 3, 4]
    decoding.since()
    decoded = opened(folder)
    assert decoding.since() == NAMES[4:]
    assert len(decoded.maps) == 5
    assert_right(decoded, folder)


def test_many_files_are_merged_without_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "COMMIT_SECONDS", -1)
    monkeypatch.setattr(pixels, "MAX_FILES", 4)
    before = opened(folder)
    assert len(before.maps) == 5
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    after = opened(folder, progress=never)
    assert len(after.maps) == 1 and (all_of(after) == all_of(before)).all()
    assert_right(after, folder)
    assert len(files_in(pixels_folder(folder))) == 2


def test_rows_of_nobody_are_cleared_away_without_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder)
    for name in NAMES[:3]:
        damage(folder / name)
    opened(folder)
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    assert_right(opened(folder, progress=never), folder)
    assert pixel_file(pixels_folder(folder)).stat().st_size == 2 * ROW


def test_a_part_of_a_folder_costs_the_rest_nothing(folder: Path, decoding: Decoding) -> None:
    """A command that asks for some images leaves what another one has decoded of the others."""
    opened(folder)
    decoding.since()
    census = take_census(folder)
    few = Census(folder, census.images[1:3], (), 0)
    for rows in (None, 5):
        budget = None if rows is None else rows * ROW
        part = decode_images(few, SIZE, workers=2, progress=never, budget=budget)
        assert_right(part, folder)
        assert_right(opened(folder, progress=never), folder)
    assert decoding.since() == []


def test_a_part_of_a_folder_takes_the_room_it_needs_from_what_it_does_not_ask_for(
    folder: Path, decoding: Decoding
) -> None:
    opened(folder, rows=3)
    assert decoding.since() == NAMES
    few = Census(folder, take_census(folder).images[2:4], (), 0)  # the last of the stored ones, and one that is not
    part = decode_images(few, SIZE, workers=2, progress=nothing, budget=3 * ROW)
    assert (part.stored_count, decoding.since()) == (2, [NAMES[3]])
    assert opened(folder, rows=3, progress=never).stored_count == 3
    assert decoding.since() == []


# Room


def has_free(monkeypatch: pytest.MonkeyPatch, rows: float) -> None:
    monkeypatch.setattr(cache, "get_free_bytes", lambda _: int(rows * ROW))


def test_without_room_nothing_is_stored_and_all_is_decoded_at_each_reading(folder: Path, decoding: Decoding) -> None:
    decoded = opened(folder, rows=0)
    assert decoding.since() == NAMES  # once, so that damaged ones are known
    assert (decoded.stored_count, decoded.rows.tolist(), decoded.maps) == (0, [-1] * 5, ())
    for _ in range(2):
        all_of(decoded)
        assert decoding.since() == NAMES
    assert_right(decoded, folder)
    assert files_in(pixels_folder(folder)) == ["index.json"]


@pytest.mark.parametrize("rows", range(7))
def test_as_many_are_stored_as_there_is_room_for(folder: Path, rows: int) -> None:
    decoded = opened(folder, rows=rows)
    assert decoded.stored_count == min(rows, 5)
    assert sum(path.stat().st_size for path in pixels_folder(folder).glob("*.u8")) == min(rows, 5) * ROW
    assert_right(decoded, folder)


@pytest.mark.parametrize(("budget", "stored"), [(2 * ROW - 1, 1), (2 * ROW, 2), (3 * ROW - 1, 2), (1, 0)])
def test_budget_counts_bytes(folder: Path, budget: int, stored: int) -> None:
    decoded = decode_images(take_census(folder), SIZE, workers=2, progress=nothing, budget=budget)
    assert decoded.stored_count == stored


def test_more_room_later_is_filled_with_what_is_not_stored(folder: Path, decoding: Decoding) -> None:
    for rows, again in ((0, NAMES), (2, NAMES[:2]), (4, NAMES[2:4]), (4, []), (9, NAMES[4:]), (9, [])):
        decoded = opened(folder, rows=rows)
        assert decoding.since() == again
        assert_right(decoded, folder)
        decoding.since()


def test_less_room_later_takes_nothing_away(folder: Path, decoding: Decoding) -> None:
    opened(folder, rows=4)
    decoding.since()
    decoded = opened(folder, rows=1)
    assert (decoding.since(), decoded.stored_count) == ([], 4)
    draw(folder / "new.png", 9)
    assert opened(folder, rows=1).stored_count == 4
    assert_right(opened(folder, rows=1), folder)


def test_added_images_come_before_those_that_had_no_room(folder: Path, decoding: Decoding) -> None:
    opened(folder, rows=3)
    decoding.since()
    draw(folder / "0/1.png", 9)
    decoded = opened(folder, rows=4)
    assert decoding.since() == ["0/1.png"]
    assert decoded.stored_count == 4
    assert_right(decoded, folder)


@pytest.mark.parametrize(("free", "stored"), [(0, 0), (1.9, 0), (2, 1), (6, 3), (9.9, 4), (10, 5), (1000, 5)])
def test_half_of_the_free_space_is_used_by_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: float, stored: int
) -> None:
    has_free(monkeypatch, free)
    decoded = opened(folder)
    assert decoded.stored_count == stored
    assert_right(decoded, folder)


@pytest.mark.parametrize(("free", "stored"), [(0, 0), (1, 0), (2.2, 2), (5, 4), (5.3, 5)])
def test_no_more_is_taken_than_is_free_whatever_the_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: float, stored: int
) -> None:
    has_free(monkeypatch, free)
    assert opened(folder, rows=100).stored_count == stored


def test_what_is_there_already_needs_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder)
    has_free(monkeypatch, 0)
    monkeypatch.setattr(cache, "isolate_batch", lambda *_: never)
    assert opened(folder).stored_count == opened(folder, rows=5).stored_count == 5
    assert describe_cache_shortage(take_census(folder), SIZE, None) is None


def test_calling_again_takes_no_more_of_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk with room for eight images, and these alone on it."""

    def free(_: Path) -> int:
        return 8 * ROW - sum(path.stat().st_size for path in pixels_folder(folder).glob("*.u8"))

    monkeypatch.setattr(cache, "get_free_bytes", free)
    assert [opened(folder).stored_count for _ in range(3)] == [4, 4, 4]


def test_budget_holds_when_images_change(folder: Path) -> None:
    opened(folder, rows=5)
    for i, name in enumerate(NAMES[:2]):
        draw(folder / name, 90 + i)
    opened(folder, rows=5)
    assert sum(path.stat().st_size for path in pixels_folder(folder).glob("*.u8")) <= 5 * ROW


@pytest.mark.parametrize("budget", [5 * ROW, 6 * ROW, 10**12])
def test_enough_room_is_no_lack(folder: Path, budget: int) -> None:
    assert describe_cache_shortage(take_census(folder), SIZE, budget) is None


def many(folder: Path, count: int) -> Census:
    """Return a census of so many photos, stored at 336 px for 224; the files do not exist."""
    return Census(folder, tuple(ImageFile(f"{i}.jpg", "JPEG", 4000, 6000, 9, 1) for i in range(count)), (), 0)


def told(census: Census, budget: int | None) -> str:
    sentence = describe_cache_shortage(census, 224, budget)
    assert sentence is not None
    return sentence


def gigabytes(sentence: str) -> list[float]:
    """Return the gigabytes that the images need, and those that they may take."""
    found = re.search(r"take (\S+) GB, and .* may take (\S+) GB of it", sentence)
    assert found
    return [float(figure.replace(",", "")) for figure in found.groups()]


def test_lack_of_room_says_how_much_and_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "get_free_bytes", lambda _: 10**12)
    census, needed = many(folder, 20_000), 20_000 * 3 * 336 * 336  # 6.77 GB
    assert describe_cache_shortage(census, 224, None) is None
    assert describe_cache_shortage(census, 224, needed) is None
    by_budget = told(census, needed // 4)
    assert gigabytes(by_budget) == pytest.approx([6.774, 6.774 / 4], rel=0.01)
    assert "--cache-gb" in by_budget and "75% of the images" in by_budget and str(cache_root()) in by_budget
    monkeypatch.setattr(cache, "get_free_bytes", lambda _: needed)
    by_what_is_free = told(census, None)
    assert gigabytes(by_what_is_free) == pytest.approx([6.774, 6.774 / 2], rel=0.01)
    assert "half of what is free there" in by_what_is_free and "50% of the images" in by_what_is_free
    assert not locate_cache(folder).exists()  # it only looks


def test_lack_of_much_room_is_reported_in_plain_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "stored_side", lambda *_: 60_000)  # 10.8 GB each
    monkeypatch.setattr(cache, "get_free_bytes", lambda _: 10**13)
    sentence = told(many(folder, 115), 10**12)
    assert gigabytes(sentence) == pytest.approx([1_242, 1_000], rel=0.01)
    assert "e+" not in sentence


@pytest.mark.parametrize("rows", range(6))
def test_lack_of_room_is_reported_if_and_only_if_images_will_not_be_stored(folder: Path, rows: int) -> None:
    sentence = describe_cache_shortage(take_census(folder), SIZE, rows * ROW)
    assert (sentence is None) == (opened(folder, rows=rows).stored_count == 5)
    assert sentence is None or f"{1 - rows / 5:.0%}" in sentence


def test_there_is_no_lack_of_room_for_what_is_stored(folder: Path) -> None:
    opened(folder)
    assert opened(folder, rows=2).stored_count == 5
    assert describe_cache_shortage(take_census(folder), SIZE, 2 * ROW) is None


def test_cache_folder_that_cannot_be_made_is_a_machine_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file/cache"))
    describe_cache_shortage(take_census(folder), SIZE, None)  # asked first, it does not fail
    with pytest.raises(MachineError, match="Cannot write") as caught:
        opened(folder)
    assert caught.value.exit_code == 5


def test_cache_folder_that_cannot_be_written_to_is_a_machine_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", deny)
    with pytest.raises(MachineError, match="Permission denied"):
        opened(folder)


def test_disk_that_fills_up_is_a_machine_error_and_harms_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder)
    before = contents(pixels_folder(folder))
    draw(folder / "new.png", 9)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    census = take_census(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MachineError, match="No space left"):
            decode_images(census, SIZE, workers=2, progress=nothing)
    assert contents(pixels_folder(folder)) == before
    assert_right(opened(folder), folder)


# Two at once


def test_another_that_builds_the_whole_cache_meanwhile_leads_to_no_wrong_pixels(folder: Path) -> None:
    """At every point of the one's decoding another begins and ends; who saves last has the say."""
    for at in range(1, 6):
        shutil.rmtree(locate_cache(folder), ignore_errors=True)
        others: list[DecodedImages] = []

        def meanwhile(done: int, _: int, at: int = at, others: list[DecodedImages] = others) -> None:
            if done == at:
                others.append(opened(folder))

        assert_right(opened(folder, progress=meanwhile), folder)
        assert_right(others[0], folder)  # its files are gone, but it had them open
        assert_right(opened(folder, progress=never), folder)
        assert len(files_in(pixels_folder(folder))) == 2


def test_another_that_merges_away_what_is_being_used_leads_to_an_error(folder: Path) -> None:
    """The one adds an image to rows that the other has merged into another file by then."""
    opened(folder)
    draw(folder / "2/new.png", 8)
    fewer = [replace(image, modified_ns=1) for image in take_census(folder).images[:4]]  # as if they had changed

    def meanwhile(*_: int) -> None:
        pixels.PixelStore(pixels_folder(folder), 12).mark_used(fewer, 99)

    with pytest.raises(MachineError, match="changed while it was read") as caught:
        opened(folder, progress=meanwhile)
    assert "again" in caught.value.remedy
    assert_right(opened(folder), folder)


def test_another_that_merges_first_leads_to_an_error_or_to_right_pixels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find rows of nobody; the other has merged them after the one has opened the index, before it begins."""
    opened(folder)
    for i, name in enumerate(NAMES[:3]):
        draw(folder / name, 90 + i)
    real = pixels.PixelStore

    def opened_by_both(path: Path, side: int, bits: int | None) -> pixels.PixelStore:
        mine = real(path, side)
        real(path, side).mark_used(take_census(folder).images, 99)
        return mine

    monkeypatch.setattr(cache, "PixelStore", opened_by_both)
    try:
        decoded = opened(folder)
    except MachineError:
        return
    assert_right(decoded, folder)


def test_file_that_goes_while_room_is_counted_is_no_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder)
    stray = pixels_folder(folder) / "pixels-0123456789abcdef.u8"
    stray.write_bytes(b"another's")
    glob = Path.glob

    def losing(path: Path, pattern: str) -> Iterator[Path]:
        found = list(glob(path, pattern))
        stray.unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(Path, "glob", losing)
    assert len(opened(folder)) == 5
