"""`simclr check`: the problems that it finds in the folder of a run, and their remedies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr_cli.api import CheckResult, CheckSettings, PretrainSettings, ReportSettings, SimilarSettings
from simclr_cli.commands.check import check
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.report import report
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import RunError
from simclr_cli.core.events import Event, Progress
from simclr_cli.core.files import write_bytes, write_json
from simclr_cli.store.manifest import MANIFEST, write_manifest
from simclr_cli.store.models import write_model
from simclr_cli.store.run import RunFolder


@pytest.fixture(scope="session")
def full(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Make a finished run with a file of most kinds, which tests must not change."""
    found = RunFolder(Path(shutil.copytree(trained.run.path, tmp_path_factory.mktemp("full") / "runs" / "pics")))
    for made_later in (found.vectors_folder, found.probe_folder):
        shutil.rmtree(made_later, ignore_errors=True)
    for folder in ("encoder-1-epochs", "classifier-x"):
        write_model(found.path / folder, {"weight": torch.ones(3)}, {"simclr": {"format_version": 1}}, "# Card")
    write_manifest(found.path, found.encoder_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(tmp_path_factory.mktemp("cache")))
        similar(query(trained, found))
    return found


@pytest.fixture
def run(full: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy that a test may change."""
    return RunFolder(Path(shutil.copytree(full.path, tmp_path / "runs" / "pics")))


def query(trained: Any, run: RunFolder) -> SimilarSettings:
    return SimilarSettings(queries=(next(trained.images.rglob("*.png")),), run=str(run.path))


def checked(run: RunFolder) -> CheckResult:
    return check(CheckSettings(run=str(run.path)))


def states(result: CheckResult) -> dict[str, str]:
    return {one.path: one.state for one in result.problems}


def flip(file: Path, at: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def contents(run: RunFolder) -> dict[str, bytes]:
    files = [path for path in sorted(run.path.rglob("*")) if path.is_file()]
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in files}


REBUILD = "Delete {run}/encoder, then rebuild it from the checkpoint: simclr pretrain --resume --run pics"
LISTED = {  # in the manifest: words of the remedy
    "config.json": "train again",
    "skipped.json": "A finished run works without it",
    "images.json": "A finished run works without it",
    "metrics.jsonl": REBUILD,
    "speed.jsonl": REBUILD,
    "outcome.json": REBUILD,
    "projection_head.safetensors": REBUILD,
    "encoder/model.safetensors": REBUILD,
    "encoder/config.json": REBUILD,
    "encoder/README.md": REBUILD,
    "checkpoint/step-000000006.safetensors": "delete {run}/checkpoint/step-000000006.safetensors",
    "encoder-1-epochs/model.safetensors": "delete {run}/encoder-1-epochs:",
    "encoder-1-epochs/config.json": "delete {run}/encoder-1-epochs:",
    "encoder-1-epochs/README.md": "delete {run}/encoder-1-epochs:",
}
SELF_VERIFYING = {  # by a checksum of their own
    MANIFEST: REBUILD,
    "classifier-x/model.safetensors": "simclr finetune FOLDER --run {run}",
}


def test_intact_run_has_no_problems(run: RunFolder) -> None:
    before = {name: (run.path / name).stat().st_mtime_ns for name in contents(run)}
    events: list[Event] = []
    result = check(CheckSettings(run=run.path.name, runs=run.path.parent), report=events.append)
    assert (result.intact, result.finished, result.problems, result.resume, result.exit_code) == (
        True,
        True,
        (),
        None,
        0,
    )
    names = {*LISTED, *SELF_VERIFYING, *(f"vectors/{part.name}" for part in run.vectors_folder.glob("*.bin"))} - {
        MANIFEST
    }
    assert result.files == len(names) and result.bytes == sum((run.path / name).stat().st_size for name in names)
    assert events[-1] == Progress("checking", result.files, result.files)
    assert before == {name: (run.path / name).stat().st_mtime_ns for name in contents(run)}


def test_each_file_damaged_or_gone_is_named_with_what_to_do(run: RunFolder) -> None:
    parts = [f"vectors/{part.name}" for part in run.vectors_folder.glob("*.bin")]
    cases = {**LISTED, **SELF_VERIFYING, **dict.fromkeys(parts, "Delete {run}/vectors. The next search")}
    for name, words in cases.items():
        file = run.path / name
        data = file.read_bytes()
        flip(file)
        result = checked(run)
        assert (states(result), result.exit_code, result.intact) == ({name: "damaged"}, 4, False)
        assert words.format(run=run.path) in result.problems[0].remedy
        file.unlink()
        result = checked(run)
        needed = name in LISTED and not name.startswith(("checkpoint/", "encoder-"))
        expected = {name: "missing"} if needed or name == MANIFEST else {}  # the others may be deleted
        assert states(result) == expected and all(one.remedy for one in result.problems)
        file.write_bytes(data)
    assert checked(run).intact


def test_what_the_checkpoint_holds_is_rebuilt_bit_for_bit(run: RunFolder, no_trial: None) -> None:
    before = contents(run)
    held = [name for name, words in {**LISTED, **SELF_VERIFYING}.items() if words == REBUILD]
    assert len(held) == 8
    for number, name in enumerate(held):
        (run.path / name).unlink() if number % 2 else flip(run.path / name)
    assert MANIFEST in states(checked(run))
    shutil.rmtree(run.encoder_folder)
    pretrain(PretrainSettings(resume=True, run="pics", runs=run.path.parent))
    assert checked(run).intact
    after = contents(run)
    assert {name: after[name] for name in LISTED} == {name: before[name] for name in LISTED}
    assert after[MANIFEST] == before[MANIFEST]


@pytest.mark.parametrize("lost", ["config.json", "checkpoint/step-000000006.safetensors"])
def test_without_an_intact_checkpoint_nothing_can_be_rebuilt(run: RunFolder, lost: str) -> None:
    flip(run.path / lost)
    flip(run.weights_file)
    found = {one.path: one.remedy for one in checked(run).problems}
    assert found.keys() == {lost, "encoder/model.safetensors"}
    assert "train again" in found["encoder/model.safetensors"]
    (run.path / lost).unlink()
    assert "train again" in checked(run).problems[-1].remedy


def test_deleted_vectors_are_computed_again_by_the_next_search(run: RunFolder, trained: Any) -> None:
    expected = similar(query(trained, run))
    for rows in run.vectors_folder.glob("*.bin"):
        flip(rows, -9)
    assert len(checked(run).problems) == 3
    shutil.rmtree(run.vectors_folder)
    assert similar(query(trained, run)).queries == expected.queries and checked(run).intact


def test_the_checkpoint_of_an_unfinished_run_is_verified(run: RunFolder) -> None:
    shutil.rmtree(run.encoder_folder)  # its manifest is of what was
    run.metrics_file.unlink()
    result = checked(run)
    assert (result.finished, result.intact, result.exit_code) == (False, True, 0)
    assert result.resume == run.resume_command
    flip(next(run.checkpoint_folder.iterdir()))
    result = checked(run)
    assert (states(result), result.exit_code) == ({"checkpoint/step-000000006.safetensors": "damaged"}, 4)
    assert run.resume_command in result.problems[0].remedy


def test_parts_of_another_run_are_found(run: RunFolder, train: Callable[..., Any], images: Path) -> None:
    other = RunFolder(Path(train(images, seed=1).run))
    for part in ("encoder", "checkpoint"):
        shutil.rmtree(run.path / part)
        shutil.copytree(other.path / part, run.path / part)
    assert states(checked(run)) == {
        "encoder/model.safetensors": "damaged", "encoder/config.json": "damaged", "encoder/README.md": "damaged",
        "checkpoint/step-000000003.safetensors": "foreign",
    }  # fmt: skip


def test_files_that_commands_write_later_are_not_verified(run: RunFolder) -> None:
    for name in ("report.html", "probe/probe.json", "notes.txt", "encoder/.DS_Store", "tensorboard/events"):
        write_bytes(run.path / name, b"anything")
    shutil.rmtree(run.path / "classifier-x")
    assert checked(run).intact


def test_without_a_manifest_files_with_their_own_checksum_are_verified(run: RunFolder) -> None:
    (run.path / MANIFEST).unlink()
    wrong = [next(run.path.glob(name)) for name in ("checkpoint/*", "encoder/model*", "classifier-x/model*")]
    for file in wrong:
        flip(file, -9)
    found = {file.relative_to(run.path).as_posix(): "damaged" for file in wrong}
    assert states(checked(run)) == {**found, MANIFEST: "missing"}


def test_a_newer_manifest_is_an_error(run: RunFolder) -> None:
    write_json(run.path / MANIFEST, {"format_version": 2})
    with pytest.raises(RunError, match="newer format"):
        checked(run)


def test_a_run_that_another_process_starts_to_train_meanwhile_has_no_problems(run: RunFolder) -> None:
    def begin(event: Event) -> None:
        if isinstance(event, Progress) and run.encoder_folder.exists():
            run.archive_encoder(2)

    result = check(CheckSettings(run=str(run.path)), report=begin)
    assert (result.finished, result.intact) == (False, True)


def test_files_that_make_no_sense_end_a_command(run: RunFolder, trained: Any) -> None:
    """Truncate settings, metrics and model files, or fill them with other types."""
    asked: dict[Path, Callable[[], object]] = {
        run.config_file: lambda: report(ReportSettings(run=str(run.path))),
        run.metrics_file: lambda: report(ReportSettings(run=str(run.path))),
        run.encoder_folder / "config.json": lambda: similar(query(trained, run)),
        run.weights_file: lambda: similar(query(trained, run)),
    }
    for file, ask in asked.items():
        data = file.read_bytes()
        for harmed in (data[: len(data) // 2], json.dumps([1]).encode()):
            file.write_bytes(harmed)
            with pytest.raises(RunError) as caught:
                ask()
            assert str(file) in caught.value.problem and caught.value.remedy
        file.write_bytes(data)
