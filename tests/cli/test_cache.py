"""`simclr cache`: the table and the JSON of the caches, and their deletion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.images.cache import decode_images
from simclr_cli.images.scan import take_census

HEADER = "folder\tdecoded size, px\tencoders\tMB\tlast used"


def use(folder: Path, *sizes: int) -> None:
    """Decode a folder into the cache, as a run does."""
    census = take_census(folder)
    for size in sizes:
        decode_images(census, size, workers=1, progress=lambda *_: None)


@pytest.fixture
def root() -> Path:
    return Path(os.environ["SIMCLR_CACHE"])


def test_an_empty_cache_is_fine(forked: Callable[..., Any], root: Path) -> None:
    assert forked("cache") == (0, "", f"Cache in {root}: 0.0 MB for 0 folders.\n")
    assert forked("cache", "--clear") == (0, "", f"Deleted from {root}: 0.0 MB for 0 folders.\n")
    code, stdout, talk = forked("cache", "--json")
    assert (code, talk) == (0, "")
    assert json.loads(stdout) == {"root": str(root), "cleared": False, "bytes": 0, "caches": []}


def test_caches_are_listed_and_deleted(forked: Callable[..., Any], photos: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes((photos / "dark" / "00.png").read_bytes())
    use(photos, 16, 8)
    use(tmp_path / "other")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())

    code, stdout, talk = forked("cache")
    header, *rows = stdout.splitlines()
    assert (code, header) == (0, HEADER)
    assert {tuple(row.split("\t")[:3]) for row in rows} == {
        (str(photos), "12, 24", "0"), (str(tmp_path / "other"), "", "0"),
    }  # fmt: skip
    assert talk == f"Cache in {root}: {size / 1e6:.1f} MB for 2 folders.\n"

    code, stdout, talk = forked("cache", "other", cwd=tmp_path)
    assert code == 0 and [row.split("\t")[0] for row in stdout.splitlines()] == ["folder", str(tmp_path / "other")]
    assert "for 1 folder." in talk

    code, stdout, talk = forked("cache", "other", "--clear", cwd=tmp_path)
    assert (code, stdout) == (0, "") and "Deleted from" in talk and "for 1 folder." in talk
    answer = json.loads(forked("cache", "--json")[1])
    assert [kept["folder"] for kept in answer["caches"]] == [str(photos)] and answer["bytes"] < size
    assert forked("cache", "--clear")[0] == 0
    assert list(root.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_encoders_are_counted_and_their_embeddings_deleted(
    simclr: Callable[..., Any], photos: Path, root: Path, tmp_path: Path
) -> None:
    """A search of a folder without a run keeps its embeddings here; it writes nothing anywhere else."""
    encoder = ("--encoder", "random:test_resnet", "--image-size", 32, "--runs", tmp_path / "none")
    for seed in (0, 1):
        assert simclr("outliers", photos, *encoder, "--seed", seed).code == 0
    assert simclr("cache").stdout.splitlines()[1].split("\t")[:3] == [str(photos), "", "2"]
    (kept,) = json.loads(simclr("cache", photos, "--json").stdout)["caches"]
    assert kept["encoders"] == 2 and kept["bytes"] == sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    assert simclr("cache", photos, "--clear").code == 0
    assert list(root.iterdir()) == [] and list(tmp_path.iterdir()) == []


def test_it_needs_neither_torch_nor_numpy_nor_pillow(photos: Path) -> None:
    use(photos, 8)
    program = """
import sys
from simclr_cli.cli import app
sys.argv = ["simclr", "cache", *sys.argv[1:]]
try:
    app.main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "torchvision", "timm", "numpy", "PIL"} & sys.modules.keys()
assert not heavy, heavy
"""
    for options in ([], ["--json"], [str(photos), "--clear"]):
        result = subprocess.run([sys.executable, "-c", program, *options], text=True, capture_output=True)
        assert result.returncode == 0, result.stderr
        assert str(photos) in result.stdout or "for 1 folder." in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="the names are those of POSIX")
def test_names_of_any_bytes_are_shown_and_cleared(simclr: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\x1b[31m\n\tbirds")
    folder.mkdir()
    (folder / "a.png").write_bytes((photos / "dark" / "00.png").read_bytes())
    use(folder, 8)
    code, stdout, _ = simclr("cache")
    assert code == 0 and len(stdout.splitlines()) == 2
    assert r"\udcff\x1b[31m\n\tbirds" in stdout and "\x1b" not in stdout
    (kept,) = json.loads(simclr("cache", "--json").stdout)["caches"]
    assert os.fsencode(kept["folder"]) == os.fsencode(folder)
    assert simclr("cache", folder, "--clear").code == 0
    assert json.loads(simclr("cache", "--json").stdout)["caches"] == []
