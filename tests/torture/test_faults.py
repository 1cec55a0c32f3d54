"""Every operation that changes a file fails once, for every command: old or new state, a clear error, code 5."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.core.locks import LOCK_FILE
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index_files import read_index
from simclr_cli.store.moves import JOURNAL, read_journal
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info

pytestmark = pytest.mark.long

TINY = "--backbone test_resnet --image-size 32 --batch-size 8 --epochs 1 --blur 0 --workers 1".split()
ERRORS = {"EIO": "Input/output error", "ENOSPC": "No space left on device", "EACCES": "Permission denied"}
ON = ("--run", "a", "--workers", "1")
RANDOM = ("--encoder", "random:test_resnet", "--image-size", "32", "--workers", "1")

TryOne = Callable[[str, str, int], tuple[bool, str]]


class Command(NamedTuple):
    """Arguments of a command, and the files that it writes."""

    arguments: tuple[str, ...]
    outputs: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    "pretrain": Command(("pretrain", "pics", "--run", "new", *TINY), ("simclr-runs/new/encoder/config.json",)),
    "resume": Command(("pretrain", "--resume", "--run", "stopped"), ("simclr-runs/stopped/encoder/config.json",)),
    "similar": Command(("similar", "more/dark/00.png", *ON, "--out", "out/similar.json"), ("out/similar.json",)),
    "move": Command(("duplicates", *ON, "--kind", "exact", "--move-to", "moved"), (f"moved/{JOURNAL}",)),
    "restore": Command(("duplicates", "pics", "--restore", "away")),
    "outliers": Command(("outliers", *ON, "--out", "out/outliers.html"), ("out/outliers.html",)),
    "library": Command(("outliers", "more", *RANDOM, "--out", "out/library.csv"), ("out/library.csv",)),
    "clusters": Command(("clusters", *ON, "--out", "out/clusters.csv"), ("out/clusters.csv",)),
    "map": Command(("map", *ON, "--out", "out/map.html"), ("out/map.html",)),
    "report": Command(("report", "a", "--workers", "1"), ("simclr-runs/a/report.html",)),
    "preview": Command(("preview", "pics", "--image-size", "32", "--out", "out/views.png"), ("out/views.png",)),
    "probe": Command(("probe", "pics", *ON), ("simclr-runs/a/probe/probe.json", "simclr-runs/a/probe/confusion.png")),
    "finetune": Command(("finetune", "pics", *ON, "--epochs", "1", "--out", "out/new"), ("out/new/config.json",)),
    "predict": Command(("predict", "pics", "--classifier", "out/classifier", "--out", "out/p.csv"), ("out/p.csv",)),
    "clear": Command(("cache", "--clear")),
    **{
        f"embed {end}": Command(("embed", "pics", *ON, "--out", f"out/v.{end}"), (f"out/v.{end}",))
        for end in ("npy", "npz", "csv", "tsv", "safetensors")
    },
    "embed shards": Command(("embed", "pics", *ON, "--out", "out/s.npy", "--shards", "2"), ("out/s.shards.json",)),
}


def is_complete(file: Path) -> bool:
    """Return whether a file can be read to its end."""
    try:
        if file.name == JOURNAL:
            read_journal(file.parent)  # an incomplete line is of a file that has not moved
        elif file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix == ".jsonl":
            [json.loads(line) for line in file.read_bytes().splitlines()]
        elif file.suffix in (".npy", ".npz"):
            arrays = np.load(file, allow_pickle=False)
            [arrays[name] for name in getattr(arrays, "files", ())]
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="numpy") as tensors:
                [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118
        elif file.suffix == ".html":
            return file.read_bytes().rstrip().endswith(b"</html>")
        elif file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
        elif file.suffix in (".csv", ".tsv", ".md"):
            return file.read_bytes().endswith(b"\n")
        else:
            return file.suffix in (".u8", ".bin")
    except Exception:
        return False
    return True


def find_faults(work: Path, images: Counter[str], *, clean: bool) -> Iterator[str]:
    """Yield a line for everything that is neither in its old nor in its new state.

    Args:
        clean: whether unfinished files could be removed.
    """
    files = [path for path in work.rglob("*") if path.is_file()]
    finished = [path for path in files if path.name != LOCK_FILE and not path.name.startswith(TEMPORARY_PREFIX)]
    yield from (f"{path} is not complete" for path in finished if not is_complete(path))
    if not images <= count_images(work):
        yield "an image is missing"
    for folder in (work / "moved", work / "away"):
        listed = [file.name for file in read_journal(folder).files] if (folder / JOURNAL).exists() else []
        unlisted = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} - set(listed)
        yield from (f"{folder / name} is moved, and cannot be restored" for name in unlisted)
    for run in map(RunFolder, (work / "simclr-runs").iterdir()):
        if run.is_started:
            read_run_info(run), read_epochs(run), load_checkpoint(run.checkpoint_folder)
        if run.is_finished:
            checksum = run.read_encoder()[0]["simclr"]["model_checksum"]
            read_index(run.vectors_folder, model_checksum=checksum)
    for rows_file in (work / "out").glob("*.rows.json"):
        file = rows_file.with_name(rows_file.name.removesuffix(".rows.json"))
        file = file if file.suffix else file.with_suffix(".npy")
        content = json.loads(rows_file.read_bytes())
        if not file.exists():
            if clean:
                yield f"{rows_file} has no vectors file"
        elif checksum_file(file) not in (
            content["vectors_checksum"],
            content.get("before", {}).get("vectors_checksum"),
        ):
            yield f"{rows_file} does not match its vectors file"


def count_images(work: Path) -> Counter[str]:
    """Count the images by content; an image that is being moved counts twice."""
    folders = (work / name for name in ("pics", "more", "moved", "away"))
    return Counter(checksum_file(path) for folder in folders for path in folder.rglob("*.png"))


@pytest.fixture(scope="module")
def try_one(forks: Callable[..., dict[str, Any]], furnish: Callable[[], Path]) -> TryOne:
    """Return `try_one(command, error, n)`: whether there is an n-th operation, and the faults after its failure."""

    def run_with_fault(name: str, error: str, n: int) -> tuple[bool, str]:
        command, work = COMMANDS[name], furnish()
        if name == "restore":
            assert forks(("duplicates", *ON, "--kind", "exact", "--move-to", "away"), work)["code"] == 0
        images = count_images(work)
        answer = forks(command.arguments, work, fault=[n, error, [str(work)]])
        met, code, said = answer["met"], answer["code"], answer["said"]
        failed = len(met) > n
        clean = error == "EIO" and not (failed and met[n].startswith("unlink"))
        try:
            wrong = list(find_faults(work, images, clean=clean or error == "ENOSPC"))
        except Exception as unreadable:
            wrong = [f"unreadable: {unreadable!r}"]
        if code not in (0, 5) or "Traceback" in said or "inside simclr" in said:
            wrong.append("the exit is not expected")
        if code == 5 and not (failed and re.search(rf"Error: Cannot \w+ \S+: {ERRORS[error]}", said)):
            wrong.append("the message does not name the operation, the file and the reason")
        is_written = all((work / file).exists() for file in command.outputs)
        if code == 0 and not is_written and "Not moved" not in said:
            wrong.append("the code is 0, but an output is missing")
        if clean:
            wrong += [f"{path} is left" for path in work.rglob(f"{TEMPORARY_PREFIX}*")]
        if code == 5 and n % 8 == 0:
            wrong += run_again(name, work)
        operation = met[n] if failed else "nothing"
        return failed, "\n".join([f"{name}, {error} at {n}, {operation}: code {code}", said, *wrong]) if wrong else ""

    def run_again(name: str, work: Path) -> list[str]:
        arguments = COMMANDS[name].arguments
        if name == "pretrain" and (work / "simclr-runs/new/config.json").exists():
            arguments = ("pretrain", "--resume", "--run", "new")
        if name == "move" and (work / "moved" / JOURNAL).exists():
            arguments = ("duplicates", "pics", "--restore", "moved")
        if name in ("pretrain", "resume", "finetune") and (work / COMMANDS[name].outputs[0]).exists():
            return []  # only the last sync failed
        answer = forks(arguments, work)
        left = [path for path in work.rglob(f"{TEMPORARY_PREFIX}*") if path.parent.name == "checkpoint"]
        wrong = [f"{path} is still there" for path in left]  # elsewhere it is removed after a day
        if answer["code"] != 0 and "nothing was moved there" not in answer["said"]:
            wrong.append(f"the next command fails: {answer['said']}")
        return wrong

    return run_with_fault


def test_every_fault_leaves_the_old_or_the_new_state(
    try_one: TryOne, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    kinds = [(name, error) for name in COMMANDS for error in ERRORS]
    chance = random.Random(0)
    if short := times(5, 0):
        wrong = [try_one(name, error, chance.randrange(24))[1] for name, error in chance.sample(kinds, short)]
        assert not any(wrong), "\n\n".join(filter(None, wrong))
        return
    done, wrong = 0, []
    for name, error in kinds:
        for n in itertools.count():
            failed, complaint = try_one(name, error, n)
            wrong += [complaint] if complaint else []
            if not failed:
                break
            done += 1
    figure("faults: cases", done)
    figure("faults: wrong", len(wrong))
    assert not wrong, "\n\n".join(wrong)
