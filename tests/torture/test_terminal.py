"""Every command on images with hostile names, in its own terminal: no name is printed unescaped, no file changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pty = pytest.importorskip("pty")
pytestmark = pytest.mark.long

# All commands in one process, so that torch is imported once.
SCRIPT = """
import hashlib, json, os, sys
from simclr_cli.cli.app import app

def tree():
    found = []
    for folder, _, names in os.walk(b"images"):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            status = os.lstat(path)
            content = b"" if path == folder else open(path, "rb").read()
            times = 0 if path == folder else status.st_mtime_ns  # a folder's change when files are moved and come back
            found.append((path, status.st_mode, status.st_uid, status.st_size, times, hashlib.sha256(content).digest()))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()

print("CODE", "before", tree(), flush=True)
for typed in json.load(open(sys.argv[1], encoding="utf-8")):
    try:
        app(typed, prog_name="simclr")
    except SystemExit as end:
        print("CODE", end.code, tree(), flush=True)
"""
# Bell, cursor and text direction in names. The commands use colors too, but not around these words.
RAW = ("\x07", "\x7f", "\x9b", "\u202e", "\u2028", "\u2029", "\ufeff", "\x1b[31mred", "\t=1")


def run_in_terminal(folder: Path, commands: list[list[str]]) -> str:
    """Return the output of the commands, on stdout and stderr."""
    (folder / "commands.json").write_text(json.dumps(commands))
    parent, child = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLUMNS": "4000",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder / "commands.json")],
        stdin=child, stdout=child, stderr=child, cwd=folder, env=environment,
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while part := os.read(parent, 1 << 16):
            shown += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(parent)
        process.wait(timeout=60)
    return shown.decode("utf-8")  # strict: names must be valid UTF-8


def draw(folder: Path, names: list[bytes]) -> list[str]:
    """Write an image under each of these names, in two classes."""
    paths = []
    for i, name in enumerate(names):
        path = folder / ("<b>one" if i % 2 else os.fsdecode(b"\x1b[31mtwo\xff")) / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            Image.effect_noise((40, 40), 20 + i).convert("RGB").save(stream, "PNG")
        paths.append(str(path))
    shutil.copyfile(paths[0], paths[0] + "copy")
    for name in ("\x1b[31mred\x07broken.png", "\u202ebroken.png", os.fsdecode(b"\xffbroken.png")):
        (folder / "<b>one" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    return paths


def test_no_command_prints_a_name_unescaped_or_changes_an_image(
    tmp_path: Path, nasty_names: Callable[[int], list[bytes]], times: Callable[[int, int], int],
    figure: Callable[[str, Any], None],
) -> None:  # fmt: skip
    nasty = [name for name in nasty_names(times(36, 500)) if len(name) < 200 and not name.startswith(b".")]
    paths = draw(tmp_path / "images", nasty)
    tiny = "--backbone test_resnet --image-size 32 --batch-size 8 --epochs 1 --blur 0".split()
    odd = "\x1b[31mred\x07\u202e[bold]\udcff"
    commands = [
        ["pretrain", "images", "--run", "r", *tiny], ["preview", "images", "--out", "p.html"],
        ["embed", "images", "--out", f"{odd}.csv"], ["similar", *paths[:12]],
        ["similar", paths[3], "--out", "s.html"],
        ["similar", paths[0], "+", paths[5], "--json"], ["duplicates"], ["duplicates", "--move-to", f"away {odd}"],
        ["duplicates", "images", "--restore", f"away {odd}"], ["outliers"], ["clusters"], ["map"], ["report"],
        ["check"], ["doctor", "images"], ["probe", "images"],
        ["finetune", "images", "--epochs", "1"], ["predict", *paths[:12], "images"],
        ["predict", *paths[:3], "--json"], ["cache"], ["cache", "--clear"],
        ["pretrain", odd], ["pretrain", "images", "--run", odd, "--dry-run"], ["pretrain", "--resume", "--run", odd],
        ["outliers", "images", "--encoder", "random:test_resnet", "--image-size", "32"],
        ["duplicates", "images", "--kind", "exact"], ["similar", paths[0], "--images", odd], ["map", odd],
        ["outliers", "images", "--encoder", odd], ["clusters", "images", "--encoder", f"random:{odd}"],
        ["similar", odd], ["predict", odd], ["embed", odd], ["probe", "--run", odd], ["report", odd],
        ["duplicates", "--restore", odd], ["predict", paths[0], "--classifier", "images"],
        ["pretrain", "images", "--weights", odd], ["pretrain", "images", f"--{odd}"], [odd],
    ]  # fmt: skip
    shown = run_in_terminal(tmp_path, commands)
    (_, before), *ended = [line.split()[1:] for line in shown.splitlines() if line.startswith("CODE")]
    codes = [code for code, _ in ended]
    assert len(codes) == len(commands) and "1" not in codes, shown
    done = commands.index(["cache", "--clear"]) + 1
    assert [code for code, typed in zip(codes[:done], commands, strict=False) if typed[0] != "doctor"] == ["0"] * (
        done - 1
    )
    changed = [typed for typed, (_, after) in zip(commands, ended, strict=True) if after != before]
    assert changed == [["duplicates", "--move-to", f"away {odd}"]]  # whose files were restored
    unescaped = {raw: shown[max(0, shown.index(raw) - 200) :][:400] for raw in RAW if raw in shown}
    assert unescaped == {}
    assert "\\x1b[31mred" in shown and "\\u202e" in shown
    figure("commands that left every image as it was", len(commands) - 1)
    figure("terminal", {"commands": len(commands), "names": len(paths), "raw": 0})
