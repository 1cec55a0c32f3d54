"""Documentation as a test: docs/ and the help match the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from simclr_cli import api as results
from simclr_cli.cli.app import COMMANDS
from simclr_cli.core import events

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_of_the_command_line_is_up_to_date(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate_cli.py", "--check"])
    assert generator.main() == 0, capsys.readouterr().err


def test_check_fails_for_an_outdated_page(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "TARGET", tmp_path / "cli.md")
    (tmp_path / "cli.md").write_text("old")
    monkeypatch.setattr(sys, "argv", ["generate_cli.py", "--check"])
    assert generator.main() == 1 and "docs/generate_cli.py" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["generate_cli.py"])
    assert generator.main() == 0 and (tmp_path / "cli.md").read_text() == generator.build_page()


def test_page_names_every_option_example_and_key() -> None:
    page = " ".join((DOCS / "cli.md").read_text(encoding="utf-8").split())  # without the breaks of lines
    for verb, settings_class in COMMANDS.items():
        _, _, rest = page.partition(f" ## simclr {verb} ")
        section = rest.partition(" ## ")[0]
        assert settings_class.about in section and all(example in section for example in settings_class.examples)
        for field in dataclasses.fields(settings_class):
            name = field.name.upper() if field.metadata["argument"] else "--" + field.name.replace("_", "-")
            assert f"- `{name}" in section, name
            assert field.metadata["help"] in section, name
    for kind in (results.PretrainResult, results.Score, results.Neighbor, events.EpochDone):
        assert all(f"- `{field.name}` (" in page for field in dataclasses.fields(kind))


def test_every_command_has_two_examples_of_itself() -> None:
    for verb, settings_class in COMMANDS.items():
        assert len(settings_class.examples) == 2
        assert all(f"{example} ".startswith(f"simclr {verb} ") for example in settings_class.examples)


def test_results_have_comments_on_their_keys(generator: ModuleType) -> None:
    for kind in (events.EpochDone, events.PlanMade, results.Neighbor):
        assert generator.read_comments(kind), kind.__name__


GUIDES = [DOCS.parent / "README.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_commands_of_a_guide_are_commands(path: Path) -> None:
    """Every `simclr ...` names an existing command and its options."""
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"^(?:\$ )?(simclr [a-z]+[^#`\n]*)", text, re.MULTILINE)
    commands += re.findall(r"`(simclr [a-z]+[^`\n]*)`", text)
    named = {command.split()[1] for command in commands if command.split()[1] in COMMANDS}
    assert named == set(COMMANDS) if path.name == "README.md" else named
    for command in commands:
        if (settings_class := COMMANDS.get(command.split()[1])) is not None:
            known = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(settings_class)}
            options = {word for word in command.split() if word.startswith("--")}
            assert options <= known | {"--json", "--debug", "--help"}, command


def test_the_readme_has_the_two_commands_for_newcomers() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for command in ("uv run simclr demo", "uv run pytest"):
        assert f"\n    python3 -m pip install uv && {command}\n" in readme


def test_architecture_page_names_every_module_and_no_other() -> None:
    """docs/architecture.md has a tree with each name at the depth of its folder."""
    package = Path(events.__file__).parents[1]
    tree = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("```\nsimclr_cli/\n")[2].partition("```")[0]
    found: set[str] = set()
    for package_name, names in re.findall(r"^  (\w+)/ .*\n((?:    .*\n)+)", tree, re.MULTILINE):
        found |= {f"{package_name}/{name}.py" for name in re.findall(r"\w+", names)}
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert found == {name for name in modules if not name.endswith(("__init__.py", "__main__.py"))}
