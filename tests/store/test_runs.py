"""Search for a run or classifier: by name, by path, or the newest."""

import os
from pathlib import Path

import pytest
import torch

from simclr_cli.core.errors import RunError
from simclr_cli.store.manifest import MANIFEST
from simclr_cli.store.run import (
    FORMAT_VERSION,
    RunFolder,
    find_classifier,
    find_run,
    find_started_run,
    list_runs,
    name_classifier_folder,
)


def finished_run(path: Path, seed: int = 0, modified_ns: int | None = None) -> RunFolder:
    run = RunFolder(path)
    run.write_config({"settings": {"seed": seed}})
    run.write_encoder({"weight": torch.tensor([float(seed)])}, {"simclr": {"format_version": FORMAT_VERSION}}, "# Card")
    if modified_ns is not None:
        os.utime(run.weights_file, ns=(modified_ns, modified_ns))
    return run


def test_without_a_name_the_run_that_finished_last_is_found(tmp_path: Path) -> None:
    finished_run(tmp_path / "a", modified_ns=2_000)
    finished_run(tmp_path / "b", modified_ns=3_000)
    finished_run(tmp_path / "c", modified_ns=1_000)
    RunFolder(tmp_path / "unfinished").write_config({})
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").write_text("x")
    assert find_run(None, tmp_path) == RunFolder(tmp_path / "b")


def test_run_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "runs/birds")
    finished_run(tmp_path / "elsewhere/fish")
    runs = tmp_path / "runs"
    assert find_run("birds", runs).path == runs / "birds"
    assert find_run(str(tmp_path / "elsewhere/fish"), runs).path == tmp_path / "elsewhere/fish"
    monkeypatch.chdir(tmp_path)
    assert find_run("elsewhere/fish", runs).path == Path("elsewhere/fish")
    assert find_run("runs/birds", Path("runs")).path == Path("runs/birds")


def test_name_under_runs_goes_before_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "runs/birds")
    (tmp_path / "birds").mkdir()  # the images
    monkeypatch.chdir(tmp_path)
    assert find_run("birds", Path("runs")).path == Path("runs/birds")


def test_error_of_an_unknown_name_lists_the_runs(tmp_path: Path) -> None:
    finished_run(tmp_path / "birds")
    with pytest.raises(RunError, match=r"There is no run fish.*birds"):
        find_run("fish", tmp_path)
    with pytest.raises(RunError, match=r"There is no run fish.*simclr pretrain FOLDER"):
        find_run("fish", tmp_path / "nowhere")


def test_an_unfinished_run_is_an_error(tmp_path: Path) -> None:
    RunFolder(tmp_path / "birds").write_config({})
    with pytest.raises(RunError, match="--resume --run birds"):
        find_run("birds", tmp_path)
    for runs in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="There is no finished run"):
            find_run(None, runs)


def test_a_started_run_is_found_and_any_other_folder_is_an_error(tmp_path: Path) -> None:
    RunFolder(tmp_path / "begun").write_config({})
    (tmp_path / "lost").mkdir()  # all but its manifest
    (tmp_path / "lost" / MANIFEST).write_text("{}")
    (tmp_path / "photos").mkdir()
    for name in ("begun", "lost"):
        assert find_started_run(name, tmp_path).path == tmp_path / name
    with pytest.raises(RunError, match="photos is not the folder of a run"):
        find_started_run("photos", tmp_path)
    assert find_started_run(None, tmp_path).path == tmp_path / "begun"
    with pytest.raises(RunError, match="There is no run under"):
        find_started_run(None, tmp_path / "photos")


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    """By the time of config.json, which is written once, or of the folder without one."""
    for i, name in enumerate(("b", "c", "a", "lost")):
        run = finished_run(tmp_path / name)
        os.utime(run.config_file, ns=(10 * i, 10 * i))
        os.utime(run.path, ns=(100 - i, 100 - i))
    run.config_file.unlink()
    os.utime(run.path, ns=(15, 15))
    (tmp_path / "no-run").mkdir()
    assert [run.path.name for run in list_runs(tmp_path)] == ["a", "lost", "c", "b"]
    assert list_runs(tmp_path / "nowhere") == []


def test_newest_classifier_is_found_and_one_from_scratch_only_without_others(tmp_path: Path) -> None:
    run, other = finished_run(tmp_path / "run"), finished_run(tmp_path / "other")

    def add(name: str, modified_ns: int, to: RunFolder = run) -> Path:
        weights = to.path / name / "model.safetensors"
        weights.parent.mkdir(exist_ok=True)
        weights.write_bytes(b"")
        os.utime(weights, ns=(modified_ns, modified_ns))
        return weights.parent

    with pytest.raises(RunError, match="There is no classifier of a run under"):
        find_classifier(None, tmp_path)
    with pytest.raises(RunError, match=f"There is no classifier in {run.path}"):
        find_classifier("run", tmp_path)
    scratch = add("classifier-scratch", 3)
    assert find_classifier(None, tmp_path) == find_classifier("run", tmp_path) == scratch
    old, new = add("classifier", 1), add("classifier-1-percent", 2)
    assert find_classifier(None, tmp_path) == find_classifier("run", tmp_path) == new
    newest = add("classifier", 4, to=other)
    assert find_classifier(None, tmp_path) == newest and find_classifier("run", tmp_path) == new
    add("classifier", 5)
    assert find_classifier(None, tmp_path) == old


@pytest.mark.parametrize(
    ("fraction", "scratch", "name"),
    [(1.0, False, "classifier"), (0.1, False, "classifier-10-percent"), (0.01, True, "classifier-1-percent-scratch"),
     (0.005, False, "classifier-0.5-percent"), (1.0, True, "classifier-scratch")],
)  # fmt: skip
def test_default_folder_of_a_classifier(fraction: float, scratch: bool, name: str) -> None:
    assert name_classifier_folder(Path("run"), fraction, scratch=scratch) == Path("run") / name
