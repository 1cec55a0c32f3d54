"""images.json: read back with any name; damage, or a name outside the folder, is an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.core.errors import RunError
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import FORMAT_VERSION, ImageList, read_image_list, write_image_list


def test_images_are_read_back_with_any_name(tmp_path: Path, hostile: tuple[str, ...]) -> None:
    run = RunFolder(tmp_path / "r")
    kept = ImageList({name: (i, 2**60 + i) for i, name in enumerate(hostile)}, [{"after_epochs": 1, "added": 2}])
    write_image_list(run, kept)
    assert read_image_list(run) == kept
    assert run.images_file.read_bytes().isascii()


WHOLE: dict[str, Any] = {"format_version": FORMAT_VERSION, "changes": [], "files": [["a/b.png", 1, 2]]}
DAMAGES: dict[str, Any] = {
    "a list": [],
    "no version": {**WHOLE, "format_version": None},
    "no files": {"format_version": 1, "changes": []},
    "a file without its time": {**WHOLE, "files": [["a.png", 1]]},
    "a name that is none": {**WHOLE, "files": [[3, 1, 2]]},
    "a size that is none": {**WHOLE, "files": [["a.png", "1", 2]]},
    "a name at the root": {**WHOLE, "files": [["/etc/passwd", 1, 2]]},
    "a name above": {**WHOLE, "files": [["a/../../b.png", 1, 2]]},
    "a name with a zero": {**WHOLE, "files": [["a\0.png", 1, 2]]},
    "a change that is none": {**WHOLE, "changes": [3]},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_list_is_an_error(tmp_path: Path, damage: str) -> None:
    run = RunFolder(tmp_path)
    run.images_file.write_text(json.dumps(DAMAGES[damage]))
    with pytest.raises(RunError, match=r"images\.json cannot be read"):
        read_image_list(run)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_invalid_json_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    run = RunFolder(tmp_path)
    if content is not None:
        run.images_file.write_bytes(content)
    with pytest.raises(RunError, match=r"images\.json cannot be read"):
        read_image_list(run)


def test_newer_version_suggests_an_upgrade_and_does_not_change(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.images_file.write_text(json.dumps({**WHOLE, "format_version": FORMAT_VERSION + 1}))
    before = run.images_file.read_bytes()
    with pytest.raises(RunError, match="Upgrade"):
        read_image_list(run)
    assert run.images_file.read_bytes() == before


def test_names_are_the_bytes_of_the_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_image_list(run, ImageList({os.fsdecode(b"caf\xe9\xff.png"): (1, 2)}, []))
    assert [os.fsencode(name) for name in read_image_list(run).files] == [b"caf\xe9\xff.png"]
