"""Single bits flipped anywhere in the files of training: `simclr check` finds each, with the file and a remedy."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import (
    CheckSettings,
    FinetuneSettings,
    PretrainSettings,
    SimilarSettings,
)
from simclr_cli.commands.check import check
from simclr_cli.commands.finetune import finetune
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.similar import similar
from simclr_cli.images.synthetic import draw_images
from simclr_cli.store.manifest import MANIFEST, read_manifest
from simclr_cli.store.run import RunFolder

pytestmark = pytest.mark.long


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Train a run, extend it by an epoch, and add vectors and a classifier."""
    images, runs = tmp_path / "pics", tmp_path / "runs"
    draw_images(images, seed=0, count=60, size=32)
    tiny = {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "epochs": 1}
    pretrain(PretrainSettings(images=images, runs=runs, **tiny))
    run = RunFolder(Path(pretrain(PretrainSettings(resume=True, runs=runs, epochs=2)).run))
    similar(SimilarSettings(queries=(next(images.rglob("*.png")),), run=str(run.path)))
    finetune(FinetuneSettings(images=images, run=str(run.path), epochs=1))
    return run


def test_every_flipped_bit_is_found(
    run: RunFolder, times: Callable[[int, int], int], figure: Callable[[str, Any], None]
) -> None:
    """Half of the bits are drawn from all bytes, half from a file drawn first, to include small files."""
    settings, chance = CheckSettings(run=str(run.path)), random.Random(7)
    assert check(settings).intact
    with_checksum = [path for pattern in ("vectors/*.bin", "classifier/model.*") for path in run.path.glob(pattern)]
    files = sorted([*(run.path / name for name in read_manifest(run.path)), run.path / MANIFEST, *with_checksum])
    assert len(files) == 21
    sizes = [path.stat().st_size for path in files]
    found, count, start = 0, times(60, 300), time.perf_counter()
    for number in range(count):
        (file,) = chance.choices(files, sizes) if number % 2 else [chance.choice(files)]
        before, bit = file.read_bytes(), chance.randrange(8 * file.stat().st_size)
        after = bytearray(before)
        after[bit // 8] ^= 1 << bit % 8
        file.write_bytes(after)
        result = check(settings)
        file.write_bytes(before)
        problems = [(problem.path, problem.state, bool(problem.remedy)) for problem in result.problems]
        assert problems == [(file.relative_to(run.path).as_posix(), "damaged", True)], (file, bit)
        assert (result.intact, result.exit_code) == (False, 4)
        found += 1
    figure("flips found", f"{found} of {count}")
    figure("seconds of a check of the flipped run", round((time.perf_counter() - start) / count, 3))
    figure("files and bytes of the flipped run", [len(files), sum(sizes)])
    assert check(settings).intact
