"""Commands killed at random moments, by kill -9: all files are readable, nothing is mixed, the next command works."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.core.locks import LOCK_FILE
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.store.checkpoint import load_checkpoint
from simclr_cli.store.history import read_epochs
from simclr_cli.store.index_files import read_index
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info
from simclr_cli.store.vectors import read_vectors

pytestmark = pytest.mark.long

TINY = "--backbone test_resnet --image-size 32 --batch-size 8 --blur 0 --workers 1".split()
EMBED = "embed pics --run a --workers 1 --out out/v.npy".split()
STEPS_PER_EPOCH = 2
CLEANED_FOLDERS = ("checkpoint", "vectors")  # at once; others after a day

Forks = Callable[..., dict[str, Any]]
Truth = dict[str, Any]  # h by the checksum of the image


@pytest.fixture(scope="module")
def truth(forks: Forks, furnish: Callable[[], Path]) -> Truth:
    """Return the embedding of each image."""
    work, embeddings = furnish(), {}
    for folder in ("pics", "more"):
        assert forks([*EMBED[:1], folder, *EMBED[2:-1], "out/true.npy"], work)["code"] == 0
        vectors = read_vectors(work / "out/true.npy", model_checksum=get_model_checksum(work))
        for name, row in zip(vectors.rows, vectors.values, strict=True):
            embeddings[checksum_file(work / folder / name)] = np.array(row)
    return embeddings


def get_model_checksum(work: Path) -> str:
    return str(RunFolder(work / "simclr-runs/a").read_encoder()[0]["simclr"]["model_checksum"])


def train_command(work: Path, _: random.Random) -> list[str]:
    run = RunFolder(work / "simclr-runs/new")
    if run.is_started:
        return "pretrain --resume --run new --checkpoint-seconds 0".split()
    return ["pretrain", "pics", "--run", "new", "--epochs", "3", "--checkpoint-seconds", "0", *TINY]


def check_training(work: Path, _: Truth) -> str:
    run = RunFolder(work / "simclr-runs/new")
    if run.is_started:
        read_run_info(run)
    saved, rows = load_checkpoint(run.checkpoint_folder), read_epochs(run)
    if saved is not None and saved.step != STEPS_PER_EPOCH * len(saved.metrics) + len(saved.losses):
        return "the checkpoint is mixed"
    if run.is_finished:
        run.read_encoder()
    return "" if [row["epoch"] for row in rows] == list(range(1, len(rows) + 1)) else "metrics.jsonl is mixed"


def embed_command(work: Path, chance: random.Random) -> list[str]:
    """Overwrite the vectors of one folder by those of another with the same names and other images."""
    return [*EMBED[:1], chance.choice(["pics", "more"]), *EMBED[2:]]


def check_vectors(work: Path, truth: Truth) -> str:
    vectors = read_vectors(work / "out/v.npy", model_checksum=get_model_checksum(work))
    correct = [np.allclose(truth[checksum_file(Path(vectors.root) / name)], row, atol=1e-5)
               for name, row in zip(vectors.rows, vectors.values, strict=True)]  # fmt: skip
    return "" if correct and all(correct) else "vectors have other images' names"


def update_command(work: Path, chance: random.Random) -> list[str]:
    """Exchange two images before the update."""
    one, other = chance.sample(sorted((work / "pics").rglob("*.png")), 2)
    one.rename(work / "between")
    other.rename(one)
    (work / "between").rename(other)
    return ["outliers", "--run", "a", "--workers", "1"]


def check_index(work: Path, truth: Truth) -> str:
    index = read_index(RunFolder(work / "simclr-runs/a").vectors_folder, model_checksum=get_model_checksum(work))
    if index is None or len(index) != 16:
        return "there is no index"
    correct = [np.allclose(truth[bytes(index.images["checksum"][place]).hex()], row, atol=1e-5)
               for place, row in enumerate(index.h[:])]  # fmt: skip
    return "" if all(correct) else "vectors are of other images"


CASES = {
    "pretrain": (train_command, check_training),
    "embed": (embed_command, check_vectors),
    "an index update": (update_command, check_index),
}


@pytest.mark.parametrize("kind", CASES)
def test_after_kills_at_any_moment_nothing_is_lost_or_mixed(
    kind: str, truth: Truth, forks: Forks, furnish: Callable[[], Path], times: Callable[[int, int], int],
    figure: Callable[[str, Any], None],
) -> None:  # fmt: skip
    """Each command starts from the files that the last kill left; a finished run starts anew."""
    create_command, check = CASES[kind]
    chance, wrong, sent, kills = random.Random(kind), [], 0, 0
    work = furnish()
    start = time.monotonic()
    assert forks(create_command(work, chance), work)["code"] == 0
    seconds = time.monotonic() - start
    work = furnish()
    while kills < times(2, 70):
        sent += 1
        assert sent < times(2, 70) * 10, "hardly a kill comes before the end"
        answer = forks(create_command(work, chance), work, kill_after=chance.uniform(0, seconds))
        kills += answer["code"] is None
        try:
            complaint = check(work, truth)
        except Exception as error:
            complaint = f"unreadable: {error!r}"
        wrong += [complaint] if complaint else []
        if RunFolder(work / "simclr-runs/new").is_finished:
            work = furnish()
    answer = forks(create_command(work, chance), work)
    assert answer["code"] == 0, answer["said"]
    left = [
        path
        for path in work.rglob("*")
        if path.name.startswith(TEMPORARY_PREFIX) and path.parent.name in CLEANED_FOLDERS
    ]
    left += work.rglob(LOCK_FILE)
    figure(f"kills of {kind}", {"sent": sent, "before its end": kills})
    figure(f"kills of {kind}: unreadable or mixed", len(wrong))
    assert not wrong and not left and not check(work, truth), (wrong, left)
