"""The JSON contract: stdout of `--json` is one object with the result's fields; messages stay on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simclr_cli import api as results
from simclr_cli.core import events
from simclr_cli.diagnose.machine import TorchFacts
from simclr_cli.store.history import TIMING_KEYS

CENSUS = {"folder", "images", "bytes", "formats", "short_side", "bits", "classes", "unlabeled", "unlabeled_because",
          "skipped", "skipped_because", "odd", "other_files", "other_kinds", "other_names",
          "fingerprint"}  # fmt: skip


def fields(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


@pytest.fixture
def answer(simclr: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a command with --json and returns its object."""

    def call(*arguments: object) -> dict[str, Any]:
        code, stdout, stderr = simclr(*arguments, "--json")
        assert code == 0, stderr
        assert stdout.count("\n") == 1 and stdout.isascii()
        assert "{" not in stderr
        return json.loads(stdout)

    return call


@pytest.fixture(autouse=True)
def quick(no_trial: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.engine.probes.L2_VALUES", (1e-2, 1e1))


def test_pretrain(answer: Callable[..., Any], photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    result = answer("pretrain", photos, "--runs", tmp_path / "runs", *tiny)
    assert list(result) == fields(results.PretrainResult)
    assert list(result["plan"]) == fields(events.PlanMade)
    assert all(list(choice) == fields(events.Choice) for choice in result["plan"]["choices"])
    assert set(result["census"]) == CENSUS and set(result["census"]["short_side"]) == {"least", "median", "most"}
    assert result["finished"] is True and Path(result["run"]) == tmp_path / "runs" / "photos"
    run = tmp_path / "runs" / "photos"
    metrics, speed = (
        [list(json.loads(line)) for line in (run / file).read_text().splitlines()]
        for file in ("metrics.jsonl", "speed.jsonl")
    )
    assert metrics == [[name for name in fields(events.EpochDone) if name not in TIMING_KEYS]]
    assert speed == [["epoch", *TIMING_KEYS]]


def test_dry_run(answer: Callable[..., Any], photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    result = answer("pretrain", photos, "--runs", tmp_path / "runs", *tiny, "--dry-run")
    assert list(result) == fields(results.PretrainResult)
    assert result["finished"] is False and result["last_loss"] is None and result["model_checksum"] is None


def test_embed(answer: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    result = answer("embed", "--runs", trained, "--out", tmp_path / "v.npy")
    assert list(result) == fields(results.EmbedResult)
    assert result["rows"] == 24 and result["out"] == str(tmp_path / "v.npy")


def test_probe(answer: Callable[..., Any], trained: Path) -> None:
    result = answer("probe", "--runs", trained)
    assert list(result) == fields(results.ProbeResult)
    assert [list(score) for score in result["scores"]] == [fields(results.Score)] * 4
    assert result["classes"] == ["dark", "light"]


def test_similar(answer: Callable[..., Any], trained: Path, photos: Path) -> None:
    result = answer("similar", photos / "dark" / "00.png", photos / "light", "--runs", trained, "--top", 3)
    assert list(result) == fields(results.SimilarResult)
    assert [list(query) for query in result["queries"]] == [fields(results.QueryResult)] * 13
    assert all(list(hit) == fields(results.Neighbor) for query in result["queries"] for hit in query["neighbors"])


def test_duplicates(answer: Callable[..., Any], trained: Path) -> None:
    result = answer("duplicates", "--runs", trained, "--min-similarity", -1)
    assert list(result) == fields(results.DuplicatesResult)
    assert all(list(group) == fields(results.DuplicateGroup) for group in result["groups"])
    assert all(list(copy) == fields(results.DuplicateImage) for group in result["groups"] for copy in group["images"])


def test_cache(answer: Callable[..., Any], photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    assert answer("cache") == {"root": os.environ["SIMCLR_CACHE"], "cleared": False, "bytes": 0, "caches": []}
    answer("pretrain", photos, "--runs", tmp_path / "runs", *tiny)
    result = answer("cache")
    assert list(result) == fields(results.CacheResult)
    assert [list(kept) for kept in result["caches"]] == [fields(results.FolderCache)]
    assert result["caches"][0]["folder"] == str(photos) and result["caches"][0]["sides"] == [40]
    assert answer("cache", tmp_path)["caches"] == []
    assert answer("cache", photos, "--clear") == {**result, "cleared": True}
    assert answer("cache")["caches"] == []


def test_doctor(simclr: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.diagnose.machine.inspect_torch", lambda: TorchFacts(version="2.10.0"))
    (tmp_path / "runs").write_text("")  # cannot be written into
    code, stdout, stderr = simclr("doctor", "--runs", tmp_path / "runs", "--json")
    result = json.loads(stdout)
    assert list(result) == fields(results.DoctorResult) and code == 5 and stderr.count("\n") == 1
    assert [list(one) for one in result["diagnoses"]] == [fields(results.Diagnosis)] * len(result["diagnoses"])
    assert result["diagnoses"][0]["name"] == "runs not writable"


def test_demo(answer: Callable[..., Any], tmp_path: Path) -> None:
    result = answer("demo", "--out", tmp_path, "--count", 100, "--epochs", 1, "--image-size", 8)
    assert list(result) == fields(results.DemoResult)
    assert list(result["pretrain"]) == fields(results.PretrainResult)
    assert [score["representation"] for score in result["scores"]] == ["trained", "untrained", "raw pixels"]
    assert all(list(score) == fields(results.Score) for score in result["scores"])
    assert list(result["query"]) == fields(results.QueryResult)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_names_of_any_bytes_come_back_from_json(answer: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    names = [b"\xff\x1b[31m\n.png", "ü [bold].png".encode()]
    for name in names:
        with (tmp_path / os.fsdecode(name)).open("wb") as stream:
            Image.new("RGB", (40, 40), "red").save(stream, "PNG")
    result = answer("similar", tmp_path, "--runs", trained, "--top", 1)
    assert [os.fsencode(Path(query["query"]).name) for query in result["queries"]] == sorted(names)


@pytest.mark.parametrize("arguments", [["pretrain", "/nowhere"], ["embed", "--out", "x.txt"], ["similar", "/no.jpg"]])
def test_an_error_leaves_stdout_empty(simclr: Callable[..., Any], arguments: list[str]) -> None:
    code, stdout, stderr = simclr(*arguments, "--json")
    assert code in (2, 3) and stdout == "" and stderr.startswith("Error: ")


def test_outliers(answer: Callable[..., Any], trained: Path) -> None:
    result = answer("outliers", "--runs", trained, "--top", 3)
    assert list(result) == fields(results.OutliersResult)
    assert [list(one) for one in result["images"]] == [fields(results.Outlier)] * 3


def test_clusters(answer: Callable[..., Any], trained: Path) -> None:
    result = answer("clusters", "--runs", trained)
    assert list(result) == fields(results.ClustersResult)
    assert all(list(one) == fields(results.Cluster) for one in result["clusters"])
    assert [list(one) for one in result["images"]] == [fields(results.Member)] * 24
    assert {tuple(one) for one in result["candidates"]} == {tuple(fields(results.ClusterCountScore))}
    shares = [share for one in result["clusters"] for share in one["folders"]]
    assert all(list(share) == fields(results.FolderShare) for share in shares) and shares
