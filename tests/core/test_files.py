"""Atomic and durable writes."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from simclr_cli.core import files
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import silent
from simclr_cli.core.files import (
    TEMPORARY_PREFIX,
    WriteError,
    append_bytes,
    get_free_bytes,
    prepare_folder,
    rename,
    write_bytes,
    write_file,
    write_json,
)
from simclr_cli.core.locks import lock_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_halfway(error: BaseException) -> Callable[[IO[bytes]], None]:
    def write(stream: IO[bytes]) -> None:
        stream.write(b"half of the ne")
        stream.flush()
        raise error

    return write


def test_content_is_written_and_nothing_else_left(tmp_path: Path) -> None:
    write_file(tmp_path / "a/b/c.bin", lambda stream: stream.write(b"new"))
    assert (tmp_path / "a/b/c.bin").read_bytes() == b"new"
    assert names(tmp_path / "a/b") == ["c.bin"]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be replaced there")
def test_old_file_is_replaced_and_an_open_reader_keeps_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old content")
    with (tmp_path / "a").open("rb") as reading:
        write_bytes(tmp_path / "a", b"new")
        assert reading.read() == b"old content"
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_writer_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path: Path, error: BaseException) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(type(error)):
        write_file(tmp_path / "a", fail_halfway(error))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_writer_that_fails_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_file(tmp_path / "a", fail_halfway(ValueError("x")))
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_full_or_broken_disk_is_a_machine_error_that_names_the_path(tmp_path: Path, code: int) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(
        WriteError, match=r"needs more than [0-9,.]+ [kM]B\)" if code == errno.ENOSPC else "Cannot"
    ) as caught:
        write_file(tmp_path / "a", fail_halfway(OSError(code, os.strerror(code))))
    assert str(tmp_path / "a") in caught.value.problem and os.strerror(code) in caught.value.problem
    assert caught.value.exit_code == 5 and caught.value.is_forbidden == (code in (errno.EROFS, errno.EACCES))
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_target_is_not_touched_before_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_bytes(target, b"old")

    def write(stream: IO[bytes]) -> None:
        stream.write(b"new")
        stream.flush()
        assert target.read_bytes() == b"old"
        (temporary,) = [name for name in names(tmp_path) if name != "a"]
        assert temporary.startswith(TEMPORARY_PREFIX)

    write_file(target, write)
    assert target.read_bytes() == b"new"


def test_data_is_on_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(handle: int) -> None:
        done.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "fsync file")  # noqa: PTH112
        fsync(handle)

    def spy_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_bytes(tmp_path / "a", b"x")
    if not Path("/proc/self/fd").is_dir():
        done = [entry.replace("folder", "file") for entry in done]
    written = ["fsync file", "rename"]  # Windows opens no folders
    assert done == written if os.name == "nt" else done in ([*written, "fsync folder"], [*written, "fsync file"])


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize(("mask", "permissions"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask_and_do_not_change_it(tmp_path: Path, mask: int, permissions: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"x")
        assert (tmp_path / "a").stat().st_mode & 0o777 == permissions
    finally:
        after = os.umask(before)
    assert after == mask


def test_parent_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file/a", tmp_path / "file/b/a"):
        with pytest.raises(MachineError, match="Cannot write"):
            write_bytes(target, b"x")
        with pytest.raises(MachineError, match="Cannot write"):
            prepare_folder(target)
    with pytest.raises(MachineError):
        prepare_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine" and names(tmp_path) == ["file"]


def test_a_file_that_another_program_has_open_on_windows_is_named_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a spreadsheet has a table: the folder has write permission."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(files, "ON_WINDOWS", True)
    monkeypatch.setattr(Path, "replace", refuse)
    for name, remedy in (("a", "Close the programs that have it open, or choose"), ("new", "Choose a folder")):
        (tmp_path / "a").write_bytes(b"old")
        with pytest.raises(MachineError, match="Access is denied") as caught:
            write_bytes(tmp_path / name, b"new")
        assert caught.value.remedy.startswith(remedy) and names(tmp_path) == ["a"]


def test_folder_at_the_path_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(MachineError, match=r"directory|denied"):  # Windows denies it
        write_bytes(tmp_path / "a", b"x")
    assert names(tmp_path) == ["a"]


def test_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="Cannot write"):  # Windows says that the path is wrong
        write_bytes(tmp_path / ("a" * 300), b"x")
    assert names(tmp_path) == []


def test_folder_is_created_with_its_parents_and_stays_empty(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a/b/c")
    prepare_folder(tmp_path / "a/b/c")  # it may exist
    assert names(tmp_path / "a/b/c") == []


def test_read_only_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", deny)
    with pytest.raises(MachineError, match="Read-only file system"):
        prepare_folder(tmp_path)


@pytest.mark.parametrize("path", [".", "there", "there/not", "there/not/yet", "a file", "a file/below", "/"])
@pytest.mark.parametrize("relative", [False, True])
def test_free_space_is_that_of_the_nearest_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, relative: bool
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a file").touch()
    monkeypatch.chdir(tmp_path)
    asked: list[Path] = []
    usage = shutil.disk_usage

    def spy(path: Path) -> Any:
        asked.append(Path(path).resolve())
        return usage(path)

    monkeypatch.setattr(files.shutil, "disk_usage", spy)
    assert get_free_bytes(Path(path) if relative else tmp_path / path) > 0
    expected = {"there/not": "there", "there/not/yet": "there", "a file": ".", "a file/below": "."}.get(path, path)
    assert asked == [(tmp_path / expected).resolve()]


def test_free_space_is_as_the_system_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 12_345, 12_345))
    assert get_free_bytes(tmp_path / "not/yet") == 12_345


def test_json_is_ascii_and_keeps_any_name(tmp_path: Path) -> None:
    content = {"name": "caf\udce9\udcff.png", "größe": "Ω\n\x1b[31m", "share": 0.1, "none": None, "n": [1, 2]}
    write_json(tmp_path / "a.json", content)
    data = (tmp_path / "a.json").read_bytes()
    assert data.isascii() and data.endswith(b"\n")
    again = json.loads(data)
    assert again == content
    if os.name == "posix":
        assert os.fsencode(again["name"]) == b"caf\xe9\xff.png"


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_bytes()) == 1 and names(tmp_path) == ["a.json"]


def test_error_of_a_full_disk_names_needed_and_free_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(files, "get_free_bytes", lambda _: 2_960_000)
    with pytest.raises(WriteError, match=re.escape("No space left on device (needs 12.3 MB, 3.0 MB free)")):
        write_bytes(tmp_path / "a", bytes(12_345_678))
    assert names(tmp_path) == []


def test_before_rename_sees_the_complete_new_file_and_may_stop_the_write(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")

    def refuse(temporary: Path) -> None:
        assert (temporary.read_bytes(), (tmp_path / "a").read_bytes()) == (b"new", b"old")
        raise ValueError

    with pytest.raises(ValueError):
        write_file(tmp_path / "a", lambda stream: stream.write(b"new"), before_rename=refuse)
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="pipes are those of POSIX")
@pytest.mark.xdist_group("clock")
@pytest.mark.parametrize("attack", ["a lock", "a long table", "no table", "a pipe"])
def test_files_of_a_stranger_in_a_folder_above_govern_no_write(tmp_path: Path, attack: str) -> None:
    """As the table of checksums did, which versions before 0.1 looked for in every folder above."""
    run = tmp_path / "shared" / "run"
    run.mkdir(parents=True)
    table = tmp_path / "shared" / "digests.json"
    with contextlib.ExitStack() as stack:
        if attack == "a lock":
            stack.enter_context(lock_folder(table.parent, silent))
            (table.parent / ".digests.json.lock").touch()
        elif attack == "a long table":
            table.write_text(json.dumps({"files": {f"run/{i}": "0" * 64 for i in range(10**5)}}))
        elif attack == "no table":
            table.write_text('{"format_version": 99')
        else:
            os.mkfifo(table)
        start = time.monotonic()
        write_bytes(run / "a.bin", b"a")
        write_json(run / "a.json", 1)
        append_bytes(run / "b.bin", b"b", 0)
        rename(run / "a.bin", run / "c.bin")
        with lock_folder(run, silent):
            pass
        assert time.monotonic() - start < 1
    assert sorted(path.name for path in run.iterdir()) == ["a.json", "b.bin", "c.bin"]


def test_a_file_that_is_open_elsewhere_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a file that another process reads cannot be replaced."""
    calls, sound = [0], Path.replace

    def refuse_twice(source: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] < 3:
            raise PermissionError(errno.EACCES, "in use", str(target))
        return sound(source, target)

    monkeypatch.setattr(Path, "replace", refuse_twice)
    monkeypatch.setattr(files, "RETRY_SECONDS", 60)
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and calls == [3]
    monkeypatch.setattr(files, "RETRY_SECONDS", 0)
    calls[0] = 0
    with pytest.raises(WriteError, match="in use"):
        write_bytes(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == b"new" and calls == [1]


@pytest.mark.parametrize("windows", [False, True])
def test_a_file_that_cannot_be_cut_off_is_an_error_but_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    class Mapped(io.FileIO):
        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EINVAL, "a section is mapped")

    file = tmp_path / "a.bin"
    file.write_bytes(b"abcd")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: Mapped(path, mode))
        patch.setattr(files, "ON_WINDOWS", windows)
        with contextlib.nullcontext() if windows else pytest.raises(WriteError, match="a section is mapped"):
            append_bytes(file, b"x", 2)
    assert file.read_bytes() == (b"abxd" if windows else b"abcd")
