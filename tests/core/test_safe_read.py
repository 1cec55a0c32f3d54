"""Names in files of others stay in their folder, on every system."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest

from simclr_cli.core.safe_read import is_safe_path

SAFE = ["a", "a/b.png", "a..b", "..a", "a b", "a.", "a ", "...x", ".hidden", "a/./b", "\udcff.png"]
OUTSIDE = ["", "/", "/x", "//server/share/x", "..", "../x", "a/../../x", "a/..", "a\0"]
OUTSIDE_ON_WINDOWS = [
    "C:x", "C:/x", "C:\\x", "c:", "\\x", "\\\\server\\share\\x", "..\\x", "a\\..\\..\\x", "a/..\\../x",
    "\\\\?\\C:\\x", "\\\\.\\NUL",
    "a/C:x", "a.png:stream", ".. ", ".. ./x", "...", "a/.. /x",
]  # fmt: skip


@pytest.mark.parametrize("name", SAFE)
def test_safe_names(name: str) -> None:
    assert is_safe_path(name, windows=False) and is_safe_path(name, windows=True)
    for flavor in (PurePosixPath, PureWindowsPath):
        assert flavor("/top/folder", name).is_relative_to(flavor("/top/folder"))


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_outside(name: str) -> None:
    assert not is_safe_path(name, windows=False) and not is_safe_path(name, windows=True)


@pytest.mark.parametrize("name", OUTSIDE_ON_WINDOWS)
def test_names_outside_on_windows_only(name: str) -> None:
    assert not is_safe_path(name, windows=True) and is_safe_path(name, windows=False)


@pytest.mark.parametrize("drive", ["", "D:", "\\\\server\\share"])
def test_whatever_joins_outside_is_refused(drive: str) -> None:
    """Pathlib is the oracle: a safe name, joined to a folder, is below it, without any part `..`."""
    folder = PureWindowsPath("C:/top/folder")
    for root in ("", "/", "\\"):
        for middle in ("", "..\\", "../", "b/../../"):
            name = f"{drive}{root}{middle}x"
            joined = folder / name
            assert is_safe_path(name, windows=True) == (joined.is_relative_to(folder) and ".." not in joined.parts)
