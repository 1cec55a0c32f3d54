"""Catalog of bad input: each row has its exit code, message and remedy, without a traceback or a changed file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simclr_cli import COMMAND_NAMES
from simclr_cli.api import CacheSettings
from simclr_cli.cli.app import run_command
from simclr_cli.core import errors
from simclr_cli.images.cache_location import locate_cache
from simclr_cli.images.scan import take_census

ODD_NAMES = [b"line\nbreak.png", b"\x1b[31mred.png", b"[bold]x[/bold].png", b"\xff\xfe.png", b"\xe2\x80\xaetxt.png"]


@pytest.fixture
def plain(tmp_path: Path, no_trial: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with every kind of bad input except runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("words")
    (tmp_path / "text" / "b.jpg").write_text("words that say they are an image")
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "one" / "a.png")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "weights.safetensors").write_text("nothing of the kind")
    (tmp_path / "folders.csv").write_text("id,kind\na,b\n")
    return tmp_path


@pytest.fixture
def shown(plain: Path, photos: Path) -> Path:
    """Add images to the working folder."""
    shutil.copytree(photos, plain / "photos")
    return plain


@pytest.fixture
def place(shown: Path, trained: Path) -> Path:
    """Add `runs`, with a finished and an unfinished run, and `broken`, with a damaged one."""
    shutil.copytree(trained / "photos", shown / "runs" / "photos")
    shutil.copytree(trained / "photos", shown / "runs" / "half")
    shutil.rmtree(shown / "runs" / "half" / "encoder")
    shutil.copytree(trained / "photos", shown / "broken" / "photos")
    (shown / "broken" / "photos" / "encoder" / "config.json").write_text("{")
    return shown


PRETRAIN = "pretrain photos --backbone test_resnet --image-size 32 --epochs 1 --runs new"
# (arguments in the folder `place`, exit code, message, remedy)
CATALOG = {
    "no such folder": ("pretrain nowhere", 3, "There is no nowhere.", "Check the path."),
    "a file for a folder": ("pretrain file", 3, "file is a file, not a folder.", "Use the folder"),
    "an empty folder": ("pretrain empty", 3, "There is no image in empty: it is empty.", "Use a folder of"),
    "only text": (
        "pretrain text", 3, "There is no image in text: 1 other file (1 .txt) and 1 skipped (most often: not an image",
        "Use a folder of images.",
    ),
    "one image": ("pretrain one", 3, "There are fewer than two images", "Use a folder of at least 2"),
    "no folder at all": ("pretrain", 2, "No folder of images was given.", "Run: simclr pretrain FOLDER"),
    "batch of 1": ("pretrain photos --batch-size 1", 2, "--batch-size is 1, and must be at least 2.", "--batch-size"),
    "temperature 0": ("pretrain photos --temperature 0", 2, "--temperature is 0.0, and must be more than 0", "another"),
    "temperature nan": ("pretrain photos --temperature nan", 2, "--temperature is nan, and must be finite.", "another"),
    "changes accepted of no run": (
        "pretrain photos --accept-changes", 2, "--accept-changes belongs to --resume.", "Remove it, or add --resume",
    ),
    "no more epochs": (
        "pretrain --resume --run photos --runs runs --epochs 1", 2, "done 1 epoch; --epochs 1 is not more", "larger",
    ),
    "no epochs": ("pretrain photos --epochs 0", 2, "--epochs is 0, and must be at least 1.", "another value"),
    "warm-up too long": (
        "pretrain photos --epochs 2 --warmup-epochs 3", 2, "--warmup-epochs 3 is more than --epochs 2.", "fewer",
    ),
    "unknown backbone": (
        "pretrain photos --backbone resnet81", 2, "timm has no backbone named 'resnet81'.", "The closest names are",
    ),
    "size that a ViT cannot take": (
        "pretrain photos --backbone test_vit --image-size 40", 2, "test_vit cannot take images of 40", "--image-size",
    ),
    "unknown device": (f"{PRETRAIN} --device abacus", 2, "--device is 'abacus'.", "Use cpu, cuda"),
    "weights with a name": (f"{PRETRAIN} --weights resnet18=a.safetensors", 2, "with a name.", "--backbone resnet18"),
    "unknown weights": (f"{PRETRAIN} --weights places", 2, "--weights is 'places'.", "Use none, trained, or"),
    "weights file missing": (f"{PRETRAIN} --weights no.safetensors", 4, "There is no weights file", "Check"),
    "weights file broken": (f"{PRETRAIN} --weights weights.safetensors", 4, "not a complete .safetensors file", "Use"),
    "runs below a file": (
        "pretrain photos --backbone test_resnet --runs file/runs", 5, "Cannot write file/runs/photos", "Choose a",
    ),
    "finished run": ("pretrain photos --runs runs --run photos", 4, "is finished, and is never overwritten.", "Use"),
    "unfinished run": (
        "pretrain photos --runs runs --run half", 4, "was started and is not finished.", "pretrain --resume --run half",
    ),
    "nothing to resume": ("pretrain --resume --runs new", 4, "There is no interrupted run under new.", "Remove"),
    "resume of a finished run": ("pretrain --resume --runs runs --run photos", 4, "is finished.", "another --run"),
    "no run to embed with": ("embed --runs new", 4, "There is no finished run under new.", "simclr pretrain FOLDER"),
    "run of another name": ("embed --run birds --runs runs", 4, "There is no run birds.", "runs under runs: "),
    "unfinished run to embed with": ("embed --run half --runs runs", 4, "is not finished.", "--resume --run half"),
    "damaged run": ("embed --runs broken", 4, "config.json cannot be read", "Train"),
    "out of no known form": ("embed --out vecs.txt", 2, "--out is vecs.txt, and must end in .npy, ", "vecs.npy"),
    "shards of a table": ("embed --out v.csv --shards 2", 2, "--shards requires .npy, and --out is v.csv.", "a .npy"),
    "out in no folder": (
        "embed --runs runs --out no/v.npy", 2, "--out is no/v.npy, and there is no folder no.", "Create it",
    ),
    "probe in no folder": (
        "probe photos --runs runs --out no/p", 2, "--out is no/p, and there is no folder no.", "Create it",
    ),
    "classifier in no folder": (
        "finetune photos --runs runs --out no/c", 2, "--out is no/c, and there is no folder no.", "Create it",
    ),
    "name that is too long": (f"report {'a' * 300}", 5, "cannot be a name (File name too long).", "Use a shorter one."),
    "two encoders": ("embed --run a --encoder resnet18", 2, "--run and --encoder name two encoders.", "Remove one"),
    "encoder of no known name": (
        "embed photos --encoder resnet81", 2, "There is no run and no timm model named 'resnet81'.", "resnet18",
    ),
    "encoder without folder": (
        "embed --encoder random:test_resnet", 2, "random:test_resnet has no images of its own.", "Add the folder",
    ),
    "encoder that is not on this machine": (
        "embed photos --encoder resnet18 --offline", 5, "The weights of resnet18 are not on this machine, and could",
        "use --encoder NAME=model.safetensors",
    ),
    "encoder without weights at hand": (
        "embed photos --encoder resnet50_mlp", 2, "There are no trained weights of resnet50_mlp", "random:resnet50_mlp",
    ),
    "encoder file without a config": (
        "embed photos --encoder weights.safetensors", 4, "not a complete .safetensors file", "Use",
    ),
    "encoder file missing": ("embed photos --encoder resnet18=no.safetensors", 4, "There is no weights file", "Check"),
    "size that an encoder cannot take": (
        "embed photos --encoder random:test_vit --image-size 40", 2, "test_vit cannot take images of 40",
        "--image-size",
    ),
    "embed of nothing": ("embed empty --runs runs", 3, "There is no image in empty", "Use a folder"),
    "no classes": ("probe one --runs runs", 3, "do not look like classes", "--labels FILE.csv"),
    "labels without columns": ("probe photos --labels folders.csv --runs runs", 3, "has the columns id, kind", ""),
    "labels missing": ("probe photos --labels no.csv", 3, "There is no no.csv.", "Check the path."),
    "shares that are none": (
        "probe photos --labels-fraction 0.1,2", 2, "--labels-fraction is '0.1,2'.", "Use fractions between 0 and 1",
    ),
    "counts that are none": ("probe photos --labels-per-class few", 2, "--labels-per-class is 'few'.", "with commas"),
    "baseline that is none": (
        "probe photos --runs runs --baseline gone", 2, "There is no run and no timm model named 'gone'.", "names are",
    ),
    "finetune without classes": ("finetune one --runs runs", 3, "do not look like classes", "--labels FILE.csv"),
    "scratch from random weights": (
        "finetune photos --encoder random:resnet18 --scratch", 2, "--scratch starts from random weights", "Remove one",
    ),
    "finetune into what is there": (
        "finetune photos --runs runs --out text", 4, "text already exists, and a classifier", "another --out",
    ),
    "nothing to predict for": ("predict", 2, "No image was given.", "Run: simclr predict IMAGE"),
    "no classifier": ("predict photos --runs runs", 4, "There is no classifier", "simclr finetune"),
    "preview of nothing": ("preview empty", 3, "There is no image in empty", "Use a folder"),
    "map that is no page": ("map --out map.png", 2, "--out is map.png, and must end in .html.", "map.html"),
    "map without a run": ("map --runs new", 4, "There is no finished run under new.", "simclr pretrain FOLDER"),
    "map of another folder without weights": (
        "map photos --runs new --offline", 5, "The weights of tf_efficientnet_lite0.in1k are not on this machine",
        "random:NAME",
    ),
    "map with a table that is none": ("map --runs runs --labels folders.csv", 3, "has the columns id, kind", ""),
    "report of no run": ("report nothing --runs runs", 4, "There is no run", ""),
    "folder of images to search that is missing": (
        "similar photos --images no", 3, "There is no no.", "Check the path.",
    ),
    "embeddings that are not there": (
        "outliers photos --encoder random:test_resnet --image-size 32 --no-update", 4, "There are no embeddings yet.",
        "without --no-update",
    ),
    "exact duplicates of nothing": ("duplicates empty --kind exact", 3, "There is no image in empty", "Use a folder"),
    "exact duplicates of no run": (
        "duplicates --kind exact --runs new", 4, "no finished run under new.", "add the folder of images",
    ),
    "no query": ("similar", 2, "No query was given.", "Run: simclr similar IMAGE"),
    "query missing": ("similar no.jpg --runs runs", 3, "There is no no.jpg.", "Check the path."),
    "query that is no image": ("similar file --runs runs", 3, "The query file cannot be used: not a", "an image"),
    "folder of queries without one": ("similar empty --runs runs", 3, "There is no image in empty", "Use a folder"),
    "found into a file of another kind": (
        "similar photos --out f.txt", 2, "--out is f.txt, and must end in .html, .csv or .json.", "--out f.html",
    ),
    "no gallery to open": ("similar photos --out a.csv --open", 2, "--open shows a gallery", "--out a.html"),
    "no neighbors": ("similar photos --top 0", 2, "--top is 0, and must be at least 1.", "another value"),
    "outliers of no run": ("outliers --runs new", 4, "There is no finished run under new.", "simclr pretrain FOLDER"),
    "outliers into a text": ("outliers --out odd.txt", 2, "--out is odd.txt, and must end in .html", "odd.html"),
    "one cluster": ("clusters --clusters 1", 2, "--clusters is 1, and must be at least 2.", "another value"),
    "clusters by density": ("clusters --method hdbscan --clusters 3", 2, "--clusters belongs to k-means", "Remove one"),
    "duplicates to restore from nowhere": (
        "duplicates --restore empty", 3, "There is no simclr-moved.jsonl in empty", "folder of the earlier --move-to",
    ),
    "move and restore at once": ("duplicates --restore a --move-to b", 2, "--restore only moves files back.", "Remove"),
    "duplicates of no run": ("duplicates --runs new", 4, "no finished run under new.", "simclr pretrain FOLDER"),
    "saved embeddings of exact duplicates": (
        "duplicates --kind exact --no-update", 2, "without saved embeddings", "Remove --no-update",
    ),
    "similarity of exact duplicates": (
        "duplicates --kind exact --min-similarity 0.9", 2, "--min-similarity applies to near-duplicates", "Remove",
    ),
    "check of no run": ("check birds --runs runs", 4, "There is no run birds.", "Use one of the runs under runs: "),
    "check of another folder": ("check photos", 4, "photos is not the folder of a run.", "Use the name of a run."),
    "cache that cannot be cleared": ("cache one --clear", 5, "Cannot clear ", "Change its permissions."),
    "doctor of nothing": ("doctor nowhere", 3, "There is no nowhere.", "Check the path."),
    "too small a demo": ("demo --count 9", 2, "--count is 9, and must be at least 100.", "another value"),
    "demo below a file": ("demo --out file/x", 2, "there is no folder file.", "Create it, or change --out"),
    "demo in a file": ("demo --out file", 2, "--out is file, which is a file.", "Set --out to the path of a folder"),
}  # fmt: skip


@pytest.mark.parametrize("row", CATALOG)
def test_catalog(simclr: Callable[..., Any], plain: Path, request: pytest.FixtureRequest, row: str) -> None:
    typed, code, what, remedy = CATALOG[row]
    if {"runs", "broken"} & set(typed.split()):
        request.getfixturevalue("place")
    elif "photos" in typed.split():
        request.getfixturevalue("shown")
    elif row == "cache that cannot be cleared":  # a folder where a file should be: it cannot be deleted as one
        take_census(plain / "one")
        (locate_cache(plain / "one") / "48" / "index.json").mkdir(parents=True)
    before = sorted(os.walk(plain))
    answer = simclr(*typed.split())
    assert (answer.code, answer.stdout) == (code, ""), answer.stderr
    *_, said, next_step = answer.stderr.splitlines()
    assert said.startswith("Error: ") and what in said and said.endswith(".")
    assert remedy in next_step
    assert "Traceback" not in answer.stderr
    assert sorted(os.walk(plain)) == before  # nothing made, nothing lost


@pytest.mark.parametrize("typed", ["pretrain nowhere", "embed --out vecs.txt", "similar file --runs runs"])
def test_debug_shows_the_traceback_before_the_error(simclr: Callable[..., Any], place: Path, typed: str) -> None:
    plain, debug = simclr(*typed.split()), simclr(*typed.split(), "--debug")
    assert debug.code == plain.code and debug.stderr.endswith(plain.stderr[-80:])
    assert "Traceback (most recent call last)" in debug.stderr and "Traceback" not in plain.stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("fly", "No such command 'fly'"),
        ("pretrain --fly", "No such option: --fly"),
        ("pretrain a b", "unexpected extra argument"),
        ("pretrain a --epochs x", "Invalid value for '--epochs'"),
        ("pretrain a --optimizer adam", "Invalid value for '--optimizer'"),
    ],
)
def test_usage_errors_say_what_and_where_help_is(simclr: Callable[..., Any], typed: str, words: str) -> None:
    code, stdout, stderr = simclr(*typed.split())
    assert (code, stdout) == (2, "")
    assert words in " ".join(stderr.replace("│", " ").split()) and "--help' for help" in stderr


def test_a_working_folder_that_was_deleted_is_said(simclr: Callable[..., Any], plain: Path) -> None:
    """torch and Python itself fail there, with a traceback or without a word."""
    (plain / "gone").mkdir()
    os.chdir(plain / "gone")
    (plain / "gone").rmdir()
    answer = simclr("embed", plain / "one", "--encoder", "random:test_resnet")
    os.chdir(plain)
    assert (answer.code, answer.stdout) == (3, "")
    assert answer.stderr == "Error: The working folder no longer exists.\nChange to another folder.\n"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_cache_that_cannot_be_written_names_its_variable(
    simclr: Callable[..., Any], shown: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", name)
    code, _, stderr = simclr("outliers", "photos", "--encoder", "random:test_resnet", "--image-size", 32)
    assert code == 5 and "Error: Cannot write file/" in stderr
    assert stderr.endswith("Set SIMCLR_CACHE to a folder with write permission.\n")


def test_a_run_that_cannot_be_written_is_not_probed_first(
    simclr: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr_cli.commands.probe.compare_encoders", None)
    (place / "runs" / "photos" / "probe").write_text("")
    code, _, stderr = simclr("probe", "--runs", "runs", "--run", "photos")
    assert code == 5 and "Error: Cannot write runs/photos/probe: File exists." in stderr


def test_unreadable_folder(simclr: Callable[..., Any], shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # as chmod 000 does for anyone but root
    code, _, stderr = simclr("pretrain", "photos")
    assert code == 3 and stderr == (
        "Error: This user has no permission to read the folder photos.\n"
        "Change its permissions, or use another folder.\n"
    )


def test_fewer_images_than_a_batch_are_said(simclr: Callable[..., Any], shown: Path) -> None:
    code, _, stderr = simclr(*PRETRAIN.split(), "--batch-size", 500, "--dry-run")
    assert code == 0 and "24 images  reduced from 500: there are no more images" in stderr


def test_bad_files_are_counted_by_reason_on_the_way_and_at_the_end(simclr: Callable[..., Any], place: Path) -> None:
    whole = (place / "photos" / "dark" / "00.png").read_bytes()
    (place / "photos" / "dark" / "zero.png").write_bytes(b"")
    (place / "photos" / "dark" / "cut.png").write_bytes(whole[:20])
    (place / "photos" / "dark" / "text.jpg").write_text("a letter")
    (place / "photos" / "dark" / "notes.txt").write_text("other")
    code, stdout, stderr = simclr(*PRETRAIN.split(), "--batch-size", 8)
    assert (code, stdout) == (0, "new/photos\n")
    assert "  3 files skipped:\n" in stderr and "    1 x empty file (0 bytes)\n" in stderr
    assert "  1 other file (1 .txt) ignored" in stderr
    assert "Skipped 3 files; see new/photos/skipped.json." in stderr


def test_names_of_any_bytes_get_through_every_verb_and_nothing_raw_gets_out(
    simclr: Callable[..., Any], place: Path
) -> None:
    for kind in ("round\x1b[1m", "square"):
        for seed, name in enumerate(ODD_NAMES):
            path = place / "odd\x07" / kind / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                Image.effect_noise((40, 40), 20 * seed + len(kind)).save(stream, "PNG")
    (place / "odd\x07" / "square" / "\x1b[2Jzero.png").write_bytes(b"")
    query = place / "odd\x07" / "square" / os.fsdecode(ODD_NAMES[0])
    answers = [
        simclr("pretrain", "odd\x07", "--backbone", "test_resnet", "--image-size", "32", "--epochs", 1),
        simclr("embed", "--out", "v\x1b[31m.npy"),
        simclr("probe", "--test-fraction", 0.5),
        simclr("similar", query, "odd\x07/square"),
        simclr("map", "--out", "m\x1b[31m.html"),
        simclr("similar", "odd\x07/square/\x1b[2Jzero.png"),
        simclr("embed", "no\x1b[31mwhere"),
    ]
    assert [answer.code for answer in answers] == [0, 0, 0, 0, 0, 3, 3]
    for answer in answers:
        for text in (answer.stdout, answer.stderr):
            assert all(character.isprintable() or character in "\n\t" for character in text)
    assert r"line\nbreak.png" in answers[3].stdout and r"\udcff\udcfe.png" in answers[3].stdout
    assert "[bold]x[/bold].png" in answers[3].stdout and r"\u202etxt.png" in answers[3].stdout


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_of_our_own_is_one_line_and_asks_for_a_report(
    simclr: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a \x1b[31mbug")

    monkeypatch.setattr("simclr_cli.commands.embed.take_census", fail)
    code, stdout, stderr = simclr("embed", "--runs", "runs", *(["--debug"] if debug else []))
    assert (code, stdout) == (1, "")
    assert "Something went wrong inside simclr: ZeroDivisionError: a \\x1b[31mbug." in stderr
    assert ("Traceback" in stderr) is debug


@pytest.mark.parametrize("debug", [False, True])
def test_want_of_memory_is_the_machines(
    simclr: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore")

    monkeypatch.setattr("simclr_cli.commands.embed.take_census", fail)
    code, stdout, stderr = simclr("embed", "--runs", "runs", *(["--debug"] if debug else []))
    assert (code, stdout) == (5, "")
    assert "The memory of this machine is too small (DefaultCPUAllocator" in stderr and "--batch-size 32" in stderr
    assert ("Traceback" in stderr) is debug


# A `demo` without torch that prints its arguments, run by main() in a process of its own.
FAKE_DEMO = """
import sys, types
from simclr_cli.cli import app
from simclr_cli.api import Accuracy, DemoResult, Neighbor, QueryResult, Score

