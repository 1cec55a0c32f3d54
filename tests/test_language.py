"""Names and prose by one list of words, docstrings that begin with a verb or a noun, and lines of prose that end."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "simclr_cli").rglob("*.py"))
CODE = [*PACKAGE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
SHOWN = [path for path in sorted((ROOT / "simclr_cli").rglob("*")) if path.suffix in (".py", ".html", ".js", ".css")]
PROSE = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

# Each pattern, and what is said instead.
INSTEAD = {
    r"pictures?": "image",
    r"alike|the like of|closeness": "similar, similarity",
    r"copies|near[- ]copy": "duplicates, near-duplicates",
    r"left out|leaves? out|refused": "skipped, excluded",
    r"kept out": "held-out images",
    r"health|looking on|looks on|watch|watches": "validation metrics, monitor",
    r"found again|other view found": "view retrieval accuracy",
    r"comes? to rest|came to rest|at rest": "plateaued",
    r"go on|goes on|going on|went on|begun again|stopped by chance": "resume, continue, interrupted",
    r"(?<!\.)digests?|what was written|as written": "checksum, verify",
    r"mend|mends|mended|mending": "repair, fix",
    r"held by": "lock",
    r"told right|telling right": "classification accuracy",
    r"pushed apart": "excluded as negatives",
    r"bits apart|to the eye|by the eye": "near-duplicate threshold",
    r"turns? by|quarter turns?|grey|greyscale|greys": "rotate, grayscale",
    r"(?:what|which) can be had|can be had|by itself|by themselves|of itself": "supported, available, automatically",
    r"beside": "next to, in parallel with",
    r"looks? at|looked at|looking at": "see, inspect, check",
    r"colou?rs? of the eye|colours?|neighbours?|behaviours?|normalis\w+|labelled|centres?|licences?|analyse[sd]?":
        "American spelling",
}  # fmt: skip
WORDS = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b", re.IGNORECASE)
COMMANDING = re.compile(r"(?:^|[.:;] |[\"'(])(?:Give|Take|Say|Tell)\b")  # see, run, try, use, set
QUESTION = re.compile(r"(?:What|Which|Whether|How|Where|When|Who|Why)\b")
OLD_NAMES = re.compile(r"\n## Renamed.*?(?=\n## |\Z)|\n### Renamed.*?(?=\n##|\Z)", re.DOTALL)  # a table of CHANGELOG.md
WIDTH = 120
LONGEST = 60  # lines of a function


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*SHOWN, *PROSE], ids=name_of)
def test_words_are_those_of_the_field(path: Path) -> None:
    text = OLD_NAMES.sub("", path.read_text(encoding="utf-8"))
    found = [f"{number}: {found.group()}" for number, line in enumerate(text.splitlines(), 1)
             for found in [*WORDS.finditer(line), *COMMANDING.finditer(line)]]  # fmt: skip
    assert found == []


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]  # fmt: skip
    texts = [(getattr(node, "name", "module"), ast.get_docstring(node) or "") for node in nodes]
    assert [f"{name}: {text.splitlines()[0]}" for name, text in texts if QUESTION.match(text)] == []


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.FunctionDef)]  # fmt: skip
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def prose_lines(text: str) -> list[str]:
    """Lines outside blocks of code, tables and links included."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_lines_of_prose_end(path: Path) -> None:
    assert [line[:60] for line in prose_lines(path.read_text(encoding="utf-8")) if len(line) > WIDTH] == []
