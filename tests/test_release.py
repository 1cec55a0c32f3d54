"""A tag is released only where the package's version and the changelog agree with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".github" / "check_release.py"
SPEC = importlib.util.spec_from_file_location("check_release", SCRIPT)
assert SPEC is not None and SPEC.loader is not None
check_release = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_release)

RELEASED = "## [Unreleased]\n\n## [0.1.0] - 2026-12-01\n\n- x\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "problem"),
    [
        ("v0.1.0", "0.1.0", RELEASED, None),
        ("0.1.0", "0.1.0", RELEASED, "The tag is '0.1.0', and must be"),
        ("v0.2.0", "0.1.0", RELEASED, "but simclr_cli.__version__ is 0.1.0"),
        ("v0.2.0", "0.2.0", RELEASED, "but the top version of CHANGELOG.md is 0.1.0"),
        ("v0.1.0", "0.1.0", "## [Unreleased]\n\n- x\n\n## [0.1.0]\n\n- y\n", "has changes under [Unreleased]"),
        ("v0.1.0", "0.1.0", "## [Unreleased]\n", "has no section of a released version"),
    ],
)
def test_tag_version_and_changelog_agree(
    tmp_path: Path, tag: str, version: str, changelog: str, problem: str | None
) -> None:
    (tmp_path / "simclr_cli").mkdir()
    (tmp_path / "simclr_cli" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    problems = check_release.find_problems(tag, tmp_path)
    assert problems == [] if problem is None else problem in " ".join(problems)
