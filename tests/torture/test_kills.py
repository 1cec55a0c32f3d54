"""Killed at random moments, by kill -9: all is readable, nothing is mixed, and the next command goes on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.core.locks import LOCK
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index import read_index
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info
from simclr_cli.store.vectors import read_vectors

pytestmark = pytest.mark.long

TINY = "--backbone test_resnet --image-size 32 --batch-size 8 --blur 0 --workers 1".split()
EMBED = "embed pics --run a --workers 1 --out out/v.npy".split()
STEPS = 2  # an epoch
SWEPT = ("checkpoint", "vectors")  # at once; elsewhere after a day

Forks = Callable[..., dict[str, Any]]
Truth = dict[str, Any]  # h by the checksum of the image


@pytest.fixture(scope="module")
def truth(forks: Forks, furnish: Callable[[], Path]) -> Truth:
    """What each image's vector is."""
    work, found = furnish(), {}
    for folder in ("pics", "more"):
        assert forks([*EMBED[:1], folder, *EMBED[2:-1], "out/true.npy"], work)["code"] == 0
        vectors = read_vectors(work / "out/true.npy", model_checksum=model_of(work))
        for name, row in zip(vectors.rows, vectors.values, strict=True):
            found[checksum_file(work / folder / name)] = np.array(row)
    return found


def model_of(work: Path) -> str:
    return str(RunFolder(work / "simclr-runs/a").read_encoder()[0]["simclr"]["model_checksum"])


def train(work: Path, _: random.Random) -> list[str]:
    run = RunFolder(work / "simclr-runs/new")
    if run.begun:
        return "pretrain --resume --run new --checkpoint-seconds 0".split()
    return ["pretrain", "pics", "--run", "new", "--epochs", "3", "--checkpoint-seconds", "0", *TINY]


def trained(work: Path, _: Truth) -> str:
    run = RunFolder(work / "simclr-runs/new")
    if run.begun:
        read_run_info(run)
    found, rows = load_checkpoint(run.checkpoints), read_epochs(run)
    if found is not None and found.step != STEPS * len(found.metrics) + len(found.losses):
        return "the checkpoint is mixed"
    if run.finished:
        run.read_encoder()
    return "" if [row["epoch"] for row in rows] == list(range(1, len(rows) + 1)) else "metrics.jsonl is mixed"


def embed(work: Path, chance: random.Random) -> list[str]:
    """One folder's vectors over the other's: names are the same in both, images are not."""
    return [*EMBED[:1], chance.choice(["pics", "more"]), *EMBED[2:]]


def embedded(work: Path, truth: Truth) -> str:
    found = read_vectors(work / "out/v.npy", model_checksum=model_of(work))
    right = [np.allclose(truth[checksum_file(Path(found.root) / name)], row, atol=1e-5)
             for name, row in zip(found.rows, found.values, strict=True)]  # fmt: skip
    return "" if right and all(right) else "vectors have other images' names"


def index(work: Path, chance: random.Random) -> list[str]:
    """After images have changed places."""
    one, other = chance.sample(sorted((work / "pics").rglob("*.png")), 2)
    one.rename(work / "between")
    other.rename(one)
    (work / "between").rename(other)
    return ["outliers", "--run", "a", "--workers", "1"]


def indexed(work: Path, truth: Truth) -> str:
    found = read_index(RunFolder(work / "simclr-runs/a").vectors, model_checksum=model_of(work))
    if found is None or len(found) != 16:
        return "there is no index"
    right = [np.allclose(truth[bytes(found.images["checksum"][place]).hex()], row, atol=1e-5)
             for place, row in enumerate(found.h[:])]  # fmt: skip
    return "" if all(right) else "vectors are of other images"


WORKS = {"pretrain": (train, trained), "embed": (embed, embedded), "an index update": (index, indexed)}


@pytest.mark.parametrize("kind", WORKS)
def test_killed_at_any_moment_nothing_is_lost_or_mixed(
    kind: str, truth: Truth, forks: Forks, furnish: Callable[[], Path], times: Callable[[int, int], int],
    figure: Callable[[str, Any], None],
) -> None:  # fmt: skip
    """Each kill meets what the last one has left; whatever is finished begins again."""
    typed, wrong_with = WORKS[kind]
    chance, wrong, sent, kills = random.Random(kind), [], 0, 0
    work = furnish()
    began = time.monotonic()
    assert forks(typed(work, chance), work)["code"] == 0
    seconds = time.monotonic() - began
    work = furnish()
    while kills < times(2, 70):
        sent += 1
        assert sent < times(2, 70) * 10, "hardly a kill meets it before its end"
        answer = forks(typed(work, chance), work, kill_after=chance.uniform(0, seconds))
        kills += answer["code"] is None
        try:
            complaint = wrong_with(work, truth)
        except Exception as error:
            complaint = f"unreadable: {error!r}"
        wrong += [complaint] if complaint else []
        if RunFolder(work / "simclr-runs/new").finished:
            work = furnish()
    answer = forks(typed(work, chance), work)
    assert answer["code"] == 0, answer["said"]
    left = [path for path in work.rglob("*") if path.name.startswith(TEMPORARY_PREFIX) and path.parent.name in SWEPT]
    left += work.rglob(LOCK)
    figure(f"kills of {kind}", {"sent": sent, "before its end": kills})
    figure(f"kills of {kind}: unreadable or mixed", len(wrong))
    assert not wrong and not left and not wrong_with(work, truth), (wrong, left)