fake = sys.modules["simclr_cli.commands.demo"] = types.ModuleType("simclr_cli.commands.demo")
name, count = sys.argv[1], int(sys.argv[2])
query = QueryResult(name, tuple(Neighbor(i, name, 0.5, 99.0, 50.0) for i in range(count)))
one = Accuracy(1.0, 1.0, 1.0, 1.0)
scores = (Score("trained", one, one, None), Score("untrained", one, one, None))
fake.demo = lambda chosen, report: DemoResult("d", 1, ("a",), scores, query, 1.0)
sys.argv = ["simclr", "demo"]
app.main()
"""


def test_a_closed_pipe_is_no_error() -> None:
    """The reader of `simclr ... | head` ends first."""
    typed = [sys.executable, "-c", FAKE_DEMO, "x" * 1000, "10000"]
    with subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_names_that_the_terminals_encoding_lacks_are_escaped() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FAKE_DEMO, "gr\u00fcn.png", "1"],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert result.returncode == 0 and b"gr\\xfcn.png" in result.stdout


def test_perform_returns_the_exit_code_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in errors.ERROR_TYPES:

        def verb(*_: object, kind: type[errors.SimclrError] = kind, **__: object) -> None:
            raise kind("What.", "Next.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("simclr_cli.commands.cache.cache", verb)
            code = run_command("cache", CacheSettings, {}, False, False)
        assert code == kind.exit_code
        assert capsys.readouterr().err == "Error: What.\nNext.\n"


def test_exit_codes_are_documented_and_differ() -> None:
    codes = [kind.exit_code for kind in errors.ERROR_TYPES]
    assert len(set(codes)) == len(codes) and 0 not in codes
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"| {kind.exit_code} | {kind.meaning} |" in page for kind in errors.ERROR_TYPES)


def test_every_command_has_rows_in_the_catalog() -> None:
    typed = {row[0].split()[0] for row in CATALOG.values()}
    assert typed == set(COMMAND_NAMES)
