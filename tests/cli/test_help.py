"""`--help`, `--version` and every usage error, all without importing torch."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import simclr_cli
from simclr_cli import COMMAND_NAMES
from simclr_cli.cli.app import COMMANDS

# (arguments, exit code), all without torch.
WITHOUT_TORCH = [
    (["--help"], 0),
    ([], 2),
    (["--version"], 0),
    *(([verb, "--help"], 0) for verb in COMMAND_NAMES),
    (["fly"], 2),
    (["pretrain", "--fly"], 2),
    (["pretrain", "a", "b"], 2),
    (["pretrain"], 2),
    (["pretrain", ".", "--epochs", "many"], 2),
    (["pretrain", ".", "--optimizer", "adam"], 2),
    (["pretrain", ".", "--batch-size", "1"], 2),
    (["pretrain", ".", "--temperature", "0"], 2),
    (["pretrain", ".", "--epochs", "3", "--warmup-epochs", "4"], 2),
    (["pretrain", "/nowhere/at/all"], 3),
    (["pretrain", ".", "--preset", "cats"], 2),
    (["preview"], 2),
    (["preview", ".", "--out", "sheet.pdf"], 2),
    (["preview", "/nowhere/at/all"], 3),
    (["embed", "--out", "vecs.txt"], 2),
    (["embed", "--run", "a", "--encoder", "resnet18"], 2),
    (["embed", "--backbone", "resnet18"], 2),  # an option of pretrain only
    (["embed", "--image-size", "7"], 2),
    (["embed", "/nowhere/at/all"], 3),
    (["probe", "--labels", "/nowhere.csv"], 3),
    (["probe", "--test-fraction", "1"], 2),
    (["finetune", "--labels-fraction", "0"], 2),
    (["finetune", ".", "--encoder", "random:resnet18", "--scratch"], 2),
    (["outliers", "--run", "a", "--encoder", "resnet18"], 2),
    (["clusters", "/nowhere/at/all"], 3),
    (["map", "/nowhere/at/all"], 3),
    (["similar", ".", "--images", "/nowhere/at/all"], 3),
    (["finetune", "/nowhere/at/all"], 3),
    (["predict"], 2),
    (["predict", ".", "--out", "classes.txt"], 2),
    (["predict", "/nowhere.jpg"], 3),
    (["similar"], 2),
    (["similar", "/nowhere.jpg"], 3),
    (["similar", ".", "--top", "0"], 2),
    (["duplicates", "--kind", "same"], 2),
    (["duplicates", "--out", "copies.txt"], 2),
    (["demo", "--count", "3"], 2),
    (["cache", "a", "b"], 2),
    (["cache", "--delete"], 2),
    (["cache"], 0),
    (["cache", "--json"], 0),
    (["cache", "/nowhere/at/all", "--clear"], 0),
]

WATCHED = """
import json, sys
from simclr_cli.cli import app

answers = []
for arguments in json.load(sys.stdin):
    sys.argv = ["simclr", *arguments]
    try:
        app.main()
    except SystemExit as end:
        answers.append([end.code or 0, sorted({"torch", "timm", "numpy", "PIL", "sklearn"} & sys.modules.keys())])
