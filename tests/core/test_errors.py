"""Each error type has its own exit code and meaning."""

import inspect

import pytest

from simclr_cli.core import errors
from simclr_cli.core.errors import ERROR_TYPES, Interrupted, SimclrError, Terminated


def test_all_types_are_listed() -> None:
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SimclrError)}
    assert set(ERROR_TYPES) == defined and len(ERROR_TYPES) == len(defined)


def test_exit_codes_are_unique_and_a_shell_can_show_them() -> None:
    codes = [kind.exit_code for kind in ERROR_TYPES]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 256 for code in codes)


def test_interrupts_have_the_codes_of_the_shell() -> None:
    assert Interrupted.exit_code == 128 + 2  # SIGINT
    assert Terminated.exit_code == 128 + 15  # SIGTERM


@pytest.mark.parametrize("kind", ERROR_TYPES)
def test_each_type_has_its_meaning(kind: type[SimclrError]) -> None:
    assert kind.meaning.strip() and "\n" not in kind.meaning
    assert kind is SimclrError or "meaning" in vars(kind)


@pytest.mark.parametrize("kind", ERROR_TYPES)
def test_error_has_a_problem_and_a_remedy(kind: type[SimclrError]) -> None:
    error = kind("There is no x.", "Check the path.")
    assert (error.problem, error.remedy, str(error)) == (
        "There is no x.",
        "Check the path.",
        "There is no x. Check the path.",
    )
