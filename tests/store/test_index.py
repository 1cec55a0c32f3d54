"""An index against a dict that is told the same: rows in, rows out; old or new whatever fails; damage is skipped."""

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
from simclr_cli.store import index as module
from simclr_cli.store.index import IMAGE, KINDS, Index, Rows, SkippedFile, Unusable, append, read_index, save

MODEL, WIDTH = "a" * 64, 5
NONE = np.empty(0, np.int64)
NAMES = ["a/1.png", "größe.png", "new\nline.png", os.fsdecode(b"caf\xe9\xff.png"), "a/1.png.png"]


def rows(names: list[str], seed: int = 0) -> Rows:
    rng, images = np.random.default_rng(seed), np.zeros(len(names), IMAGE)
    images["bytes"], images["modified_ns"] = rng.integers(0, 2**40, (2, len(names)))
    images["checksum"] = rng.integers(0, 256, (len(names), 32))
    images["size"] = rng.integers(1, 9000, (len(names), 2))
    return Rows(rng.standard_normal((len(names), WIDTH)).astype(np.float32), names, images)


def update(index: Index, gone: NDArray[np.int64], added: Rows, skipped: tuple[SkippedFile, ...] = ()) -> Index:
    return save(append(index, added).settled(gone, skipped, index.root))


def opened(folder: Path) -> Index:
    found = read_index(folder, model_checksum=MODEL)
    assert found is not None
    return found


