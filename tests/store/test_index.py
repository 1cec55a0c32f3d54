"""Index and its files, compared to a dict; after any failure the old or the new index is read; damage is an error."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.core.errors import MachineError, RunError
from simclr_cli.store import index_files
from simclr_cli.store.index import IMAGE, PART_KINDS, Index, Rows, SkippedFile
from simclr_cli.store.index_files import InvalidIndexError, append_rows, read_index, save_index

MODEL, WIDTH = "a" * 64, 5
NONE = np.empty(0, np.int64)
posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows keeps mapped files, and has no name of dots")
NAMES = ["a/1.png", "größe.png", "new\nline.png", "caf\udce9\udcff.png", "a/1.png.png"]


def rows(names: list[str], seed: int = 0) -> Rows:
    rng, images = np.random.default_rng(seed), np.zeros(len(names), IMAGE)
    images["bytes"], images["modified_ns"] = rng.integers(0, 2**40, (2, len(names)))
    images["checksum"] = rng.integers(0, 256, (len(names), 32))
    images["size"] = rng.integers(1, 9000, (len(names), 2))
    return Rows(rng.standard_normal((len(names), WIDTH)).astype(np.float32), names, images)


def update(index: Index, gone: NDArray[np.int64], added: Rows, skipped: tuple[SkippedFile, ...] = ()) -> Index:
    return save_index(append_rows(index, added).finish_update(gone, skipped, index.root))


def open_index(folder: Path) -> Index:
    index = read_index(folder, model_checksum=MODEL)
    assert index is not None
    return index


def files(folder: Path, kind: str = "") -> list[Path]:
    return sorted(folder.glob(f"{kind}*.bin"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(["a.png", "b.png", "c.png"]))


def test_an_index_in_memory_has_names_and_files_and_equal_embeddings() -> None:
    """For a search of equal files: it has no file of its own, and none of its rows differs from another."""
    images = rows(NAMES).images
    index = Index.in_memory("/pics", NAMES, images)
    index.check()
    assert index.names == NAMES and len(index) == len(NAMES) and not index.is_unfinished
    assert [index.get_name(place) for place in range(len(NAMES))] == NAMES
    assert [index.find_place(name) for name in NAMES] == list(range(len(NAMES))) and index.find_place("b") is None
    assert index.get_path(1) == Path("/pics/größe.png") and (index.images == images).all()
    assert index.h[:].tolist() == [[1.0]] * len(NAMES)


def test_no_index_is_none(tmp_path: Path) -> None:
    assert read_index(tmp_path, model_checksum=MODEL) is None


def test_an_index_without_images(tmp_path: Path) -> None:
    save_index(Index(tmp_path, "/pics", MODEL, WIDTH))
    found = open_index(tmp_path)
    assert (len(found), found.names, found.h[:].shape) == (0, [], (0, WIDTH))


@pytest.mark.parametrize("byte_count", range(8))
def test_crc32_is_of_the_first_bytes(byte_count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "BYTES_PER_READ", 3)
    (tmp_path / "a").write_bytes(b"abcdefgh")
    assert index_files.compute_crc32(tmp_path / "a", byte_count) == zlib.crc32(b"abcdefgh"[:byte_count])


def test_all_rows_are_read_back_also_by_numpy(tmp_path: Path) -> None:
    added = rows(NAMES)
    update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, added)
    found = open_index(tmp_path)
    assert found.names == NAMES and [found.get_name(place) for place in range(5)] == NAMES
    np.testing.assert_array_equal(found.h[:], added.h)
    for column in IMAGE.names or ():
        np.testing.assert_array_equal(found.images[column], added.images[column])
    (embeddings,) = files(tmp_path, "embeddings")
    np.testing.assert_array_equal(np.fromfile(embeddings, "<f4").reshape(-1, WIDTH), added.h)


@posix_only
def test_updates_match_a_dict(tmp_path: Path) -> None:
    rng, index, kept = np.random.default_rng(1), Index(tmp_path, "/pics", MODEL, WIDTH), {}
    for turn in range(25):
        gone = np.sort(rng.choice(len(index), len(index) // 5, replace=False)) if len(index) else NONE
        for place in gone.tolist():
            del kept[index.get_name(place)]
        added = rows([f"{turn}/{i}.png" for i in range(int(rng.integers(0, 60)))], seed=turn)
        kept |= {name: (added.h[i], added.images[i]) for i, name in enumerate(added.names)}
        update(index, gone, added)
        index = open_index(tmp_path)
        assert len(index) == len(kept) and len(files(tmp_path)) == 3
        assert files(tmp_path, "embeddings")[0].stat().st_size <= 2 * 4 * WIDTH * len(kept)  # at most half is gone
    assert sorted(index.names) == sorted(kept)
    h, names = index.h[:], index.names
    for place, name in enumerate(names):
        assert (
            index.get_name(place) == name
            and index.find_place(name) == place
            and index.get_path(place) == Path("/pics", name)
        )
        np.testing.assert_array_equal(h[place], kept[name][0])
        assert index.images["bytes"][place] == kept[name][1]["bytes"]
        assert (index.images["checksum"][place] == kept[name][1]["checksum"]).all()
    chosen = rng.permutation(len(index))[:30]
    np.testing.assert_array_equal(index.h.take(chosen), h[chosen])
    for start, stop in ((0, 7), (3, 90), (100, 100), (len(index) - 2, len(index) + 9)):
        np.testing.assert_array_equal(index.h[slice(start, stop)], h[start:stop])
    with pytest.raises(IndexError):
        index.get_name(len(index))
    assert index.find_place("0/nowhere.png") is None


def test_find_place_matches_complete_names(tmp_path: Path) -> None:
    index = update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(NAMES))
    assert [index.find_place(name) for name in NAMES] == [0, 1, 2, 3, 4]
    assert [index.find_place(name) for name in ("1.png", "a/1", "png", "", "a/1.pnggrö", "nowhere")] == [None] * 6


@posix_only
def test_a_small_change_only_appends(tmp_path: Path) -> None:
    index = update(Index(tmp_path, "/p", MODEL, WIDTH), NONE, rows([f"{i}.png" for i in range(1000)]))
    before = {file.name: file.read_bytes() for file in files(tmp_path)}
    for turn in range(20):
        index = update(index, np.array([turn]), rows([f"new-{turn}.png"], seed=turn))
    assert len(index) == 1000 and {file.name for file in files(tmp_path)} == set(before)
    assert all((tmp_path / name).read_bytes().startswith(data) for name, data in before.items())
    index = save_index(index.finish_update(np.arange(600), [], "/p"))  # most are removed: the others are copied
    assert len(index) == 400 and not {file.name for file in files(tmp_path)} & set(before)
    assert files(tmp_path, "embeddings")[0].stat().st_size == 400 * 4 * WIDTH


def test_a_replaced_image_has_its_new_row(index: Index) -> None:
    again = rows(["b.png"], seed=9)
    new = update(index, np.array([1]), again)
    place = new.find_place("b.png")
    assert sorted(new.names) == ["a.png", "b.png", "c.png"] and place is not None
    np.testing.assert_array_equal(new.h.take(np.array([place]))[0], again.h[0])


def test_skipped_images_are_read_back_with_any_name(tmp_path: Path) -> None:
    entry = SkippedFile("caf\udce9\n.png", "truncated", 3, 2**62)
    update(Index(tmp_path, "/caf\udce9", MODEL, WIDTH), NONE, rows(NAMES), (entry,))
    again = open_index(tmp_path)
    assert again.skipped == (entry,) and again.root == "/caf\udce9"
    assert (tmp_path / "index.json").read_bytes().isascii()


def test_appended_rows_count_after_the_end_of_the_update(index: Index) -> None:
    append_rows(index, rows(["d.png"]))
    again = open_index(index.folder)
    assert (
        again.is_unfinished
        and again.names == index.names
        and again.include_unfinished().names == [*index.names, "d.png"]
    )
    save_index(again.finish_update(np.array([0, 3]), [], "/pics"))
    assert open_index(index.folder).names == ["b.png", "c.png"] and not open_index(index.folder).is_unfinished


@pytest.mark.parametrize("call", range(4))  # three files, then index.json
def test_a_failed_write_leaves_the_old_index_and_the_next_update_succeeds(
    index: Index, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The disk is full at any write, with a part of the data written."""
    calls = []

    def fail(target: Path, *values: Any) -> int:
        calls.append(target)
        if len(calls) == call + 1:
            with target.open("ab") as stream:
                stream.write(b"half")
            raise MachineError("No space.", "Make room.")
        return real(target, *values)

    real = index_files.append_bytes
    monkeypatch.setattr(index_files, "append_bytes", fail)
    if call == 3:
        monkeypatch.setattr(index_files, "write_json", lambda *_: fail(index.folder / "stray"))
    with pytest.raises(MachineError):
        update(index, np.array([0]), rows(["d.png"]))
    assert open_index(index.folder).names == ["a.png", "b.png", "c.png"]
    monkeypatch.undo()
    added = rows(["e.png", "f.png"], seed=3)
    new = update(open_index(index.folder), np.array([1]), added)
    assert open_index(index.folder).names == new.names == ["a.png", "c.png", "e.png", "f.png"]
    np.testing.assert_array_equal(open_index(index.folder).h[2:4], added.h)


