"""Decoded once: the cache holds what `squashed` gives, and is never trusted when it may not."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_cli.errors import InputError, MachineError
from simclr_cli.files import TEMPORARY_PREFIX
from simclr_cli.images import cache
from simclr_cli.images.cache import DecodedPictures, cache_root, decode_once, stored_side
from simclr_cli.images.decode import squashed
from simclr_cli.images.folder import Census, Picture, take_census

SIZE = 8  # trained on; stored at 12


def draw(path: Path, seed: int, height: int = 20, width: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(5):
        draw(tmp_path / f"pictures/{i % 2}/{i}.png", i, height=20 + i)
    return tmp_path / "pictures"


def damage(path: Path) -> None:
    """Its header is whole, its pixels are not."""
    path.write_bytes(path.read_bytes()[:-300])


def opened(folder: Path, size: int = SIZE, progress: Callable[[int, int], None] = lambda *_: None) -> DecodedPictures:
    return decode_once(take_census(folder), size, workers=2, progress=progress)


def assert_right(decoded: DecodedPictures, folder: Path, side: int = 12) -> None:
    """Row by row what one decode more would give."""
    assert len(decoded) == len(decoded.census.pictures) == len(decoded.sizes)
    assert decoded.pixels.shape[1:] == (3, side, side) and decoded.pixels.dtype == np.uint8
    for row, picture in enumerate(decoded.census.pictures):
        assert (decoded.pixels[row] == squashed(folder / picture.name, side).transpose(2, 0, 1)).all()
        assert decoded.sizes[row].tolist() == [picture.height, picture.width]


def never(*_: Any) -> Any:
    raise AssertionError("decoded again")


def only_cache() -> Path:
    (found,) = cache_root().iterdir()
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree_digest(folder: Path) -> str:
    """Over names, contents, rights and times, the folders' included."""
    digest = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.stat()
        digest.update(f"{path}\0{status.st_mtime_ns}\0{status.st_mode}\0".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def test_pixels_are_those_of_squashed(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    decoded = opened(folder, progress=lambda done, total: seen.append((done, total)))
    assert_right(decoded, folder)
    assert seen == [(i, 5) for i in range(1, 6)]
    assert not decoded.pixels.flags.writeable


def test_second_call_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder)
    monkeypatch.setattr(cache, "squashed", never)
    second = opened(folder, progress=never)
    assert (second.pixels == first.pixels).all() and second.census == first.census


@pytest.mark.parametrize(
    ("size", "largest", "side"),
    [(8, 30, 12), (32, 100, 48), (224, 4000, 336), (64, 70, 70), (64, 20, 20), (8, 1, 1), (9, 99, 14)],
)
def test_stored_side_is_half_as_much_again_but_no_more_than_there_is(size: int, largest: int, side: int) -> None:
    pictures = (Picture("a", "PNG", largest, 1, 9, 1), Picture("b", "PNG", 1, 1, 9, 1))
    assert stored_side(Census(Path(), pictures, (), 0), size) == side


def test_another_size_is_another_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder, 8)
    assert_right(opened(folder, 10), folder, side=15)
    monkeypatch.setattr(cache, "squashed", never)
    assert len(opened(folder, 8)) == len(opened(folder, 10)) == 5


def test_another_folder_of_the_same_names_is_another_cache(folder: Path, tmp_path: Path) -> None:
    opened(folder)
    shutil.copytree(folder, tmp_path / "copy")
    draw(tmp_path / "copy/0/0.png", 99)
    assert_right(opened(tmp_path / "copy"), tmp_path / "copy")
    assert_right(opened(folder), folder)


def test_added_picture_rebuilds_and_the_old_pixels_go(folder: Path) -> None:
    opened(folder)
    draw(folder / "1/new.png", 7)
    decoded = opened(folder)
    assert len(decoded) == 6
    assert_right(decoded, folder)
    assert len(files_in(only_cache())) == 2


def test_changed_picture_rebuilds_and_the_open_map_keeps_the_old(folder: Path) -> None:
    before = opened(folder)
    kept = before.pixels.copy()
    draw(folder / "0/0.png", 99)
    after = opened(folder)
    assert_right(after, folder)
    assert (before.pixels == kept).all() and (after.pixels[0] != kept[0]).any()


def test_picture_that_cannot_be_decoded_is_left_out_and_rows_stay_aligned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("0/1.jpg", "0/3.jpg"):
        draw(folder / name, 5)
    damage(folder / "0/1.jpg")
    census = take_census(folder)
    assert len(census.pictures) == 7  # its header is whole
    decoded = decode_once(census, SIZE, workers=2, progress=lambda *_: None)
    monkeypatch.setattr(cache, "squashed", never)
    again = decode_once(census, SIZE, workers=2, progress=never)
    for result in (decoded, again):
        left = [picture.name for picture in result.census.pictures]
        assert left == ["0/0.png", "0/2.png", "0/3.jpg", "0/4.png", "1/1.png", "1/3.png"]
        assert [entry.name for entry in result.census.refused] == ["0/1.jpg"]
        assert "truncated" in result.census.refused[0].reason
        assert_right(result, folder)