sys.__stdout__.flush()
sys.stderr.write("\\n" + json.dumps(answers))
"""


def test_help_version_and_usage_errors_never_import_torch() -> None:
    arguments = [case for case, _ in WITHOUT_TORCH]
    result = subprocess.run(
        [sys.executable, "-c", WATCHED], input=json.dumps(arguments), text=True, capture_output=True, check=True
    )
    answers = json.loads(result.stderr.splitlines()[-1])
    assert [(case, *answer) for case, answer in zip(arguments, answers, strict=True)] == [
        (case, code, []) for case, code in WITHOUT_TORCH
    ]


def test_installed_command_answers(installed: Callable[..., Any]) -> None:
    version = installed("--version")
    assert version == (0, f"simclr {simclr_cli.__version__}\n", "")
    code, stdout, stderr = installed("fly")
    assert (code, stdout) == (2, "") and "No such command 'fly'" in stderr


def test_module_runs_as_the_command_does() -> None:
    result = subprocess.run([sys.executable, "-m", "simclr_cli", "--version"], text=True, capture_output=True)
    assert result.stdout == f"simclr {simclr_cli.__version__}\n"


def test_overview_names_every_command_and_where_to_begin(simclr: Callable[..., Any]) -> None:
    code, stdout, _ = simclr("--help")
    assert code == 0 and "Begin with: simclr demo" in stdout
    assert all(f" {verb} " in stdout for verb in COMMAND_NAMES)


@pytest.mark.parametrize("verb", COMMAND_NAMES)
def test_help_of_a_command_shows_every_option_and_two_examples(
    simclr: Callable[..., Any], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, stdout, stderr = simclr(verb, "--help")
    words = " ".join(stdout.split())
    settings_class = COMMANDS[verb]
    assert (code, stderr) == (0, "") and settings_class.about in words
    assert len(settings_class.examples) == 2 and all(example in words for example in settings_class.examples)
    for field in dataclasses.fields(settings_class):
        shown = field.name if field.metadata["argument"] else "--" + field.name.replace("_", "-")
        assert shown in words.lower()
    assert "--json" in words and "--debug" in words


@pytest.mark.parametrize("arguments", [[], ["pretrain"], ["check"]])
def test_h_is_help(simclr: Callable[..., Any], arguments: list[str]) -> None:
    assert simclr(*arguments, "-h") == simclr(*arguments, "--help")


def test_help_of_pretrain_begins_with_the_basics(simclr: Callable[..., Any]) -> None:
    stdout = simclr("pretrain", "--help").stdout
    panels = [line.split()[1] for line in stdout.splitlines() if line.startswith("╭─")]
    assert panels == ["Arguments", "Basics", "Views", "Optimization", "Hardware", "Files", "General"]
    assert [stdout.count(f" {option} ") for option in ("--backbone", "--json", "--debug", "-h")] == [1] * 4


def test_types_in_the_help_are_plain(simclr: Callable[..., Any]) -> None:
    texts = {verb: simclr(verb, "--help").stdout for verb in COMMAND_NAMES}
    assert [verb for verb, text in texts.items() if "list[" in text] == []
    assert re.search(r"queries\.\.\. +<path>|queries +\[QUERIES\]\.\.\. ", texts["similar"])  # the second to typer 0.28


def test_shell_completes_commands_and_options(installed: Callable[..., Any]) -> None:
    for typed, completed in (("simclr pre", ["pretrain", "preview", "predict"]), ("simclr map --lab", ["--labels"])):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        answer = installed(_SIMCLR_COMPLETE="complete_bash", **words)
        assert answer == (0, "\n".join(completed) + "\n", "")


@pytest.mark.parametrize(
    ("verb", "settings_class", "example"),
    [(verb, kind, example) for verb, kind in COMMANDS.items() for example in kind.examples],
)
def test_examples_can_be_typed_as_they_stand(
    verb: str, settings_class: type, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simclr_cli.cli import app

    monkeypatch.chdir(tmp_path)
    for name in ("images", "photos", "other", "train", "test", "queries"):
        (tmp_path / name).mkdir()
    for name in ("query.jpg", "labels.csv"):
        (tmp_path / name).write_text("")
    seen: list[Any] = []

    def instead(name: str, chosen: type, values: dict[str, Any], *__: bool) -> int:
        seen.append((name, chosen(**values)))
        return 0

    monkeypatch.setattr(app, "run_command", instead)
    monkeypatch.setattr(sys, "argv", example.split())
    with pytest.raises(SystemExit) as end:
        app.main()
    assert not end.value.code and seen[0][0] == verb and isinstance(seen[0][1], settings_class)
