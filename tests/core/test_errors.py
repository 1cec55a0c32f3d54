"""Every kind of error has an exit code of its own and says what it means."""

import inspect

import pytest

from simclr_cli.core import errors
from simclr_cli.core.errors import KINDS, Interrupted, SimclrError, Terminated


def test_all_kinds_are_listed() -> None:
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SimclrError)}
    assert set(KINDS) == defined and len(KINDS) == len(defined)


def test_exit_codes_are_unique_and_a_shell_can_show_them() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 256 for code in codes)


def test_stops_have_the_shells_own_codes() -> None:
    assert Interrupted.exit_code == 128 + 2  # SIGINT
    assert Terminated.exit_code == 128 + 15  # SIGTERM


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_what_its_code_means(kind: type[SimclrError]) -> None:
    assert kind.meaning.strip() and "\n" not in kind.meaning
    assert kind is SimclrError or "meaning" in vars(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_error_carries_what_happened_and_what_to_do(kind: type[SimclrError]) -> None:
    error = kind("There is no x.", "Check the path.")
    assert (error.what, error.remedy, str(error)) == (
        "There is no x.",
        "Check the path.",
        "There is no x. Check the path.",
    )