def test_not_one_picture_that_can_be_decoded_is_an_input_error(folder: Path) -> None:
    census = take_census(folder)
    for path in folder.rglob("*.png"):
        damage(path)
    with pytest.raises(InputError, match="None of the 5 pictures"):
        decode_once(census, SIZE, workers=2, progress=lambda *_: None)
    assert files_in(only_cache()) == []


def rewrite(index: Path, **changes: Any) -> None:
    index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))


HARMS: dict[str, Callable[[Path], object]] = {
    "index missing": lambda folder: (folder / "index.json").unlink(),
    "index empty": lambda folder: (folder / "index.json").write_bytes(b""),
    "index cut": lambda folder: (folder / "index.json").write_bytes((folder / "index.json").read_bytes()[:40]),
    "index not text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index a list": lambda folder: (folder / "index.json").write_text("[1, 2]"),
    "index a null": lambda folder: (folder / "index.json").write_text("null"),
    "other version": lambda folder: rewrite(folder / "index.json", version=cache.VERSION + 1),
    "other fingerprint": lambda folder: rewrite(folder / "index.json", fingerprint="0" * 64),
    "other side": lambda folder: rewrite(folder / "index.json", side=13),
    "a refusal too many": lambda folder: rewrite(folder / "index.json", refused=[{"name": "0/0.png", "reason": "x"}]),
    "refusals of a strange kind": lambda folder: rewrite(folder / "index.json", refused=[3]),
    "pixels of a strange name": lambda folder: rewrite(folder / "index.json", pixels=3),
    "pixels missing": lambda folder: next(folder.glob("*.u8")).unlink(),
    "pixels cut": lambda folder: os.truncate(next(folder.glob("*.u8")), 100),
    "pixels empty": lambda folder: os.truncate(next(folder.glob("*.u8")), 0),
    "pixels grown": lambda folder: os.truncate(next(folder.glob("*.u8")), 5 * 3 * 12 * 12 + 1),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_cache_is_rebuilt(folder: Path, harm: str) -> None:
    opened(folder)
    HARMS[harm](only_cache())
    seen: list[int] = []
    assert_right(opened(folder, progress=lambda done, _: seen.append(done)), folder)
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_interrupted_build_leaves_nothing_that_is_trusted(folder: Path, stop_at: int) -> None:
    def stop(done: int, _: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(folder, progress=stop)
    assert files_in(only_cache()) == []
    assert_right(opened(folder), folder)


def test_interrupted_rebuild_leaves_the_old_cache_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old: Census = take_census(folder)
    before = decode_once(old, SIZE, workers=2, progress=lambda *_: None).pixels.copy()
    draw(folder / "0/0.png", 99)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(folder, progress=stop)
    monkeypatch.setattr(cache, "squashed", never)
    assert (decode_once(old, SIZE, workers=2, progress=never).pixels == before).all()
    assert not [name for name in files_in(only_cache()) if name.startswith(TEMPORARY_PREFIX)]


def test_crash_between_pixels_and_index_leaves_nothing_that_is_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    seen: list[int] = []
    assert_right(opened(folder, progress=lambda done, _: seen.append(done)), folder)
    assert len(seen) == 5


def test_cache_folder_that_cannot_be_made_is_a_machine_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file/cache"))
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


def test_too_little_space_is_a_machine_error_before_a_picture_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 5 * 3 * 12 * 12
    usage = type(shutil.disk_usage(folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - needed, needed))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "squashed", never)
        with pytest.raises(MachineError, match="SIMCLR_CACHE"):
            opened(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 2 * needed, 2 * needed))
    assert len(opened(folder)) == 5


def test_nothing_in_the_folder_of_pictures_is_changed(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    before = tree_digest(folder)
    opened(folder)
    opened(folder)
    assert tree_digest(folder) == before


@pytest.mark.skipif(os.name != "posix", reason="the names are those of POSIX")
def test_cache_root_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.sys, "platform", "linux")
    assert cache_root() == Path(os.environ["SIMCLR_CACHE"])
    monkeypatch.delenv("SIMCLR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/simclr")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/x")
    assert cache_root() == Path("/home/x/.cache/simclr")
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache_root() == Path("/home/x/Library/Caches/simclr")


def test_empty_variable_does_not_mean_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", "")
    assert cache_root().is_absolute()
