"""digests.json says what the files of a run are, and at any moment accuses none that is whole."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from simclr_cli import digests
from simclr_cli.digests import DIGESTS, Damaged, digest_file, encoded, files_in, read_bound, read_table, root_of
from simclr_cli.errors import MachineError, RunError
from simclr_cli.files import bind, move, remove, write_bytes
from simclr_cli.reading import read_bytes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a file, bound."""
    folder = tmp_path / "run"
    write_bytes(folder / "a.json", b"one")
    bind(folder)
    return folder


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def accused(run: Path) -> set[str]:
    """What the table says is not as it should be."""
    there = {str(file.relative_to(run)): digest_file(file) for file in files_in(run)}
    return {name for name, known in read_table(run).items() if there.get(name) not in known}


def test_every_way_to_write_is_noted(run: Path) -> None:
    write_bytes(run / "a.json", b"two")
    write_bytes(run / "deep" / "er" / "b", b"three")
    write_bytes(run / "c", b"four")
    move(run / "c", run / "d")
    remove(run / "deep" / "er" / "b")
    remove(run / "never" / "there")
    assert read_table(run) == {"a.json": [sha(b"two")], "d": [sha(b"four")]}


def test_folder_moved_whole_is_noted_file_by_file(run: Path) -> None:
    for name in (".simclr-tmp-encoder", "old"):
        write_bytes(run / name / "x", name.encode())
        move(run / name, run / f"{name[-3:]}-there")
    assert read_table(run).keys() == {"a.json", "der-there/x", "old-there/x"}


def test_folders_that_are_no_runs_get_no_digests_and_foreign_digests_stay(tmp_path: Path) -> None:
    write_bytes(tmp_path / "elsewhere" / "vecs.npy", b"x")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["vecs.npy"]
    for content in (b"{}", b'{"files": {}}', b"not json", b"[" * 100_000, b"\xff"):
        (tmp_path / DIGESTS).write_bytes(content)
        write_bytes(tmp_path / "elsewhere" / "vecs.npy", b"y")
        assert (tmp_path / DIGESTS).read_bytes() == content


def test_paths_are_taken_by_their_words(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root_of(run / "x" / ".." / "y") == run and root_of(run / ".." / "y") is None
    monkeypatch.chdir(run.parent)
    write_bytes(Path("run") / "a.json", b"two")
    assert read_table(run) == {"a.json": [sha(b"two")]}
    assert root_of(run / DIGESTS) == run and root_of(run) is None


class Killed(BaseException):
    """Like SIGKILL: nothing is put in order afterwards."""


STEPS: dict[str, Callable[[Path], object]] = {
    "first write": lambda run: write_bytes(run / "b", b"x"),
    "second write": lambda run: write_bytes(run / "a.json", b"two"),
    "same again": lambda run: write_bytes(run / "a.json", b"one"),
    "removal": lambda run: remove(run / "a.json"),
    "move": lambda run: move(run / "a.json", run / "b"),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_call_no_whole_file_is_accused(run: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the n-th replace, rename or unlink, for each n, and again in what is done next."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    calls = ("replace", "rename", "unlink")
    whole = {name: getattr(Path, name) for name in calls}

    def attempt(work: Callable[[Path], object], n: int) -> bool:
        """Whether it came to its end before the n-th call."""
        count = itertools.count()

        def killing(name: str) -> Callable[..., object]:
            def call(self: Path, *rest: object, **named: object) -> object:
                if next(count) >= n:
                    raise Killed
                return whole[name](self, *rest, **named)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(Path, name, killing(name))
            try:
                work(run)
            except Killed:
                return False
            except MachineError:
                pass  # what it was to move is not there any more
        return True

    for n, then, m in itertools.product(range(4), ("second write", "move"), range(4)):
        for file in run.iterdir():
            file.unlink()
        write_bytes(run / "a.json", b"one")
        bind(run)
        attempt(STEPS[step], n)
        assert accused(run) == set(), (n, read_table(run))
        ended = attempt(STEPS[then], m)
        assert accused(run) == set(), (n, m, read_table(run))
        if ended and (run / "a.json").exists() and then == "second write":
            assert read_table(run)["a.json"] == [sha(b"two")]  # settled


def _write_many(run: Path, name: str) -> None:
    for number in range(10):
        write_bytes(run / name, f"{name} {number}".encode())


def test_processes_that_write_in_one_run_lose_no_entry(run: Path) -> None:
    names = ["x", "y", "z"]
    several = [multiprocessing.get_context("fork").Process(target=_write_many, args=(run, name)) for name in names]
    for process in several:
        process.start()
    for process in several:
        process.join()
    expected = {name: [sha(f"{name} 9".encode())] for name in names}
    assert read_table(run) == {"a.json": [sha(b"one")], **expected}


def test_any_flipped_bit_of_the_digests_is_found(run: Path) -> None:
    write_bytes(run / "caf\u00e9 \udcff", b"x")  # escapes: the case of a digit there may be flipped
    data = bytearray((run / DIGESTS).read_bytes())
    for bit in range(0, 8 * len(data), 3):
        data[bit // 8] ^= 1 << bit % 8
        (run / DIGESTS).write_bytes(data)
        with pytest.raises(RunError):
            read_table(run)
        data[bit // 8] ^= 1 << bit % 8


def test_newer_digests_are_refused_and_stay(run: Path) -> None:
    content = json.dumps({**json.loads(encoded({})), "format_version": digests.FORMAT_VERSION + 1})
    (run / DIGESTS).write_text(content)
    with pytest.raises(RunError, match="newer format"):
        write_bytes(run / "a.json", b"two")
    assert ((run / DIGESTS).read_text(), (run / "a.json").read_bytes()) == (content, b"one")
    assert not list(run.glob(".simclr-tmp-*"))


def test_too_large_digests_are_not_read(run: Path) -> None:
    with (run / DIGESTS).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(Damaged, match="and may have"):
        read_table(run)


def test_small_files_are_read_only_as_they_were_written(run: Path) -> None:
    assert read_bound(run / "a.json") == b"one"
    (run / "a.json").write_bytes(b"ane")
    with pytest.raises(Damaged, match="its digest differs"):
        read_bound(run / "a.json")
    (run / "other").write_bytes(b"not ours")
    assert read_bound(run / "other") == b"not ours"
    with pytest.raises(FileNotFoundError):
        read_bound(run / "none")
    (run / DIGESTS).write_bytes(b"{}")
    assert read_bound(run / "a.json") == b"ane"  # nothing can be said


def test_file_replaced_while_it_is_read_is_read_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [b"two", b"three"]  # written by another process, each right after this one has read the file

    def reading(file: Path, most: int) -> bytes:
        data = read_bytes(file, most)
        if file.name == "a.json" and left:
            write_bytes(file, left.pop(0))
        return data

    monkeypatch.setattr(digests, "read_bytes", reading)
    assert read_bound(run / "a.json") == b"three"


@pytest.mark.parametrize("data", [b"", b"abc", bytes(300_000)])
def test_digest_is_sha256(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert digest_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
