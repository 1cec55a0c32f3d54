"""An index against a dict that is told the same: rows in, rows out, merged files; old or new whatever fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.errors import MachineError, RunError
from simclr_cli.store import index as module
from simclr_cli.store.index import Index, RefusedFile, read_index, set_aside, update
from simclr_cli.store.rows import Rows, named
from simclr_cli.store.segments import Unusable

MODEL, WIDTH = "a" * 64, 5
NONE = np.empty(0, np.int64)


def rows(names: list[str], seed: int = 0) -> Rows:
    rng, count = np.random.default_rng(seed), len(names)
    blob, ends = named(names)
    return Rows(
        rng.standard_normal((count, WIDTH)).astype(np.float32), blob, ends, rng.integers(0, 99, count),
        rng.integers(0, 99, count), rng.integers(0, 256, (count, 32), dtype=np.uint8), np.ones((count, 2), np.int32),
    )  # fmt: skip


def opened(folder: Path) -> Index:
    found = read_index(folder, model_digest=MODEL)
    assert found is not None
    return found


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return update(Index(tmp_path, "/pics", MODEL, WIDTH), NONE, rows(["a.png", "b.png", "c.png"]), [], "/pics")


def test_there_is_none(tmp_path: Path) -> None:
    assert read_index(tmp_path, model_digest=MODEL) is None


def test_it_is_what_a_dict_would_be(tmp_path: Path) -> None:
    rng, index, kept = np.random.default_rng(1), Index(tmp_path, "/pics", MODEL, WIDTH), {}
    for turn in range(25):
        gone = np.sort(rng.choice(len(index), len(index) // 5, replace=False)) if len(index) else NONE
        for place in gone.tolist():
            del kept[index.name(place)]
        added = rows([f"{turn}/{i}.png" for i in range(int(rng.integers(0, 60)))], seed=turn)
        kept |= {added.name(i): (added.h[i], added.bytes[i], added.digest[i]) for i in range(len(added))}
        update(index, gone, added, [], "/pics")
        index = opened(tmp_path)
        assert len(index) == len(kept) and len(index.segments) <= 8
    assert sorted(index.names) == sorted(kept)
    h, names = index.h[:], index.names
    for place, name in enumerate(names):
        assert index.name(place) == name and index.place(name) == place and index.path(place) == Path("/pics", name)
        np.testing.assert_array_equal(h[place], kept[name][0])
        assert index.bytes[place] == kept[name][1] and (index.digest[place] == kept[name][2]).all()
    chosen = rng.permutation(len(index))[:30]
    np.testing.assert_array_equal(index.h.take(chosen), h[chosen])
    for start, stop in ((0, 7), (3, 90), (100, 100), (len(index) - 2, len(index) + 9)):
        np.testing.assert_array_equal(index.h[slice(start, stop)], h[start:stop])
    with pytest.raises(IndexError):
        index.name(len(index))
    assert index.place("0/nowhere.png") is None


def test_a_large_file_is_not_written_again_for_a_small_change(tmp_path: Path) -> None:
    index = update(Index(tmp_path, "/p", MODEL, WIDTH), NONE, rows([f"{i}.png" for i in range(1000)]), [], "/p")
    large = index.segments[0].file
    for turn in range(20):
        index = update(index, np.array([turn]), rows([f"new-{turn}.png"], seed=turn), [], "/p")
    assert index.segments[0].file == large and len(index) == 1000
    assert len({path.name for path in tmp_path.glob("rows-*")} - {large}) <= 20
    index = update(index, np.arange(600), None, [], "/p")  # mostly gone: written anew
    assert large not in [segment.file for segment in index.segments] and len(index) == 400


def test_a_name_that_comes_back_is_the_new_one(index: Index) -> None:
    again = rows(["b.png"], seed=9)
    new = update(index, np.array([1]), again, [], "/pics")
    place = new.place("b.png")
    assert sorted(new.names) == ["a.png", "b.png", "c.png"] and place is not None
    np.testing.assert_array_equal(new.h.take(np.array([place]))[0], again.h[0])


def test_refused_pictures_and_any_bytes_come_back(index: Index) -> None:
    entry = RefusedFile(os.fsdecode(b"caf\xe9\n.png"), "truncated", 3, 2**62)
    update(index, NONE, rows([os.fsdecode(b"\xff/\x1b.png")]), [entry], os.fsdecode(b"/caf\xe9"))
    again = opened(index.folder)
    assert again.refused == (entry,) and os.fsencode(again.root) == b"/caf\xe9"
    assert again.names[-1] == os.fsdecode(b"\xff/\x1b.png") and (index.folder / "index.json").read_bytes().isascii()


def test_what_is_put_aside_is_known_and_not_searched(index: Index) -> None:
    set_aside(index, rows(["d.png"]))
    again = opened(index.folder)
    assert again.names == index.names and again.with_aside().names == [*index.names, "d.png"]
    update(again.with_aside(), NONE, None, [], "/pics")
    assert opened(index.folder).names == [*index.names, "d.png"] and opened(index.folder).aside == ()


@pytest.mark.parametrize("function", ["write_segment", "write_json"])
def test_what_fails_leaves_the_old_index(index: Index, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def fail(*_: Any) -> None:
        raise MachineError("No space.", "Make room.")

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(MachineError):
        update(index, np.array([0]), rows(["d.png"]), [], "/pics")
    assert opened(index.folder).names == ["a.png", "b.png", "c.png"]


def test_files_that_no_index_names_are_removed_in_time(index: Index) -> None:
    old, fresh = (index.folder / f"rows-{word}.safetensors" for word in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    update(index, NONE, rows(["d.png"]), [], "/pics")
    assert fresh.exists() and not old.exists()


def test_what_the_last_index_named_stays_for_those_who_have_it_open(index: Index) -> None:
    old = index.folder / index.segments[0].file
    os.utime(old, (1, 1))
    new = update(opened(index.folder), np.array([0]), rows([f"{i}.png" for i in range(9)]), [], "/pics")
    assert old.exists() and old.name not in [segment.file for segment in new.segments]
    update(new, NONE, rows(["z.png"]), [], "/pics")
    assert not old.exists()


def test_a_copied_file_is_trusted_after_its_digest(index: Index) -> None:
    """What has another time than it was left with is read whole."""
    file = index.folder / index.segments[0].file
    os.utime(file, ns=(1, 1))
    assert opened(index.folder).names == index.names
    whole = bytearray(file.read_bytes())
    whole[-40] ^= 4  # in a digest or a name: no header says so
    file.write_bytes(whole)
    with pytest.raises(Unusable, match="digest differs"):
        opened(index.folder)


def test_an_index_replaced_while_it_is_read_is_read_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = module.open_segment, []

    def late(folder: Path, entry: dict[str, Any]) -> Any:
        calls.append(entry)
        if len(calls) == 1:
            update(index, np.array([0]), rows([f"{i}.png" for i in range(9)]), [], "/pics")
            (folder / entry["file"]).unlink(missing_ok=True)
        return real(folder, entry)

    monkeypatch.setattr(module, "open_segment", late)
    assert len(opened(index.folder)) == 11


def rewrite(folder: Path, **changes: Any) -> None:
    content = {**json.loads((folder / "index.json").read_text()), **changes}
    (folder / "index.json").write_text(json.dumps({key: value for key, value in content.items() if value != "missing"}))


def rewrite_segment(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "index.json").read_text())
    content["segments"][0].update(changes)
    (folder / "index.json").write_text(json.dumps(content))


HARMS: dict[str, Callable[[Path], object]] = {
    "not JSON": lambda folder: (folder / "index.json").write_text("{"),
    "a list": lambda folder: (folder / "index.json").write_text("[]"),
    "deep": lambda folder: (folder / "index.json").write_text("[" * 100_000),
    "not text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"),
    "another model": lambda folder: rewrite(folder, model_digest="b" * 64),
    "model a number": lambda folder: rewrite(folder, model_digest=3),
    "another width": lambda folder: rewrite(folder, width=6),
    "no segments": lambda folder: rewrite(folder, segments="missing"),
    "segments a number": lambda folder: rewrite(folder, segments=3),
    "refused of a wrong kind": lambda folder: rewrite(folder, refused=[["a"]]),
    "another number of rows": lambda folder: rewrite_segment(folder, rows=2),
    "gone beyond": lambda folder: rewrite_segment(folder, gone=[3]),
    "gone below": lambda folder: rewrite_segment(folder, gone=[-1]),
    "gone twice": lambda folder: rewrite_segment(folder, gone=[1, 1]),
    "gone of words": lambda folder: rewrite_segment(folder, gone=["x"]),
    "a width beyond all": lambda folder: (folder / "index.json").write_text(
        (folder / "index.json").read_text().replace('"width": 5', '"width": Infinity')
    ),
    "gone beyond all numbers": lambda folder: rewrite_segment(folder, gone=[10**30]),
    "a file elsewhere": lambda folder: rewrite_segment(folder, file="../../etc/passwd"),
    "a file that is not there": lambda folder: rewrite_segment(folder, file="rows-0.safetensors"),
    "version a text": lambda folder: rewrite(folder, format_version="1"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_or_anothers_is_unusable(index: Index, harm: str) -> None:
    HARMS[harm](index.folder)
    with pytest.raises(Unusable) as caught:
        opened(index.folder)
    assert caught.value.exit_code == 4 and caught.value.remedy


def test_newer_format_says_upgrade(index: Index) -> None:
    rewrite(index.folder, format_version=2, segments="missing")
    with pytest.raises(RunError, match=r"newer format.*upgrade") as caught:
        opened(index.folder)
    assert not isinstance(caught.value, Unusable)
