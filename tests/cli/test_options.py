"""Conversion of a settings dataclass to a Typer command: names, types, defaults and help of the fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
import typer.testing

from simclr_cli.api.fields import PANELS, setting
from simclr_cli.cli import app
from simclr_cli.cli.app import COMMANDS
from simclr_cli.cli.options import build_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings with one field of each kind."""

    images: tuple[Path, ...] = setting((), "Some files.", argument=True)
    run_name: str | None = setting(None, "A name.", short="r")
    times: int = setting(3, "A number.")
    share: float | None = setting(None, "A share.")
    kind: Literal["a", "b"] | None = setting(None, "One of two.")
    raw: bool = setting(False, "A flag.")
    out: Path = setting(Path("x.npy"), "A path.")


@pytest.fixture
def parse() -> Any:
    def call(*arguments: str) -> tuple[int, Any, str]:
        seen: list[Any] = []
        app = typer.Typer(add_completion=False)
        app.command()(build_command(Settings, lambda values, as_json, debug: seen.append((values, as_json, debug))))
        result = typer.testing.CliRunner().invoke(app, list(arguments))
        return result.exit_code, seen[0] if seen else None, result.output

    return call


def test_defaults_are_the_fields_own(parse: Any) -> None:
    code, (values, as_json, debug), _ = parse()
    assert code == 0 and (as_json, debug) == (False, False)
    assert Settings(**values) == Settings()


def test_values_arrive_in_the_fields_types(parse: Any) -> None:
    _, (values, as_json, debug), _ = parse(
        "a.png", "--run-name", "birds", "--times", "7", "--share", "0.5", "--kind", "b", "--raw", "--out", "y.npy",
        "b.png", "--json", "--debug",
    )  # fmt: skip
    assert Settings(**values) == Settings(
        images=(Path("a.png"), Path("b.png")),
        run_name="birds",
        times=7,
        share=0.5,
        kind="b",
        raw=True,
        out=Path("y.npy"),
    )
    assert as_json and debug


def test_short_name_and_arguments_that_begin_with_a_dash(parse: Any) -> None:
    _, (values, *_), _ = parse("-r", "birds", "--", "-odd.png")
    assert values["run_name"] == "birds" and values["images"] == (Path("-odd.png"),)


@pytest.mark.parametrize(
    "arguments", [["--times", "x"], ["--kind", "c"], ["--share", "half"], ["--no-raw"], ["--time"]]
)
def test_values_of_another_type_are_usage_errors(parse: Any, arguments: list[str]) -> None:
    code, seen, _ = parse(*arguments)
    assert code == 2 and seen is None


def test_every_setting_of_every_verb_has_help_that_ends_in_a_full_stop() -> None:
    for settings_class in COMMANDS.values():
        for field in dataclasses.fields(settings_class):
            assert field.metadata["help"].endswith("."), field.name


def test_help_names_every_choice_of_an_option() -> None:
    """The help shows <choice> instead of the choices."""
    for settings_class in COMMANDS.values():
        for name, hint in get_type_hints(settings_class).items():
            choices = [
                word for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for word in get_args(kind)
            ]
            for choice in choices:
                assert re.search(rf"\b{choice}\b", settings_class.__dataclass_fields__[name].metadata["help"]), name


def test_panels_are_those_of_the_help() -> None:
    for settings_class in COMMANDS.values():
        fields = [field for field in dataclasses.fields(settings_class) if not field.metadata["argument"]]
        panels = {field.metadata["panel"] for field in fields}
        assert panels == {None} or panels <= set(PANELS), settings_class
        assert len(fields) <= 10 or None not in panels


@pytest.mark.parametrize("verb", ["check", "report"])
def test_run_is_an_argument_or_an_option(
    simclr: Callable[..., Any], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(app, "run_command", lambda name, kind, values, *_: seen.append(kind(**values).run) or 0)
    assert [simclr(verb, *arguments).code for arguments in (["birds"], ["--run", "birds"], [])] == [0, 0, 0]
    assert seen == ["birds", "birds", None]


def test_options_of_the_same_name_mean_the_same_in_every_verb() -> None:
    types: dict[str, set[str]] = {}
    for settings_class in COMMANDS.values():
        for field in dataclasses.fields(settings_class):
            types.setdefault(field.name, set()).add(str(field.type).removesuffix(" | None"))
    # A classifier is trained with one share of the labels; how far few labels go is probed with several.
    assert {name for name, kinds in types.items() if len(kinds) > 1} == {"labels_fraction"}


def test_an_argument_can_be_an_option_too() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Either:
        images: Path | None = setting(None, "A folder.", argument=True, option=True)

    seen: list[Any] = []
    either = typer.Typer(add_completion=False)
    either.command()(build_command(Either, lambda values, *_: seen.append(values)))
    codes = [typer.testing.CliRunner().invoke(either, typed).exit_code for typed in (
        ["a"], ["--images", "a"], [], ["a", "--images", "a"]
    )]  # fmt: skip
    assert codes == [0, 0, 0, 2]
    assert seen == [{"images": Path("a")}, {"images": Path("a")}, {"images": None}]
