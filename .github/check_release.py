"""Check that a tag, `simclr_cli.__version__` and the top version of CHANGELOG.md agree.

`python .github/check_release.py v0.1.0`; exits with 1 and one sentence a problem if they do not.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


def find_problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return one sentence for each thing that keeps `tag` from being released; none if all agree."""
    version = tag.removeprefix("v")
    if not tag.startswith("v") or not VERSION.fullmatch(version):
        return [f"The tag is {tag!r}, and must be v and a version, such as v0.1.0 or v1.0.0rc1."]
    problems = []
    source = (root / "simclr_cli" / "__init__.py").read_text(encoding="utf-8")
    declared = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if declared is None:
        problems.append('simclr_cli/__init__.py has no line __version__ = "...".')
    elif declared[1] != version:
        problems.append(f"The tag is {tag}, but simclr_cli.__version__ is {declared[1]}.")

    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[([^\]]+)\][^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if sections and sections[0][0] == "Unreleased":
        _, changes = sections.pop(0)
        if re.search(r"^- ", changes, re.MULTILINE):
            problems.append(
                "CHANGELOG.md has changes under [Unreleased]. "
                f"Put them under a heading of their own: ## [{version}] - YYYY-MM-DD."
            )
    if not sections:
        problems.append("CHANGELOG.md has no section of a released version.")
    elif sections[0][0] != version:
        problems.append(f"The tag is {tag}, but the top version of CHANGELOG.md is {sections[0][0]}.")
    return problems


def main() -> int:
    """Check the tag that the command line names."""
    if len(sys.argv) != 2:
        sys.stderr.write("Usage: python .github/check_release.py v0.1.0\n")
        return 2
    problems = find_problems(sys.argv[1])
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if not problems:
        sys.stdout.write(f"{sys.argv[1]}, simclr_cli.__version__ and CHANGELOG.md agree.\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
