"""What `simclr check` finds in a run's folder, and what --mend puts right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_cli.digests import DIGESTS
from simclr_cli.errors import RunError
from simclr_cli.events import Progress, silent
from simclr_cli.files import bind, write_bytes
from simclr_cli.locks import Busy, locked
from simclr_cli.results import CheckResult
from simclr_cli.settings import CheckSettings, EmbedSettings, ReportSettings, SimilarSettings
from simclr_cli.store.epochs import read_epochs, write_epochs
from simclr_cli.store.events import EventFiles
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs.check import check
from simclr_cli.verbs.embed import embed
from simclr_cli.verbs.report import report
from simclr_cli.verbs.similar import similar


@pytest.fixture(scope="session")
def full(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with a file of most kinds; not to be changed."""
    found = RunFolder(Path(shutil.copytree(trained.run.path, tmp_path_factory.mktemp("full") / "runs" / "pics")))
    for made_later in (found.vectors, found.probe_folder):
        shutil.rmtree(made_later, ignore_errors=True)
    bind(found.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", str(tmp_path_factory.mktemp("cache")))
        similar(query(trained, found))
        embed(EmbedSettings(run=str(found.path), out=found.path / "vecs.npy"))
    for name in ("pages/outliers.html", "probe/probe.json", "classifier-x/README.md", "last-good/config.json",
                 "failed-batch.json"):  # fmt: skip
        write_bytes(found.path / name, name.encode())
    files = EventFiles(found.event_files, print)
    files.write([{"epoch": 1, "loss": 4.5, "seconds": 1.0}])
    files.close()
    return found


@pytest.fixture
def run(full: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may change."""
    return RunFolder(Path(shutil.copytree(full.path, tmp_path / "runs" / "pics")))


def query(trained: Any, run: RunFolder) -> SimilarSettings:
    return SimilarSettings(queries=(next(trained.pictures.rglob("*.png")),), run=str(run.path))


def checked(run: RunFolder, *, mend: bool = False) -> CheckResult:
    return check(CheckSettings(run=str(run.path), mend=mend))


def states(result: CheckResult) -> dict[str, str]:
    return {one.path: one.state for one in result.found}


def flip(file: Path, at: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def names_in(run: RunFolder) -> list[str]:
    return [path.relative_to(run.path).as_posix() for path in sorted(run.path.rglob("*")) if path.is_file()]


def test_whole_run_is_whole(run: RunFolder) -> None:
    events: list[Any] = []
    result = check(CheckSettings(run=run.path.name, runs=run.path.parent), report=events.append)
    assert (result.whole, result.bound, result.found, result.mended, result.exit_code) == (True, True, (), (), 0)
    assert result.files == len(names_in(run))
    assert result.bytes == sum((run.path / name).stat().st_size for name in names_in(run))
    assert events[-1] == Progress("checking", result.files, result.files)
    assert checked(run, mend=True).mended == ()  # nothing to mend


REMEDIES = {
    "config.json": "Restore it from a copy",
    "refused.json": "Restore it from a copy",
    "pictures.json": "Restore it from a copy",
    "metrics.jsonl": "simclr check {run} --mend",
    "speed.jsonl": "simclr check {run} --mend",
    "outcome.json": "simclr check {run} --mend",
    "projector.safetensors": "simclr check {run} --mend",
    "encoder/model.safetensors": "simclr check {run} --mend",
    "encoder/config.json": "simclr check {run} --mend",
    "encoder/README.md": "simclr check {run} --mend",
    "checkpoint/step-000000006.safetensors": "A finished run works without it",
    "report.html": "simclr report {run}",
    "probe/probe.json": "simclr probe FOLDER --run {run}",
    "pages/outliers.html": "simclr outliers --run {run} --open",
    "classifier-x/README.md": "simclr finetune FOLDER --run {run}",
    "vectors/index.json": "simclr check {run} --mend",
    "vectors/similarity.json": "simclr check {run} --mend",
    "last-good/config.json": "Delete {run}/last-good",
    "failed-batch.json": "Delete {run}/failed-batch.json",
    "vecs.npy": "the command that wrote it",
    "vecs.rows.json": "the command that wrote it",
}


def test_each_file_damaged_or_gone_is_named_with_what_to_do(run: RunFolder) -> None:
    rows, events = (next(run.path.glob(pattern)) for pattern in ("vectors/rows-*", "tensorboard/*"))
    remedies = {
        **REMEDIES,
        rows.relative_to(run.path).as_posix(): "simclr check {run} --mend",
        events.relative_to(run.path).as_posix(): "Delete {file}",
        DIGESTS: "simclr check {run} --mend",
    }
    assert sorted(remedies) == names_in(run)
    for name, words in remedies.items():
        file = run.path / name
        data = file.read_bytes()
        flip(file)
        result = checked(run)
        assert (states(result), result.exit_code, result.whole) == ({name: "damaged"}, 4, False)
        assert words.format(run=run.path, file=file) in result.found[0].remedy
        file.unlink()
        result = checked(run)
        if file == events:  # others write and remove these
            assert result.whole
        else:
            assert (states(result), result.exit_code) == ({name: "missing"}, 4) and result.found[0].remedy
        file.write_bytes(data)
    assert checked(run).whole


def test_what_the_checkpoint_held_is_made_again_bit_for_bit(run: RunFolder) -> None:
    before = {name: (run.path / name).read_bytes() for name in names_in(run)}
    held = [name for name, words in REMEDIES.items() if words == "simclr check {run} --mend" and "vectors/" not in name]
    assert len(held) == 7
    for number, name in enumerate(held):
        (run.path / name).unlink() if number % 2 else flip(run.path / name)
    result = checked(run, mend=True)
    assert (result.whole, result.found) == (True, ())
    assert sorted(result.mended) == sorted(f"Made again from the checkpoint: {name}." for name in held)
    assert {name: (run.path / name).read_bytes() for name in names_in(run)} == before
    shutil.rmtree(run.encoder)
    assert checked(run, mend=True).whole and run.finished
    assert {name: (run.path / name).read_bytes() for name in names_in(run)} == before


@pytest.mark.parametrize("lost", ["config.json", "checkpoint/step-000000006.safetensors"])
def test_without_a_whole_checkpoint_nothing_is_made_from_it(run: RunFolder, lost: str) -> None:
    flip(run.path / lost)
    flip(run.weights_file)
    damaged = run.weights_file.read_bytes()
    result = checked(run, mend=True)
    assert states(result) == {lost: "damaged", "encoder/model.safetensors": "damaged"} and result.mended == ()
    assert "train again" in result.found[-1].remedy and run.weights_file.read_bytes() == damaged


def test_metrics_of_a_run_that_is_not_finished_come_back_when_it_goes_on(run: RunFolder) -> None:
    shutil.rmtree(run.encoder)
    shutil.rmtree(run.checkpoints)
    bind(run.path)
    flip(run.metrics_file)
    (found,) = checked(run, mend=True).found
    assert found.path == "metrics.jsonl" and run.resume_command in found.remedy


def test_damaged_vectors_are_removed_and_the_next_search_makes_them_again(run: RunFolder, trained: Any) -> None:
    expected = similar(query(trained, run))
    for file in run.vectors.iterdir():
        flip(file, 200)
    assert len(checked(run, mend=True).mended) == 3 and checked(run).whole
    assert similar(query(trained, run)).queries == expected.queries
    assert checked(run).whole


def test_what_is_gone_and_not_needed_can_be_forgotten(run: RunFolder) -> None:
    for folder in (run.probe_folder, run.pages, run.vectors, run.checkpoints, run.last_good):
        shutil.rmtree(folder)
    run.report_file.unlink()
    run.refused_file.unlink()  # this one is needed, by a run that is not finished
    assert len(checked(run).found) == 9
    result = checked(run, mend=True)
    assert states(result) == {"refused.json": "missing"} and len(result.mended) == 8


def test_parts_of_another_run_are_found(run: RunFolder, train: Callable[..., Any], pictures: Path) -> None:
    other = RunFolder(Path(train(pictures, seed=1).run))
    for part in ("encoder", "checkpoint"):
        shutil.rmtree(run.path / part)
        shutil.copytree(other.path / part, run.path / part)
    assert states(checked(run)) == {
        "encoder/model.safetensors": "damaged", "encoder/config.json": "damaged", "encoder/README.md": "damaged",
        "checkpoint/step-000000003.safetensors": "foreign", "checkpoint/step-000000006.safetensors": "missing",
    }  # fmt: skip
    with pytest.raises(RunError, match="is not what was written"):
        embed(EmbedSettings(run=str(run.path), out=run.path / "vecs.npy"))


def test_strangers_and_strays_are_named_and_are_no_damage(run: RunFolder) -> None:
    (run.path / "notes.txt").write_text("mine")
    (run.path / ".simclr-tmp-1-ab").write_text("half")
    (run.path / ".simclr-lock").write_text("{}")
    (run.path / "encoder" / "model.bin").write_text("not ours")
    result = checked(run)
    assert states(result) == {".simclr-tmp-1-ab": "left over", "notes.txt": "unknown", "encoder/model.bin": "foreign"}
    (run.path / "encoder" / "model.bin").unlink()
    assert (checked(run).whole, checked(run).exit_code) == (True, 0)


def test_links_are_not_followed(run: RunFolder, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "encoder/model.safetensors"):
        elsewhere = shutil.move(run.path / name, tmp_path / "elsewhere")
        (run.path / name).symlink_to(elsewhere)
        assert states(checked(run)) == {name: "missing"}
        (run.path / name).unlink()
        shutil.move(elsewhere, run.path / name)
    run.encoder.rename(run.path / "within")
    run.encoder.symlink_to("within")
    assert {state for name, state in states(checked(run)).items() if name.startswith("encoder/")} == {"missing"}


def test_without_digests_what_carries_its_own_is_checked(run: RunFolder) -> None:
    (run.path / DIGESTS).unlink()
    result = checked(run)
    assert (states(result), result.bound, result.exit_code) == ({DIGESTS: "missing"}, False, 4)
    wrong = [next(run.path.glob(name)) for name in ("checkpoint/*", "encoder/model*", "vectors/rows*", "vecs.npy")]
    for file in wrong:
        flip(file, -9)
    found = {file.relative_to(run.path).as_posix(): "damaged" for file in wrong}
    assert states(checked(run)) == {**found, DIGESTS: "missing"}
    result = checked(run, mend=True)  # noted is only what is in order
    assert result.bound and result.mended[-1] == "Noted in digests.json: what is there."
    assert states(result) == {name: state for name, state in found.items() if "vectors" not in name}


def test_damaged_digests_are_made_again(run: RunFolder) -> None:
    before = (run.path / DIGESTS).read_bytes()
    flip(run.path / DIGESTS, 40)
    flip(run.weights_file)
    result = checked(run, mend=True)
    assert result.whole and len(result.mended) == 2
    events = next(run.event_files.iterdir()).relative_to(run.path).as_posix()
    noted = json.loads((run.path / DIGESTS).read_bytes())["files"]
    assert {name: known for name, known in noted.items() if name != events} == json.loads(before)["files"]


def test_a_change_that_is_under_way_is_no_damage(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes metrics.jsonl between the look at the digests and that at the file."""
    from simclr_cli.verbs import check as module

    digest, rows = module.digest_file, read_epochs(run)
    times = iter(range(3))

    def late(file: Path) -> str:
        if file == run.metrics_file and next(times, None) is not None:
            rows.append(rows[-1])
            write_epochs(run, rows)
        return digest(file)

    monkeypatch.setattr(module, "digest_file", late)
    assert checked(run).whole and len(read_epochs(run)) == 5


def test_nothing_is_mended_while_another_process_trains_there(run: RunFolder) -> None:
    flip(run.weights_file)
    with locked(run.path, silent):
        assert states(checked(run)) == {"encoder/model.safetensors": "damaged"}
        with pytest.raises(Busy):
            checked(run, mend=True)
    assert checked(run, mend=True).whole


def test_damaged_small_files_are_never_read_as_if_they_were_whole(run: RunFolder, trained: Any) -> None:
    """A digit of a setting, of a measurement, of what a model takes: still JSON, and another answer."""
    asked: dict[str, Callable[[], object]] = {
        "config.json": lambda: report(ReportSettings(run=str(run.path))),
        "metrics.jsonl": lambda: report(ReportSettings(run=str(run.path))),
        "encoder/config.json": lambda: similar(query(trained, run)),
    }
    for name, ask in asked.items():
        file = run.path / name
        data = file.read_bytes()
        at = next(i for i, byte in enumerate(data) if byte == ord("1"))
        file.write_bytes(data[:at] + b"3" + data[at + 1 :])
        with pytest.raises(RunError, match="is not what was written") as caught:
            ask()
        assert "simclr check" in caught.value.remedy
        file.write_bytes(data)


def test_digests_change_nothing_that_is_computed(run: RunFolder) -> None:
    """Nor does check, which only reads."""
    before = {name: ((run.path / name).read_bytes(), (run.path / name).stat().st_mtime_ns) for name in names_in(run)}
    checked(run)
    assert before == {
        name: ((run.path / name).read_bytes(), (run.path / name).stat().st_mtime_ns) for name in names_in(run)
    }
    assert np.load(run.path / "vecs.npy", allow_pickle=False).shape[0] == 48