def test_an_open_index_stays_readable(index: Index) -> None:
    old = open_index(index.folder)
    h = old.h[:].copy()
    new = update(open_index(index.folder), np.arange(3), rows([f"{i}.png" for i in range(2)], seed=1))
    assert {part.file for part in new.parts.values()}.isdisjoint(part.file for part in old.parts.values())
    np.testing.assert_array_equal(old.h[:], h)
    assert old.names == ["a.png", "b.png", "c.png"]


@posix_only
def test_a_file_with_two_names_is_not_appended_to(index: Index) -> None:
    """A backup of hard links does not change, nor does the target of a symbolic link."""
    backup = index.folder / "backup"
    backup.mkdir()
    for file in (*files(index.folder), index.folder / "index.json"):
        os.link(file, backup / file.name)
    before = {file.name: file.read_bytes() for file in backup.iterdir()}
    update(open_index(index.folder), NONE, rows(["d.png"]))
    assert {file.name: file.read_bytes() for file in backup.iterdir()} == before
    assert open_index(backup).names == index.names and len(open_index(index.folder)) == 4
    (embeddings,) = files(index.folder, "embeddings")
    outside = embeddings.rename(index.folder / "outside")
    embeddings.symlink_to(outside)
    content = outside.read_bytes()
    update(open_index(index.folder), NONE, rows(["e.png"]))
    assert outside.read_bytes() == content and len(open_index(index.folder)) == 5