def files(folder: Path, kind: str = "") -> list[Path]:
    return sorted(folder.glob(f"{kind}*.bin"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(["a.png", "b.png", "c.png"]))


def test_there_is_none(tmp_path: Path) -> None:
    assert read_index(tmp_path, model_checksum=MODEL) is None


def test_an_index_of_no_images_is_one(tmp_path: Path) -> None:
    save(Index(tmp_path, "/pics", MODEL, WIDTH))
    found = opened(tmp_path)
    assert (len(found), found.names, found.h[:].shape) == (0, [], (0, WIDTH))


@pytest.mark.parametrize("most", range(8))
def test_a_checksum_is_of_the_first_bytes_to_the_last_one(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES_PER_BLOCK", 3)
    (tmp_path / "a").write_bytes(b"abcdefgh")
    assert module.checksum(tmp_path / "a", most) == zlib.crc32(b"abcdefgh"[:most])


def test_all_of_it_comes_back_also_to_other_tools(tmp_path: Path) -> None:
    added = rows(NAMES)
    update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, added)
    found = opened(tmp_path)
    assert found.names == NAMES and [found.name(place) for place in range(5)] == NAMES
    np.testing.assert_array_equal(found.h[:], added.h)
    for column in IMAGE.names or ():
        np.testing.assert_array_equal(found.images[column], added.images[column])
    (embeddings,) = files(tmp_path, "embeddings")
    np.testing.assert_array_equal(np.fromfile(embeddings, "<f4").reshape(-1, WIDTH), added.h)


def test_it_is_what_a_dict_would_be(tmp_path: Path) -> None:
    rng, index, kept = np.random.default_rng(1), Index(tmp_path, "/pics", MODEL, WIDTH), {}
    for turn in range(25):
        gone = np.sort(rng.choice(len(index), len(index) // 5, replace=False)) if len(index) else NONE
        for place in gone.tolist():
            del kept[index.name(place)]
        added = rows([f"{turn}/{i}.png" for i in range(int(rng.integers(0, 60)))], seed=turn)
        kept |= {name: (added.h[i], added.images[i]) for i, name in enumerate(added.names)}
        update(index, gone, added)
        index = opened(tmp_path)
        assert len(index) == len(kept) and len(files(tmp_path)) == 3
        assert files(tmp_path, "embeddings")[0].stat().st_size <= 2 * 4 * WIDTH * len(kept)  # at most half is gone
    assert sorted(index.names) == sorted(kept)
    h, names = index.h[:], index.names
    for place, name in enumerate(names):
        assert index.name(place) == name and index.place(name) == place and index.path(place) == Path("/pics", name)
        np.testing.assert_array_equal(h[place], kept[name][0])
        assert index.images["bytes"][place] == kept[name][1]["bytes"]
        assert (index.images["checksum"][place] == kept[name][1]["checksum"]).all()
    chosen = rng.permutation(len(index))[:30]
    np.testing.assert_array_equal(index.h.take(chosen), h[chosen])
    for start, stop in ((0, 7), (3, 90), (100, 100), (len(index) - 2, len(index) + 9)):
        np.testing.assert_array_equal(index.h[slice(start, stop)], h[start:stop])
    with pytest.raises(IndexError):
        index.name(len(index))
    assert index.place("0/nowhere.png") is None


def test_a_name_is_found_as_a_whole(tmp_path: Path) -> None:
    index = update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(NAMES))
    assert [index.place(name) for name in NAMES] == [0, 1, 2, 3, 4]
    assert [index.place(name) for name in ("1.png", "a/1", "png", "", "a/1.pnggrö", "nowhere")] == [None] * 6


def test_what_is_there_is_not_written_again_for_a_small_change(tmp_path: Path) -> None:
    index = update(Index(tmp_path, "/p", MODEL, WIDTH), NONE, rows([f"{i}.png" for i in range(1000)]))
    before = {file.name: file.read_bytes() for file in files(tmp_path)}
    for turn in range(20):
        index = update(index, np.array([turn]), rows([f"new-{turn}.png"], seed=turn))
    assert len(index) == 1000 and {file.name for file in files(tmp_path)} == set(before)
    assert all((tmp_path / name).read_bytes().startswith(data) for name, data in before.items())
    index = save(index.settled(np.arange(600), [], "/p"))  # mostly gone: what is left is copied
    assert len(index) == 400 and not {file.name for file in files(tmp_path)} & set(before)
    assert files(tmp_path, "embeddings")[0].stat().st_size == 400 * 4 * WIDTH


def test_a_name_that_comes_back_is_the_new_one(index: Index) -> None:
    again = rows(["b.png"], seed=9)
    new = update(index, np.array([1]), again)
    place = new.place("b.png")
    assert sorted(new.names) == ["a.png", "b.png", "c.png"] and place is not None
    np.testing.assert_array_equal(new.h.take(np.array([place]))[0], again.h[0])


def test_skipped_images_and_any_bytes_come_back(tmp_path: Path) -> None:
    entry = SkippedFile(os.fsdecode(b"caf\xe9\n.png"), "truncated", 3, 2**62)
    update(Index(tmp_path, os.fsdecode(b"/caf\xe9"), MODEL, WIDTH), NONE, rows(NAMES), (entry,))
    again = opened(tmp_path)
    assert again.skipped == (entry,) and os.fsencode(again.root) == b"/caf\xe9"
    assert (tmp_path / "index.json").read_bytes().isascii()


def test_what_an_update_appended_is_known_and_not_searched_before_its_end(index: Index) -> None:
    append(index, rows(["d.png"]))
    again = opened(index.folder)
    assert again.is_unfinished and again.names == index.names and again.known.names == [*index.names, "d.png"]
    save(again.settled(np.array([0, 3]), [], "/pics"))
    assert opened(index.folder).names == ["b.png", "c.png"] and not opened(index.folder).is_unfinished


@pytest.mark.parametrize("call", range(4))  # three files, then index.json
def test_what_fails_leaves_the_old_index_and_the_next_update_is_whole(
    index: Index, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """As if the disk were full at any write, with a part of the data written."""
    calls = []

    def fail(target: Path, *values: Any) -> int:
        calls.append(target)
        if len(calls) == call + 1:
            with target.open("ab") as stream:
                stream.write(b"half")
            raise MachineError("No space.", "Make room.")
        return real(target, *values)

    real = module.append_bytes
    monkeypatch.setattr(module, "append_bytes", fail)
    if call == 3:
        monkeypatch.setattr(module, "write_json", lambda *_: fail(index.folder / "stray"))
    with pytest.raises(MachineError):
        update(index, np.array([0]), rows(["d.png"]))
    assert opened(index.folder).names == ["a.png", "b.png", "c.png"]
    monkeypatch.undo()
    added = rows(["e.png", "f.png"], seed=3)
    new = update(opened(index.folder), np.array([1]), added)
    assert opened(index.folder).names == new.names == ["a.png", "c.png", "e.png", "f.png"]
    np.testing.assert_array_equal(opened(index.folder).h[2:4], added.h)


def test_who_has_the_last_index_open_reads_on(index: Index) -> None:
    old = opened(index.folder)
    h = old.h[:].copy()
    new = update(opened(index.folder), np.arange(3), rows([f"{i}.png" for i in range(2)], seed=1))
    assert {part.file for part in new.parts.values()}.isdisjoint(part.file for part in old.parts.values())
    np.testing.assert_array_equal(old.h[:], h)
    assert old.names == ["a.png", "b.png", "c.png"]


def test_what_has_two_names_is_not_appended_to(index: Index) -> None:
    """A backup of hard links stays what it is, and so does a file that a link in a stranger's folder leads to."""
    backup = index.folder / "backup"
    backup.mkdir()
    for file in (*files(index.folder), index.folder / "index.json"):
        os.link(file, backup / file.name)
    before = {file.name: file.read_bytes() for file in backup.iterdir()}
    update(opened(index.folder), NONE, rows(["d.png"]))
    assert {file.name: file.read_bytes() for file in backup.iterdir()} == before
    assert opened(backup).names == index.names and len(opened(index.folder)) == 4
    (embeddings,) = files(index.folder, "embeddings")
    outside = embeddings.rename(index.folder / "outside")
    embeddings.symlink_to(outside)
    held = outside.read_bytes()
    update(opened(index.folder), NONE, rows(["e.png"]))
    assert outside.read_bytes() == held and len(opened(index.folder)) == 5


def test_a_copied_file_is_trusted_after_its_checksum(index: Index, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What has another time of change than it was left with is read."""
    copy = tmp_path_factory.mktemp("copy")
    for kind in KINDS:
        shutil.copytree(index.folder, copy / kind, copy_function=shutil.copyfile)
        assert opened(copy / kind).names == index.names
        (file,) = files(copy / kind, kind)
        whole = bytearray(file.read_bytes())
        whole[3] ^= 4
        file.write_bytes(whole)
        with pytest.raises(Unusable, match="checksum differs"):
            opened(copy / kind)


def test_an_index_replaced_while_it_is_read_is_read_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process copies what is left to new files after index.json was read, and removes the old files."""
    real, calls = module.parse_json, []

    def late(content: bytes) -> Any:
        calls.append(content)
        if len(calls) == 1:
            update(index, np.arange(3), rows(["y.png", "z.png"]))
        return real(content)

    monkeypatch.setattr(module, "parse_json", late)
    assert opened(index.folder).names == ["y.png", "z.png"] and len(calls) == 2


def says(**changes: Any) -> Callable[[Path], object]:
    """Harm done to index.json."""

    def harm(folder: Path) -> None:
        content = {**json.loads((folder / "index.json").read_text()), **changes}
        content = {key: value for key, value in content.items() if value != "missing"}
        (folder / "index.json").write_text(json.dumps(content))

    return harm


def part_says(kind: str, **changes: Any) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        parts = json.loads((folder / "index.json").read_text())["parts"]
        says(parts={**parts, kind: {**parts[kind], **changes}})(folder)

    return harm


def named(*names: str) -> Callable[[Path], object]:
    """A whole file of names, with its checksum, that lead elsewhere or are too many or too few."""

    def harm(folder: Path) -> None:
        data = b"".join(name.encode() + b"\0" for name in names)
        (file,) = files(folder, "names")
        file.write_bytes(data)
        part_says("names", bytes=len(data), crc32=zlib.crc32(data))(folder)

    return harm


def cut(kind: str) -> Callable[[Path], object]:
    return lambda folder: os.truncate(files(folder, kind)[0], files(folder, kind)[0].stat().st_size - 1)


HARMS: dict[str, Callable[[Path], object]] = {
    "not JSON": lambda folder: (folder / "index.json").write_text("{"),
    "a list": lambda folder: (folder / "index.json").write_text("[]"),
    "deep": lambda folder: (folder / "index.json").write_text("[" * 100_000),
    "not text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"),
    "another model": says(model_checksum="b" * 64),
    "model a number": says(model_checksum=3),
    "another width": says(width=6),
    "no width": says(width=0),
    "a width of text": says(width="5"),
    "no parts": says(parts="missing"),
    "parts a number": says(parts=3),
    "skipped of a wrong kind": says(skipped=[["a"]]),
    "more rows than there are": says(searched=4),
    "-1 rows": says(searched=-1),
    "half a row": says(searched=2.5),
    "gone beyond": says(gone=[3]),
    "gone below": says(gone=[-1]),
    "gone twice": says(gone=[1, 1]),
    "gone in disorder": says(gone=[1, 0]),
    "gone of words": says(gone=["x"]),
    "gone a number": says(gone=1),
    "gone in a table": says(gone=[[0], [1]]),
    "gone beyond all numbers": says(gone=[10**30]),
    "a root that is relative": says(root="pics"),
    "a file elsewhere": part_says("images", file="../../etc/passwd"),
    "a file that is not there": part_says("images", file="images-0.bin"),
    "a size of text": part_says("images", bytes="168"),
    "more to say of a file": part_says("images", more=1),
    "version a text": says(format_version="1"),
    "embeddings cut": cut("embeddings"),
    "images cut": cut("images"),
    "names cut": cut("names"),
    "a row fewer of the images": part_says("images", bytes=2 * IMAGE.itemsize),
    "half an image": part_says("images", bytes=IMAGE.itemsize // 2),
    "a row fewer of the embeddings": part_says("embeddings", bytes=2 * 4 * WIDTH),
    "a name fewer": named("a", "b"),
    "a name more": named("a", "b", "c", "d"),
    "a name without its end": part_says("names", bytes=17),
    "a name of nothing": named("a", "", "c"),
    **{f"the name {name}": named("a.png", name, "b.png") for name in ("/etc", "../x", "a/../../x", "a/..", "..")},
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_or_anothers_is_unusable(index: Index, harm: str) -> None:
    HARMS[harm](index.folder)
    with pytest.raises(Unusable) as caught:
        opened(index.folder)
    assert caught.value.exit_code == 4 and caught.value.remedy


def test_dots_that_lead_nowhere_are_names(tmp_path: Path) -> None:
    names = ["a..b.png", "..c.png", "d../e...png", "....png", "...", "f/..g"]
    update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(names))
    assert opened(tmp_path).names == names


def test_newer_format_says_upgrade(index: Index) -> None:
    says(format_version=2, parts="missing")(index.folder)
    with pytest.raises(RunError, match=r"newer format.*upgrade") as caught:
        opened(index.folder)
    assert not isinstance(caught.value, Unusable)
