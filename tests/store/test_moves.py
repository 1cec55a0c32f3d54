"""Files moved and restored: after a kill at any moment, nothing is lost and nothing is overwritten."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.store import moves
from simclr_cli.store.moves import JOURNAL, MovedFile, check_destination, move_files, read_journal, restore_files

HOSTILE = [
    b"a.png", b"b/c.png", b"b/\xff\xfe.png", b"line\nbreak.png", b"\x1b[31mred.png", b"<script>.png", b"'\"&.png",
    b"=1+1.png", b"-rf", b" .png", b"deep/er/\xe2\x80\xaetxt.png", b"x" * 255, "ü/日本.png".encode(),
]  # fmt: skip

Tree = dict[bytes, tuple[int, str]]


def silent(_: int, __: int) -> None:
    pass


def compute_sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tree(folder: Path) -> Tree:
    return {
        os.fsencode(path.relative_to(folder)): (path.stat().st_mtime_ns, compute_sha256(path.read_bytes()))
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "pics"
    for name in (*HOSTILE, b"stays.png"):
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + name)
        os.utime(path, ns=(10**18, 10**18 + 7_000))
    return folder


@pytest.fixture(params=["same file system", "another file system", "no links at all"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    link = os.link

    def fail_or_link(source: Any, target: Any, **given: Any) -> None:
        if request.param == "no links at all" or not Path(source).name.startswith(TEMPORARY_PREFIX):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **given)

    if request.param != "same file system":
        monkeypatch.setattr(os, "link", fail_or_link)
    return str(request.param)


def list_files(names: list[bytes] | None = None) -> list[MovedFile]:
    return [MovedFile(os.fsdecode(name), compute_sha256(b"content of " + name)) for name in names or HOSTILE]


@pytest.mark.usefixtures("file_system")
def test_names_of_any_bytes_are_moved_and_restored(root: Path, tmp_path: Path) -> None:
    before, folder, seen = tree(root), tmp_path / "copies", []
    check_destination(folder, root)
    assert move_files(root, folder, list_files(), lambda *counts: seen.append(counts)) == (len(HOSTILE), ())
    assert seen == [(i, len(HOSTILE)) for i in range(1, len(HOSTILE) + 1)]
    assert set(tree(root)) == {b"stays.png"}
    assert {name: value for name, value in tree(folder).items() if name != JOURNAL.encode()} == {
        name: before[name] for name in HOSTILE
    }
    first, *entries = map(json.loads, (folder / JOURNAL).read_bytes().splitlines())
    assert first["root"] == str(root) and [os.fsencode(entry["name"]) for entry in entries] == HOSTILE
    assert restore_files(folder, root, silent) == (len(HOSTILE), ())
    assert tree(root) == before and list(folder.iterdir()) == []


def test_each_file_is_listed_before_it_moves_and_an_incomplete_line_is_ignored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "copies", os.link
    check_destination(folder, root)

    def check_journal(source: Path, target: Path) -> None:
        assert str(target.relative_to(folder)) == read_journal(folder).files[-1].name
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", check_journal)
        assert move_files(root, folder, list_files([b"a.png", b"b/c.png"]), silent)[0] == 2
    with (folder / JOURNAL).open("ab") as stream:
        stream.write(b'{"name": "line')
    assert read_journal(folder).files == tuple(list_files([b"a.png", b"b/c.png"]))
    assert restore_files(folder, root, silent) == (2, ()) and not list(folder.iterdir())


KILLS = ["os.link", "os.fsync", "Path.unlink", "shutil.copystat", "Path.rename", "checksum_file"]


@pytest.mark.parametrize("step", KILLS)
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("at", [0, 4])
def test_after_a_kill_at_any_moment_all_can_be_restored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_system: str, step: str, after: bool, at: int
) -> None:
    """Killed while moving, and then again while restoring."""
    before, folder = tree(root), tmp_path / "copies"
    check_destination(folder, root)

    class Killed(BaseException):
        pass

    def run_until_killed(work: Callable[[], Any]) -> None:
        owner, name = {
            "Path": (Path, step.split(".")[-1]), "os": (os, step.split(".")[-1]),
            "shutil": (moves.shutil, "copystat"), "checksum_file": (moves, "checksum_file"),
        }[step.split(".")[0]]  # fmt: skip
        plain, calls = getattr(owner, name), [0]

        def fault(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] > at and not after:
                raise Killed
            result = plain(*given, **more)
            if calls[0] > at:
                raise Killed
            return result

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fault)
            with contextlib.suppress(Killed):
                work()

    run_until_killed(lambda: move_files(root, folder, list_files(), silent))
    here, there = tree(root), tree(folder)
    assert all(before[name] in (here.get(name), there.get(name)) for name in before)  # nothing is lost
    if JOURNAL.encode() in there:
        run_until_killed(lambda: restore_files(folder, root, silent))
    if (folder / JOURNAL).exists():
        assert restore_files(folder, root, silent)[1] == ()
    assert tree(root) == before
    assert [path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL] == []


@pytest.mark.usefixtures("file_system")
def test_a_copy_left_by_a_kill_while_restoring_is_removed(root: Path, tmp_path: Path) -> None:
    """Killed between the two names of the copy: the file exists, and so does its temporary name."""
    before, folder = tree(root), tmp_path / "copies"
    check_destination(folder, root)
    move_files(root, folder, list_files(), silent)
    for name, checksum in list_files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / name, root / name)
        shutil.copy2(folder / name, (root / name).with_name(f"{TEMPORARY_PREFIX}{checksum[:16]}"))
    assert restore_files(folder, root, silent)[1] == () and tree(root) == before


def test_changed_files_stay_and_are_named(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    (root / "a.png").write_bytes(b"edited")
    (root / "b" / "c.png").unlink()
    (root / "deep" / "link.png").symlink_to("../stays.png")
    (folder / "b").mkdir(parents=True)
    (folder / "b" / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"of another")
    files = [
        *list_files([b"a.png", b"b/c.png", b"b/\xff\xfe.png", b" .png"]),
        MovedFile("deep/link.png", compute_sha256(b"content of stays.png")),
    ]
    moved, not_moved = move_files(root, folder, files, silent)
    assert moved == 1 and [line.split(": ", 1)[1].split(",")[0] for line in not_moved] == [
        "changed since it was read", "no such file or directory",
        f"{folder / os.fsdecode(HOSTILE[2])} exists already", "a link",
    ]  # fmt: skip
    assert (folder / "b" / os.fsdecode(b"\xff\xfe.png")).read_bytes() == b"of another"
    assert (root / "a.png").read_bytes() == b"edited" and (root / "deep" / "link.png").is_symlink()
    assert read_journal(folder).files == tuple(list_files([b" .png"]))


def test_files_that_cannot_be_restored_stay_in_the_journal(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    check_destination(folder, root)
    move_files(root, folder, list_files([b"a.png", b"b/c.png", b" .png", b"-rf"]), silent)
    (root / "a.png").write_bytes(b"another one")
    (folder / "b" / "c.png").write_bytes(b"edited")
    (folder / "-rf").unlink()
    restored, not_moved = restore_files(folder, root, silent)
    assert restored == 1 and [line.split(": ", 1)[1] for line in not_moved] == [
        f"{root / 'a.png'} exists already", "changed since it was moved", "no such file or directory",
    ]  # fmt: skip
    assert (root / "a.png").read_bytes() == b"another one" and (root / " .png").exists()
    assert [file.name for file in read_journal(folder).files] == ["a.png", "b/c.png", " .png", "-rf"]
    (root / "a.png").unlink()
    (folder / "b" / "c.png").write_bytes(b"content of b/c.png")
    assert restore_files(folder, root, silent) == (2, (f"{folder / '-rf'}: no such file or directory",))


def test_invalid_destinations(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    for folder in (root, root / "copies", tmp_path, tmp_path / "link" / "copies", root / ".." / "pics" / "x"):
        with pytest.raises(SettingsError, match="overlaps the folder"):
            check_destination(folder, root)
    folder = tmp_path / "copies"
    check_destination(folder, root)
    move_files(root, folder, list_files([b"a.png"]), silent)
    with pytest.raises(SettingsError, match="are not restored") as caught:
        check_destination(folder, root)
    assert f"--restore {folder}" in caught.value.remedy


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x", "a/../../b", ".bash_aliases", ".ssh/a.png"])
def test_a_journal_names_nothing_outside(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "copies").mkdir()
    lines = [{"format_version": 1, "root": str(root)}, {"name": name, "checksum": compute_sha256(b"")}]
    (tmp_path / "copies" / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="outside of the folder"):
        restore_files(tmp_path / "copies", root, silent)


@pytest.mark.parametrize("text", ["", "{\n", "[]\n", '{"root": "/x"}\n', '{"format_version": 1, "root": "/x"}\n{}\n'])
def test_an_invalid_journal(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(InputError, match="cannot be used"):
        read_journal(tmp_path)


def test_a_folder_without_a_journal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was moved there"):
        restore_files(tmp_path, tmp_path, silent)


posix_only = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner there")


@posix_only
@pytest.mark.parametrize("attack", ["another owner", "writable by others", "a link"])
def test_a_journal_that_another_user_may_have_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    folder, before = tmp_path / "copies", tree(root)
    check_destination(folder, root)
    move_files(root, folder, list_files([b"a.png"]), silent)
    assert (folder / JOURNAL).stat().st_mode & 0o777 == 0o600  # whatever the umask
    with monkeypatch.context() as patch:
        if attack == "another owner":
            other = SimpleNamespace(st_uid=(folder / JOURNAL).stat().st_uid + 1, st_mode=0o100600)
            patch.setattr(moves, "inspect_new_file", lambda _: other)  # this user's own
        elif attack == "writable by others":
            (folder / JOURNAL).chmod(0o622)
        else:
            (folder / JOURNAL).rename(tmp_path / "journal")
            (folder / JOURNAL).symlink_to(tmp_path / "journal")
        with pytest.raises(InputError, match=r"owns it|other users may write|a link"):
            restore_files(folder, root, silent)
    assert not (root / "a.png").exists()
    if attack == "writable by others":
        (folder / JOURNAL).chmod(0o600)
    if attack != "a link":
        assert restore_files(folder, root, silent) == (1, ()) and tree(root) == before


@posix_only
def test_a_drive_without_modes_can_be_restored_from(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file on it may be written to by all, as far as the system knows: also a new private one."""
    folder, before = tmp_path / "copies", tree(root)
    move_files(root, folder, list_files([b"a.png"]), silent)
    (folder / JOURNAL).chmod(0o777)
    monkeypatch.setattr(moves, "inspect_new_file", lambda _: (folder / JOURNAL).stat())
    assert restore_files(folder, root, silent) == (1, ()) and tree(root) == before


