"""Manifest of a finished run: complete, and present in every finished run after a kill at any moment."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr_cli.api import CheckSettings
from simclr_cli.commands.check import check
from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_bytes, write_json
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.store.manifest import MANIFEST, ManifestError, read_manifest, write_manifest
from simclr_cli.store.run import RunFolder

NAMES = ["config.json", "metrics.jsonl", "checkpoint/step-1.safetensors", "encoder-2-epochs/probe/caf\u00e9 \udcff"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Create a folder with its manifest, with files that are listed and others."""
    folder = tmp_path / "run"
    for name in (*NAMES, "report.html", "checkpoint/.simclr-tmp-1", "vectors/index.json", "encoder/config.json"):
        write_bytes(folder / name, name.encode("utf-8", "surrogateescape"))
    write_manifest(folder, folder / "encoder")
    return folder


@pytest.mark.parametrize("data", [b"", b"abc", bytes(300_000)])
def test_checksum_of_a_file_is_sha256(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert checksum_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_files_of_training_are_listed(run: Path) -> None:
    names = {*NAMES, "encoder/config.json"}
    assert read_manifest(run) == {name: checksum_file(run / name) for name in names}


def test_any_flipped_bit_is_detected(run: Path) -> None:
    data = bytearray((run / MANIFEST).read_bytes())
    for bit in range(0, 8 * len(data), 3):
        data[bit // 8] ^= 1 << bit % 8
        (run / MANIFEST).write_bytes(data)
        with pytest.raises(RunError):
            read_manifest(run)
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1, "files": 3}', "[" * 100_000])
def test_an_invalid_manifest_is_an_error(run: Path, text: str) -> None:
    (run / MANIFEST).write_text(text)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(run)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "encoder/../../x", "a\0"])
def test_a_name_outside_the_run_is_an_error(run: Path, name: str) -> None:
    listed = {name: "0" * 64}
    content = {
        "format_version": 1,
        "checksum": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "files": listed,
    }
    (run / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")
    with pytest.raises(ManifestError, match="outside the run"):
        read_manifest(run)


def test_a_huge_or_newer_manifest_is_an_error(run: Path) -> None:
    (run / MANIFEST).write_text(json.dumps({"format_version": 2}))
    with pytest.raises(RunError, match="newer format"):
        read_manifest(run)
    os.truncate(run / MANIFEST, 1 << 40)
    with pytest.raises(ManifestError, match="more than"):
        read_manifest(run)


def test_after_a_kill_at_any_rename_a_finished_run_is_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def finish(run: RunFolder, renames: float) -> bool:
        """Finish the run; return whether it was not killed."""

        def limit_calls(plain: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
            def rename(path: Path, target: Path) -> Path:
                nonlocal renames
                renames -= 1
                if renames < 0:
                    raise Killed
                return plain(path, target)

            return rename

        with monkeypatch.context() as patch:
            for name in ("replace", "rename"):
                patch.setattr(Path, name, limit_calls(getattr(Path, name)))
            try:
                write_json(run.outcome_file, {"state": "well"})
                config: dict[str, Any] = {"simclr": {"format_version": 1}}
                run.write_encoder({"weight": torch.ones(2)}, config, "# Card")
            except Killed:
                return False
        return True

    for count in itertools.count():
        run = RunFolder(tmp_path / str(count))
        run.write_config({"settings": {}})
        ended = finish(run, count)
        result = check(CheckSettings(run=str(run.path)))
        assert (result.finished, result.intact) == (ended, True), result.problems
        if ended:
            break
        assert finish(run, 99) and check(CheckSettings(run=str(run.path))).intact
    assert count == 6