def test_the_checksum_of_a_copied_file_is_verified(index: Index, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file with another modification time than recorded is read."""
    copy = tmp_path_factory.mktemp("copy")
    for kind in PART_KINDS:
        shutil.copytree(index.folder, copy / kind, copy_function=shutil.copyfile)
        assert open_index(copy / kind).names == index.names
        (file,) = files(copy / kind, kind)
        data = bytearray(file.read_bytes())
        data[3] ^= 4
        file.write_bytes(data)
        with pytest.raises(InvalidIndexError, match="checksum differs"):
            open_index(copy / kind)


@posix_only
def test_an_index_replaced_while_it_is_read_is_read_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process copies the rows to new files after index.json was read, and removes the old files."""
    real, calls = index_files.parse_json, []

    def late(content: bytes) -> Any:
        calls.append(content)
        if len(calls) == 1:
            update(index, np.arange(3), rows(["y.png", "z.png"]))
        return real(content)

    monkeypatch.setattr(index_files, "parse_json", late)
    assert open_index(index.folder).names == ["y.png", "z.png"] and len(calls) == 2


def change_index(**changes: Any) -> Callable[[Path], object]:
    """Return a function that changes index.json."""

    def harm(folder: Path) -> None:
        content = {**json.loads((folder / "index.json").read_text()), **changes}
        content = {key: value for key, value in content.items() if value != "missing"}
        (folder / "index.json").write_text(json.dumps(content))

    return harm


def change_part(kind: str, **changes: Any) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        parts = json.loads((folder / "index.json").read_text())["parts"]
        change_index(parts={**parts, kind: {**parts[kind], **changes}})(folder)

    return harm


def replace_names(*names: str) -> Callable[[Path], object]:
    """Return a function that replaces the names, with a valid checksum."""

    def harm(folder: Path) -> None:
        data = b"".join(name.encode() + b"\0" for name in names)
        (file,) = files(folder, "names")
        file.write_bytes(data)
        change_part("names", bytes=len(data), crc32=zlib.crc32(data))(folder)

    return harm


def truncate(kind: str) -> Callable[[Path], object]:
    return lambda folder: os.truncate(files(folder, kind)[0], files(folder, kind)[0].stat().st_size - 1)


HARMS: dict[str, Callable[[Path], object]] = {
    "not JSON": lambda folder: (folder / "index.json").write_text("{"),
    "a list": lambda folder: (folder / "index.json").write_text("[]"),
    "deep": lambda folder: (folder / "index.json").write_text("[" * 100_000),
    "not text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"),
    "another model": change_index(model_checksum="b" * 64),
    "model a number": change_index(model_checksum=3),
    "another width": change_index(width=6),
    "no width": change_index(width=0),
    "a width of text": change_index(width="5"),
    "no parts": change_index(parts="missing"),
    "parts a number": change_index(parts=3),
    "skipped of a wrong kind": change_index(skipped=[["a"]]),
    "more rows than there are": change_index(searched=4),
    "-1 rows": change_index(searched=-1),
    "half a row": change_index(searched=2.5),
    "gone beyond": change_index(gone=[3]),
    "gone below": change_index(gone=[-1]),
    "gone twice": change_index(gone=[1, 1]),
    "gone in disorder": change_index(gone=[1, 0]),
    "gone of words": change_index(gone=["x"]),
    "gone a number": change_index(gone=1),
    "gone in a table": change_index(gone=[[0], [1]]),
    "gone beyond all numbers": change_index(gone=[10**30]),
    "a root that is relative": change_index(root="pics"),
    "a file elsewhere": change_part("images", file="../../etc/passwd"),
    "a file that is not there": change_part("images", file="images-0.bin"),
    "a size of text": change_part("images", bytes="168"),
    "more to say of a file": change_part("images", more=1),
    "version a text": change_index(format_version="1"),
    "embeddings cut": truncate("embeddings"),
    "images cut": truncate("images"),
    "names cut": truncate("names"),
    "a row fewer of the images": change_part("images", bytes=2 * IMAGE.itemsize),
    "half an image": change_part("images", bytes=IMAGE.itemsize // 2),
    "a row fewer of the embeddings": change_part("embeddings", bytes=2 * 4 * WIDTH),
    "a name fewer": replace_names("a", "b"),
    "a name more": replace_names("a", "b", "c", "d"),
    "a name without its end": change_part("names", bytes=17),
    "a name of nothing": replace_names("a", "", "c"),
    **{
        f"the name {name}": replace_names("a.png", name, "b.png")
        for name in ("/etc", "../x", "a/../../x", "a/..", "..")
    },
}


@pytest.mark.parametrize("harm", HARMS)
@posix_only
def test_a_damaged_index_or_one_of_another_model_is_an_error(index: Index, harm: str) -> None:
    HARMS[harm](index.folder)
    with pytest.raises(InvalidIndexError) as caught:
        open_index(index.folder)
    assert caught.value.exit_code == 4 and caught.value.remedy


@pytest.mark.parametrize("name", ["C:x", "..\\x", "a\\..\\..\\x", "a:b"])
def test_names_that_lead_out_of_the_folder_on_windows(tmp_path: Path, name: str) -> None:
    index = Index.in_memory("/pics", ["a.png", name, "b.png"], np.zeros(3, IMAGE))
    assert index._has_name_outside(windows=True) and not index._has_name_outside(windows=False)


@pytest.mark.parametrize(("name", "on_windows"), [(b"caf\xe9.png", False), ("größe.png".encode(), True)])
def test_names_of_linux_that_windows_cannot_have_are_an_error(name: bytes, on_windows: bool) -> None:
    index = Index.in_memory("/pics", ["a.png"], np.zeros(2, IMAGE))
    object.__setattr__(index, "_names", np.frombuffer(b"a.png\0" + name + b"\0", np.uint8))
    assert index._has_decodable_names(windows=False) and index._has_decodable_names(windows=True) == on_windows


@posix_only
def test_names_may_contain_dots(tmp_path: Path) -> None:
    names = ["a..b.png", "..c.png", "d../e...png", "....png", "...", "f/..g"]
    update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(names))
    assert open_index(tmp_path).names == names


def test_newer_format_suggests_an_upgrade(index: Index) -> None:
    change_index(format_version=2, parts="missing")(index.folder)
    with pytest.raises(RunError, match=r"newer format.*upgrade") as caught:
        open_index(index.folder)
    assert not isinstance(caught.value, InvalidIndexError)