def test_files_of_a_removed_folder_are_not_restored_elsewhere(root: Path, tmp_path: Path) -> None:
    """As on a disk that is not mounted: the folder is not created."""
    files = [MovedFile("a.png", compute_sha256(b"content of a.png"))]
    (tmp_path / "away").mkdir()
    move_files(root, tmp_path / "away", files, silent)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="does not exist"):
        restore_files(tmp_path / "away", root, silent)
    assert not root.exists() and (tmp_path / "away" / "a.png").exists()
    (tmp_path / "elsewhere").rename(root)
    assert restore_files(tmp_path / "away", root, silent)[0] == 1 and (root / "a.png").exists()


def test_files_moved_by_another_process_are_not_lost(root: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    move_files(root, tmp_path / "away", [MovedFile("a.png", compute_sha256(b"content of a.png"))], silent)
    with pytest.raises(SettingsError, match="moved to"):
        move_files(root, tmp_path / "away", [MovedFile("b/c.png", compute_sha256(b"content of b/c.png"))], silent)
    assert [file.name for file in read_journal(tmp_path / "away").files] == ["a.png"]
    assert (root / "b/c.png").exists() and len(list((tmp_path / "away").iterdir())) == 2


def test_no_journal_stays_if_nothing_was_moved(root: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    moved, not_moved = move_files(root, tmp_path / "away", [MovedFile("a.png", "0" * 64)], silent)
    assert (moved, len(not_moved)) == (0, 1) and not (tmp_path / "away" / JOURNAL).exists()


@pytest.mark.parametrize("at", range(4))
def test_after_a_failed_sync_all_can_be_restored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Sync of the destination, or of the original folder: the file exists and is in the journal."""
    before, folder = tree(root), tmp_path / "copies"
    check_destination(folder, root)
    sync, calls = moves.sync_folder, [0]

    def failing(path: Path) -> None:
        calls[0] += 1
        if calls[0] == at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(moves, "sync_folder", failing)
        moved, not_moved = move_files(root, folder, list_files(), silent)
    assert moved + len(not_moved) == len(HOSTILE) and len(not_moved) == (at % 2 == 0)
    assert restore_files(folder, root, silent)[1] == () and tree(root) == before
